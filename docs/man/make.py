"""Print the manual page, from what the verbs say of themselves: python docs/man/make.py >docs/man/pyrunc.8"""

from pyrunc.cli.arguments import Flag
from pyrunc.cli.call import USAGE, VERBS
from pyrunc.cli.completion import usages

HEAD = r""".TH PYRUNC 8 "" pyrunc "System Administration"
.SH NAME
pyrunc \- Open Container Initiative runtime: run containers as the OCI runtime specification describes them
.SH SYNOPSIS
.B pyrunc
[\fIOPTIONS\fR] \fIVERB\fR [\fIARGUMENTS\fR]
.SH DESCRIPTION
An engine, or somebody at a shell, hands
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
does all of that."""

TAIL = r""".SH EXIT STATUS
That of the container's program for
.B run
and
.BR exec ,
128 and the number of a signal that has ended it. Otherwise 0, or 1 when
.B pyrunc
fails, which says why in one line (255 for
.BR exec ).
.SH FILES
.TP
.I /run/pyrunc
The state of containers, unless
.B \-\-root
names another folder.
.I $XDG_RUNTIME_DIR/pyrunc
for users who are not root.
.SH SEE ALSO
.BR runc (8),
.BR crun (1),
.BR namespaces (7),
.BR cgroups (7)
.PP
The OCI runtime specification: https://github.com/opencontainers/runtime-spec"""


def page() -> str:
    lines = [HEAD, ".SH OPTIONS", *options(USAGE.flags), ".SH VERBS"]
    for verb, usage in usages().items():
        lines += [f".SS {verb} {plain(usage.arguments)}".rstrip(), f"{plain(VERBS[verb])}."]
        if usage.details:
            lines += [
                ".PP",
                ".nf" if "\n  " in usage.details else "",
                plain(usage.details),
                ".fi" if "\n  " in usage.details else "",
            ]
        lines += options(usage.flags)
    return "\n".join(line for line in [*lines, TAIL] if line)


def options(flags: "tuple[Flag, ...]") -> list[str]:
    lines = []
    for flag in flags:
        if not flag.hidden:
            names = ", ".join(plain(("--" if len(name) > 1 else "-") + name) for name in flag.names)
            value = rf" \fI{plain(flag.value)}\fR" if flag.value else ""
            default = f" Default: {plain(flag.default)}." if flag.default else ""
            lines += [".TP", rf"\fB{names}\fR{value}", f"{plain(flag.help)}.{default}"]
    return lines


def plain(text: str) -> str:
    """As roff(7) takes text: its own signs escaped, no line that begins like a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in text.splitlines())


if __name__ == "__main__":
    print(page())
