"""The same bundle under runc and under the runtime under test: what a program finds in it is the same.

A script inside the container writes down all it can see. Where the two differ, the difference stands in EXPLAINED with
its reason, and is asserted to be exactly that.
"""

import json
import re
import shutil
import subprocess

import pytest

from integration.support.bundle import BUSYBOX, MAPS, NAMESPACES, full, namespaces
from integration.support.host import in_its_file_system

pytestmark = pytest.mark.skipif(not shutil.which("runc"), reason="runc, to compare with, is not installed")
CGROUP_MOUNT = {
    "destination": "/sys/fs/cgroup",
    "type": "cgroup",
    "source": "cgroup",
    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
}
SCRIPT = """
section() { echo "=== $1"; }
section environment; cat /proc/self/environ | tr '\\0' '\\n' | sort
section mounts; cat /proc/self/mountinfo
section dev; ls -lan /dev /dev/pts 2>&1 | sed 's/^total.*//' | awk '{ $2 = ""; if ($0 !~ /^[cb]/) $5 = ""; print }' \
    | sed -E 's/[A-Z][a-z][a-z] +[0-9]+ +[0-9:]+ +//'
section status; grep -v -E '^(Pid|Tgid|Ngid|Vm|Rss|Hugetlb|voluntary|nonvoluntary|Threads|SigQ|Name|'\
'FDSize|NStgid|NSpid|NSpgid|NSsid|Kthread|PPid|THP|untag|CoreDump|State)' /proc/1/status
section limits; cat /proc/1/limits
section cgroup; cat /proc/self/cgroup
section oom; cat /proc/1/oom_score_adj
section keyring; probe keyring
section descriptors; probe descriptors | sed 's|pipe:.*|pipe|
    s|[^ ]*/[0-9a-z-]*\\.out|OUTPUT|; s|[^ ]*/[0-9a-z-]*\\.err|OUTPUT|'
section attributes; probe attributes
section names; hostname; cat /proc/sys/kernel/domainname; pwd; id
section root; ls -lan / | awk '{ print $1, $3, $4, $NF }' | grep -v -E '^total'
section files; for f in /proc/kcore /proc/keys /proc/timer_list /sys/firmware /proc/scsi
    do stat -c '%n %F %a %u:%g %t:%T' $f 2>&1; done
section maps; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
section namespaces; for n in cgroup ipc mnt net pid time user uts; do readlink /proc/self/ns/$n; done
section network; cat /proc/net/dev | awk '{ print $1 }'
section parameters; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced
    cat /proc/sys/net/ipv4/ping_group_range
section writable; for p in /proc/sys/kernel/domainname /proc/sysrq-trigger /proc/irq /sys /x /dev/x /tmp/x
    do if ( : >> $p ) 2>/dev/null; then echo $p; fi; done
section cpus; grep -E 'allowed' /proc/self/status
section sessions; awk '{ print $5, $6, $7 }' /proc/1/stat
section command; tr '\\0' ' ' < /proc/1/cmdline
"""


def docker_like():
    caps = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ]
    return {
        "capabilities": full(*caps),
        "oomScoreAdj": 0,
        "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
        "env": ["PATH=/bin:/usr/bin", "HOSTNAME=web"],
        "hostname": "web",
        "maskedPaths": [
            "/proc/asound",
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "mounts": [
            {
                "destination": "/dev/mqueue",
                "type": "mqueue",
                "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
            },
            CGROUP_MOUNT,
        ],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            "memory": {"disableOOMKiller": False},
            "pids": {"limit": 100},
            "blockIO": {"weight": 0},
        },
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["kexec_load"], "action": "SCMP_ACT_ERRNO"}],
        },
    }


