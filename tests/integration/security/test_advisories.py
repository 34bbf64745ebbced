"""What broke the runtimes before us, each advisory as a test that performs the attack: rights, users, descriptors,
sizes and names. procfs and sysfs: test_advisories_procfs.py; what an image plants: test_advisories_links.py; races:
test_races.py; the seal: test_seal.py.
"""

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from integration.support.attacks import bound, leaking, replace
from integration.support.bundle import NAMESPACES, full, namespaces
from integration.support.host import host_mounts, unchanged
from integration.support.runtime import wait_until
from sizes import FULL, size

DESCRIPTORS = range(3, 65) if FULL else (*range(3, 15), 20, 40, 64)  # the runtime's own are low

# --- descriptors


@pytest.mark.slow
def test_cve_2024_21626_a_working_directory_through_a_descriptor(container, canary):
    """The descriptor is the runtime's own, or one that the caller has leaked."""
    for number in DESCRIPTORS:
        for how in ({}, leaking(canary)):
            c = container(cwd=f"/proc/self/fd/{number}")
            with unchanged(canary):
                result = c.attempt("sh", "-c", "ls; ls ..; ls ../../../../..; cat file; touch new", **how)
            assert "untouched" not in result.out, repr(result)
            assert result.code == 1, repr(result)
            assert "chdir to cwd" in result.err
        c.assert_gone()


@pytest.mark.slow
def test_cve_2024_21626_a_working_directory_of_exec_through_a_descriptor(container, canary):
    c = container().up()
    for number in DESCRIPTORS:
        for how in ({}, leaking(canary)):
            with unchanged(canary):
                result = c.attempt_exec(
                    "sh", "-c", "cat file; cat ../../../etc/hostname", flags=("--cwd", f"/proc/self/fd/{number}"), **how
                )
            assert "untouched" not in result.out, repr(result)
            assert result.code == 255, repr(result)


@pytest.mark.parametrize(
    "cwd", ["/link", "/proc/self/cwd", "/proc/1/cwd", "/proc/self/root", "/../../../..", "/proc/self/fd/../fd/5"]
)
def test_cve_2024_21626_a_working_directory_that_leads_out(container, canary, cwd):
    c = replace(container(cwd=cwd), "/link", "/proc/self/fd/7")
    result = c.attempt("sh", "-c", "ls -a . ..; cat file", **leaking(canary))
    assert "untouched" not in result.out
    assert "boot" not in result.out.split()


@pytest.mark.slow
def test_cve_2024_21626_a_program_through_a_descriptor(container, canary):
    """The second half of the attack: the program would be the host's, and its descriptor a folder of the host's."""
    (canary / "bin").mkdir()
    shutil.copy(shutil.which("busybox"), canary / "bin/sh")
    running = container().up()
    for number in DESCRIPTORS:
        program = (f"/proc/self/fd/{number}/bin/sh", "-c", "echo escaped")
        for how in ({}, leaking(canary)):
            c = container()
            result = c.attempt(*program, **how)
            assert "escaped" not in result.out
            assert result.code == 1
            assert "escaped" not in running.attempt_exec(*program, **how).out
        c.assert_gone()


def test_cve_2024_21626_descriptors_that_the_caller_leaked_do_not_reach_the_program(container, canary):
    c = container()
    names = [line.split()[0] for line in c.run("probe", "descriptors", **leaking(canary)).splitlines()]
    assert names == ["0", "1", "2"]
    c.up(**leaking(canary))
    names = [line.split()[0] for line in c.exec("probe", "descriptors", **leaking(canary)).splitlines()]
    assert names == ["0", "1", "2"]


def test_cve_2024_21626_descriptors_that_the_caller_leaked_do_not_reach_hooks(container, canary, tmp_path):
    script = f"for n in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$n ] && echo $n >> {tmp_path}/seen; done; true"
    kinds = ("createRuntime", "createContainer", "poststop")
    container(hooks={kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}] for kind in kinds}).run(
        "true", **leaking(canary)
    )
    assert not (tmp_path / "seen").exists()


