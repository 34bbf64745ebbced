"""containerd's CRI socket, as much of it as the tests call: what a kubelet says, with the shim's codec for messages."""

from typing import Any

import grpc

from shim.protobuf import BYTES, INT32, INT64, STRING, UINT32, decode, encode

METADATA = {1: ("name", STRING), 2: ("uid", STRING), 3: ("namespace", STRING), 4: ("attempt", UINT32)}
# each of them: 0 the pod's, 1 the container's own, 2 the node's
NAMESPACES = {1: ("network", UINT32), 2: ("pid", UINT32), 3: ("ipc", UINT32)}
POD = {
    1: ("metadata", METADATA), 2: ("hostname", STRING), 3: ("log_directory", STRING),
    8: ("linux", {1: ("cgroup_parent", STRING), 2: ("security_context", {1: ("namespace_options", NAMESPACES)})}),
}  # fmt: skip
CONTAINER = {
    1: ("metadata", {1: ("name", STRING)}), 2: ("image", {1: ("image", STRING)}), 3: ("command", [STRING]),
    11: ("log_path", STRING),
    15: ("linux", {2: ("security_context", {3: ("namespace_options", NAMESPACES)})}),
}  # fmt: skip
ID = {1: ("id", STRING)}
EMPTY = {}
STATUS = {
    1: ("status", {1: ("id", STRING), 3: ("state", UINT32), 7: ("exit_code", INT32), 10: ("reason", STRING)}),
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
