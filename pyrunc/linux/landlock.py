"""Landlock: what a process may reach in the file system and by TCP, beneath what permissions allow. landlock(7)"""

import sys

from pyrunc.linux import kernel_error
from pyrunc.linux._kernel import ffi, lib
from pyrunc.linux.fd import Fd

CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2
CLOSED = (38, 95)  # ENOSYS, EOPNOTSUPP: the kernel was built or booted without


def abi() -> int:
    """Which version of it the kernel has; 0: none."""
    found: int = lib.sys_landlock_create_ruleset(ffi.NULL, 0, CREATE_RULESET_VERSION)
    if found >= 0:
        return found
    if ffi.errno in CLOSED:
        return 0
    raise kernel_error("landlock_create_ruleset", "this kernel's version of Landlock")


def create_ruleset(files: int, ports: int, scopes: int) -> Fd:
    """What is handled is forbidden, but for what rules allow. struct landlock_ruleset_attr

    `ports` takes ABI 4, `scopes` 6.
    """
    parts = (files, ports, scopes)[: 3 if scopes else 2 if ports else 1]
    attributes = b"".join(part.to_bytes(8, sys.byteorder) for part in parts)
    number: int = lib.sys_landlock_create_ruleset(attributes, len(attributes), 0)
    if number < 0:
        raise kernel_error("landlock_create_ruleset", "a ruleset")
    return Fd(number, "a ruleset of Landlock")


def allow_beneath(ruleset: Fd, rights: int, place: Fd) -> None:
    """struct landlock_path_beneath_attr, which is packed."""
    attributes = rights.to_bytes(8, sys.byteorder) + place.number.to_bytes(4, sys.byteorder)
    if lib.sys_landlock_add_rule(ruleset.number, RULE_PATH_BENEATH, attributes) < 0:
        raise kernel_error("landlock_add_rule", place.name)


def allow_port(ruleset: Fd, rights: int, port: int) -> None:
    """struct landlock_net_port_attr, Linux 6.7."""
    attributes = rights.to_bytes(8, sys.byteorder) + port.to_bytes(8, sys.byteorder)
    if lib.sys_landlock_add_rule(ruleset.number, RULE_NET_PORT, attributes) < 0:
        raise kernel_error("landlock_add_rule", f"port {port}")


def restrict_self(ruleset: Fd) -> None:
    """For ever, and for all that comes of this process. It takes no_new_privs or CAP_SYS_ADMIN."""
    if lib.sys_landlock_restrict_self(ruleset.number) < 0:
        raise kernel_error("landlock_restrict_self", "this process")
