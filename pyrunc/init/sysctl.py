"""Kernel parameters and the container's names. config-linux.md#sysctl, config.md#hostname"""

import posix

from pyrunc.errors import StepError, reason
from pyrunc.init.context import Context
from pyrunc.linux import path, process
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.mount import PROC_SUPER_MAGIC, filesystem_type
from pyrunc.spec.rules import sysctl_path

EXDEV, EROFS = 18, 30
PLAIN = path.RESOLVE_BENEATH | path.RESOLVE_NO_SYMLINKS
READ_ONLY = "/proc/sys is mounted read-only where the runtime was started"


def set_names(context: Context) -> None:
    """setting the host and domain name"""
    hostname = context.config.get("hostname")
    if hostname:
        process.sethostname(hostname)
    domainname = context.config.get("domainname")
    if domainname:
        process.setdomainname(domainname)


def write(context: Context) -> None:
    """writing kernel parameters

    Through the host's procfs, opened before anything of the container's was mounted: a file mounted over one in
    the container's /proc can't take the value, nor send it to another (CVE-2025-52881). Which parameters may be
    written (those of the container's own namespaces) was decided when config.json was read.
    """
    for key, value in (context.config["linux"].get("sysctl") or {}).items():
        try:
            with _open(context.host_proc, "sys/" + sysctl_path(key)) as parameter:
                posix.write(parameter.number, value.encode())
        except OSError as error:
            hint = READ_ONLY if error.errno == EROFS else ""
            raise StepError("writing kernel parameter", f"{key} = {value}", reason(error), hint) from error


def _open(proc: Fd, parameter: str) -> Fd:
    """By no symlink. A mount may be in the way: where we are in a container ourselves, LXC's or a runtime's, /proc/sys
    is one. What is found behind it is opened only when it is of a procfs."""
    try:
        return path.openat2(proc, parameter, posix.O_WRONLY, resolve=PLAIN | path.RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno != EXDEV:
            raise
    with path.openat2(proc, parameter, posix.O_PATH, resolve=PLAIN) as found:
        if filesystem_type(found) != PROC_SUPER_MAGIC:
            raise OSError(EXDEV, "what is mounted there is no procfs", f"/proc/{parameter}")
        return open_at(proc, f"self/fd/{found.number}", posix.O_WRONLY)
