"""Capabilities, and what each allows. capabilities(7)"""

from collections.abc import Iterator

from pyrunc.explain.finding import Finding, Withheld, of_items, softer
from pyrunc.explain.subject import Subject
from pyrunc.spec.rules import CAPABILITIES

POINTER = "/process/capabilities"
KNOWN = {*CAPABILITIES}

# With each capability over the host's user namespace: (level, what one can do with it)
MEANING = {
    "CAP_SYS_ADMIN": ("critical", "mount file systems, among them the host's disks; join namespaces; much else"),
    "CAP_SYS_MODULE": ("critical", "load code into the kernel"),
    "CAP_SYS_RAWIO": ("critical", "reach the hardware's ports and, by /dev/mem, the host's memory"),
    "CAP_DAC_READ_SEARCH": (
        "critical",
        "open any file of the host's by its handle (open_by_handle_at), whatever is mounted",
    ),
    "CAP_SYS_BOOT": ("critical", "load another kernel (kexec)"),
    "CAP_BPF": ("high", "load BPF programs into the kernel; with PERFMON they read all of its memory"),
    "CAP_PERFMON": ("high", "watch what the kernel and all other programs do"),
    "CAP_MAC_ADMIN": ("high", "change the policies of AppArmor, SELinux or Smack"),
    "CAP_MAC_OVERRIDE": ("low", "pass over Smack's policy, where Smack is on"),
    "CAP_SYS_TIME": ("high", "set the host's clock: certificates, logs and tokens go by it"),
    "CAP_SYS_PTRACE": (
        "medium",
        "read and change the memory of all processes that it sees, what is executed into it too",
    ),
    "CAP_NET_ADMIN": ("medium", "set up interfaces, routes and firewalls: much of the kernel's code that had holes"),
    "CAP_SYSLOG": ("medium", "read the kernel's log and addresses, which help to use its holes"),
    "CAP_SYS_RESOURCE": ("medium", "go over quotas and raise its own limits"),
    "CAP_CHECKPOINT_RESTORE": ("medium", "choose pids, and read /proc/PID/map_files of others"),
    "CAP_AUDIT_CONTROL": ("medium", "switch the host's audit off"),
    "CAP_AUDIT_READ": ("medium", "read the host's audit log"),
    "CAP_SYS_NICE": ("medium", "take CPU time from the host's programs by priority"),
    "CAP_SYS_PACCT": ("medium", "switch the host's process accounting"),
    "CAP_SYS_TTY_CONFIG": ("medium", "hang up and configure terminals"),
    "CAP_IPC_LOCK": ("low", "lock memory, beyond RLIMIT_MEMLOCK"),
    "CAP_IPC_OWNER": ("low", "use System V IPC of all users that it sees"),
    "CAP_LINUX_IMMUTABLE": ("low", "make files immutable, which then the host can't delete at once"),
    "CAP_MKNOD": ("low", "make device nodes; the device rules say which it can use"),
    "CAP_NET_RAW": ("low", "forge packets on its networks: ARP, DNS, ICMP"),
    "CAP_NET_BROADCAST": ("note", "nothing: the kernel does not ask for it"),
    "CAP_BLOCK_SUSPEND": ("low", "keep the host from going to sleep"),
    "CAP_WAKE_ALARM": ("low", "wake the host up"),
    "CAP_LEASE": ("low", "hold leases on files, which delay those who open them"),
    "CAP_DAC_OVERRIDE": ("low", "read and write every file in its mounts, whoever owns it"),
    "CAP_FOWNER": ("low", "act as the owner of every file in its mounts"),
    "CAP_CHOWN": ("low", "give every file in its mounts to anybody"),
    "CAP_FSETID": ("low", "keep the set-user-ID bit of files that it changes"),
    "CAP_SETUID": ("low", "become any user"),
    "CAP_SETGID": ("low", "become any group"),
    "CAP_SETPCAP": ("low", "hand on capabilities from its bounding set"),
    "CAP_SETFCAP": ("low", "give capabilities to programs"),
    "CAP_SYS_CHROOT": ("low", "chroot"),
    "CAP_KILL": ("low", "signal every process that it sees"),
    "CAP_NET_BIND_SERVICE": ("note", "listen on ports below 1024"),
    "CAP_AUDIT_WRITE": ("note", "write to the host's audit log"),
}
# Capabilities that reach beyond the container even when they are only over its own user namespace, each for things of
# its own kind.
STILL_REACH = {"CAP_SYS_ADMIN": "medium", "CAP_NET_ADMIN": "medium", "CAP_SYS_PTRACE": "low"}
GROUPED = ("low", "note")


def granted(subject: Subject) -> Iterator[Finding]:
    """The capabilities that are granted: one finding for each that matters, and one for all others together."""
    has, can_get = subject.capabilities()
    together: list[tuple[str, str]] = []
    for name in (name for name in MEANING if name in has | can_get):
        level, text = _level(subject, name, name in has)
        where = " over its own namespaces" if subject.own_user_namespace else ""
        if level in GROUPED:
            together.append((name, text))
            continue
        how = "can" if name in has else "a set-user-ID program or a file's capabilities let it"
        yield Finding(level, "capability", name, f"{how} {text}{where}", POINTER, "leave it out of all sets")
    if together:
        yield _grouped(subject, together, has)


def _grouped(subject: Subject, together: list[tuple[str, str]], has: set[str]) -> Finding:
    items = tuple((name, text if name in has else f"{text} (by a set-user-ID program)") for name, text in together)
    levels = {_level(subject, name, name in has)[0] for name, _ in together}
    level = "low" if "low" in levels else "note"
    return of_items(level, "capability", items, "", POINTER, "keep those that the program needs")


def _level(subject: Subject, name: str, direct: bool) -> tuple[str, str]:
    level, text = MEANING.get(name, ("medium", "unknown"))
    if name == "CAP_NET_ADMIN" and "network" in subject.of_host and not subject.own_user_namespace:
        level, text = "critical", "change the host's own network and firewall, and read all that passes"
    if name == "CAP_NET_RAW" and "network" in subject.of_host and not subject.own_user_namespace:
        level, text = "high", "read and forge all that passes over the host's own network"
    if name == "CAP_SYS_PTRACE" and "pid" in subject.of_host and not subject.own_user_namespace:
        level, text = "critical", "change the memory of the host's processes, and so run code in them"
    if name == "CAP_KILL" and "pid" in subject.of_host and not subject.own_user_namespace:
        level, text = "high", "end every process of the host"
    if subject.own_user_namespace:
        level = STILL_REACH.get(name, "note" if level in GROUPED else "low")
    return (level if direct else softer(level)), text


def withheld(subject: Subject) -> Iterator[Withheld]:
    has, can_get = subject.capabilities()
    lacking = KNOWN - has - can_get
    if not has | can_get:
        yield Withheld("capability", "others", "all capabilities, now and by set-user-ID programs")
        return
    grave = [name for name, (level, _) in MEANING.items() if level == "critical" and name in lacking]
    among = f", among them {', '.join(name.removeprefix('CAP_') for name in grave)}" if grave else ""
    if lacking:
        yield Withheld("capability", "others", f"{len(lacking)} of {len(KNOWN)} capabilities{among}")
    if not has:
        yield Withheld("capability", "direct", "any capability until a set-user-ID program gives it")
