"""The kernel and the system. A check tries the thing itself where it can. Otherwise it reads what the kernel says."""

import os
import posix
from collections.abc import Callable, Iterator

from pyrunc.cgroups.hierarchy import Hierarchy, find, is_unified
from pyrunc.container.state import is_root_of_host
from pyrunc.doctor.check import LESS, NO, OK, Check, text_of
from pyrunc.errors import PyruncError
from pyrunc.linux import mount, process
from pyrunc.linux._kernel import ffi, lib
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.passwd import name_of
from pyrunc.spec.rules import CAPABILITIES

NAMESPACES = {"mnt": "mount", "pid": "pid", "net": "network", "ipc": "ipc", "uts": "uts", "user": "user",
              "cgroup": "cgroup", "time": "time"}  # fmt: skip
NEEDED = ("mnt", "pid", "net", "ipc", "uts")
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma")
V1_NAMES = {"blkio": "io"}


def checks() -> Iterator[Check]:
    yield kernel()
    yield calls()
    yield rights()
    yield from place()
    yield namespaces()
    yield user_namespaces()
    yield sub_ids()
    yield from cgroups()
    yield systemd()
    yield seccomp()
    yield security_modules()
    yield landlock()
    yield idmap()
    yield exits()
    yield criu()


def kernel() -> Check:
    release = posix.uname().release
    version = tuple(int("".join(filter(str.isdecimal, part)) or 0) for part in release.split("-")[0].split(".")[:2])
    if version < (5, 12):
        return Check(NO, "kernel", f"Linux {release}", "pyrunc needs 5.12: mount_setattr(2)")
    if version < (5, 15):
        return Check(LESS, "kernel", f"Linux {release}", "without privileges pyrunc needs 5.15")
    return Check(OK, "kernel", f"Linux {release}")


def calls() -> Check:
    """Whether the system calls that pyrunc needs work. A seccomp filter around us, such as a container's, may refuse
    calls that the kernel has."""
    lacking = []
    for name, attempt in CALLS.items():
        try:
            attempt()
        except OSError as error:
            lacking.append(f"{name} ({(error.strerror or '').partition(':')[2].strip() or error.strerror})")
    if lacking:
        hint = "a seccomp filter is around this process: a container's? Give it one that allows them"
        return Check(NO, "system calls", f"refused: {', '.join(lacking)}", hint)
    return Check(OK, "system calls", "those that pyrunc makes")


def _openat2() -> None:
    from pyrunc.linux.path import resolve

    with open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY) as root:
        resolve(root, "proc").close()


def _mount_setattr() -> None:
    """Try mount_setattr(2) on nothing: an empty path without AT_EMPTY_PATH gives ENOENT, if the call exists at all."""
    with open_at(None, "/", posix.O_PATH | posix.O_DIRECTORY) as root:
        if lib.sys_mount_setattr(root.number, b"", 0, 0, 0, 0, -1) < 0 and ffi.errno == 38:
            raise OSError(38, "mount_setattr: function not implemented")


def _clone3() -> None:
    _end(*process.in_child(lambda: None))


def _open_tree() -> None:
    mount.open_tree("/", recursive=False, clone=False).close()


def _pidfd_open() -> None:
    os.close(posix.pidfd_open(posix.getpid()))


def _close_range() -> None:
    process.close_range(1 << 20, 0)


CALLS: "dict[str, Callable[[], None]]" = {
    "open_tree": _open_tree,
    "openat2": _openat2,
    "mount_setattr": _mount_setattr,
    "clone3": _clone3,
    "pidfd_open": _pidfd_open,
    "close_range": _close_range,
}


def rights() -> Check:
    uid, effective = posix.geteuid(), process.capget()[0]
    lacking = [name.removeprefix("CAP_") for number, name in enumerate(CAPABILITIES) if not effective >> number & 1]
    who = f"user {uid}" if uid else "root" if is_root_of_host() else "root of a user namespace"
    if "SYS_ADMIN" in lacking:
        found = who if uid else f"{who}, without {'SYS_ADMIN' if effective else 'any capability'}"
        return Check(LESS, "rights", found, "containers need a user namespace: pyrunc spec --rootless writes one")
    if not lacking:
        return Check(OK, "rights", f"{who}, with all capabilities")
    follows = "what is asked for and is not here is a warning, and not granted"
    return Check(LESS, "rights", f"{who}, without {', '.join(lacking)}", follows)


