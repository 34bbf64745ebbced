"""The image that installs pyrunc on a Kubernetes node, run as the DaemonSet of docs/kubernetes/ does, through CRI."""

import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest

from engines import containerd, image, processes, shim

pytest.importorskip("grpc", reason="NOT TESTED: grpcio is not installed")
import grpc

from engines.cri import EXITED, RUNNING
from engines.node import Node
from engines.test_cri import removed

TREE = Path(__file__).parents[2]
PROGRAM = TREE / "dist/pyrunc"
IMAGE = "docker.io/pyrunc/pyrunc-node:test"
PARENT = "/pyrunc-engines-node"
CONFIG = "/etc/containerd/config.toml"
V2 = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image.PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni" """  # without an end of line, as somebody's editor leaves it
V1 = V2.removeprefix("version = 2\n").replace("io.containerd.grpc.v1.cri", "cri") + "\n"
V3 = f"""version = 3
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{image.PAUSE}"
"""
OLD = bool(containerd.PROGRAM and re.search(rb" v?1\.", processes.captured([containerd.PROGRAM, "--version"]).stdout))
VERSIONS = {"version 2": V2, **({"version 1": V1} if OLD else {"version 3": V3})}

pytestmark = pytest.mark.skipif(
    containerd.PROGRAM is None or not PROGRAM.exists(),
    reason="NOT TESTED: there is no containerd, or no dist/pyrunc (.ci/image)",
)


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "node.tar"
    subprocess.run([sys.executable, TREE / ".ci/packages/node.py", path, "test"], check=True)
    return path


@pytest.fixture(params=VERSIONS.values(), ids=VERSIONS)
def node(request, tar):
    with Node(request.param) as made:
        made.load(tar)
        made.box(image.NAME, ("/bin/sh",))
        made.box(image.PAUSE, ("/bin/sleep", "100000"))
        yield made


@pytest.fixture(autouse=True)
def no_cgroup_is_left():
    yield
    shim.wait_until(lambda: removed(PARENT))


def installer(node, verb, **variables):
    """What the container said, and its exit status."""
    with node.pod("", PARENT, name="installer", privileged=True) as pod:
        id = begun(pod, verb, **variables)
        code = ended(node, pod, id)
    return said(node, verb), code


def ended(node, pod, id):
    """The exit status of what restarts containerd meanwhile."""
    while True:
        try:
            return pod.status(id, EXITED)["exit_code"]
        except grpc.RpcError:
            pod.reconnect(node.socket)


def begun(pod, verb, **variables):
    return pod.create(
        verb, IMAGE, args=[verb], envs=[{"key": key, "value": value} for key, value in variables.items()],
        mounts=[{"container_path": "/host", "host_path": "/"}],
    )  # fmt: skip


def said(node, verb):
    lines = node.path(f"/run/logs/{verb}.log").read_text().splitlines()
    return "\n".join(line.split(" ", 3)[3] for line in lines)


def test_a_node_gets_pyrunc_and_loses_it(node):
    before = node.path(CONFIG).read_text()
    words, code = installer(node, "install", SYSTEMD_CGROUP="false")
    assert code == 0, words
    assert f"{CONFIG} has changed" in words
    assert node.path("/run/restarts").read_text() == "restart\n"
    # nothing happens where nothing is to be done
    words, code = installer(node, "install", SYSTEMD_CGROUP="false")
    assert code == 0, words
    assert f"{CONFIG} is as it should be" in words
    assert node.path("/run/restarts").read_text() == "restart\n"

    with node.pod("", PARENT, name="other") as other, node.pod("", PARENT, name="last", privileged=True) as last:
        other_id = other.add("other", "/bin/sleep", "1000")
        with node.pod("pyrunc", PARENT, name="ours") as pod:
            id = pod.add("first", "/bin/sleep", "1000")
            done = pod.runtime.call("ExecSync", id=id, command=["/bin/sh", "-c", "echo in; exit 3"])
            assert done == {"stdout": b"in\n", "stderr": b"", "exit_code": 3}
            assert (
                node.run("sh", "-c", "cat /proc/[0-9]*/cmdline").stdout.count(b"/opt/pyrunc/bin/containerd-shim") == 1
            )
            # nothing is taken away until they have ended
            uninstaller = begun(last, "uninstall")
            shim.wait_until(lambda: "waiting until no pod of this node runs with pyrunc" in said(node, "uninstall"))
            assert pod.runtime.call("ExecSync", id=id, command=["/bin/true"])["exit_code"] == 0
        assert ended(node, last, uninstaller) == 0, said(node, "uninstall")
        other.reconnect(node.socket)
        assert other.status(other_id, RUNNING)
        assert node.path(CONFIG).read_text().rstrip() == before.rstrip()
        assert node.path("/run/restarts").read_text() == "restart\nrestart\n"
    assert not node.path("/opt/pyrunc").exists()
    assert list(node.path("/etc/containerd").iterdir()) == [node.path(CONFIG)]


def test_a_node_without_a_configuration_has_none_afterwards(tar):
    with Node(None) as node:
        node.load(tar)
        assert by_ctr(node, "install") == (0, ANY)
        runtimes = node.run("containerd", "config", "dump").stdout
        assert b"runtimes.runc]" in runtimes
        assert b"runtimes.pyrunc]" in runtimes
        assert by_ctr(node, "uninstall") == (0, ANY)
        assert not node.path(CONFIG).exists()
        assert not node.path("/opt/pyrunc").exists()


RUNTIMES = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd'


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (f"{RUNTIMES}.runtimes.pyrunc]\n", "a runtime named pyrunc of its own"),
        (f'{RUNTIMES}]\ndefault_runtime_name = "kata"\n', "no runtime kata"),
        ("version = 2\nplugins = {}\n", "containerd can't read it"),
    ],
    ids=["a runtime of that name", "no default runtime", "tables that can't be extended"],
)
def test_a_configuration_that_would_serve_no_pod_is_not_put_there(tar, config, words):
    """containerd starts without its CRI then, and every pod of the node is unreachable."""
    with Node(config) as node:
        node.load(tar)
        code, said = by_ctr(node, "install")
        assert code == 1
        assert words in said
        assert node.path(CONFIG).read_text() == config
        assert list(node.path("/etc/containerd").iterdir()) == [node.path(CONFIG)]
        assert not node.path("/run/restarts").exists()


def by_ctr(node, verb):
    """The installer, where CRI can't make a pod. Its end is among its words, as `ctr` loses containerd."""
    command = ["ctr", "-n", "k8s.io", "run", "--detach", "--privileged", "--with-ns", "pid:/proc/1/ns/pid"]
    mount = ["--mount", "type=bind,src=/,dst=/host,options=rbind:rw", "--log-uri", f"file:///run/{verb}.log"]
    words = ["/bin/sh", "-c", f"pyrunc-node {verb} 2>&1; echo exit $?"]
    started = node.run(*command, *mount, "--cgroup", f"{PARENT}/{verb}", IMAGE, verb, *words)
    assert started.returncode == 0, started.stderr
    log = node.path(f"/run/{verb}.log")
    shim.wait_until(lambda: "\nexit " in log.read_text())
    shim.wait_until(lambda: node.run("ctr", "-n", "k8s.io", "tasks", "rm", "--force", verb).returncode == 0)
    said, _, code = log.read_text().rpartition("\nexit ")
    return int(code), said
