"""Write the manual pages, from what the verbs say of themselves: python docs/man/make.py [FOLDER]

One page for pyrunc, one for each verb, one for the shim. FOLDER is docs/man unless another is given.
"""

import re
import sys
from pathlib import Path

from pyrunc.cli.arguments import Flag
from pyrunc.cli.call import USAGE, VERBS
from pyrunc.cli.completion import usages

OVERVIEW = r"""An engine, or somebody at a shell, hands
.B pyrunc
a bundle (a folder with
.I config.json
and a root file system) and says what is to happen to it. It takes the command line of
.BR runc (8),
and can be used in its place.
.PP
A container is made by
.BR create ,
after which it waits;
.B start
lets its program run;
.B kill
signals it;
.B delete
removes what is left.
.B run
does all of that. Each verb has a page of its own, such as
.BR pyrunc\-run (8)."""

STATUS = {
    "restore": "That of the container's program, as of run; with --detach 0. 1 when pyrunc fails.",
    "run": "That of the container's program; 128 and the number of a signal that has ended it. 1 when pyrunc fails.",
    "exec": "That of the program; 128 and the number of a signal that has ended it. 255 when it could not be started.",
    "": "0, or 1 when pyrunc fails, which says why in one line.",
}

ENVIRONMENT = (
    ("XDG_RUNTIME_DIR", "for a user who is not root: the state of containers is in its folder pyrunc."),
    ("LISTEN_FDS, LISTEN_FDNAMES", "descriptors from 3 on that the container's program gets too (create, run)."),
    ("NOTIFY_SOCKET", "a socket of systemd's; what the container's program says there is passed on (create, run)."),
)

FILES = (
    ("/run/pyrunc", r"the state of containers, unless --root names another folder."),
    ("$XDG_RUNTIME_DIR/pyrunc", "the same for users who are not root."),
    ("config.json", "in the bundle: what the container is to be."),
)

# A line of what is done, and the commands.
EXAMPLES = {
    "": (
        (
            "A bundle from busybox, and a shell in it:",
            "mkdir -p bundle/rootfs/bin",
            "cp /bin/busybox bundle/rootfs/bin/sh",
            "pyrunc spec --bundle bundle",
            "pyrunc run --bundle bundle hello",
        ),
    ),
    "checkpoint": (
        ("Write it, and end it:", "pyrunc checkpoint --image-path /srv/saved web"),
        ("Write it while it runs on:", "pyrunc checkpoint --leave-running --image-path /srv/saved web"),
    ),
    "completion": (("For bash, for everybody:", "pyrunc completion bash >/etc/bash_completion.d/pyrunc"),),
    "create": (
        ("A container that waits, started later:", "pyrunc create --bundle bundle web </dev/null", "pyrunc start web"),
    ),
    "delete": (
        ("Whatever state it is in:", "pyrunc delete --force web"),
        ("All of a test's:", "pyrunc delete --force --regex '^test-'"),
    ),
    "events": (("What it uses, once:", "pyrunc events --stats web"),),
    "exec": (
        ("A shell beside the program:", "pyrunc exec --tty web sh"),
        ("As another user, in another folder:", "pyrunc exec --user 1000:1000 --cwd /tmp web id"),
    ),
    "doctor": (("What this host has, for root:", "sudo pyrunc doctor"),),
    "explain": (
        ("What a configuration gives away, worst first:", "pyrunc explain ./bundle"),
        ("And a container that runs:", "pyrunc explain web"),
        (
            "In CI: fail when a change gives away more:",
            "pyrunc explain --compare ./before.json --fail-on high ./after.json",
        ),
    ),
    "features": (("Which mount options are known:", "pyrunc features | jq .mountOptions"),),
    "info": (("The host in a few lines:", "pyrunc info"),),
    "kill": (("Ask it to end; then make it:", "pyrunc kill web", "pyrunc kill web KILL"),),
    "learn": (
        (
            "Watch its tests, then merge what it needed:",
            "pyrunc learn --bundle bundle web",
            "jq -s '.[0] * .[1]' bundle/config.json learned.json >tight.json",
            "pyrunc run --config tight.json --bundle bundle web",
        ),
        ("Join what two runs needed:", "pyrunc learn --add learned.json --output both.json --bundle bundle web"),
    ),
    "list": (("For a program:", "pyrunc list --format json"),),
    "mounts": (
        (
            "A folder for a container that runs; /data is in its image, or its root can be written to:",
            """echo '[{"destination": "/data", "type": "bind", "source": "/srv/data"}]' >data.json""",
            "pyrunc mounts add web data.json",
            "pyrunc mounts remove web data.json",
        ),
    ),
    "pause": (("Hold it while its files are copied:", "pyrunc pause web", "cp -a data backup", "pyrunc resume web"),),
    "ps": (("Their process IDs in the host, as JSON:", "pyrunc ps --format json web"),),
    "restore": (
        (
            "What checkpoint has written goes on:",
            "pyrunc restore --detach --bundle bundle --image-path /srv/saved web </dev/null",
        ),
    ),
    "resume": (("Let it go on:", "pyrunc resume web"),),
    "run": (
        ("In the foreground, and nothing is left:", "pyrunc run --bundle bundle hello"),
        ("In the background:", "pyrunc run --detach --pid-file web.pid --bundle bundle web </dev/null >web.log 2>&1"),
    ),
    "spec": (
        ("A configuration to begin with:", "pyrunc spec --bundle bundle"),
        ("For a user who is not root:", "pyrunc spec --rootless --bundle bundle"),
    ),
    "start": (("What create has made:", "pyrunc start web"),),
    "state": (("Its process:", "pyrunc state web | jq .pid"),),
    "update": (
        (
            "A device while it runs, and without it again:",
            "pyrunc update --device-add /dev/fuse web",
            "pyrunc update --device-rm /dev/fuse web",
        ),
        (
            "At most 256 MiB and half a processor:",
            "pyrunc update --memory 256M --cpu-period 100000 --cpu-quota 50000 web",
        ),
    ),
    "wait": (("How a detached container has ended:", "pyrunc run --detach --exit-record web", "pyrunc wait web"),),
    "validate": (("Every mistake in a configuration:", "pyrunc validate --bundle bundle"),),
}