def place() -> Iterator[Check]:
    """Whether this process has a usable root folder and /proc. Only what is wrong is reported."""
    if all(place != "/" for _, place, _, _ in mount.mount_table()):
        follows = "no container can be made in a chroot: pivot_root(2), or bind-mount its folder on itself before"
        yield Check(NO, "root folder", "it is no mount point: a chroot?", follows)
    if os.readlink("/proc/self") != str(posix.getpid()):
        follows = "no user namespaces and no ID-mapped mounts: mount -t proc proc /proc"
        yield Check(LESS, "/proc", "it shows another process namespace", follows)


def namespaces() -> Check:
    lacking = [name for file, name in NAMESPACES.items() if not os.path.exists(f"/proc/self/ns/{file}")]
    if any(NAMESPACES[file] in lacking for file in NEEDED):
        return Check(NO, "namespaces", f"the kernel lacks {', '.join(lacking)}", "nearly every container asks for them")
    if lacking:
        return Check(LESS, "namespaces", f"the kernel lacks {', '.join(lacking)}", "asked for, they are an error")
    return Check(OK, "namespaces", ", ".join(NAMESPACES.values()))


def user_namespaces() -> Check:
    name, state = "user namespaces", NO if posix.geteuid() else LESS
    if not os.path.exists("/proc/self/ns/user"):
        return Check(LESS, name, "the kernel has none", "no rootless containers")
    for file, none, sysctl in (
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
         "kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for pyrunc with `userns,`"),
    ):  # fmt: skip
        if text_of(file) == none:
            return Check(state, name, f"{file} is {none}", f"for users who are not root: sysctl -w {sysctl}")
    try:
        _end(*process.in_child(lambda: None, process.CLONE_NEWUSER))
    except OSError as error:
        cause = (error.strerror or "").rpartition(": ")[2]
        return Check(state, name, f"the kernel refuses one: {cause}", "is it a chroot, or a container's filter?")
    return Check(OK, name, f"at most {text_of('/proc/sys/user/max_user_namespaces') or '?'}")


def _end(_: int, pidfd: Fd) -> None:
    with pidfd:
        posix.waitid(posix.P_PIDFD, pidfd.number, posix.WEXITED)


def sub_ids() -> Check:
    """Whether the user has subordinate IDs. subuid(5). The host's root needs none: it may write any mapping."""
    uid = posix.geteuid()
    if not uid and not is_root_of_host():
        return _ids_of_namespace()
    names = {str(uid), name_of(uid) or str(uid)}
    ranges = [_range(file, names) for file in ("/etc/subuid", "/etc/subgid")]
    tools = [tool for tool in ("newuidmap", "newgidmap") if not path_of(tool)]
    who = name_of(uid) or str(uid)
    if not uid:
        said = f"{ranges[0] or 'none'} for {who}; root needs none"
        return Check(OK, "subordinate IDs", said)
    if tools or not all(ranges):
        found = f"none for {who}" if not all(ranges) else f"no {' and no '.join(tools)}"
        do = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who}; install uidmap"
        return Check(LESS, "subordinate IDs", found, f"a container has one user only: {do}")
    return Check(OK, "subordinate IDs", f"{ranges[0]} for {who}")


def _ids_of_namespace() -> Check:
    """How many IDs this user namespace has. It can't give more than that to a container."""
    lines = text_of("/proc/self/uid_map").splitlines()
    count = sum(int(line.split()[2]) for line in lines)
    follows = "a container has one user only" if count == 1 else ""
    return Check(OK if count > 1 else LESS, "subordinate IDs", f"this user namespace has {count}", follows)


def _range(file: str, names: set[str]) -> str:
    fields = [line.split(":") for line in text_of(file).splitlines()]
    return next((f"{f[2]} from {f[1]}" for f in fields if len(f) == 3 and f[0] in names), "")


