"""What happens to a container's process between clone and execve, in order. The reasons stand with each step.

To add one, write a function with `@step("its title")` in the module of its subject, and put it into the lists here.
"""

import _signal
import gc
import posix
import sys
import time

from pyrunc.errors import PyruncError, StepError, packed, reason
from pyrunc.init import (
    attributes,
    channel,
    console,
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
from pyrunc.init.context import IN_INIT
from pyrunc.log import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.init.context import Context, Step

ENTER_NAMESPACES: "tuple[Step, ...]" = (
    attributes.set_oom_score,  # while /proc/self is ours
    attributes.set_initial_affinity,
    namespaces.enter_cgroup,  # its root is that of a new cgroup namespace
    attributes.set_affinity,  # a cpuset gives and takes CPUs
    namespaces.join,
    namespaces.make_user,  # it decides what we may do in all the others
    namespaces.become_root,  # the owner of what is made from here on
    namespaces.make_rest,
    namespaces.make_time,
)

KEYRING: "tuple[Step, ...]" = (
    labels.for_keyring,
    namespaces.join_keyring,
    labels.no_longer_for_keyring,
)

ENTER: "tuple[Step, ...]" = (
    *ENTER_NAMESPACES,
    namespaces.fork,  # a new or joined process namespace is only for children
    namespaces.make_cgroup,  # its root is the cgroup that we are in
    namespaces.enter_delegated,
    namespaces.session,
    *KEYRING,
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
    attributes.set_limits,  # the user could not raise them
    credentials.set_user,
    credentials.set_capabilities,
    rootfs.enter_cwd,  # as the user, where root was refused (a directory on NFS, or of another user namespace)
    credentials.no_new_privileges,
    credentials.set_umask,
    execute.find,
    namespaces.enter_late,
    execute.leave_nothing,
    execute.filter_and_notify,
)

# create ends here, and start goes on.
WAIT_AND_START: "tuple[Step, ...]" = (
    execute.report_ready,
    execute.wait_for_start,
    execute.filter_before_hooks,
    hooks.start_container,
    execute.execute,  # with the filter: no call of ours comes between the two that it could forbid
)

INIT = (*ENTER, *PREPARE, *BECOME, *WAIT_AND_START)
INIT_IN_FOREIGN_MOUNTS = (*ENTER, *PREPARE_IN_FOREIGN_MOUNTS, *BECOME, *WAIT_AND_START)

# The end of `exec`. The container's own hooks have run already, and nobody but the caller may be waited for.
WAIT_AND_EXECUTE: "tuple[Step, ...]" = (
    execute.report_ready,
    execute.wait_for_caller,
    execute.execute,
)

EXEC: "tuple[Step, ...]" = (
    *ENTER,
    rootfs.adopt,
    attributes.set_scheduling,
    attributes.set_memory_policy,
    console.allocate,
    console.become_streams,
    console.control,
    dev.reopen_null,
    *BECOME,
    *WAIT_AND_EXECUTE,
)

# `exec` into a container that could trace what it sees: with CAP_SYS_PTRACE, and without a user namespace of its own.
# The process becomes visible only when it has no right and no descriptor that the container does not have.
EXEC_UNSEEN: "tuple[Step, ...]" = (
    *ENTER_NAMESPACES,
    namespaces.make_cgroup,
    *KEYRING,
    rootfs.adopt,
    attributes.set_scheduling,
    attributes.set_memory_policy,
    console.allocate,
    console.become_streams,
    dev.reopen_null,
    *BECOME,
    execute.filter_system_calls,
    credentials.finish_capabilities,
    namespaces.fork,  # from here on the container sees the process
    namespaces.session,
    console.control,
    *WAIT_AND_EXECUTE,
)

# What runc's debug log says after these steps, which scripts look for: of the container's first process, and of an
# added one.
MILESTONES = {
    attributes.set_oom_score: ("nsexec container setup", "nsexec container setup"),
    namespaces.join_keyring: ("child process in init()", "child process in init()"),
    execute.leave_nothing: ("init: closing the pipe to signal completion", "setns_init: about to exec"),
}


def confined(steps: "tuple[Step, ...]", confinement: "tuple[Step, Step]") -> "tuple[Step, ...]":
    """The same, with Landlock: its rules are made while the process is root and can reach what they name. They come
    into force when nothing is looked up any more but the program, by execve, and before a filter could forbid it.
    """
    prepare, confine = confinement
    made, forced = steps.index(credentials.limit_bounding), steps.index(execute.leave_nothing)
    return (*steps[:made], prepare, *steps[made:forced], confine, *steps[forced:])


def with_program_later(steps: "tuple[Step, ...]") -> "tuple[Step, ...]":
    """The same, for a process that is told its program, and is given its streams, after start."""
    others = tuple(each for each in steps if each is not execute.find)
    at = others.index(execute.wait_for_start) + 1
    return (*others[:at], execute.hear_program, execute.find, *others[at:])


def become(steps: "tuple[Step, ...]", container: "Context") -> None:
    """In the child: take the steps, of which the last is execve. Never returns.

    Whatever fails is told to the parent, or, after it has gone, written where `start` reads it.
    """
    code = 1 if container.init else 255
    try:
        forget_imports()
        container.keep_only_own()  # first: whoever writes to a fifo takes us for its reader as long as we hold it
        posix.umask(0o022)  # the caller's umask must not apply to what is made for the container
        container.die_with_runtime()
        _signal.set_wakeup_fd(-1)  # it may be a pipe of the caller's, who must not hear of our signals
        container.wait_for_go()
        take(steps, container)
    except PyruncError as error:
        report(container, error)
    except SystemExit:
        pass  # the parent is dead: nobody is left to tell
    except OSError as error:
        report(container, StepError("preparing the container", "", reason(error)))
    except BaseException as error:  # a mistake of ours is told as any other error
        report(container, StepError("preparing the container", "", f"{type(error).__name__}: {error}"))
    finally:
        posix._exit(code)


def take(steps: "tuple[Step, ...]", context: "Context") -> None:
    """Take the steps in order. The only place that turns a failure into words."""
    began = time.time_ns() if context.debug else 0
    calls.clear()
    page = context.progress.page
    for number, step in enumerate(steps):
        page[0] = number
        try:
            step(context)
        except PyruncError as error:
            if error.operation.startswith("exec"):
                raise  # errors of the program have a form of their own
            raise StepError(f"{IN_INIT}: {error.operation}", error.subject, error.cause, error.hint) from error
        except (OSError, ValueError, OverflowError) as error:
            raise StepError(f"{IN_INIT}: {step.title}", "", reason(error)) from error
        if context.debug:
            now = time.time_ns()
            context.channel.write(channel.STEP_TAKEN, step.name, str(began), str(now))
            while calls:
                name, from_then, to_then = calls.pop(0)
                context.channel.write(channel.STEP_TAKEN, name, str(from_then), str(to_then))
            if step in MILESTONES:
                context.channel.write(channel.DEBUG, MILESTONES[step][0 if context.init else 1])
            began = now


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
    if container.waiting and container.fifo is not None:
        posix.write(container.fifo.number, packed(*error.fields).encode("utf-8", "replace")[:FIFO_ROOM])
        return
    try:
        container.channel.write(channel.FAILED, *error.fields)
    except OSError:
        pass  # the parent is dead
