"""Kernel parameters and the container's names. config-linux.md#sysctl, config.md#hostname"""

import errno
import posix

from pyrunc.errors import StepError, reason
from pyrunc.init.context import Context, step
from pyrunc.init.namespaces import is_the_callers
from pyrunc.linux import encoded, path, process
from pyrunc.linux.fd import Fd, open_at, read_file
from pyrunc.linux.mount import PROC_SUPER_MAGIC, filesystem_type
from pyrunc.spec.rules import sysctl_owner, sysctl_path

PLAIN = path.RESOLVE_BENEATH | path.RESOLVE_NO_SYMLINKS
OWN = "its path in linux.namespaces leads to the one that the runtime is in"
READ_ONLY = "/proc/sys is mounted read-only where the runtime was started"


@step("setting the host and domain name")
def set_names(context: Context) -> None:
    wanted = (
        ("hostname", context.config.get("hostname"), process.sethostname),
        ("domainname", context.config.get("domainname"), process.setdomainname),
    )
    for member, name, set_name in wanted:
        if not name:
            continue
        if not is_the_callers(context, "uts"):
            set_name(name)
        elif read_file(f"sys/kernel/{member}", context.host_proc).rstrip(b"\n") != encoded(name):
            raise StepError(f'{member} "{name}" not allowed in host uts namespace', "", "", OWN)


@step("writing kernel parameters")
def write(context: Context) -> None:
    """Through the host's procfs, opened before anything of the container's was mounted: a file mounted over one in
    the container's /proc can't take the value, nor send it to another (CVE-2025-52881). Which parameters may be
    written (those of the container's own namespaces) was decided when config.json was read. Whether a namespace that
    is given by its path is the container's own, and not the host's, tells only what we are in now.
    """
    for key, value in (context.config["linux"].get("sysctl") or {}).items():
        owner = sysctl_owner(sysctl_path(key))
        if is_the_callers(context, owner):
            raise StepError(f'sysctl "{key}" not allowed in host {owner} namespace', "", "", OWN)
        try:
            with _open(context.host_proc, "sys/" + sysctl_path(key)) as parameter:
                posix.write(parameter.number, value.encode())
        except OSError as error:
            hint = READ_ONLY if error.errno == errno.EROFS else ""
            raise StepError("writing kernel parameter", f"{key} = {value}", reason(error), hint) from error


def _open(proc: Fd, parameter: str) -> Fd:
    """By no symlink. A mount may be in the way: where we are in a container ourselves, LXC's or a runtime's, /proc/sys
    is one. What is found behind it is opened only when it is of a procfs."""
    try:
        return path.openat2(proc, parameter, posix.O_WRONLY, resolve=PLAIN | path.RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    with path.openat2(proc, parameter, posix.O_PATH, resolve=PLAIN) as found:
        if filesystem_type(found) != PROC_SUPER_MAGIC:
            raise OSError(errno.EXDEV, "what is mounted there is no procfs", f"/proc/{parameter}")
        return open_at(proc, f"self/fd/{found.number}", posix.O_WRONLY)
