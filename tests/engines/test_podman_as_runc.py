"""Podman as root: what its users type does the same with pyrunc as with runc."""

import re
import shlex
import shutil

import pytest

from engines import podman, shim
from engines.commands import FAILING, ORDINARY, RUN, STATUS, differences, lines
from engines.image import NAME
from sizes import FULL

PYRUNC = str(shim.SHIM.parent / "pyrunc")
NOT_HERE = {"init": "Podman's own init, catatonit, is not everywhere"}
KUBE = f"""
apiVersion: v1
kind: Pod
metadata: {{name: played}}
spec:
  hostNetwork: true
  restartPolicy: Never
  containers:
  - {{name: one, image: {NAME}, command: [/bin/sh, -c, "echo logged; sleep 1000"]}}
  - {{name: two, image: {NAME}, command: [/bin/sh, -c, "exit 5"], resources: {{limits: {{memory: 64Mi}}}}}}
"""
# What a RUN may do, is given and leaves behind; a profile and no no_new_privs, ambient capabilities, a user, a folder.
CONTAINERFILE = f"""
FROM {NAME}
RUN id; umask; pwd; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
RUN echo built > /built; ls /proc/self/fd | wc -l; cut -d' ' -f5-6 /proc/self/mountinfo | sort | grep -v containers
USER 1000:5
WORKDIR /made/deep
RUN ["/bin/sh", "-c", "id; pwd; touch /forbidden; touch /tmp/mine; grep CapEff /proc/self/status"]
"""
pytestmark = pytest.mark.slow
long = pytest.mark.skipif(not FULL, reason="NOT TESTED without PYRUNC_FULL=1: it takes longer than all the others")


@pytest.fixture(scope="module")
def engine():
    if podman.PROGRAM is None:
        pytest.skip("NOT TESTED: Podman is not installed")
    with podman.Podman() as engine:
        (engine.folder / "volume").mkdir()
        yield engine


def run(engine, runtime, options, *command):
    words = [word.replace("VOLUME", f"{engine.folder}/volume") for word in shlex.split(options)]
    network = () if "--network" in words else ("--network", "none")
    done = engine("run", "--rm", *network, *words, NAME, *command, runtime=runtime, check=False)
    (engine.folder / "volume/file").unlink(missing_ok=True)
    return done.returncode, lines(done.stdout), lines(done.stderr)


@pytest.mark.parametrize("row", RUN if FULL else ORDINARY)
def test_run(engine, row):
    if row in NOT_HERE:
        pytest.skip(NOT_HERE[row])
    options, program = RUN[row]
    expected = run(engine, "runc", options, "sh", "-c", program)
    if row == "network bridge" and expected[0]:
        pytest.skip(f"NOT TESTED: Podman has no bridge here: {expected[2]}")
    found = run(engine, PYRUNC, options, "sh", "-c", program)
    assert [*differences(found, expected)] == []
    assert found == expected


@pytest.mark.parametrize("row", FAILING if FULL else ["no such program"])
def test_run_of_what_is_no_program(engine, row):
    assert run(engine, PYRUNC, "", *FAILING[row])[0] == run(engine, "runc", "", *FAILING[row])[0]


class Story:
    """What was done, and what came of it."""

    def __init__(self, engine, runtime, name):
        self.engine = engine
        self.runtime = runtime
        self.name = name
        self.found = []

    def do(self, *words, **more):
        done = self.engine(*words, runtime=self.runtime, check=False, **more)
        out = [re.sub(r"^\d+ +", "PID ", line).replace(self.name, "NAME") for line in lines(done.stdout)]
        label = " ".join(map(str, words)).replace(self.name, "NAME")
        self.found.append((label, done.returncode, out, bool(done.stderr)))


def same(engine, story):
    ours, theirs = (story(engine, runtime, name) for runtime, name in ((PYRUNC, "of-pyrunc"), ("runc", "of-runc")))
    for mine, runcs in zip(ours, theirs, strict=True):
        assert mine == runcs
    return ours


def life(engine, runtime, name):
    story = Story(engine, runtime, name)
    do = story.do
    program = "trap 'exit 9' TERM; echo started; while :; do sleep 0.1; done"
    engine("run", "-d", "--network", "none", "-m", "64m", "--name", name, NAME, "sh", "-c", program, runtime=runtime)
    state = ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", name)
    do(*state)
    do("exec", name, "sh", "-c", "echo in; echo err >&2; exit 3")
    do("exec", "-i", name, "cat", stdin=b"some input")
    do("exec", "-t", name, "tty")
    do("exec", "-u", "1000", "-w", "/tmp", "-e", "A=B", name, "sh", "-c", "id -u; pwd; echo $A")
    do("exec", "-d", name, "touch", "/tmp/detached")
    do("exec", name, "nonesuch")
    do("top", name, "comm")
    do("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", name)
    do("pause", name)
    do(*state)
    do("exec", name, "true")
    do("unpause", name)
    do(*state)
    do("cp", engine.folder / "containers.conf", f"{name}:/tmp/in")
    do("exec", name, "wc", "-l", "/tmp/in")
    do("logs", name)
    do("stop", "-t", "5", name)
    do(*state)
    do("start", name)
    do("restart", "-t", "1", name)
    do(*state)
    do("kill", name)
    do("wait", name)
    do(*state)
    do("rm", name)
    return story.found


