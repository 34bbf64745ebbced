"""containerd's messages as number: (name, kind): of containerd.task.v2 and v3 (the same), its types and its events."""

from pyrunc.protobuf import BOOL, BYTES, INT32, INT64, STRING, UINT32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.protobuf import Message

ANY: "Message" = {1: ("type_url", STRING), 2: ("value", BYTES)}
TIMESTAMP: "Message" = {1: ("seconds", INT64), 2: ("nanos", INT32)}
EMPTY: "Message" = {}
ENTRY: "Message" = {1: ("key", STRING), 2: ("value", STRING)}

# ttrpc
REQUEST: "Message" = {
    1: ("service", STRING), 2: ("method", STRING), 3: ("payload", BYTES), 4: ("timeout_nano", INT64),
    5: ("metadata", [ENTRY]),
}  # fmt: skip
STATUS: "Message" = {1: ("code", INT32), 2: ("message", STRING)}
RESPONSE: "Message" = {1: ("status", STATUS), 2: ("payload", BYTES)}

# containerd.types
MOUNT: "Message" = {1: ("type", STRING), 2: ("source", STRING), 3: ("target", STRING), 4: ("options", [STRING])}
PROCESS_INFO: "Message" = {1: ("pid", UINT32), 2: ("info", ANY)}
PROCESS_DETAILS: "Message" = {1: ("exec_id", STRING)}

# containerd.task.v2, v3
ID: "Message" = {1: ("id", STRING)}
PROCESS: "Message" = {1: ("id", STRING), 2: ("exec_id", STRING)}
CREATE: "Message" = {
    1: ("id", STRING), 2: ("bundle", STRING), 3: ("rootfs", [MOUNT]), 4: ("terminal", BOOL), 5: ("stdin", STRING),
    6: ("stdout", STRING), 7: ("stderr", STRING), 8: ("checkpoint", STRING), 9: ("parent_checkpoint", STRING),
    10: ("options", ANY),
}  # fmt: skip
PID: "Message" = {1: ("pid", UINT32)}
DELETED: "Message" = {1: ("pid", UINT32), 2: ("exit_status", UINT32), 3: ("exited_at", TIMESTAMP)}
EXEC: "Message" = {
    1: ("id", STRING), 2: ("exec_id", STRING), 3: ("terminal", BOOL), 4: ("stdin", STRING), 5: ("stdout", STRING),
    6: ("stderr", STRING), 7: ("spec", ANY),
}  # fmt: skip
RESIZE: "Message" = {1: ("id", STRING), 2: ("exec_id", STRING), 3: ("width", UINT32), 4: ("height", UINT32)}
STATE: "Message" = {
    1: ("id", STRING), 2: ("bundle", STRING), 3: ("pid", UINT32), 4: ("status", UINT32), 5: ("stdin", STRING),
    6: ("stdout", STRING), 7: ("stderr", STRING), 8: ("terminal", BOOL), 9: ("exit_status", UINT32),
    10: ("exited_at", TIMESTAMP), 11: ("exec_id", STRING),
}  # fmt: skip
KILL: "Message" = {1: ("id", STRING), 2: ("exec_id", STRING), 3: ("signal", UINT32), 4: ("all", BOOL)}
CLOSE_IO: "Message" = {1: ("id", STRING), 2: ("exec_id", STRING), 3: ("stdin", BOOL)}
PIDS: "Message" = {1: ("processes", [PROCESS_INFO])}
CHECKPOINT: "Message" = {1: ("id", STRING), 2: ("path", STRING), 3: ("options", ANY)}
CHECKPOINT_OPTIONS_NAME = "containerd.runc.v1.CheckpointOptions"
CHECKPOINT_OPTIONS: "Message" = {
    1: ("exit", BOOL), 2: ("open_tcp", BOOL), 3: ("external_unix_sockets", BOOL), 4: ("terminal", BOOL),
    5: ("file_locks", BOOL), 6: ("empty_namespaces", [STRING]), 7: ("cgroups_mode", STRING), 8: ("image_path", STRING),
    9: ("work_path", STRING), 10: ("parent_path", STRING),
}  # fmt: skip
UPDATE: "Message" = {1: ("id", STRING), 2: ("resources", ANY), 3: ("annotations", [ENTRY])}
WAITED: "Message" = {1: ("exit_status", UINT32), 2: ("exited_at", TIMESTAMP)}
STATS: "Message" = {1: ("stats", ANY)}
CONNECTED: "Message" = {1: ("shim_pid", UINT32), 2: ("task_pid", UINT32), 3: ("version", STRING)}
SHUTDOWN: "Message" = {1: ("id", STRING), 2: ("now", BOOL)}

