"""CRIU's messages, as number: (name, kind). From its rpc.proto (proto2), as far as we send and read them."""

from pyrunc.protobuf import BOOL, BYTES, INT32, STRING, UINT32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.protobuf import Message

PATH = BYTES  # a string in rpc.proto; but a path need not be UTF-8

# criu_req_type
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
NAMES = {
    0: "EMPTY", DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP", NOTIFY: "NOTIFY",
    FEATURE_CHECK: "FEATURE_CHECK", VERSION: "VERSION",
}  # fmt: skip
# The word of --manage-cgroups-mode -> criu_cg_mode. "" is CRIU's default.
CGROUP_MODES = {"": 6, "ignore": 0, "soft": 3, "full": 4, "strict": 5}

PAGE_SERVER: "Message" = {1: ("address", STRING), 2: ("port", INT32)}
EXTERNAL_MOUNT: "Message" = {1: ("key", PATH), 2: ("val", PATH)}
JOIN: "Message" = {1: ("ns", STRING), 2: ("ns_file", PATH)}
INHERIT: "Message" = {1: ("key", STRING), 2: ("fd", INT32)}
CGROUP_ROOT: "Message" = {1: ("ctrl", STRING), 2: ("path", PATH)}
FEATURES: "Message" = {1: ("mem_track", BOOL), 2: ("lazy_pages", BOOL)}
OPTIONS: "Message" = {
    1: ("images_dir_fd", INT32), 2: ("pid", INT32), 3: ("leave_running", BOOL), 4: ("ext_unix_sk", BOOL),
    5: ("tcp_established", BOOL), 6: ("evasive_devices", BOOL), 7: ("shell_job", BOOL), 8: ("file_locks", BOOL),
    9: ("log_level", INT32), 10: ("log_file", STRING), 11: ("ps", PAGE_SERVER), 12: ("notify_scripts", BOOL),
    13: ("root", PATH), 14: ("parent_img", PATH), 15: ("track_mem", BOOL), 16: ("auto_dedup", BOOL),
    17: ("work_dir_fd", INT32), 18: ("link_remap", BOOL), 23: ("ext_mnt", [EXTERNAL_MOUNT]),
    25: ("cg_root", [CGROUP_ROOT]), 26: ("rst_sibling", BOOL), 27: ("inherit_fd", [INHERIT]),
    34: ("manage_cgroups_mode", INT32), 37: ("external", [STRING]), 38: ("empty_ns", UINT32), 39: ("join_ns", [JOIN]),
    44: ("freeze_cgroup", PATH), 46: ("tcp_skip_in_flight", BOOL), 48: ("lazy_pages", BOOL),
    50: ("orphan_pts_master", BOOL), 51: ("config_file", PATH), 53: ("lsm_profile", STRING),
    63: ("lsm_mount_context", STRING),
}  # fmt: skip
REQUEST: "Message" = {
    1: ("type", INT32), 2: ("opts", OPTIONS), 3: ("notify_success", BOOL), 4: ("keep_open", BOOL),
    5: ("features", FEATURES),
}  # fmt: skip

NOTIFICATION: "Message" = {1: ("script", STRING), 2: ("pid", INT32)}
CRIU_VERSION: "Message" = {1: ("major", INT32), 2: ("minor", INT32), 4: ("sublevel", INT32)}
RESPONSE: "Message" = {
    1: ("type", INT32), 2: ("success", BOOL), 5: ("notify", NOTIFICATION), 7: ("cr_errno", INT32),
    8: ("features", FEATURES), 9: ("cr_errmsg", BYTES), 10: ("version", CRIU_VERSION),
}  # fmt: skip