def test_cve_2024_21626_descriptors_that_the_caller_leaked_are_not_held_until_start(container, canary):
    c = container()
    c.create("true", **leaking(canary))
    links = [os.readlink(f"/proc/{c.pid}/fd/{name}") for name in os.listdir(f"/proc/{c.pid}/fd")]
    assert not [link for link in links if str(canary) in link]
    assert len(links) == 4, links  # the streams, and the fifo of start


# --- processes


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("process_namespace", "times"), [("own", size(500, 30)), ("shared", size(100, 10))])
def test_cve_2016_9962_processes_of_exec_can_not_be_traced(container, process_namespace, times):
    """Between joining and execve the process still holds exe, cwd, root and descriptors of the runtime's."""
    kinds = NAMESPACES if process_namespace == "own" else [kind for kind in NAMESPACES if kind != "pid"]
    c = container(namespaces=namespaces(*kinds), capabilities=full("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL"))
    c.up("sh", "-c", f"probe watch-strangers 200 {c.id} > /tmp/out")
    out = c.bundle.rootfs / "tmp/out"
    wait_until(lambda: out.exists() and "ready" in out.read_text(), "the attack")
    for _ in range(times):
        c.exec("true")
    (c.bundle.rootfs / "tmp/stop").touch()
    c.wait_for("stopped")
    seen, traced, followed = map(int, re.search(r"seen (\d+) traced (\d+) followed (\d+)", out.read_text()).groups())
    assert (traced, followed) == (0, 0)
    if process_namespace == "own":
        assert seen > times / 10, "the attack saw hardly a process to trace"


@pytest.mark.slow
@pytest.mark.parametrize("profile", [None, "a filter", "a filter, no new privileges"])
def test_cve_2016_9962_a_container_that_may_trace_sees_no_right_that_it_has_not(container, profile):
    """CAP_SYS_PTRACE in the host's user namespace opens any process that can be seen, dumpable or not."""
    # As engines write it, whose filters don't know clone3's flags.
    refused = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    c = container(
        capabilities=full("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), noNewPrivileges=bool(profile and "new" in profile)
    )
    if profile:
        c.change(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]})
    c.up("sh", "-c", "probe watch-rights > /tmp/out")
    out = c.bundle.rootfs / "tmp/out"
    wait_until(lambda: out.exists() and "ready" in out.read_text(), "the attack")
    for number in range(times := size(100, 15)):
        assert c.attempt_exec("sh", "-c", f"exit {number}").code == number
    (c.bundle.rootfs / "tmp/stop").touch()
    c.wait_for("stopped")
    found = re.search(r"looks (\d+) rights (\w+) outside (\d+)", out.read_text())
    assert int(found[1]) > times / 5, "the attack saw hardly a process"
    assert int(found[2], 16) == 1 << 19 | 1 << 2  # and not CAP_SYS_ADMIN, above all
    assert int(found[3]) == 0


def test_exec_on_a_terminal_into_a_container_that_may_trace(container, tmp_path):
    """The process is cloned last of all. The session and the terminal are its own nevertheless."""
    c = container(capabilities=full("CAP_SYS_PTRACE")).up()
    out = c.attempt_exec("sh", "-c", "tty; cut -d' ' -f5,6,7 /proc/self/stat; ps", flags=("-t",)).out
    name, numbers, *_ = out.replace("\r", "").splitlines()
    _, session, terminal = map(int, numbers.split())
    assert name == "/dev/pts/0"
    assert session > 1
    assert terminal


# --- users and groups


def test_cve_2016_3697_a_user_that_is_named_by_a_number(container):
    """The name would be found first, and with it uid 0."""
    lines = "1000:x:0:0:root:/hostile:/bin/sh\n0:x:1:1::/hostile:/bin/sh\nroot:x:5:5::/hostile:/bin/sh\n"
    c = container(user={"uid": 1000, "gid": 1000}).file("/etc/passwd", lines).file("/etc/group", "1000:x:0:\n")
    assert c.sh("id -u; id -g; id -G; echo $HOME").split() == ["1000", "1000", "1000", "/"]
    c.up()
    assert c.exec_sh("id -u; id -g; echo $HOME", flags=("-u", "1000:1000")).split() == ["1000", "1000", "/"]


UIDS = (2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 5, 2**63, 2**64, -1)