CONFIGS = {
    "small": {},
    "docker": docker_like(),
    "read-only": {
        "root": {"path": "rootfs", "readonly": True},
        "noNewPrivileges": True,
        "user": {"uid": 1000, "gid": 1000},
        "capabilities": {},
        "mounts": [
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
        ],
    },
    "user namespace": {
        "namespaces": namespaces(*NAMESPACES, "user", "cgroup"),
        "uidMappings": MAPS,
        "gidMappings": MAPS,
        "maskedPaths": ["/proc/kcore", "/sys/firmware"],
        "readonlyPaths": ["/proc/sys"],
    },
    "everything of the host's": {"namespaces": namespaces("mount")},
    "a user": {
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027},
        "cwd": "/home/user/new",
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 1000, "hard": 2000},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NPROC", "soft": 900, "hard": 1000},
        ],
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_CHOWN"],
            "effective": ["CAP_KILL"],
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL"],
        },
        "oomScoreAdj": 500,
    },
    "mounts": {
        "mounts": [
            {"destination": "/m/ro", "type": "bind", "source": "data", "options": ["rbind", "ro", "nosuid"]},
            {"destination": "/m/private", "type": "bind", "source": "data", "options": ["bind", "rprivate", "noexec"]},
            {"destination": "/m/shared", "type": "bind", "source": "data", "options": ["rbind", "rshared"]},
            {"destination": "/m/file", "type": "bind", "source": "data/file", "options": ["bind", "ro"]},
            {
                "destination": "/m/tmpfs",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["noatime", "size=1m", "mode=700", "uid=3"],
            },
            {"destination": "/m/strict", "type": "tmpfs", "source": "tmpfs", "options": ["strictatime", "nodiratime"]},
            {"destination": "/m/bind-noatime", "type": "bind", "source": "data", "options": ["bind", "noatime"]},
            CGROUP_MOUNT,
        ],
        "rootfsPropagation": "slave",
    },
    "devices": {
        "devices": [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4},
            {"path": "/dev/pipe", "type": "p"},
            {"path": "/dev/deep/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o660},
        ],
    },
    "cgroup namespace": {"namespaces": namespaces(*NAMESPACES, "cgroup"), "mounts": [CGROUP_MOUNT]},
    "parameters": {
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"},
        "hostname": "a.b.c",
        "readonlyPaths": ["/proc/sys"],
    },
}

# (section, configuration or "" for all, what is taken out of both before they are compared, why they differ)
EXPLAINED = [
    (
        "descriptors",
        "",
        r"^[012] (socket|pipe|/dev/null|.*OUTPUT).*$",
        "the streams are those that each was started with",
    ),
    (
        "mounts",
        "docker",
        r"^/ /sys/fs/cgroup .* - tmpfs .*$",
        "runc 1.1 leaves the folder of v1's controllers writable where `ro` was asked for",
    ),
    ("mounts", "cgroup namespace", r"^/ /sys/fs/cgroup .* - tmpfs .*$", "the same"),
    ("mounts", "mounts", r"^/ /sys/fs/cgroup .* - tmpfs .*$", "the same"),
    (
        "mounts",
        "",
        r"(?<= - tmpfs tmpfs )(gid=\d+,)?(inode64,)?(nr_inodes=1,)?ro(,size=4k)?(,uid=\d+)?$",
        "the folder that masks others: ours has no room to be filled",
    ),
    (
        "mounts",
        "",
        r"(?<= - cgroup )(cgroup|systemd)(?= name=systemd)",
        "the source of a cgroup mount is a word without meaning",
    ),
    (
        "mounts",
        "user namespace",
        r"(?<=^/)(full|null|random|tty|urandom|zero) /dev/\1 (noexec,nosuid,)?",
        "the device nodes that a user namespace gets as bind mounts are nosuid and noexec, as crun's are",
    ),
    (
        "root",
        "read-only",
        r"^\S+ 0 0 tmp$",
        "runc before 1.2 lets the mode of the image's folder win over the one that config.json gives the tmpfs",
    ),
    ("writable", "read-only", r"^/tmp/x$", "follows from it"),
]


def normal_mounts(text):
    """One (options, root, place, propagation, type, source, options) for each line, without the kernel's numbers."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        kind, source, options = [*after.split(" ", 2), "", ""][:3]
        propagation = [re.sub(r"\d+", "N", field) for field in fields[6:]]
        found.append(
            " ".join(
                [
                    fields[3],
                    fields[4],
                    ",".join(sorted(fields[5].split(","))),
                    *propagation,
                    "-",
                    kind,
                    source,
                    ",".join(sorted(options.split(","))),
                ]
            )
        )
    return "\n".join(in_some_order(found))


def in_some_order(lines):
    """Nobody may rely on the order of v1's controllers, or of the devices that are bound."""
    kind = [re.match(r"\S+ (/sys/fs/cgroup/|/dev/(?:null|zero|full|random|urandom|tty) )", line) for line in lines]
    found, position = [], 0
    while position < len(lines):
        end = position + 1
        while kind[position] and end < len(lines) and kind[end] and kind[end][1][:5] == kind[position][1][:5]:
            end += 1
        found += sorted(lines[position:end])
        position = end
    return found


def sections(text, id):
    found = {}
    for part in text.split("=== ")[1:]:
        name, _, body = part.partition("\n")
        found[name] = body.replace(id, "ID").strip()
    found["mounts"] = normal_mounts(found["mounts"])
    found["namespaces"] = "\n".join(re.sub(r"\d+", "N", line) for line in found["namespaces"].splitlines())
    return found


def prepare(container, name):
    c = container(**CONFIGS[name]).reachable()
    (c.bundle.path / "data").mkdir()
    (c.bundle.path / "data/file").write_text("x")
    c._prepare(("sh", "-c", SCRIPT))
    return c