SHIM = r""".TH CONTAINERD\-SHIM\-PYRUNC\-V2 8 "" pyrunc "System Administration"
.SH NAME
containerd\-shim\-pyrunc\-v2 \- containerd's shim, with the runtime in it
.SH SYNOPSIS
.B containerd\-shim\-pyrunc\-v2
\fB\-namespace\fR \fINAMESPACE\fR \fB\-id\fR \fIID\fR \fB\-address\fR \fISOCKET\fR [\fIOPTIONS\fR]
\fBstart\fR|\fBdelete\fR
.SH DESCRIPTION
containerd and Docker call it; nobody else needs to. It is found in PATH by its name, where a container is to have
the runtime
.BR io.containerd.pyrunc.v2 .
.PP
.B start
makes a process for a container, or finds that of its pod, and prints the address of its socket.
.B delete
removes what is left of a container whose shim was killed.
.SH OPTIONS
.TP
\fB\-namespace\fR \fINAMESPACE\fR
containerd's namespace.
.TP
\fB\-id\fR \fIID\fR
the container.
.TP
\fB\-address\fR \fISOCKET\fR
containerd's own socket.
.TP
\fB\-publish\-binary\fR \fIFILE\fR
containerd's program.
.TP
\fB\-bundle\fR \fIDIR\fR
of delete: the container's bundle.
.TP
\fB\-debug\fR
write more to the log.
.TP
\fB\-info\fR
say what the runtime supports, as protocol buffers.
.TP
\fB\-v\fR
show the version.
.SH ENVIRONMENT
.TP
.B OTEL_EXPORTER_OTLP_ENDPOINT
where spans are sent to; unset, there are none.
.SH FILES
.TP
.I /run/containerd/pyrunc
the state of containerd's containers.
.SH EXAMPLES
.PP
A container by hand:
.PP
.RS 4
.nf
ctr run \-\-rm \-\-runtime io.containerd.pyrunc.v2 docker.io/library/busybox:latest hello echo Hello
.fi
.RE
.SH SEE ALSO
.BR pyrunc (8)
"""

SEE_ALSO = ("runc (8)", "crun (1)", "namespaces (7)", "cgroups (7)")