@pytest.mark.parametrize("uid", UIDS)
def test_cve_2024_40635_a_user_that_wraps_around(container, uid):
    """containerd: 2147483648 and more became root."""
    for user, command in (({"uid": uid, "gid": 0}, "-u"), ({"uid": 0, "gid": uid}, "-g")):
        c = container(user=user)
        if 0 <= uid < 2**32 - 1:
            assert c.run("id", command) == str(uid)
        else:
            assert str(uid) in c.refused("true") or "/process/user" in c.refused("true")
    c = container().up()
    for user in (f"{uid}", f"5:{uid}"):
        result = c.attempt_exec("sh", "-c", "echo $(id -u) $(id -g)", flags=(f"--user={user}",))
        if 0 <= uid < 2**32 - 1:
            assert result.out.split() == ([str(uid), "0"] if user == str(uid) else ["5", str(uid)])
        else:
            assert result.code == 255, repr(result)


def test_cve_2023_25173_groups_are_those_of_the_configuration_and_only_those(container):
    """containerd: it has neither the caller's groups, nor those in the image's /etc/group."""
    group = "root:x:0:user\nshadow:x:42:user\nuser:x:1000:\n"
    for groups, expected in (([], ["1000"]), ([0], ["0", "1000"]), ([7, 2147483648], ["1000", "2147483648", "7"])):
        user = {"uid": 1000, "gid": 1000, **({"additionalGids": groups} if groups else {})}
        c = container(user=user).file("/etc/group", group)
        words = ("sh", "-c", "id -G; grep Groups /proc/self/status")
        how = {"extra_groups": [4, 27, 1003]}
        answers = c.run(*words, **how).splitlines(), c.up().exec(*words, **how).splitlines()
        for ids, kernel in answers:
            assert sorted(ids.split()) == expected
            assert sorted(kernel.split()[1:]) == [str(number) for number in sorted(map(str, groups))]


# --- capabilities


def sets(text):
    return {name: int(value, 16) for name, value in re.findall(r"(Cap\w+):\s+(\w+)", text)}


