"""The root file system: bound to itself, pivoted to, made read-only. config.md#root, #rootfspropagation"""

import errno
import posix

from pyrunc.errors import StepError, reason
from pyrunc.init.context import ROOT, Context, step
from pyrunc.linux import path
from pyrunc.linux.fd import FLAGS, Fd, open_at
from pyrunc.linux.mount import (
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    mount_setattr,
    mount_table,
    move_mount,
    open_tree,
    pivot_root_here,
    propagate_as,
    set_propagation,
    umount_detach,
)
from pyrunc.linux.mount_options import PROPAGATION


@step("cutting the mount namespace off from the host's")
def isolate(context: Context) -> None:
    """Before any mount of ours, which would else propagate to the host. `shared` is what an engine asks for when a
    volume must propagate back to the host; even then nothing above the root file system may (pivot_root(2)).
    """
    flags = _requested(context) or MS_SLAVE | MS_REC
    if flags & MS_UNBINDABLE:
        flags = MS_PRIVATE | MS_REC  # until all is bound that has to be
    set_propagation(flags)
    if flags & MS_SHARED:
        _make_private_mount_of(open_at(None, context.rootfs, posix.O_PATH | posix.O_DIRECTORY))


def _requested(context: Context) -> int:
    name = context.config["linux"].get("rootfsPropagation", "")
    return PROPAGATION[name.removeprefix("r")] | MS_REC if name else 0


def _make_private_mount_of(directory: Fd) -> None:
    """The mount that `directory` is on: walk up until the kernel agrees that it is a mount's root."""
    while True:
        try:
            return mount_setattr(directory, propagation=MS_PRIVATE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        directory = open_at(directory, "..", posix.O_PATH | posix.O_DIRECTORY)


@step("mounting the root file system")
def mount(context: Context) -> None:
    """A mount of its own, as pivot_root(2) needs one. The fd of that mount is from now on the only root that
    anything is resolved in. The runtime makes it where its rights are needed: to map its IDs; or to get there, as
    root of a user namespace is nobody in folders of the host's root.
    """
    if ROOT not in context.idmaps:
        try:
            context.root = mount_on_itself(context.rootfs)
            return
        except PermissionError:
            if not context.userns:
                raise
    context.root = context.ask_for_mount(ROOT)


def mount_on_itself(rootfs: str, namespace: "Fd | None" = None) -> Fd:
    """`namespace`: the user namespace that maps its IDs: not those of what is mounted in it."""
    with open_at(None, rootfs, posix.O_PATH | posix.O_DIRECTORY) as place:
        tree = open_tree(place, recursive=True)
        if namespace is not None:
            mount_setattr(tree, set=MOUNT_ATTR_IDMAP, userns=namespace.number)
        move_mount(tree, place)
    return tree


@step("changing to the container's root")
def pivot(context: Context) -> None:
    """pivot_root(".", "."): the old root is stacked below, made a slave so that its unmounting stays here, and gone."""
    root = context.root
    assert root is not None
    if context.no_pivot:
        return _move_root(context.rootfs, root)
    old = Fd(posix.open("/", posix.O_DIRECTORY | posix.O_PATH | FLAGS), "the old root")
    posix.fchdir(root.number)
    try:
        pivot_root_here()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _move_root(context.rootfs, root)  # the root of an initramfs has no parent to pivot on
    posix.fchdir(old.number)
    set_propagation(MS_SLAVE | MS_REC, ".")
    umount_detach(".")
    old.close()
    posix.chdir("/")


def _move_root(rootfs: str, root: Fd) -> None:
    """`--no-pivot` and initramfs: move the mount over / and chroot.

    The old root stays mounted below ours, where a process with the right to mount could uncover it; what hurts
    most there, full mounts of proc and sysfs that would let a user namespace mount its own, is taken away first.
    """
    for below, place, kind, _ in mount_table():
        whole = kind in ("proc", "sysfs") and below == "/"
        if whole and not place.startswith(rootfs + "/"):  # below it are the container's own
            try:
                umount_detach(place)
            except OSError:
                continue  # below a mount that went with another, or locked: then it is covered
    posix.fchdir(root.number)
    with open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY) as top:
        move_mount(root, top)
    posix.chroot(".")
    posix.chdir("/")


@step("changing to the container's root")
def chroot(context: Context) -> None:
    """In a mount namespace that is not the container's own: there is nothing to pivot."""
    posix.chroot(context.rootfs)
    posix.chdir("/")
    context.root = open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY)


@step("setting the root's propagation")
def propagate(context: Context) -> None:
    """Shared and unbindable are set only now: pivot_root(2) refuses a shared new root, and no part of an unbindable one
    could have been bound. The others were set before any mount was made.

    It is set on all mounts. Those that have a propagation of their own get that back: what must not reach the host, or
    come from there, stays so.
    """
    flags = _requested(context)
    if flags & (MS_SHARED | MS_UNBINDABLE):
        set_propagation(flags)
        for mounted, own in context.own_propagation:
            propagate_as(mounted, own)


@step("making the root read-only")
def protect(context: Context) -> None:
    """config.md#root"""
    if context.config["root"].get("readonly"):
        assert context.root is not None
        mount_setattr(context.root, set=MOUNT_ATTR_RDONLY)


@step("taking the container's root")
def adopt(context: Context) -> None:
    """It is the one of the mount namespace that was joined."""
    context.root = open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY)


@step("making the working directory")
def make_cwd(context: Context) -> None:
    """Where the image has none, and while the root can be written to."""
    assert context.root is not None
    try:
        path.ensure_directory(context.root, context.process["cwd"]).close()
    except OSError:
        pass  # why not is said when it is entered, perhaps by one who may more


@step("entering the working directory")
def enter_cwd(context: Context) -> None:
    """It is made where the image has none, as other runtimes do, but only for the container's first process: `exec`
    must not make folders that belong to root for a user.

    It is resolved inside the root, so that /proc/self/fd/N of a leaked descriptor is no way out (CVE-2024-21626).
    Afterwards the kernel is asked whether it can be reached from there.
    """
    cwd = context.process["cwd"]
    root = context.root
    assert root is not None
    if context.entered_cwd:
        return
    try:
        with path.ensure_directory(root, cwd) if context.init else path.resolve(root, cwd) as directory:
            posix.fchdir(directory.number)
    except OSError as error:
        if context.deferred_cwd or not isinstance(error, PermissionError):
            words = reason(error) if error.errno == errno.ENOSYS else posix.strerror(error.errno or 0).lower()
            raise StepError(f'chdir to cwd ("{cwd}") set in config.json failed', "", words) from error
        context.deferred_cwd = True  # perhaps the user may what root may not: again as that user
        return
    context.entered_cwd = True
    try:
        reached = posix.getcwd()
    except FileNotFoundError:
        reached = "(unreachable)"
    if not reached.startswith("/"):
        raise StepError("entering the working directory", cwd, "it lies outside of the container's root")