def overview() -> str:
    verbs = [line for verb, what in VERBS.items() for line in (".TP", rf".BR pyrunc\-{verb} (8)", f"{plain(what)}.")]
    lines = [
        '.TH PYRUNC 8 "" pyrunc "System Administration"',
        ".SH NAME",
        r"pyrunc \- run containers as the OCI runtime specification describes them",
        ".SH SYNOPSIS",
        ".B pyrunc",
        r"[\fIOPTIONS\fR] \fIVERB\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        OVERVIEW,
        ".SH VERBS",
        *verbs,
        ".SH OPTIONS",
        "They stand before the verb.",
        *options(USAGE.flags),
        ".SH EXIT STATUS",
        f"{STATUS['']} {plain('run and exec: that of the program.')}",
        ".SH ENVIRONMENT",
        *terms(ENVIRONMENT),
        ".SH FILES",
        *terms(FILES),
        *examples(""),
        *see_also(*SEE_ALSO),
        ".PP",
        "The OCI runtime specification: https://github.com/opencontainers/runtime-spec",
    ]
    return "\n".join(lines) + "\n"


def of_verb(verb: str) -> str:
    usage = usages()[verb]
    words = [r"[\fIOPTIONS\fR]"] * bool(usage.flags) + [plain(usage.arguments)] * bool(usage.arguments)
    lines = [
        f'.TH PYRUNC\\-{verb.upper()} 8 "" pyrunc "System Administration"',
        ".SH NAME",
        rf"pyrunc\-{verb} \- {plain(VERBS[verb])}",
        ".SH SYNOPSIS",
        rf".B pyrunc {verb}",
        " ".join(words) or r"\&",
        ".SH DESCRIPTION",
        *paragraphs(usage.details or f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}."),
    ]
    if any(not flag.hidden for flag in usage.flags):
        lines += [".SH OPTIONS", *options(usage.flags)]
    lines += [".SH EXIT STATUS", plain(STATUS.get(verb, STATUS[""])), *examples(verb), *see_also("pyrunc (8)")]
    return "\n".join(lines) + "\n"


def paragraphs(text: str) -> "list[str]":
    """What stands indented keeps its lines; all else is filled."""
    lines: list[str] = []
    for paragraph in text.strip("\n").split("\n\n"):
        for indented, part in grouped(paragraph.splitlines()):
            lines += [".PP", *([".nf", plain(part), ".fi"] if indented else [plain(part)])]
    return lines[1:]


def grouped(lines: "list[str]") -> "list[tuple[bool, str]]":
    groups: list[tuple[bool, list[str]]] = []
    for line in lines:
        # bash:  pyrunc …   is a row of a table, whose columns are to stay
        indented = line.startswith("  ") or bool(re.match(r"\S+  +\S", line))
        if not groups or groups[-1][0] != indented:
            groups.append((indented, []))
        groups[-1][1].append(line)
    return [(indented, "\n".join(group)) for indented, group in groups]


def options(flags: "tuple[Flag, ...]") -> "list[str]":
    lines = []
    for flag in flags:
        if not flag.hidden:
            names = ", ".join(plain(("--" if len(name) > 1 else "-") + name) for name in flag.names)
            value = rf" \fI{plain(flag.value)}\fR" if flag.value else ""
            default = f" Default: {plain(flag.shown)}." if flag.shown else ""
            lines += [".TP", rf"\fB{names}\fR{value}", f"{plain(flag.help)}.{default}"]
    return lines


def terms(rows: "tuple[tuple[str, str], ...]") -> "list[str]":
    return [line for term, text in rows for line in (".TP", f".B {plain(term)}", plain(text))]


def examples(of: str) -> "list[str]":
    lines = [".SH EXAMPLES"]
    for said, *commands in EXAMPLES[of]:
        lines += [".PP", plain(said), ".PP", ".RS 4", ".nf", *map(plain, commands), ".fi", ".RE"]
    return lines


def see_also(*pages: str) -> "list[str]":
    return [".SH SEE ALSO", *(f".BR {plain(page)}{',' if page != pages[-1] else ''}" for page in pages)]


def plain(text: str) -> str:
    """As roff(7) takes text: its own signs escaped, no line that begins like a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in text.splitlines())


def pages() -> "dict[str, str]":
    """Every page by its file's name."""
    return {
        "pyrunc.8": overview(),
        **{f"pyrunc-{verb}.8": of_verb(verb) for verb in VERBS},
        "containerd-shim-pyrunc-v2.8": SHIM,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in pages().items():
        (folder / name).write_text(text)
