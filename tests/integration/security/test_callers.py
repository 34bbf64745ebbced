"""A caller who is careless, or somebody's victim: variables, current directories, descriptors, limits and words that
would change what a runtime in Python does. It does the same, or says what is wrong and leaves nothing.
"""

import fcntl
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess

import pytest

from hostile import CODE, MODULES
from integration.support.attacks import leaking
from integration.support.runtime import wait_until

# --- variables

CONSTRUCTOR = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) { close(open("%s", O_CREAT | O_WRONLY, 0644)); }
unsigned la_version(unsigned version) { return version; }
void gconv_init(void) { run(); }
"""
LIBRARIES = ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "libseccomp.so.2", "libnss_files.so.2",
             "hostile.so")  # fmt: skip


@pytest.fixture(scope="module")
def trap(tmp_path_factory):
    """A folder of code in every form that a variable could load; `ran` is there when any of it has."""
    folder = tmp_path_factory.mktemp("trap")
    (folder / "hostile.c").write_text(CONSTRUCTOR % (folder / "ran"))
    for library in LIBRARIES:
        command = ["cc", "-shared", "-fPIC", "-o", folder / library, folder / "hostile.c"]
        subprocess.run(command, check=True, timeout=60)
    for module in MODULES:
        plain = folder / f"{module}.py"
        plain.parent.mkdir(exist_ok=True)
        plain.write_text(CODE.replace("/hostile-ran", str(folder / "ran")))
        package = folder / module / "__init__.py"
        package.parent.mkdir(exist_ok=True)
        package.write_text(plain.read_text())
    (folder / "gconv-modules").write_text("module INTERNAL UTF-8// hostile 1\nmodule UTF-8// INTERNAL hostile 1\n")
    (folder / "pyvenv.cfg").write_text(f"home = {folder}\ninclude-system-site-packages = true\n")
    for name in ("python3._pth", "python._pth", "python311._pth", "pyrunc._pth", "hostile.pth"):
        (folder / name).write_text(f"{folder}\nimport hostile\n")
    (folder / "locale-archive").write_text("x")
    os.mkfifo(folder / "fifo")
    shutil.copy(folder / "sitecustomize.py", folder / "startup.py")
    return folder


VARIABLES = {  # {} is the trap
    "LD_PRELOAD": "{}/hostile.so",
    "LD_AUDIT": "{}/hostile.so",
    "LD_LIBRARY_PATH": "{}",
    "LD_DEBUG": "all",
    "LD_BIND_NOW": "1",
    "LD_TRACE_LOADED_OBJECTS": "1",
    "LD_SHOW_AUXV": "1",
    "GCONV_PATH": "{}",
    "LOCPATH": "{}",
    "LANG": "tr_TR.ISO-8859-9",
    "LC_ALL": "xx_XX.hostile",
    "LANGUAGE": "{}",
    "NLSPATH": "{}/%N",
    "TZ": ":{}/fifo",
    "TZDIR": "{}",
    "GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.perturb=255",
    "MALLOC_CHECK_": "3",
    "MALLOC_PERTURB_": "255",
    "MALLOC_ARENA_TEST": "1",  # the loader of glibc 2.41 complains about what is no number, of programs of the host
    "MALLOC_TRACE": "{}/ran",
    "GETCONF_DIR": "{}",
    "HOSTALIASES": "{}/fifo",
    "RESOLV_HOST_CONF": "{}/fifo",
    "RES_OPTIONS": "debug",
    "OPENSSL_CONF": "{}/fifo",
    "OPENSSL_MODULES": "{}",
    "HOME": "{}",
    "TMPDIR": "{}/nowhere",
    "PATH": "{}",
    "PWD": "{}/nowhere",
    "COLUMNS": "-1",
    "TERM": "{}/fifo",
    "XDG_RUNTIME_DIR": "{}/nowhere",
    "XDG_CONFIG_HOME": "{}",
    "PYTHONPATH": "{}",
    "PYTHONHOME": "{}",
    "PYTHONSTARTUP": "{}/startup.py",
    "PYTHONUSERBASE": "{}",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "2",
    "PYTHONDEBUG": "9",
    "PYTHONDEVMODE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONBREAKPOINT": "sitecustomize.x",
    "PYTHONHASHSEED": "no number",
    "PYTHONIOENCODING": "utf-16:strict",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "warn",
    "PYTHONMALLOC": "debug",
    "PYTHONTRACEMALLOC": "50",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONPROFILEIMPORTTIME": "1",
    "PYTHONPYCACHEPREFIX": "{}",
    "PYTHONPLATLIBDIR": "{}",
    "PYTHONOPTIMIZE": "2",
    "PYTHONNODEBUGRANGES": "1",
    "PYTHONINTMAXSTRDIGITS": "0",
    "PYTHONEXECUTABLE": "{}/hostile.so",
    "PYTHONCASEOK": "1",
    "__PYVENV_LAUNCHER__": "{}/hostile.so",
    "VIRTUAL_ENV": "{}",
    "SOURCE_DATE_EPOCH": "x",
    "LISTEN_FDS": "-5",
    "LISTEN_PID": "x",
    "NOTIFY_SOCKET": "",
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_of_the_callers_changes_nothing(container, trap, name):
    """Modules of the start, of the child, and those that are loaded only when something is wrong."""
    env = {**os.environ, name: VARIABLES[name].format(trap)}
    c = container()
    result = c.attempt("sh", "-c", "echo fine; echo said >&2", env=env)
    assert (result.code, result.out, result.err) == (0, "fine\n", "said\n"), repr(result)
    c.change(hostname=5)
    error = c.attempt("true", env=env)  # explained by jsonschema, which loads much
    assert "/hostname" in error.err, repr(error)
    assert error.err.count("\n") == 1
    assert not (trap / "ran").exists()


def test_all_variables_at_once(container, trap):
    env = {name: value.format(trap) for name, value in VARIABLES.items()}
    c = container(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}).up(env=env)
    assert c.exec("echo", "fine", env=env) == "fine"
    assert json.loads(c.runtime("state", c.id, env=env).out)["status"] == "running"
    c.kill("KILL", env=env)
    c.delete("--force", env=env)
    assert not (trap / "ran").exists()


def test_no_variables_at_all(container):
    c = container().up(env={})
    assert c.exec("echo", "fine", env={}) == "fine"
    c.delete("--force", env={})


@pytest.mark.parametrize("value", ["-5", "-1", "0", "x", "", "1e9", "99999999999", "٣", "1_0", " 3", "0x3"])
def test_a_number_of_sockets_that_is_none(container, value):
    """LISTEN_FDS, of a service manager or of nobody: no stream is lost, no descriptor of ours is the container's."""
    for pid in ({}, {"LISTEN_PID": "0"}, {"LISTEN_PID": "x"}):
        c = container()
        result = c.attempt("probe", "descriptors", env={**os.environ, "LISTEN_FDS": value, **pid})
        if result.code == 0:
            assert [line.split()[0] for line in result.out.splitlines()] == ["0", "1", "2"]
        else:
            assert result.err.startswith("pyrunc"), repr(result)
            assert result.err.count("\n") == 1
        c.assert_gone()