def under_runc(c, tmp_path):
    id = f"{c.id}-runc"
    with open(tmp_path / "runc.out", "wb") as out, open(tmp_path / "runc.err", "wb") as err:
        process = subprocess.run(
            ["runc", "--root", tmp_path / "runc", "run", "--bundle", c.bundle.path, id],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=60,
        )
    assert process.returncode == 0, (tmp_path / "runc.err").read_text()
    return sections((tmp_path / "runc.out").read_text(), id)


@pytest.fixture(scope="module")
def pairs():
    return {}


@pytest.fixture
def pair(container, tmp_path, pairs, request):
    """What a program sees under both runtimes. Each runs the configuration once, in an image of its own."""
    name = request.param
    if name not in pairs:
        c = prepare(container, name)
        result = c.runtime("run", "--bundle", c.bundle.path, c.id)
        ours = sections(result.out, c.id)
        other = prepare(container, name)
        theirs = under_runc(other, tmp_path)
        for found, made in ((ours, c), (theirs, other)):
            for key in found:
                for path in (str(made.bundle.path), in_its_file_system(str(made.bundle.path))):
                    found[key] = found[key].replace(path, "BUNDLE")
        pairs[name] = name, ours, theirs
    return pairs[name]


NAMES = re.findall(r"^section (\w+);", SCRIPT, re.MULTILINE)


@pytest.mark.parametrize("section", NAMES)
@pytest.mark.parametrize("pair", CONFIGS, indirect=True)
def test_a_program_finds_the_same(pair, section):
    name, ours, theirs = pair
    one, other = ours[section], theirs[section]
    for where, config, pattern, _ in EXPLAINED:
        if where == section and config in ("", name):
            one, other = (re.sub(pattern, "", text, flags=re.MULTILINE) for text in (one, other))
    one, other = ([line for line in text.splitlines() if line] for text in (one, other))
    assert one == other


def runc_is(version):
    return f"runc version {version}" in subprocess.run(["runc", "--version"], capture_output=True, text=True).stdout


@pytest.mark.skipif(bool(shutil.which("runc")) and not runc_is("1.1.5"), reason="others differ less")
def test_every_explained_difference_is_still_one(container, tmp_path, pairs):
    """An explanation that is not needed any more is a mistake."""
    gone = []
    for section, config, pattern, _ in EXPLAINED:
        for name in [config] if config else CONFIGS:
            if name not in pairs:
                break  # only some of the tests were run
            _, ours, theirs = pairs[name]
            if re.findall(pattern, ours[section], re.MULTILINE) != re.findall(pattern, theirs[section], re.MULTILINE):
                break
        else:
            gone.append((section, config, pattern))
    assert not gone


def test_statuses_of_programs_are_the_same(container, tmp_path):
    for command, code in (
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137),
        (("true",), 0),
    ):
        c = container()
        assert c.attempt(*command).code == code
        process = subprocess.run(
            ["runc", "--root", tmp_path / "runc", "run", "--bundle", c.bundle.path, f"{c.id}-runc"],
            stdin=subprocess.DEVNULL,
            timeout=30,
        )
        assert process.returncode == code


ERRORS = {
    "a missing program": ({}, ("/no/such/program",)),
    "a missing source": (
        {"mounts": [{"destination": "/m", "type": "bind", "source": "/no/such", "options": ["bind"]}]},
        ("true",),
    ),
    "a hostname without a namespace": ({"hostname": "x", "namespaces": namespaces("mount")}, ("true",)),
    "a parameter of the host": ({"sysctl": {"kernel.panic": "x"}}, ("true",)),
    "a link in the place of procfs": ({}, ("true",)),
    "a hook that fails": ({"hooks": {"createRuntime": [{"path": BUSYBOX, "args": ["false"]}]}}, ("true",)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_both_refuse(container, tmp_path, name):
    changes, command = ERRORS[name]
    c = container(**changes)
    if "link" in name:
        (c.bundle.rootfs / "proc").rmdir()
        (c.bundle.rootfs / "proc").symlink_to("tmp")
    c.refused(*command)
    process = subprocess.run(
        ["runc", "--root", tmp_path / "runc", "run", "--bundle", c.bundle.path, f"{c.id}-runc"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert process.returncode == 1


def test_the_configuration_that_spec_writes(container, tmp_path):
    c = container()
    c.runtime("spec", "--bundle", c.bundle.path)
    path = c.bundle.path / "config.json"
    config = json.loads(path.read_text())
    config["process"].update(terminal=False, args=["sh", "-c", SCRIPT])
    config["hostname"] = "same"
    path.write_text(json.dumps(config))
    ours = sections(c.runtime("run", "--bundle", c.bundle.path, c.id).out, c.id)
    theirs = under_runc(c, tmp_path)
    for section in (
        "environment",
        "dev",
        "cgroup",
        "keyring",
        "attributes",
        "names",
        "root",
        "files",
        "writable",
        "network",
        "namespaces",
    ):
        assert ours[section] == theirs[section], section
