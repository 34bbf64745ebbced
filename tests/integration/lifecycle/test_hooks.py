"""Hooks of the six kinds: when, where, with what they run; what their failure means. config.md#posix-platform-hooks"""

import contextlib
import json
import os
import subprocess
import time

import pytest

from integration.support.bundle import BUSYBOX, namespaces
from integration.support.runtime import wait_until

BEFORE_START = ("prestart", "createRuntime", "createContainer")
KINDS = (*BEFORE_START, "startContainer", "poststart", "poststop")


class Hooks:
    """Scripts, and a file where they write. Inside the container that file's folder is /hooks."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o777)
        self.log = folder / "log"
        self.count = 0

    def script(self, text, kind="", **members):
        """A hook that runs a shell script."""
        self.count += 1
        shell, path = ("/bin/sh", "/hooks") if kind == "startContainer" else ("/bin/sh", str(self.folder))
        place = self.folder / f"{self.count}.sh"
        place.write_text(f"L={path}/log\nD={path}\n{text}\n")
        return {"path": shell, "args": ["sh", f"{path}/{place.name}"], **members}

    def read(self):
        return self.log.read_text() if self.log.exists() else ""

    @property
    def mount(self):
        return [{"destination": "/hooks", "type": "bind", "source": str(self.folder), "options": ["bind"]}]


@pytest.fixture
def hooks(tmp_path):
    return Hooks(tmp_path / "hooks")


@pytest.fixture
def hooked(container, hooks):
    """A container with hooks of some kinds."""

    def make(**kinds):
        return container(hooks={kind: list(given) for kind, given in kinds.items()}, mounts=hooks.mount)

    return make


def test_their_order(hooked, hooks):
    given = {kind: [hooks.script(f"echo {kind} {n} >> $L", kind) for n in (1, 2)] for kind in KINDS}
    c = hooked(**given)
    c.create("sh", "-c", "echo program >> /hooks/log; sleep 1000")
    assert hooks.read().split("\n")[:-1] == [f"{kind} {n}" for kind in BEFORE_START for n in (1, 2)]
    c.start()
    wait_until(lambda: "program" in hooks.read(), "the program")
    lines = hooks.read().split("\n")[6:-1]
    assert lines[:2] == ["startContainer 1", "startContainer 2"]
    assert sorted(lines[2:]) == ["poststart 1", "poststart 2", "program"]
    c.delete("--force")
    assert hooks.read().split("\n")[-3:-1] == ["poststop 1", "poststop 2"]


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        ("prestart", ("creating", "created")),
        ("createRuntime", ("creating",)),
        ("createContainer", ("creating",)),
        ("startContainer", ("created",)),
        ("poststart", ("running",)),
        ("poststop", ("stopped",)),
    ],
)
def test_the_state_that_they_read(hooked, hooks, kind, statuses):
    c = hooked(**{kind: [hooks.script("cat > $D/state", kind)]}).change(annotations={"key": "value"})
    c.up()
    pid = c.pid
    c.delete("--force")
    state = json.loads((hooks.folder / "state").read_text())
    assert state["id"] == c.id
    assert state["status"] in statuses
    assert state["bundle"] == str(c.bundle.path)
    assert state["annotations"] == {"key": "value"}
    assert state["ociVersion"] == c.config["ociVersion"]
    if kind == "poststop":
        assert not state.get("pid")
    elif kind in ("createContainer", "startContainer"):
        assert state.get("pid") in (1, pid, None)
    else:
        assert state["pid"] == pid


@pytest.mark.parametrize("kind", KINDS)
def test_the_namespaces_that_they_run_in(hooked, hooks, kind):
    c = hooked(
        **{kind: [hooks.script("readlink /proc/self/ns/mnt >> $L; readlink /proc/self/ns/net >> $L", kind)]}
    ).up()
    inside = [os.readlink(f"/proc/{c.pid}/ns/{name}") for name in ("mnt", "net")]
    c.delete("--force")
    own = [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net")]
    expected = inside if kind in ("createContainer", "startContainer") else own
    assert hooks.read().split() == expected


def test_create_container_sees_the_host_and_the_mounts(hooked, hooks):
    c = hooked(
        createContainer=[
            hooks.script(
                f"ls {hooks.folder} > /dev/null && grep -c -E '/rootfs/(proc|dev|hooks) ' /proc/self/mountinfo > $L"
            )
        ]
    )
    c.run("true")
    assert hooks.read() == "3\n"


def test_a_mount_of_create_container_is_the_containers(hooked, hooks):
    """The hooks of GPU vendors do this."""
    c = hooked(createContainer=[])
    c.config["hooks"]["createContainer"] = [
        hooks.script(f"mount -t tmpfs tmpfs {c.bundle.rootfs}/tmp && touch {c.bundle.rootfs}/tmp/by-the-hook")
    ]
    assert c.run("ls", "/tmp") == "by-the-hook"
    assert not (c.bundle.rootfs / "tmp/by-the-hook").exists()


def test_create_runtime_can_enter_the_container(hooked, hooks):
    """Engines set networks up by the pid in the state."""
    script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter -t $pid -u hostname hooked"
    c = hooked(createRuntime=[hooks.script(script)])
    assert "hooked" in c.sh("ls /sys/class/net; hostname")


def test_start_container_runs_in_the_containers_root_as_its_user(hooked, hooks):
    c = hooked(startContainer=[hooks.script("id -u >> $L; pwd >> $L; ls -d /bin/busybox >> $L", "startContainer")])
    c.change(user={"uid": 1000, "gid": 1000}, cwd="/tmp").run("true")
    assert hooks.read().split() == ["1000", "/tmp", "/bin/busybox"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("createRuntime", "caller"), ("poststop", "caller"), ("createContainer", ""), ("startContainer", "payload")],
)
def test_their_environment_by_default(hooked, hooks, kind, expected):
    c = hooked(**{kind: [hooks.script('echo "[$ORIGIN]" >> $L', kind)]}).change(env=["PATH=/bin", "ORIGIN=payload"])
    c.run("true", env={**os.environ, "ORIGIN": "caller"})
    assert hooks.read() == f"[{expected}]\n"


@pytest.mark.parametrize("kind", KINDS)
def test_their_own_environment(hooked, hooks, kind):
    hook = hooks.script(
        "env | grep -v -E '^(PWD|SHLVL|_|OLDPWD)=' | sort >> $L", kind, env=["PATH=/usr/bin:/bin", "A=b c"]
    )
    c = hooked(**{kind: [hook]}).up()
    c.delete("--force")
    assert hooks.read().splitlines() == ["A=b c", "PATH=/usr/bin:/bin"]


def test_their_arguments(hooked, hooks):
    c = hooked(
        createRuntime=[{"path": BUSYBOX, "args": ["sh", "-c", f'echo "$0|$1" > {hooks.log}', "zero", "one two"]}]
    )
    c.run("true")
    assert hooks.read() == "zero|one two\n"


def test_they_have_three_descriptors(hooked, hooks):
    """It inherits nothing from the runtime."""
    look = 'for n in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$n ] && open="$open $n"; done; echo $open >> $L'
    given = {kind: [hooks.script(look, kind)] for kind in KINDS}
    c = hooked(**given).up()
    c.delete("--force")
    assert hooks.read().splitlines() == ["0 1 2"] * len(KINDS)  # a shell has its script at 10


def test_a_hook_need_not_read_its_input(hooked, hooks):
    c = hooked(createRuntime=[hooks.script("exec 0<&-; exit 0")]).change(annotations={"x": "y" * 200_000})
    c.run("true")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_may_say_more_than_a_pipe_holds(hooked, hooks, kind):
    hooked(**{kind: [hooks.script("head -c 300000 /dev/zero; echo ran >> $L", kind)]}).run("true")
    assert hooks.read() == "ran\n"


def test_a_hook_may_say_much_before_it_reads_its_input(hooked, hooks):
    script = "head -c 300000 /dev/zero; wc -c >> $L"
    hooked(createRuntime=[hooks.script(script)]).change(annotations={"x": "y" * 200_000}).run("true")
    assert int(hooks.read()) > 200_000


def test_a_child_of_a_hook_that_goes_on_talking_keeps_nobody_waiting(hooked, hooks):
    c = hooked(createRuntime=[hooks.script("yes >&2 & echo $! > $D/pid; exit 0")])
    c.run("true", timeout=60)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int((hooks.folder / "pid").read_text()), 9)


# --- failures


@pytest.mark.parametrize("kind", BEFORE_START)
@pytest.mark.parametrize("how", ["exit 7", "kill -9 $$"])
def test_a_failure_before_start_is_an_error_of_create(hooked, hooks, kind, how):
    c = hooked(
        **{
            kind: [
                hooks.script("echo first >> $L"),
                hooks.script(f"echo oops; {how}"),
                hooks.script("echo third >> $L"),
            ]
        }
    )
    result = c.create("true", check=False)
    assert result.code == 1
    assert kind in result.err
    assert ("exit status 7" if "exit" in how else "signal: killed") in result.err
    assert "oops" in result.err
    assert hooks.read() == "first\n"
    c.assert_gone()


@pytest.mark.parametrize(("kind", "log"), [*((kind, ()) for kind in KINDS), ("poststop", ("--log-format", "json"))])
def test_what_a_hook_says_is_no_terminals_to_obey(hooked, hooks, kind, log):
    c = hooked(**{kind: [hooks.script("printf 'a\\000b\\033[31m\\177c\\nd'; exit 9", kind)]})
    c._prepare(("true",))
    result = subprocess.run(
        [c.runtime.binary, *log, "--root", str(c.runtime.root), "run", "--bundle", str(c.bundle.path), c.id],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
    )  # fmt: skip
    assert rb"a\x00b\x1b[31m\x7fc\nd" in result.stderr.replace(rb"\\", b"\\"), result.stderr
    assert not set(result.stderr) & {0, 27, 127}


@pytest.mark.parametrize("kind", BEFORE_START)
def test_poststop_hooks_run_after_a_failed_create(hooked, hooks, kind):
    c = hooked(**{kind: [hooks.script("exit 1")], "poststop": [hooks.script("echo poststop >> $L")]})
    assert c.create("true", check=False).code == 1
    assert hooks.read() == "poststop\n"
    c.assert_gone()


@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_a_failure_at_start_destroys_the_container(hooked, hooks, kind):
    """runtime.md, lifecycle, steps 12 and 13: the container is destroyed, and its poststop hooks run."""
    poststop = hooks.script("cat > $D/state; echo poststop >> $L")
    c = hooked(**{kind: [hooks.script("exit 9", kind)], "poststop": [poststop]})
    c.create("sh", "-c", "echo ran >> /hooks/log; sleep 1000" if kind == "startContainer" else "sleep 1000")
    result = c.start(check=False)
    assert result.code == 1
    assert kind in result.err
    assert "exit status 9" in result.err
    assert hooks.read() == "poststop\n"
    assert json.loads((hooks.folder / "state").read_text())["status"] == "stopped"
    c.assert_gone()
    assert "does not exist" in c.delete(check=False).err


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "poststart", "poststop"])
def test_they_run_in_the_bundles_folder(hooked, hooks, kind):
    """As with runc. createContainer's start in the root file system (below), startContainer's in the container."""
    c = hooked(**{kind: [hooks.script("pwd >> $L")]})
    c.create("sleep", "1000", cwd=hooks.folder)
    c.start(cwd=hooks.folder)
    c.delete("--force", cwd=hooks.folder)
    assert hooks.read() == f"{c.bundle.path}\n"


def test_create_container_runs_in_the_root_file_system(hooked, hooks):
    c = hooked(createContainer=[hooks.script("pwd >> $L")])
    c.run("true")
    assert hooks.read() == f"{c.bundle.rootfs}\n"


def test_poststop_runs_though_the_bundle_is_gone(hooked, hooks):
    c = hooked(poststop=[hooks.script("pwd >> $L")]).up()
    c.bundle.path.rename(c.bundle.path.parent / "elsewhere")
    c.delete("--force")
    assert hooks.read() == "/\n"


@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_run_leaves_nothing_when_a_hook_of_start_fails(hooked, hooks, kind):
    c = hooked(**{kind: [hooks.script("exit 9", kind)]})
    assert kind in c.refused("sleep", "1000")


def test_a_failure_of_poststop_is_a_warning(hooked, hooks):
    c = hooked(poststop=[hooks.script("exit 3"), hooks.script("echo second >> $L")]).up()
    result = c.delete("--force")
    assert "poststop" in result.err
    assert "warning" in result.err
    assert hooks.read() == "second\n"
    c.assert_gone()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_is_not_there_is_named(hooked, hooks, kind):
    c = hooked(**{kind: [{"path": "/no/such/hook"}]})
    result = c.attempt("true")
    assert "/no/such/hook" in result.err
    assert result.code == (0 if kind == "poststop" else 1)
    c.assert_gone()


@pytest.mark.parametrize("kind", KINDS)
def test_a_relative_path_is_refused(hooked, kind):
    c = hooked(**{kind: [{"path": "hook"}]})
    assert f"/hooks/{kind}/0/path" in c.refused("true")


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_takes_too_long_is_killed(hooked, hooks, kind):
    c = hooked(**{kind: [hooks.script("echo $$ > $D/pid; sleep 987654 & sleep 987654", kind, timeout=1)]})
    before = time.monotonic()
    result = c.attempt("sleep", "0.01")
    assert time.monotonic() - before < 8
    assert "timeout" in result.err
    assert kind in result.err
    left = ["pgrep", "-f", "sleep 987654"]
    wait_until(lambda: subprocess.run(left, stdout=subprocess.DEVNULL).returncode == 1, "its children to be killed too")
    c.assert_gone()


USER = {
    "namespaces": namespaces("pid", "mount", "user"),
    "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
    "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_has_left_its_process_group_is_killed_too(hooked, kind):
    """A shell with job control makes one. So does whatever wants to be in the foreground."""
    c = hooked()
    place = "/bin/probe" if kind == "startContainer" else str(c.bundle.rootfs / "bin/probe")
    c.change(hooks={kind: [{"path": place, "args": ["probe", "leave-group"], "timeout": 1}]})
    before = time.monotonic()
    result = c.attempt("sleep", "0.01")
    assert time.monotonic() - before < 20
    assert "timeout" in result.err
    c.assert_gone()


@pytest.mark.parametrize("joined", [None, "user", "pid"])
def test_a_hook_of_the_container_ends_when_create_is_killed(container, joined):
    """The kernel clears the parent-death signal at each change of credentials, and in a child."""
    c = container(**USER).reachable()
    if joined:
        other = container(**({} if joined == "pid" else USER)).reachable().up()
        kinds = {"pid", "mount"} if joined == "pid" else {"pid", "mount", "user"}  # the first: by a second clone
        c.change(namespaces=namespaces(*(kinds - {joined}), **{joined: f"/proc/{other.pid}/ns/{joined}"}))
        if joined == "pid":
            del c.config["linux"]["uidMappings"], c.config["linux"]["gidMappings"]
    seconds = f"9{os.getpid()}.{[None, 'user', 'pid'].index(joined)}"
    c.change(hooks={"createContainer": [{"path": "/bin/sleep", "args": ["sleep", seconds]}]})
    c._prepare(("true",))
    creating = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
    wait_until(lambda: creating.poll() is not None or commands(seconds), "the hook")
    assert creating.poll() is None, creating.result(1)
    creating.kill()
    creating.end()
    wait_until(lambda: not commands(seconds), "the end of the hook", 10)
    c.delete("--force")
    c.assert_gone()


def commands(word):
    """The processes with this word in their command line."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
            if word.encode() in file.read().split(b"\0"):
                found.append(entry)
    return found


def test_hooks_of_a_container_without_a_mount_namespace_run_once(container, hooks):
    kinds = {kind: [hooks.script(f"echo {kind} >> $L")] for kind in BEFORE_START}
    c = container(namespaces=namespaces("pid"), hooks=kinds, mounts=[])
    c.config["mounts"] = []
    c.run("true")
    assert hooks.read().split() == list(BEFORE_START)