# --- current directories


def everything_fine(c, **how):
    assert c.run("echo", "fine", **how) == "fine"
    c.up(**how)
    assert c.exec("echo", "fine", **how) == "fine"
    assert json.loads(c.runtime("state", c.id, **how).out)["status"] == "running"
    assert c.id in c.runtime("list", **how).out
    c.delete("--force", **how)
    c.change(hostname=5)
    assert "/hostname" in c.attempt("true", **how).err


def test_a_current_directory_full_of_python(container, trap):
    everything_fine(container(), cwd=trap)
    assert not (trap / "ran").exists()


def test_a_bundle_and_a_state_root_full_of_python(container, trap):
    c = container()
    for place in (c.bundle.path, c.runtime.root):
        shutil.copytree(trap, place, dirs_exist_ok=True, ignore=lambda *_: ["fifo"])
    for folder in c.runtime.root.iterdir():  # those are containers' names; files are not
        if folder.is_dir():
            shutil.rmtree(folder)
    everything_fine(c, cwd=c.bundle.path)
    assert not (trap / "ran").exists()


def test_a_current_directory_that_was_deleted(container, tmp_path):
    place = tmp_path / "gone"

    def arrange():
        place.mkdir()
        os.chdir(place)
        place.rmdir()

    everything_fine(container(), preexec_fn=arrange)
    c = container()
    c._prepare(("true",))
    pid_file = ("run", "--pid-file", "p", "--bundle", c.bundle.path, c.id)
    for words in (("create", c.id), ("create", "--bundle", "x", c.id), pid_file):
        result = c.runtime(*words, check=False, preexec_fn=arrange)
        assert result.code == 1, repr(result)
        assert result.err.startswith("pyrunc: "), repr(result)
        assert result.err.count("\n") == 1
        assert "internal" not in result.err
        c.assert_gone()


