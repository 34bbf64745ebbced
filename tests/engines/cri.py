"""An engine's CRI socket, as much of it as the tests call: what a kubelet says, with the shim's codec for messages."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from engines import cni, image
from pyrunc.protobuf import BYTES, INT32, INT64, STRING, UINT32, UINT64, decode, encode

METADATA = {1: ("name", STRING), 2: ("uid", STRING), 3: ("namespace", STRING), 4: ("attempt", UINT32)}
# each of them: 0 the pod's, 1 the container's own, 2 the node's
MAPPING = {1: ("host_id", UINT32), 2: ("container_id", UINT32), 3: ("length", UINT32)}
NAMESPACES = {
    1: ("network", UINT32), 2: ("pid", UINT32), 3: ("ipc", UINT32),
    5: ("userns_options", {1: ("mode", UINT32), 2: ("uids", [MAPPING]), 3: ("gids", [MAPPING])}),
}  # fmt: skip
POD = {
    1: ("metadata", METADATA), 2: ("hostname", STRING), 3: ("log_directory", STRING),
    8: ("linux", {
        1: ("cgroup_parent", STRING),
        2: ("security_context", {1: ("namespace_options", NAMESPACES), 6: ("privileged", UINT32)}),
    }),
}  # fmt: skip
RESOURCES = {
    1: ("cpu_period", INT64), 2: ("cpu_quota", INT64), 3: ("cpu_shares", INT64), 4: ("memory_limit_in_bytes", INT64),
    9: ("unified", [{1: ("key", STRING), 2: ("value", STRING)}]),
}  # fmt: skip
CONTAINER = {
    1: ("metadata", {1: ("name", STRING)}), 2: ("image", {1: ("image", STRING), 18: ("user_specified_image", STRING)}),
    3: ("command", [STRING]), 4: ("args", [STRING]), 11: ("log_path", STRING),
    6: ("envs", [{1: ("key", STRING), 2: ("value", STRING)}]),
    7: ("mounts", [{1: ("container_path", STRING), 2: ("host_path", STRING)}]),
    15: ("linux", {
        1: ("resources", RESOURCES),
        2: ("security_context", {2: ("privileged", UINT32), 3: ("namespace_options", NAMESPACES)}),
    }),
}  # fmt: skip
ID = {1: ("id", STRING)}
EMPTY = {}
STATUS = {
    1: ("status", {1: ("id", STRING), 3: ("state", UINT32), 7: ("exit_code", INT32), 10: ("reason", STRING)}),
}  # fmt: skip
NUMBER = {1: ("value", UINT64)}
STATS = {
    1: ("stats", {
        2: ("cpu", {2: ("usage_core_nano_seconds", NUMBER)}), 3: ("memory", {2: ("working_set_bytes", NUMBER)}),
    }),
}  # fmt: skip
METHODS = {
    "RunPodSandbox": ({1: ("config", POD), 2: ("runtime_handler", STRING)}, ID),
    "StopPodSandbox": (ID, EMPTY),
    "RemovePodSandbox": (ID, EMPTY),
    "CreateContainer": ({1: ("pod", STRING), 2: ("config", CONTAINER), 3: ("pod_config", POD)}, ID),
    "StartContainer": (ID, EMPTY),
    "StopContainer": ({1: ("id", STRING), 2: ("timeout", INT64)}, EMPTY),
    "RemoveContainer": (ID, EMPTY),
    "ContainerStatus": (ID, STATUS),
    "ListContainers": (EMPTY, EMPTY),
    "CheckpointContainer": ({1: ("id", STRING), 2: ("location", STRING), 3: ("timeout", INT64)}, EMPTY),
    "ContainerStats": (ID, STATS),
    "UpdateContainerResources": ({1: ("id", STRING), 2: ("linux", RESOURCES)}, EMPTY),
    "ExecSync": (
        {1: ("id", STRING), 2: ("command", [STRING]), 3: ("timeout", INT64)},
        {1: ("stdout", BYTES), 2: ("stderr", BYTES), 3: ("exit_code", INT32)},
    ),
}


class Runtime:
    """The runtime's service; a method is called by its name."""

    def __init__(self, socket: str) -> None:
        self.channel = grpc.insecure_channel(f"unix:{socket}", [("grpc.default_authority", "localhost")])

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        request, response = METHODS[method]
        stub = self.channel.unary_unary(f"/runtime.v1.RuntimeService/{method}")
        return decode(response, stub(encode(request, values), timeout=30))

    def close(self) -> None:
        """Its threads would try to connect for as long as we live, with descriptors that no other test expects."""
        self.channel.close()


