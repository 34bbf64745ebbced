"""AppArmor and SELinux: the profile of the program; the labels of its processes, mounts and keyring.

Whether the kernel has a module is looked up on the host, before clone. In the container /sys may be missing or be the
image's own: either would lose the confinement.
"""

import posix

from pyrunc.errors import PyruncError, reason
from pyrunc.init.context import Context, step
from pyrunc.linux import encoded
from pyrunc.linux.fd import Fd, open_at, read_file, write_file
from pyrunc.linux.mount import filesystem_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.log import Log
    from pyrunc.spec.types import Process

APPARMOR = "/sys/module/apparmor/parameters/enabled"
SELINUX = "/sys/fs/selinux"
SELINUX_MAGIC = 0xF97CFF8C
# Their files are the kernel's, or only its policy labels them. mqueue gets its label after it is mounted.
WITHOUT_LABEL = ("proc", "sysfs", "mqueue", "cgroup", "cgroup2")


def prepare(context: Context, log: "Log") -> None:
    """In the parent: find out which of config.json's labels this kernel can apply. The others are left out, with a
    warning.

    runc refuses them. crun, Docker and Podman do not: the caller who asks for a label knows the kernel.
    """
    profile = context.process.get("apparmorProfile") or ""
    label = context.process.get("selinuxLabel") or ""
    mount_label = context.config["linux"].get("mountLabel") or ""
    own: Process = context.config.get("process") or {"cwd": "/"}
    if profile:
        if has_apparmor():
            context.apparmor_profile = profile
        elif context.init or profile != own.get("apparmorProfile"):  # said once
            log.warning(f"the kernel has no AppArmor: profile {profile} is not applied")
    if label or mount_label:
        if has_selinux():
            context.selinux_label, context.mount_label = label, mount_label
        elif context.init or label != (own.get("selinuxLabel") or ""):
            log.warning(f"the kernel has no SELinux: label {label or mount_label} is not applied")


def has_apparmor() -> bool:
    """Whether the kernel has AppArmor. Only a missing file says no: any other failure would cost the program its
    profile.
    """
    try:
        return read_file(APPARMOR)[:1] == b"Y"
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PyruncError("asking whether the kernel has AppArmor:", APPARMOR, reason(error)) from error


def has_selinux() -> bool:
    """Whether selinuxfs is mounted, where it has been since Linux 3.0."""
    try:
        with open_at(None, SELINUX, posix.O_PATH) as directory:
            return filesystem_type(directory) == SELINUX_MAGIC
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PyruncError("asking whether the kernel has SELinux:", SELINUX, reason(error)) from error


@step("setting the AppArmor profile and the SELinux label for the program")
def for_program(context: Context) -> None:
    """Written to the host's procfs: a file mounted over the container's would take the labels in its place
    (CVE-2019-16884). config.md#linux-process
    """
    if context.apparmor_profile:
        _write(context, "apparmor/exec", f"exec {context.apparmor_profile}")
    if context.selinux_label:
        _write(context, "exec", context.selinux_label)


@step("labelling the session keyring")
def for_keyring(context: Context) -> None:
    """Keyrings that are made from now on are the container's. keyrings(7)"""
    if context.selinux_label and context.keyring:
        _write(context, "keycreate", context.selinux_label)


@step("labelling no more keyrings")
def no_longer_for_keyring(context: Context) -> None:
    if context.selinux_label and context.keyring:
        _write(context, "keycreate", "")


def for_mount(context: Context, kind: str) -> "list[tuple[str, str | None]]":
    """The option that labels the files of a new file system (config-linux.md#mount-label)."""
    if not context.mount_label or kind in WITHOUT_LABEL:
        return []
    name = (context.config.get("annotations") or {}).get("run.oci.mount_context_type", "context")
    return [(name, context.mount_label)]


def for_message_queues(context: Context, mount: Fd) -> None:
    """mqueue does not know the option `context`: its label is an attribute of its root."""
    if context.mount_label:
        with open_at(mount, ".", posix.O_RDONLY | posix.O_DIRECTORY) as directory:
            posix.setxattr(directory.number, b"security.selinux", context.mount_label.encode() + b"\0")


def _write(context: Context, name: str, value: str) -> None:
    try:
        write_file(f"self/attr/{name}", encoded(value), context.host_proc)
    except OSError as error:
        raise OSError(error.errno, f"{value or 'no label'}: {reason(error)}", f"/proc/self/attr/{name}") from error
