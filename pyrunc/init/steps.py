"""What happens to a container's process between clone and execve, in order. The reasons stand with each step."""

import _signal
import gc
import posix
import sys

from pyrunc.errors import PyruncError, StepError, reason
from pyrunc.init import (
    attributes,
    console,
    context,
    credentials,
    dev,
    execute,
    hooks,
    labels,
    mounts,
    namespaces,
    protection,
    rootfs,
    sysctl,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.init.context import Context, Step

ENTER: "tuple[Step, ...]" = (
    attributes.set_oom_score,  # while /proc/self is ours
    attributes.set_initial_affinity,
    namespaces.enter_cgroup,  # its root is that of a new cgroup namespace
    attributes.set_affinity,  # a cpuset gives and takes CPUs
    namespaces.join,
    namespaces.make_user,  # it decides what we may do in all the others
    namespaces.become_root,  # the owner of what is made from here on
    namespaces.make_rest,
    namespaces.make_time,
    namespaces.fork,  # a new or joined process namespace is only for children
    namespaces.make_cgroup,  # its root is the cgroup that we are in
    namespaces.session,
    labels.for_keyring,
    namespaces.join_keyring,
    labels.no_longer_for_keyring,
)

PREPARE: "tuple[Step, ...]" = (
    namespaces.loopback_up,
    namespaces.take_devices,
    attributes.set_scheduling,
    attributes.set_memory_policy,
    rootfs.isolate,  # before any mount of ours can propagate to the host
    rootfs.mount,
    mounts.mount_all,
    dev.create,  # after /dev is mounted, before it may become read-only
    dev.link,
    hooks.ask_runtime,  # prestart, createRuntime: all mounts stand, the host's files are still in sight
    hooks.create_container,
    rootfs.pivot,
    sysctl.set_names,
    console.allocate,  # in the container's devpts, before /dev may become read-only
    console.become_streams,
    console.control,
    dev.reopen_null,
    rootfs.make_cwd,  # a read-only root could not get it any more
    mounts.make_read_only,
    rootfs.protect,
    sysctl.write,
    protection.protect,
    protection.mask,  # the last that is looked up by path
    rootfs.propagate,  # a shared root can't be pivoted to, and of an unbindable one nothing can be made read-only
)

# In a mount namespace that is not the container's own, the host's or a joined one: nothing is mounted, nothing made.
PREPARE_IN_FOREIGN_MOUNTS: "tuple[Step, ...]" = (
    namespaces.loopback_up,
    namespaces.take_devices,
    attributes.set_scheduling,
    attributes.set_memory_policy,
    hooks.ask_runtime,
    hooks.create_container,
    console.allocate,  # from the host's devpts, the only one there is
    rootfs.chroot,
    sysctl.set_names,
    console.become_streams,
    console.control,
    sysctl.write,
)

BECOME: "tuple[Step, ...]" = (
    attributes.set_personality,
    execute.set_environment,
    rootfs.enter_cwd,  # as root, who may make it
    labels.for_program,
    credentials.limit_bounding,
    credentials.own_streams,
    attributes.set_limits,  # by a user they could not be raised
    credentials.set_user,
    credentials.set_capabilities,
    rootfs.enter_cwd,  # as the user, where root was refused (a directory on NFS, or of another user namespace)
    credentials.no_new_privileges,
    credentials.set_umask,
    execute.find,
    namespaces.enter_late,
    execute.leave_nothing,
    execute.filter_and_notify,
    execute.report_ready,
    execute.wait_for_start,
    execute.filter_before_hooks,
    hooks.start_container,
    execute.execute,  # and the filter: between the two there is nothing that it could forbid
)

PREPARE_EXEC: "tuple[Step, ...]" = (
    rootfs.adopt,
    attributes.set_scheduling,
    attributes.set_memory_policy,
    console.allocate,
    console.become_streams,
    console.control,
    dev.reopen_null,
)

# `exec` waits for its caller at most, and the container's hooks have run.
BECOME_ANOTHER: "tuple[Step, ...]" = tuple(
    execute.wait_for_caller if step is execute.wait_for_start else step
    for step in BECOME
    if step not in (execute.filter_before_hooks, hooks.start_container)
)

INIT = ENTER + PREPARE + BECOME
INIT_IN_FOREIGN_MOUNTS = ENTER + PREPARE_IN_FOREIGN_MOUNTS + BECOME
EXEC = ENTER + PREPARE_EXEC + BECOME_ANOTHER


def _unseen(steps: "tuple[Step, ...]") -> "tuple[Step, ...]":
    """The same, with what makes the process visible to the container moved to the end."""
    visible = (namespaces.fork, namespaces.session, console.control)
    rest = tuple(step for step in steps if step not in visible)
    ready = rest.index(execute.report_ready)
    return (*rest[:ready], execute.filter_system_calls, credentials.finish_capabilities, *visible, *rest[ready:])


# Into a container that could trace what it sees (CAP_SYS_PTRACE, without a user namespace of its own): there is
# nothing to see until the process has no right and no descriptor that the container has not.
EXEC_UNSEEN = _unseen(EXEC)


def become(steps: "tuple[Step, ...]", container: "Context") -> None:
    """In the child: take the steps, of which the last is execve. Never returns.

    Whatever fails is told to the parent, or, after it has gone, written where `start` reads it.
    """
    code = 1 if container.init else 255
    try:
        forget_imports()
        container.keep_only_own()  # first: a fifo that we hold looks as if it had a reader
        posix.umask(0o022)  # for what is made from here on: the caller's is not the container's
        container.die_with_runtime()
        _signal.set_wakeup_fd(-1)  # it may be a pipe of the caller's, to whom our signals are nothing
        container.wait_for_go()
        context.run(steps, container)
    except PyruncError as error:
        report(container, error)
    except SystemExit:
        pass  # the parent is dead: nobody is left to tell
    except OSError as error:
        report(container, StepError("preparing the container", "", reason(error)))
    except BaseException as error:  # a bug of ours is an error for the user like any other
        report(container, StepError("preparing the container", "", f"{type(error).__name__}: {error}"))
    finally:
        posix._exit(code)


FIFO_ROOM = 4096  # what one write to a pipe keeps together


def forget_imports() -> None:
    """Nothing is imported any more: once the mount namespace is the container's, the files would be the image's."""
    gc.disable()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
    sys.path_importer_cache.clear()


def report(container: "Context", error: PyruncError) -> None:
    """By write(2): the filter may be in force by now."""
    fields = (error.operation, error.subject, error.cause, error.hint)
    text = "\0".join(field.replace("\0", "\\x00") for field in fields)
    if container.waiting and container.fifo is not None:
        posix.write(container.fifo.number, text.encode("utf-8", "replace")[:FIFO_ROOM])
        return
    try:
        container.channel.write("E", text)
    except OSError:
        pass  # the parent is dead