CREATED, RUNNING, EXITED = range(3)


class Pod:
    """The pod has the node's network, unless it is to have its own."""

    def __init__(
        self, socket: str, logs: str, parent: str, handler: str = "", shared: bool = False, network: bool = False,
        mapping: dict[str, int] | None = None, name: str = "pod", privileged: bool = False,
    ) -> None:  # fmt: skip
        """`shared`: the processes of a container see those of the others. `mapping`: of its user namespace.

        `privileged`: with the node's processes (hostPID).
        """
        self.runtime = Runtime(socket)
        options: dict[str, Any] = {"network": 0 if network else 2, "pid": 2 if privileged else 0 if shared else 1}
        if mapping is not None:
            options["userns_options"] = {"mode": 0, "uids": [mapping], "gids": [mapping]}
        self.namespaces = {"namespace_options": options, **({"privileged": 1} if privileged else {})}
        self.config = {
            "metadata": {"name": f"{name}-{handler}", "uid": "u1", "namespace": "tests"},
            "log_directory": logs,
            "linux": {"cgroup_parent": parent, "security_context": self.namespaces},
        }
        self.containers: list[str] = []
        self.id = self.runtime.call("RunPodSandbox", config=self.config, runtime_handler=handler)["id"]

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.containers:  # the engine would wait for the pod's as long as it does for any that it stops
            self.runtime.call("StopContainer", id=each, timeout=0)
        self.runtime.call("StopPodSandbox", id=self.id)
        self.runtime.call("RemovePodSandbox", id=self.id)
        self.runtime.close()

    def add(self, name: str, *command: str, **resources: Any) -> str:
        return self.create(name, image.NAME, command=command, linux={"resources": resources})

    def create(self, name: str, of: str, linux: "dict[str, Any] | None" = None, **config: Any) -> str:
        """A container of that image, that was started."""
        container = {
            "metadata": {"name": name},
            "image": {"image": of, "user_specified_image": of},
            "log_path": f"{name}.log",
            "linux": {"security_context": self.namespaces, **(linux or {})},
            **config,
        }
        made = self.runtime.call("CreateContainer", pod=self.id, config=container, pod_config=self.config)
        self.containers.append(made["id"])
        self.runtime.call("StartContainer", id=made["id"])
        return str(made["id"])

    def reconnect(self, socket: str) -> None:
        """To an engine that was restarted, and may say that it is not ready yet."""
        self.runtime.close()
        self.runtime = Runtime(socket)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.runtime.call("ListContainers")
                return
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def remove(self, id: str) -> None:
        self.runtime.call("RemoveContainer", id=id)
        self.containers.remove(id)

    def status(self, id: str, state: int, reason: str = "") -> dict[str, Any]:
        """Wait for this state and reason. That memory ran out is told by a later event."""
        deadline = time.monotonic() + 60
        while True:
            found = self.runtime.call("ContainerStatus", id=id)["status"]
            if found["state"] == state and reason in found["reason"]:
                return dict(found)
            assert time.monotonic() < deadline, found
            time.sleep(0.02)


def memory_limit(cgroup: str) -> int:
    for base, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        path = Path(f"/sys/fs/cgroup/{base}{cgroup}/{name}")
        if path.exists():
            return int(path.read_text())
    raise FileNotFoundError(cgroup)