def test_a_current_directory_that_nobody_may_read(container, tmp_path):
    """The caller has none of root's rights over files."""
    place = tmp_path / "closed"
    place.mkdir(mode=0o000)
    everything_fine(container(), cwd=place)
    c = container().reachable()
    state = c.runtime.scratch / "state"
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")
    command = [*nobody, c.runtime.binary, "--root", str(state), "list"]
    result = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=30)
    assert result.stderr == "" or result.stderr.count("\n") == 1, result.stderr


# --- descriptors


@pytest.mark.parametrize("closed", [c for n in (1, 2, 3) for c in itertools.combinations((0, 1, 2), n)], ids=str)
def test_standard_streams_that_are_closed(container, closed):
    """What is opened next would take their place: messages would be written to state.json, or to the fifo of start."""

    def arrange():
        for number in closed:
            os.close(number)

    how = {"preexec_fn": arrange}
    c = container()
    script = "probe descriptors > /tmp/out; echo to stdout; echo to stderr >&2; cat; exec sleep 1000"
    c.create("sh", "-c", script, **how)
    state, config = (json.loads((c.runtime.root / c.id / name).read_text()) for name in ("state.json", "config.json"))
    assert (state["id"], config["process"]["args"][0]) == (c.id, "sh")
    c.start(**how)
    out = c.bundle.rootfs / "tmp/out"
    wait_until(lambda: out.exists() and out.read_text().count("\n") == 3, "the list")
    links = dict(line.split(" ", 1) for line in out.read_text().splitlines())
    for number in closed:
        if number != 1:  # that one is the list itself
            assert links[str(number)] == "/dev/null", links
    assert c.attempt_exec("sh", "-c", "echo a; echo b >&2; exit 7", **how).code == 7
    failing = container().attempt("/no/such/program", **how)
    assert failing.code == 1
    assert (2 in closed) or failing.err.count("\n") == 1
    for name, document in (("state.json", state), ("config.json", config)):
        assert json.loads((c.runtime.root / c.id / name).read_text()) == document
    c.delete("--force", **how)
    c.assert_gone()


def test_a_thousand_descriptors_of_the_callers(container, canary, tmp_path):
    """Numbers that select(2) does not know; and the last of a range that descriptors may have."""
    how = leaking(canary, 3, 1100)
    script = {"path": "/bin/sh", "args": ["sh", "-c", f"ls /proc/self/fd | wc -l >> {tmp_path}/seen"]}
    c = container(hooks={kind: [script] for kind in ("createRuntime", "createContainer", "poststart", "poststop")})
    assert [line.split()[0] for line in c.run("probe", "descriptors", **how).splitlines()] == ["0", "1", "2"]
    c.up(**how)
    assert [line.split()[0] for line in c.exec("probe", "descriptors", **how).splitlines()] == ["0", "1", "2"]
    c.runtime("pause", c.id, **how)
    c.runtime("resume", c.id, **how)
    c.delete("--force", **how)
    assert {int(line) for line in (tmp_path / "seen").read_text().split()} == {4}  # with that of ls


def test_descriptors_up_to_the_limit(container, canary):
    """No descriptor is free: there is an error, and nothing is left."""

    def arrange():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        for number in range(3, 100):
            os.dup2(0, number)

    c = container()
    result = c.attempt("true", preexec_fn=arrange, close_fds=False)
    assert result.code in (126, 127), repr(result)
    assert result.err.startswith("pyrunc: "), repr(result)
    assert result.err.count("\n") == 1
    c.assert_gone()


def test_limits_on_descriptors(container):
    """From too few for anything to enough for all: at each number it works, or fails in one line and leaves nothing."""
    worked = set()
    for number in range(3, 41):
        how = {"preexec_fn": lambda number=number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))}
        c = container(maskedPaths=["/proc/keys"], hooks={"createRuntime": [{"path": "/bin/true"}]})
        result = c.attempt("true", **how)
        if result.code == 0:
            worked.add(number)
        else:
            lines = [line for line in result.err.splitlines() if "level=warning" not in line]
            assert result.code in (1, 126, 127), (number, repr(result))
            assert len(lines) == 1, (number, repr(result))
            assert "pyrunc" in lines[0], (number, repr(result))
            assert "Traceback" not in result.err
        c.runtime("delete", "--force", c.id, check=False)
        c.assert_gone()
    assert worked
    assert worked == set(range(min(worked), 41))