def test_cve_2022_29162_crun_cve_2022_27650_youki_cve_2025_27612_nothing_becomes_inheritable(container):
    """By --cap, --process, or the configuration that `spec` writes: a file with capabilities would pass them on."""
    names = ("CAP_NET_RAW", "CAP_SYS_PTRACE")
    c = container(capabilities={kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")}).up()
    flags = tuple(word for name in names for word in ("--cap", name))
    for user in ((), ("-u", "1000")):
        found = sets(c.exec("grep", "Cap", "/proc/self/status", flags=(*flags, *user)))
        assert found["CapBnd"] == 1 << 5 | 1 << 13 | 1 << 19
        assert (found["CapInh"], found["CapAmb"]) == (0, 0)
    folder = c.runtime.scratch / "spec"
    folder.mkdir()
    c.runtime("spec", "--bundle", folder)
    assert "inheritable" not in (folder / "config.json").read_text()


# --- device rules


def test_ghsa_g54h_what_no_device_rule_allows_is_forbidden(container):
    """runc started from "allow all" on some paths: a single rule that allows would then forbid nothing."""
    nodes = [("/dev/kmsg2", "c", 1, 11), ("/dev/disk", "b", 8, 0), ("/dev/loop", "b", 7, 250), ("/dev/mem2", "c", 1, 1)]
    devices = [{"path": path, "type": kind, "major": major, "minor": minor} for path, kind, major, minor in nodes]
    capabilities = full("CAP_SYSLOG", "CAP_SYS_RAWIO", "CAP_DAC_OVERRIDE", "CAP_MKNOD")
    allow = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    for rules in ([allow], [], [{"allow": False, "access": "rwm"}, allow], [{**allow, "major": 7, "access": "m"}]):
        c = container(devices=devices, resources={"devices": rules}, capabilities=capabilities)
        made = "mknod /tmp/kmsg c 1 11"
        opened = "; ".join(f"probe open {path} 0x800" for path in [node[0] for node in nodes] + ["/tmp/kmsg"])
        assert c.sh(f"{made}; {opened}").split() == ["EPERM"] * 5


@pytest.mark.parametrize(
    "resources",
    [
        {"hugepageLimits": [{"pageSize": "../cgroup.procs", "limit": 1}]},
        {"hugepageLimits": [{"pageSize": "2MB/../x", "limit": 1}]},
        {"hugepageLimits": [{"pageSize": "2MB\n", "limit": 1}]},
        {"hugepageLimits": [{"pageSize": "", "limit": 1}]},
        {"unified": {"../memory.max": "1"}},
        {"unified": {"cgroup.procs/x": "1"}},
        {"unified": {"..": "1"}},
        {"unified": {"": "1"}},
        {"rdma": {"../x": {"hcaHandles": 1}}},
        {"rdma": {"x\ny": {"hcaHandles": 1}}},
        {"network": {"priorities": [{"name": "../x", "priority": 1}], "classID": 1}},
        {"network": {"priorities": [{"name": "lo 1\nlo", "priority": 1}], "classID": 1}},
    ],
    ids=str,
)
def test_runc_4103_names_that_would_be_files_of_other_cgroups(container, resources):
    c = container(resources=resources)
    assert "/linux/resources" in c.refused("true")


# --- sizes and names


def test_cve_2021_43784_members_that_are_longer_than_a_message_of_ours(container):
    """A length that overflowed let a configuration forge other parts of the message."""
    long = "x" * 70_000
    notify = {"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}
    for changes in (
        {"namespaces": namespaces("mount", network=f"/{long}")},
        {"mounts": [bound(f"/{long}", "/m")]},
        {"mounts": [{"destination": "/m", "type": "tmpfs", "source": "t", "options": [long]}]},
        {"mounts": [{"destination": f"/{long}", "type": "tmpfs", "source": "t"}]},
        {"mounts": [{"destination": "/m", "type": long, "source": "t"}]},
        {"cwd": f"/{long}"},
        {"hostname": long},
        {"domainname": long},
        {"args": [f"/{long}"]},
        {"args": [long]},
        {"args": ["true", "x" * 140_000]},
        {"env": ["PATH=/bin", f"A={'x' * 140_000}"]},
        {"sysctl": {f"net.{long}": "1"}},
        {"sysctl": {"net.ipv4.ip_forward": long}},
        {"devices": [{"path": f"/dev/{long}", "type": "p"}]},
        {"cgroupsPath": f"/{long}"},
        {"cgroupsPath": f"/{'x' * 200}" * 25},
        {"uidMappings": [{"containerID": n, "hostID": n, "size": 1} for n in range(5000)]},
        {"apparmorProfile": long + "\0"},
        {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": f"/{long}", "syscalls": [notify]}},
        {"hooks": {"createRuntime": [{"path": f"/{long}"}]}},
        {"root": {"path": long}},
    ):
        c = container(**changes)
        result = c.attempt(*changes.get("args", ("true",)))
        assert result.code == 1, repr(result)[:1000]
        assert result.err.startswith(("pyrunc", "exec /")), result.err[:300]
        assert result.err.count("\n") == 1, result.err[:300]
        assert "internal error" not in result.err, result.err[:300]
        c.assert_gone()


def test_cve_2021_43784_nothing_has_a_nul_in_it(container):
    nul = "a\0b"
    for changes in (
        {"namespaces": namespaces("mount", network=f"/{nul}")},
        {"mounts": [bound(f"/{nul}", "/m")]},
        {"mounts": [bound("/dev", f"/{nul}")]},
        {"mounts": [{"destination": "/m", "type": "tmpfs", "source": "t", "options": [nul]}]},
        {"mounts": [{"destination": "/m", "type": nul, "source": "t"}]},
        {"cwd": f"/{nul}"},
        {"hostname": nul},
        {"args": [nul]},
        {"env": [f"A={nul}"]},
        {"sysctl": {nul: "1"}},
        {"sysctl": {"net.ipv4.ip_forward": nul}},
        {"devices": [{"path": f"/dev/{nul}", "type": "p"}]},
        {"cgroupsPath": f"/{nul}"},
        {"apparmorProfile": nul},
        {"hooks": {"createRuntime": [{"path": f"/{nul}"}]}},
        {"root": {"path": nul}},
        {"maskedPaths": [f"/{nul}"]},
        {"capabilities": {"bounding": [nul]}},
    ):
        error = container(**changes).refused(*changes.get("args", ("true",)))
        assert "internal error" not in error, error
        assert "NUL" in error, error


def test_many_maps(container):
    maps = [{"containerID": n, "hostID": 100_000 + n, "size": 1} for n in range(300)]
    c = container(namespaces=namespaces(*NAMESPACES, "user"), uidMappings=maps, gidMappings=maps).reachable()
    assert len(c.run("cat", "/proc/self/uid_map").splitlines()) == 300


def test_an_environment_of_many_variables(container):
    variables = [f"V{n}={'x' * 100}" for n in range(5000)]
    assert len(container(env=["PATH=/bin", *variables]).run("env").splitlines()) == 5002


# --- what others may see


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777], ids=oct)
def test_cve_2021_41103_cve_2024_25621_the_state_is_private_whatever_the_callers_umask(container, tmp_path, mask):
    """containerd: folders of containers could be entered by every user."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO"}]}
    c = container(seccomp=profile)
    how = {"preexec_fn": lambda: os.umask(mask), "env": {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "manager")}}
    c._prepare(("true",))
    root = c.runtime.root = tmp_path / "a/b/state"
    files = ("--pid-file", tmp_path / "pid")
    c.runtime("--log", tmp_path / "log", "--debug", "create", "--bundle", c.bundle.path, *files, c.id, **how)
    for path in (tmp_path / "a", tmp_path / "a/b", root, *root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink() or path.name == "notify":
            continue  # the container's own users write to it, and nobody else gets as far
        assert mode & 0o077 in (0, 0o011 if path.is_dir() else 0), (path, oct(mode))
        assert mask & 0o700 or mode & 0o700 == (0o700 if path.is_dir() else 0o600), (path, oct(mode))
    for path in (tmp_path / "pid", tmp_path / "log"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o133, path
    c.delete("--force")
    c.runtime.root = tmp_path / "state"


def test_a_process_on_its_way_into_the_container_shows_nothing_of_the_callers(container):
    """The runtime's command line and environment are for the host to see, not for the container's user."""
    c = container()
    c.create("sleep", "1000", env={**os.environ, "SECRET_OF_THE_CALLER": "x"})
    process = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "cat", f"/proc/{c.pid}/environ"], capture_output=True, timeout=60
    )
    assert b"SECRET" not in process.stdout
    c.start()
    assert b"SECRET" not in Path(f"/proc/{c.pid}/environ").read_bytes()


def test_cri_o_cve_2024_3154_annotations_that_reach_systemd_are_told_to_engines(container):
    """Engines must not let users set them: they are properties of the unit, and so commands of the host's."""
    features = json.loads(container().runtime("features").out)
    assert {"org.systemd.property.", "org.criu.config"} <= set(features["potentiallyUnsafeConfigAnnotations"])


# --- the host's mounts

WATCH = """
import select, subprocess, sys
with open("/proc/self/mountinfo") as table:
    table.read()
    poll = select.poll()
    poll.register(table, select.POLLPRI | select.POLLERR)
    poll.poll(0)
    status = subprocess.call(sys.argv[1:])
    print("changed" if poll.poll(0) else "the same")
sys.exit(status)
"""


@pytest.mark.parametrize("propagation", ["", "private", "slave", "shared", "rshared", "unbindable"])
def test_not_for_a_moment_is_anything_mounted_on_the_host(container, tmp_path, propagation):
    """All mounts of the host are shared, as systemd sets them up: any mount of ours could come back to the host."""
    watch = ("unshare", "-m", "--propagation", "shared", "python3", "-c", WATCH)
    c = container(
        mounts=[
            {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["silent", "tmpcopyup"]},
            bound("/usr", "/usr", "rbind", "ro", "rslave"),
            bound(tmp_path, "/v", "rshared"),
            {"destination": "/v", "type": "tmpfs", "source": "t", "options": ["size=64k"]},
        ],
        maskedPaths=["/proc/kcore", "/sys/firmware"],
        readonlyPaths=["/proc/sys"],
        **({"rootfsPropagation": propagation} if propagation else {}),
    )
    before = host_mounts()
    assert c.run("true", wrapper=watch) == "the same"
    assert host_mounts() == before