@long
def test_the_life_of_a_container(engine):
    found = same(engine, life)
    assert [row[1] for row in found if row[1]] == [3, 127, 255]  # exec's status; no such program; it is paused


def pod(engine, runtime, name):
    story = Story(engine, runtime, name)
    do = story.do
    do("pod", "create", "--name", name, "--network", "none", "--share", "ipc,uts,net,pid", "--hostname", "pod")
    words = ("--pod", name, NAME)
    engine("run", "-d", "--name", f"{name}-1", *words, "sleep", "1000", runtime=runtime)
    do("run", "--rm", *words, "sh", "-c", "hostname; ps -o comm | grep -c sleep; ls /sys/class/net; exit 4")
    do("exec", f"{name}-1", "sh", "-c", "readlink /proc/1/ns/ipc /proc/self/ns/ipc | uniq | wc -l")
    do("pod", "ps", "--format", "{{.Name}} {{.Status}} {{.NumberOfContainers}}")
    do("pod", "pause", name)
    do("pod", "ps", "--format", "{{.Status}}")
    do("pod", "unpause", name)
    do("pod", "stop", "-t", "0", name)
    do("pod", "ps", "--format", "{{.Status}}")
    do("pod", "rm", "-f", name)
    return [row[:2] if row[0].startswith(("pod stop", "pod rm")) else row for row in story.found]  # they may warn


def test_a_pod(engine):
    found = same(engine, pod)
    assert [row[1] for row in found] == [0, 4, *[0] * (len(found) - 2)]
    assert found[1][2] == ["pod", "2", "lo"]  # the pod's own sleeps too


def build(engine, runtime, name):
    story = Story(engine, runtime, name)
    folder = engine.folder / "context"
    folder.mkdir(exist_ok=True)
    (folder / "Containerfile").write_text(CONTAINERFILE)
    (folder / "failing").write_text(f"FROM {NAME}\nRUN exit 7\n")
    story.do("build", "--network", "none", "--no-cache", "-t", f"localhost/{name}", folder)
    story.do("build", "--network", "none", "--no-cache", "-f", folder / "failing", folder)
    look = "cat /built; ls -ln / /tmp | tr -s ' ' | grep -E 'built|made|mine|tmp'"
    story.do("run", "--rm", "--network", "none", f"localhost/{name}", "sh", "-c", look)
    story.do("rmi", "-f", f"localhost/{name}")
    return story.found


def test_build(engine):
    found = same(engine, build)
    assert [row[1] for row in found] == [0, 7, 0, 0]
    assert "built" in found[2][2]


def run_by_buildah(engine, runtime, name):
    engine.buildah("from", "--pull-never", "--name", name, NAME, check=True)
    found = []
    for options, program in (
        ("", f"{STATUS}; pwd; cat /proc/self/uid_map"),
        ("--user 1000:5 --workingdir /tmp", f"{STATUS}; pwd; id"),
        ("--cap-add CAP_SYS_ADMIN --cap-drop CAP_CHOWN --hostname named", f"{STATUS}; hostname"),
        ("--network none", "ls /sys/class/net; ls /dev; exit 9"),
        ("", "nonesuch"),
    ):
        done = engine.buildah("run", "--runtime", runtime, *options.split(), name, "sh", "-c", program)
        found.append((options, done.returncode, lines(done.stdout)))
    engine.buildah("rm", name, check=True)
    return found


def test_buildah_run(engine):
    if not shutil.which("buildah"):
        pytest.skip("NOT TESTED: buildah is not installed")
    found = same(engine, run_by_buildah)
    assert [row[1] for row in found] == [0, 0, 0, 9, 127]


# Of /sys/fs/cgroup: it is read-only where the configuration says so, with pyrunc.
LIKE_SYSTEMD = """echo $container; touch /run/x /tmp/x; cat /proc/1/comm
cut -d' ' -f5-6 /proc/self/mountinfo | sort | sed 's,^/sys/fs/cgroup r.\\,,/sys/fs/cgroup ,'"""


def systemd(engine, runtime, name):
    story = Story(engine, runtime, name)
    for mode in ("always", "true"):
        story.do("run", "--rm", f"--systemd={mode}", "--network", "none", NAME, "sh", "-c", LIKE_SYSTEMD)
    return story.found


def test_a_container_that_runs_systemd(engine):
    """Podman 5.4 writes an empty mount option for it."""
    found = same(engine, systemd)
    assert [row[1] for row in found] == [0, 0]
    assert "podman" in found[0][2] or "oci" in found[0][2]


def played(engine, runtime, name):
    (engine.folder / "pod.yaml").write_text(KUBE)
    story = Story(engine, runtime, name)
    engine("kube", "play", engine.folder / "pod.yaml", runtime=runtime)
    story.do("wait", "played-two")
    story.do("exec", "played-one", "echo", "in")
    story.do("logs", "played-one")
    story.do("kube", "down", engine.folder / "pod.yaml")
    return [row[:2] if row[0].startswith("kube down") else row for row in story.found]


@long
def test_kube_play(engine):
    found = same(engine, played)
    assert found[0][2] == ["5"]
    assert found[2][2] == ["logged"]