# What containerd gives along
RUNC_OPTIONS: "Message" = {
    1: ("no_pivot_root", BOOL), 2: ("no_new_keyring", BOOL), 3: ("shim_cgroup", STRING), 4: ("io_uid", UINT32),
    5: ("io_gid", UINT32), 6: ("binary_name", STRING), 7: ("root", STRING), 8: ("criu_path", STRING),
    9: ("systemd_cgroup", BOOL), 10: ("criu_image_path", STRING), 11: ("criu_work_path", STRING),
    12: ("task_api_address", STRING), 13: ("task_api_version", UINT32),
}  # fmt: skip
RUNTIME_OPTIONS: "Message" = {1: ("type_url", STRING), 2: ("config_path", STRING), 3: ("config_body", BYTES)}
EXTENSION: "Message" = {1: ("value", ANY)}
BOOTSTRAP: "Message" = {  # from containerd 2.3 on; only the parameters that we read
    1: ("id", STRING), 3: ("log_level", INT32), 5: ("ttrpc_address", STRING), 6: ("grpc_address", STRING),
    7: ("containerd", STRING), 8: ("extensions", [EXTENSION]), 9: ("socket_dir", STRING),
}  # fmt: skip
RUNTIME_VERSION: "Message" = {1: ("version", STRING)}
RUNTIME_INFO: "Message" = {
    1: ("name", STRING), 2: ("version", RUNTIME_VERSION), 3: ("options", ANY), 4: ("features", ANY),
}  # fmt: skip

# containerd.services.events.ttrpc.v1
ENVELOPE: "Message" = {1: ("timestamp", TIMESTAMP), 2: ("namespace", STRING), 3: ("topic", STRING), 4: ("event", ANY)}
FORWARD: "Message" = {1: ("envelope", ENVELOPE)}

# containerd.events: topic: (name of the message, the message)
TASK_IO: "Message" = {1: ("stdin", STRING), 2: ("stdout", STRING), 3: ("stderr", STRING), 4: ("terminal", BOOL)}
CONTAINER: "Message" = {1: ("container_id", STRING)}
EVENTS: "dict[str, tuple[str, Message]]" = {
    "/tasks/create": ("TaskCreate", {
        1: ("container_id", STRING), 2: ("bundle", STRING), 3: ("rootfs", [MOUNT]), 4: ("io", TASK_IO),
        5: ("checkpoint", STRING), 6: ("pid", UINT32),
    }),
    "/tasks/start": ("TaskStart", {1: ("container_id", STRING), 2: ("pid", UINT32)}),
    "/tasks/delete": ("TaskDelete", {
        1: ("container_id", STRING), 2: ("pid", UINT32), 3: ("exit_status", UINT32), 4: ("exited_at", TIMESTAMP),
        5: ("id", STRING),
    }),
    "/tasks/exit": ("TaskExit", {
        1: ("container_id", STRING), 2: ("id", STRING), 3: ("pid", UINT32), 4: ("exit_status", UINT32),
        5: ("exited_at", TIMESTAMP),
    }),
    "/tasks/oom": ("TaskOOM", CONTAINER),
    "/tasks/exec-added": ("TaskExecAdded", {1: ("container_id", STRING), 2: ("exec_id", STRING)}),
    "/tasks/exec-started": ("TaskExecStarted", {
        1: ("container_id", STRING), 2: ("exec_id", STRING), 3: ("pid", UINT32),
    }),
    "/tasks/checkpointed": ("TaskCheckpointed", {1: ("container_id", STRING), 2: ("checkpoint", STRING)}),
    "/tasks/paused": ("TaskPaused", CONTAINER),
    "/tasks/resumed": ("TaskResumed", CONTAINER),
}  # fmt: skip

GO_ZERO = {"seconds": -62135596800, "nanos": 0}  # time.Time{}, for what has not happened


def timestamp(nanoseconds: int) -> "dict[str, int]":
    return {"seconds": nanoseconds // 10**9, "nanos": nanoseconds % 10**9} if nanoseconds else GO_ZERO