def seen_by_a_kubelet(pod: Pod, logs: Path) -> Iterator[object]:
    """What a kubelet is told of containers, as far as it is the same with every runtime."""
    name = pod.config["metadata"]["name"]
    commands = {
        "true": "Completed", "echo out; echo err >&2; exit 9": "Error", "x=a; while :; do x=$x$x; done": "OOMKilled",
    }  # fmt: skip
    for command, reason in commands.items():
        id = pod.add(f"{name}-{reason}", "/bin/sh", "-c", command, memory_limit_in_bytes=16 << 20)
        yield command, pod.status(id, EXITED, reason)["exit_code"]
    id = pod.add("runs", "/bin/sleep", "1000")
    for program in ("/bin/nonesuch", "nonesuch", "/etc/passwd"):
        yield program, _error(pod.add, f"fails-{program.replace('/', '-')}", program)
        yield program, _error(pod.runtime.call, "ExecSync", id=id, command=[program])
    for command in ("exit 3", "kill -9 $$", "id; pwd; env | sort"):
        yield command, pod.runtime.call("ExecSync", id=id, command=["/bin/sh", "-c", command])
    lines = (logs / f"{name}-Error.log").read_text().splitlines()
    yield sorted(line.partition(" ")[2] for line in lines)


def check_exec_sync(pod: Pod) -> None:
    container = pod.add("first", "/bin/sleep", "1000")
    words = ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]
    done = pod.runtime.call("ExecSync", id=container, command=words)
    assert done == {"stdout": b"out\n", "stderr": b"err\n", "exit_code": 3}
    for number in range(20):
        done = pod.runtime.call("ExecSync", id=container, command=["/bin/sh", "-c", f"exit {number}"])
        assert done["exit_code"] == number


def check_limits_updates_and_statistics(pod: Pod, prefix: str) -> None:
    """`prefix`: what the engine has before a container's ID in the path of its cgroup."""
    container = pod.add("first", "/bin/sleep", "1000", memory_limit_in_bytes=64 << 20)
    assert memory_limit(f"{prefix}{container}") == 64 << 20
    pod.runtime.call("UpdateContainerResources", id=container, linux={"memory_limit_in_bytes": 32 << 20})
    assert memory_limit(f"{prefix}{container}") == 32 << 20
    stats = pod.runtime.call("ContainerStats", id=container)["stats"]
    assert stats["cpu"]["usage_core_nano_seconds"]["value"] > 0
    assert stats["memory"]["working_set_bytes"]["value"] > 0


def check_network(pod: Pod, node: int) -> None:
    """The namespace is the same for all containers of the pod, and not that of the process `node`."""
    first, second = networks(pod)
    assert first == second
    assert first[0] != os.readlink(f"/proc/{node}/ns/net")
    assert f"eth0    inet {cni.ADDRESS}" in first[1]


def networks(pod: Pod) -> list[tuple[str, str]]:
    """The network namespace and interfaces of two containers of a pod, as seen inside."""
    found = []
    for name in ("first", "second"):
        id = pod.add(name, "/bin/sleep", "1000")
        words = ["/bin/sh", "-c", "readlink /proc/self/ns/net; ip -o -4 address"]
        done = pod.runtime.call("ExecSync", id=id, command=words)
        assert done["exit_code"] == 0, done
        namespace, _, interfaces = done["stdout"].decode().partition("\n")
        found.append((namespace, interfaces))
    return found


MAPPED = {"host_id": 1000000, "container_id": 0, "length": 65536}


def check_user_namespace(pod: Pod) -> None:
    """Inside, the image's files belong to root, as they do on disk. So do new files."""
    first, second = networks(pod)
    assert first == second
    for id in pod.containers:
        words = "tr -s ' ' </proc/self/uid_map; touch /x; stat -c %u:%g /bin/busybox /x"
        done = pod.runtime.call("ExecSync", id=id, command=["/bin/sh", "-c", words])
        assert done["stdout"] == b" 0 1000000 65536\n0:0\n0:0\n", done


def _error(call: Callable[..., object], *args: str, **values: Any) -> object:
    """The words of the error that both runtimes use: the kernel's, and those that a kubelet looks for."""
    try:
        return call(*args, **values)
    except grpc.RpcError as error:
        words = r"executable file not found in \$PATH|no such file or directory|permission denied"
        return error.code(), set(re.findall(words, error.details()))