def test_limits_on_descriptors_of_exec(container):
    c = container().up()
    worked = set()
    for number in range(3, 41):
        how = {"preexec_fn": lambda number=number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))}
        result = c.attempt_exec("true", **how)
        if result.code == 0:
            worked.add(number)
        else:
            assert result.code in (255, 126, 127), (number, repr(result))
            assert result.err.count("\n") == 1, (number, repr(result))
            assert "pyrunc" in result.err
    assert worked == set(range(min(worked), 41))
    assert len(c.exec("ps").splitlines()) == 3, "execs that failed have left processes"


@pytest.mark.parametrize("kind", ["NPROC", "FSIZE", "AS", "DATA", "STACK", "MEMLOCK", "CPU", "SIGPENDING"])
def test_other_limits_of_the_callers(container, kind):
    """Under each limit the container is made whole, or there is an error."""
    number = getattr(resource, f"RLIMIT_{kind}")
    most = resource.getrlimit(number)[1]
    for value in (0, 1, 4096, 1 << 20, 16 << 20, 64 << 20):
        value = value if most < 0 else min(value, most)
        c = container()
        how = {"preexec_fn": lambda value=value: resource.setrlimit(number, (value, value))}
        result = c.attempt("true", **how)
        c.runtime("delete", "--force", c.id, check=False)
        c.assert_gone()
        assert "Traceback" not in result.err, (value, repr(result))
        assert "internal error" not in result.err, (value, repr(result))


# --- signals


def block_all():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def block_child():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})


def ignore_child():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@pytest.mark.parametrize("arrange", [block_all, block_child, ignore_child])
def test_signals_that_the_caller_blocks_or_ignores(container, arrange):
    """run and exec end, with the right status, and nothing of it reaches the container."""
    show = "grep -E '^Sig(Blk|Ign)' /proc/self/status; exit 7"
    c = container(hooks={"createRuntime": [{"path": "/bin/true"}]})
    result = c.attempt("sh", "-c", show, preexec_fn=arrange)
    assert result.code == 7, repr(result)
    assert result.out == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    c.up()
    result = c.attempt_exec("sh", "-c", show, preexec_fn=arrange)
    assert result.code == 7, repr(result)
    assert result.out == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    c.delete("--force")
    c.change(hooks={"createRuntime": [{"path": "/bin/false"}]})
    assert "exit status 1" in c.refused("true", preexec_fn=arrange)


# --- standard error


@pytest.fixture(params=["full disk", "closed", "pipe without a reader"])
def unwritable(request):
    """A stream on which nobody can be told."""
    if request.param == "closed":
        yield {"preexec_fn": lambda: os.close(2)}
        return
    fd = os.open("/dev/full", os.O_WRONLY)
    if request.param != "full disk":
        os.close(fd)
        read, fd = os.pipe()
        os.close(read)
    yield {"stderr": fd}
    os.close(fd)


def test_the_exit_status_when_nobody_can_be_told(container, runtime, unwritable):
    assert runtime("state", "nobody", check=False, **unwritable).code == 1
    assert runtime("--debug", "list", check=False, **unwritable).code == 1
    assert runtime("--log-format", "json", "delete", "nobody", check=False, **unwritable).code == 1
    c = container().up()
    assert c.attempt_exec("/no/such/program", **unwritable).code == 255
    assert c.attempt_exec("sh", "-c", "exit 3", **unwritable).code == 3
    (c.runtime.root / "damaged").mkdir()
    (c.runtime.root / "damaged/state.json").touch()
    assert c.id in runtime("list", **unwritable).out
    assert c.create("/no/such/program", check=False, **unwritable).code == 1


@pytest.mark.slow
def test_a_pipe_that_is_full_keeps_no_verb_from_its_end(runtime):
    read, write = os.pipe()
    os.write(write, b"x" * fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096))
    try:
        assert runtime("state", "nobody", check=False, stderr=write).code == 1
    finally:
        os.close(read)
        os.close(write)