def cgroups() -> Iterator[Check]:
    try:
        hierarchies = find()
    except PyruncError as error:
        yield Check(NO, "cgroups", str(error))
        return
    if not hierarchies:
        follows = "no limits, and device rules, which engines always ask for, are an error: "
        yield Check(LESS, "cgroups", "none is mounted", f"{follows}mount -t cgroup2 none /sys/fs/cgroup")
        return
    unusable = _unusable(hierarchies)
    if unusable:
        yield unusable
        return
    if not is_unified(hierarchies):
        names = {V1_NAMES.get(c, c) for h in hierarchies for c in h.controllers if c}
        mixed = any(not h.name for h in hierarchies)
        lacking = [c for c in CONTROLLERS if c not in names]
        found = f"v1{' and v2 (hybrid)' if mixed else ''}: {', '.join(c for c in CONTROLLERS if c in names)}"
        boot = "boot with systemd.unified_cgroup_hierarchy=1 for v2" if has_systemd() else "v2 would be more"
        follows = f"{boot}: it has pressure, delegation and rootless limits"
        if lacking:
            follows = f"no limits of {', '.join(lacking)}; {follows}"
        yield Check(LESS, "cgroups", found, follows)
        return
    own = hierarchies[0]
    there = text_of(f"{own.mount}/cgroup.controllers").split()
    lacking = [c for c in CONTROLLERS if c not in there]
    follows = f"no limits of {', '.join(lacking)}: an error where they are asked for" if lacking else ""
    grave = bool({"memory", "pids", "cpu"} & {*lacking})
    yield Check(LESS if grave else OK, "cgroups", f"v2: {', '.join(there) or 'no controllers'}", follows)
    yield _delegation(own.mount, own.own)


def _unusable(hierarchies: "list[Hierarchy]") -> "Check | None":
    """A failed check if a hierarchy can't be used. Another mount may hide it: mountinfo names it all the same. In a
    container it is often read-only."""
    for each in hierarchies:
        if not os.path.exists(f"{each.mount}/cgroup.procs"):
            return Check(NO, "cgroups", f"{each.mount} is mounted, and can't be seen", "umount what lies over it")
        if os.statvfs(each.mount).f_flag & os.ST_RDONLY and not posix.geteuid():
            return Check(NO, "cgroups", f"{each.mount} is read-only", f"mount -o remount,rw {each.mount}")
    return None


def has_systemd() -> bool:
    """Whether systemd runs this host. sd_booted(3)"""
    return os.path.isdir("/run/systemd/system")


def _delegation(mounted: str, own: str) -> Check:
    """Whether we have a cgroup of our own with controllers. systemd gives one to each user's manager. cgroups(7)"""
    if not posix.geteuid():
        return Check(OK, "delegation", "root makes cgroups anywhere")
    unit = f"{mounted}/user.slice/user-{posix.geteuid()}.slice/user@{posix.geteuid()}.service"
    folder = unit if os.path.isdir(unit) else f"{mounted}{own}"
    given = text_of(f"{folder}/cgroup.controllers").split()
    if not os.access(folder, os.W_OK):
        follows = "no limits: log in by systemd (loginctl enable-linger), and use --systemd-cgroup"
        return Check(LESS, "delegation", f"{folder} is not ours", follows)
    lacking = [c for c in ("cpu", "cpuset", "io", "memory", "pids") if c not in given]
    if lacking:
        do = "systemctl edit user@.service: [Service] Delegate=cpu cpuset io memory pids"
        return Check(LESS, "delegation", f"{', '.join(given) or 'no controllers'}", f"for {', '.join(lacking)}: {do}")
    return Check(OK, "delegation", ", ".join(given))


def systemd() -> Check:
    if not has_systemd():
        return Check(OK, "systemd", "is not what runs this host", "no --systemd-cgroup")
    try:
        import jeepney  # noqa: F401
    except ImportError:
        return Check(LESS, "systemd", "runs this host", "for --systemd-cgroup: pip install jeepney")
    return Check(OK, "systemd", "runs this host: --systemd-cgroup makes scopes by it")


def seccomp() -> Check:
    actions = text_of("/proc/sys/kernel/seccomp/actions_avail").split()
    if not actions and "\nSeccomp:" not in text_of("/proc/self/status"):
        return Check(LESS, "seccomp", "the kernel has no filters", "a container that asks for one is not made")
    try:
        from pyrunc.seccomp import profile

        library = f"libseccomp {profile.version()}"
    except (ImportError, OSError, RuntimeError, PyruncError) as error:
        return Check(LESS, "seccomp", f"no libseccomp: {error}", "only filters in the cache work: install libseccomp2")
    if not actions:
        return Check(OK, "seccomp", f"{library}; /proc/sys/kernel/seccomp does not say which actions")
    if "user_notif" not in actions:
        return Check(LESS, "seccomp", f"{library}; without user_notif", "no agents (SCMP_ACT_NOTIFY), no pyrunc learn")
    return Check(OK, "seccomp", f"{library}; {', '.join(sorted(actions))}")


