"""Who the process is and what it may: groups, user, capabilities, no_new_privs. config.md#user, #linux-process

The order is the kernel's: each step takes away a right that the steps before it needed.
"""

import errno
import posix

from pyrunc.errors import StepError, reason
from pyrunc.init import channel
from pyrunc.init.capabilities import CAP_SYS_ADMIN, Sets, names_of
from pyrunc.init.context import Context, step
from pyrunc.init.dev import NULL
from pyrunc.linux.fd import Fd
from pyrunc.linux.mount import PIPEFS_MAGIC, filesystem_type
from pyrunc.linux.process import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    capget,
    capset,
    prctl,
)
from pyrunc.spec.rules import CAPABILITIES

NOT_OURS = (errno.EPERM, errno.EINVAL)  # EINVAL: an ID is not mapped
STAYS_AS_IT_IS = (*NOT_OURS, errno.EROFS, errno.EBADF)  # EBADF: it is closed


@step("dropping capabilities from the bounding set")
def limit_bounding(context: Context) -> None:
    """While this process still has CAP_SETPCAP."""
    sets = context.sets = _grantable(context, Sets(context.process.get("capabilities") or {}))
    for number in range(64):
        if sets.bounding >> number & 1:
            continue
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:
                break  # the kernel knows no more
            raise


def _grantable(context: Context, sets: Sets) -> Sets:
    """The sets without what the runtime does not have itself: that is a warning and no failure
    (config.md#linux-process, since 1.1).
    """
    ours = capget()[1]
    missing = sets.any() & ~ours
    if missing:
        names = ", ".join(names_of(missing))
        _warn(context, f"capabilities that the runtime does not have itself can't be granted: {names}")
        for name in ("bounding", "permitted", "effective", "inheritable"):
            setattr(sets, name, getattr(sets, name) & ours)
    return sets


@step("giving the standard streams to the user")
def own_streams(context: Context) -> None:
    """Otherwise the user could not open them again through /dev/stdout.

    The null device is left alone: it is everybody's. A process in a user namespace may not give away what belongs to
    the host's root. The runtime does that for it: with pipes, but not with files.
    """
    uid = context.process.get("user", {}).get("uid", 0)
    for number in (0, 1, 2):
        stream = Fd(number)
        try:
            give_stream(number, uid)
        except OSError as error:
            if error.errno not in STAYS_AS_IT_IS:
                raise
            if context.userns and error.errno in NOT_OURS and filesystem_type(stream) == PIPEFS_MAGIC:
                context.ask(channel.GIVE_STREAM, fd=stream)
        finally:
            stream.take()


def give_stream(number: int, uid: int) -> None:
    """Raises OSError; that it stays as it is, is no failure where the reason is in STAYS_AS_IT_IS."""
    status = posix.fstat(number)
    if status.st_rdev != NULL and status.st_uid != uid:
        posix.fchown(number, uid, -1)


@step("becoming the user")
def set_user(context: Context) -> None:
    """Groups come first: a user may not change them. The permitted capabilities outlive the change of user, so that
    those which config.json grants can be kept.
    """
    user = context.process.get("user") or {}
    prctl(PR_SET_KEEPCAPS, 1)
    groups = user.get("additionalGids") or []
    kept = (context.config.get("annotations") or {}).get("run.oci.keep_original_groups", "0")
    try:
        if kept in ("", "0", "false"):
            posix.setgroups(groups)
    except OSError as error:
        if error.errno not in NOT_OURS or not context.userns:
            raise
        if groups:  # where setgroups is denied (user_namespaces(7)) no group has to be dropped, and none may be added
            hint = "are they mapped, and does /proc/self/setgroups allow it? without privileges one ID alone does not"
            raise StepError("setting groups", ",".join(map(str, groups)), reason(error), hint) from error
    gid, uid = user.get("gid", 0), user.get("uid", 0)
    try:
        posix.setresgid(gid, gid, gid)
        posix.setresuid(uid, uid, uid)
    except OSError as error:
        hint = "is it mapped in the container's user namespace?" if error.errno == errno.EINVAL else ""
        raise StepError("becoming user", f"{uid}:{gid}", reason(error), hint) from error
    prctl(PR_SET_KEEPCAPS, 0)
    context.die_with_runtime()


@step("setting capabilities")
def set_capabilities(context: Context) -> None:
    """CAP_SYS_ADMIN stays until a filter and Landlock are in force: without no_new_privs they take that right
    (seccomp(2), landlock_restrict_self(2)).

    The program does not get it: execve computes the program's rights from the bounding, inheritable and ambient sets
    (capabilities(7)).
    """
    sets = context.sets
    extra = capget()[1] & CAP_SYS_ADMIN if _takes_a_right(context) else 0
    try:
        capset(sets.effective | extra, sets.permitted | sets.effective | extra, sets.inheritable)
    except PermissionError as error:
        beyond = ", ".join(names_of(sets.inheritable & ~sets.bounding))
        if not beyond:
            raise
        cause = f"{beyond} can't be inheritable: the bounding set has it not"
        raise StepError("setting", "capabilities", cause, "capset(2): operation not permitted") from error
    _raise_ambient(sets.ambient, context)


def _takes_a_right(context: Context) -> bool:
    """Whether it has more to confine itself by than no_new_privs alone allows."""
    return bool(context.bpf or context.confinement) and not context.process.get("noNewPrivileges")


@step("giving up the right to confine itself")
def finish_capabilities(context: Context) -> None:
    """Only where the process could be traced before execve takes that right, or where no filter is to come."""
    sets = context.sets
    if _takes_a_right(context):
        capset(sets.effective, sets.permitted | sets.effective, sets.inheritable)


def _raise_ambient(wanted: int, context: Context) -> None:
    try:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    refused = []
    for number in range(len(CAPABILITIES)):
        if wanted >> number & 1:
            try:
                prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
                refused.append(CAPABILITIES[number])
    if refused:
        _warn(context, f"can't raise ambient capability {', '.join(refused)}: it is not permitted and inheritable")


def _warn(context: Context, text: str) -> None:
    """Say it once: `create` has said it already of what `exec` takes over from the container's own process."""
    own = context.config.get("process") or context.process
    if context.init or context.process.get("capabilities") != own.get("capabilities"):
        context.warn(text)


@step("setting no_new_privs")
def no_new_privileges(context: Context) -> None:
    if context.process.get("noNewPrivileges"):
        prctl(PR_SET_NO_NEW_PRIVS, 1)


@step("setting the umask")
def set_umask(context: Context) -> None:
    """config.md#posix-platform-user"""
    posix.umask(context.process.get("user", {}).get("umask", 0o022) & 0o777)
