"""Kernel parameters and the container's names. config-linux.md#sysctl, config.md#hostname"""

import posix

from pyrunc.errors import StepError, reason
from pyrunc.init.context import Context
from pyrunc.linux import path, process
from pyrunc.spec.rules import sysctl_path


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
        relative = "sys/" + sysctl_path(key)
        beneath = path.RESOLVE_BENEATH | path.RESOLVE_NO_SYMLINKS | path.RESOLVE_NO_XDEV
        try:
            with path.openat2(context.host_proc, relative, posix.O_WRONLY, resolve=beneath) as parameter:
                posix.write(parameter.number, value.encode())
        except OSError as error:
            raise StepError("writing kernel parameter", f"{key} = {value}", reason(error)) from error