def security_modules() -> Check:
    modules = text_of("/sys/kernel/security/lsm")
    enabled = [
        name for name, file in (("AppArmor", "/sys/module/apparmor/parameters/enabled"),) if text_of(file) == "Y"
    ]
    if os.path.isdir("/sys/fs/selinux"):
        enabled.append("SELinux")
    if not enabled and not os.path.isdir("/sys/module"):
        return Check(LESS, "security modules", "can't be seen: /sys is not mounted", "mount -t sysfs sysfs /sys")
    if not enabled:
        why = modules or "securityfs is not mounted, or there is none"
        follows = "profiles and labels are a warning, and not applied"
        return Check(LESS, "security modules", f"neither AppArmor nor SELinux ({why})", follows)
    return Check(OK, "security modules", f"{' and '.join(enabled)}{f' ({modules})' if modules else ''}")


def landlock() -> Check:
    from pyrunc.linux import landlock as calls

    abi = calls.abi()
    if not abi:
        return Check(LESS, "Landlock", "none", "org.pyrunc.landlock.* is an error")
    lacks = "" if abi >= 4 else "no rules for TCP ports (ABI 4, Linux 6.7)"
    return Check(OK, "Landlock", f"ABI {abi}", lacks)


def idmap() -> Check:
    """Whether the file system with the images can be ID-mapped. This is tried on a mount of it that nobody sees."""
    if posix.geteuid() or not process.capget()[0] >> CAPABILITIES.index("CAP_SYS_ADMIN") & 1:
        return Check(LESS, "ID-mapped mounts", "not for who has no CAP_SYS_ADMIN", "engines' idmap options need root")
    folder = "/var/lib" if os.path.isdir("/var/lib") else "/"
    try:
        _map_a_mount(folder)
    except OSError as error:
        cause = error.strerror or str(error)
        return Check(LESS, "ID-mapped mounts", f"not of {folder}: {cause}", "idmap there is an error")
    return Check(OK, "ID-mapped mounts", f"tried on {folder}")


def _map_a_mount(folder: str) -> None:
    read, write = posix.pipe2(posix.O_CLOEXEC)
    try:

        def wait_for_the_other_end() -> None:
            posix.close(write)
            posix.read(read, 1)

        pid, pidfd = process.in_child(wait_for_the_other_end, process.CLONE_NEWUSER)
        try:
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{pid}/{name}", "w") as file:
                    file.write("0 100000 65536")
            with mount.open_tree(folder) as tree, open_at(None, f"/proc/{pid}/ns/user", posix.O_RDONLY) as user:
                mount.mount_setattr(tree, set=mount.MOUNT_ATTR_IDMAP, userns=user.number)
        finally:
            posix.write(write, b"x")
            _end(pid, pidfd)
    finally:
        posix.close(read)
        posix.close(write)


def exits() -> Check:
    from pyrunc.linux.exits import tells_exits

    if tells_exits():
        return Check(OK, "exit status", "the kernel tells that of any process by its pidfd: pyrunc wait")
    follows = "pyrunc wait is for containers that were made with --exit-record"
    return Check(OK, "exit status", "the kernel tells it to a process's parent alone (before Linux 6.15)", follows)


def criu() -> Check:
    found = path_of("criu")
    if not found:
        return Check(LESS, "CRIU", "is not installed", "no checkpoint, no restore")
    return Check(OK, "CRIU", found, "`criu check`, as root, says whether it fits this kernel")


def path_of(program: str) -> str:
    """The path of a program: it is looked for in PATH, and where daemons are."""
    for folder in [
        *os.environ.get("PATH", "").split(":"),
        "/usr/sbin",
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/bin",
    ]:
        if folder.startswith("/") and os.access(f"{folder}/{program}", os.X_OK):
            return f"{folder}/{program}"
    return ""
