"""Which system calls a seccomp profile lets through, and which of them are the usual ways out."""

from collections.abc import Iterator
from typing import Any

from pyrunc.explain.finding import Finding, Withheld, of_items
from pyrunc.explain.subject import Subject

POINTER = "/linux/seccomp"
PASSES = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
ASKS = ("SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE")

# The usual ways out: (level, what it is for, the calls, the capability that the kernel asks for)
WAYS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("high", "load code into the kernel",
     ("init_module", "finit_module", "delete_module", "create_module"), "CAP_SYS_MODULE"),
    ("high", "start another kernel", ("kexec_load", "kexec_file_load", "reboot"), "CAP_SYS_BOOT"),
    ("high", "open files by their handles, outside of its mounts", ("open_by_handle_at",), "CAP_DAC_READ_SEARCH"),
    ("high", "use the hardware's ports", ("iopl", "ioperm"), "CAP_SYS_RAWIO"),
    ("medium", "mount and change mounts",
     ("mount", "umount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
      "mount_setattr"), "CAP_SYS_ADMIN"),
    ("medium", "join other namespaces", ("setns",), "CAP_SYS_ADMIN"),
    ("medium", "make a user namespace, with all capabilities over what is in it: the way to most of the kernel's holes",
     ("unshare", "clone", "clone3"), ""),
    ("medium", "run programs in the kernel", ("bpf",), "CAP_BPF"),
    ("medium", "watch the kernel by its performance counters", ("perf_event_open",), ""),
    ("medium", "use keyrings, which no namespace separates", ("add_key", "keyctl", "request_key"), ""),
    ("medium", "stop the kernel in the middle of a copy, which makes races easy to win", ("userfaultfd",), ""),
    ("medium", "set the host's clock", ("settimeofday", "clock_settime", "clock_settime64", "stime"), "CAP_SYS_TIME"),
    ("low", "give work to the kernel past the filter: what is done so is not filtered (many holes since 2020)",
     ("io_uring_setup", "io_uring_enter", "io_uring_register"), ""),
    ("low", "trace its own processes, and read their memory",
     ("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"), ""),
    ("low", "use what is old and little tested",
     ("modify_ldt", "vm86", "vm86old", "uselib", "ustat", "sysfs", "_sysctl", "nfsservctl", "lookup_dcookie",
      "quotactl", "acct", "swapon", "swapoff", "personality"), ""),
    ("low", "read the kernel's log", ("syslog",), "CAP_SYSLOG"),
    ("low", "move pages between the memories of the machine",
     ("mbind", "move_pages", "migrate_pages", "set_mempolicy"), ""),
)  # fmt: skip
NEW_USER_NAMESPACE = 0x10000000


def granted(subject: Subject) -> Iterator[Finding]:
    profile = subject.linux.get("seccomp")
    if not profile:
        text = "no filter: every system call of the kernel can be tried, which is where its holes are"
        yield Finding("high", "system call", "all", text, POINTER, "give a profile; pyrunc learn writes one")
        return
    filter = Filter(profile)
    if filter.passes_by_default:
        text = f"all pass that the profile does not name ({len(filter.refused)} it refuses): those of newer kernels too"
        hint = "list what is allowed, with SCMP_ACT_ERRNO as defaultAction"
        yield Finding(
            "high" if len(filter.refused) < 30 else "medium", "system call", "by default", text, POINTER, hint
        )
    for level, what, calls, capability in WAYS:
        found = [call for call in calls if filter.lets_through(call)]
        if not found:
            continue
        if (
            capability
            and not subject.has(capability)
            and not (filter.makes_user_namespaces and capability == "CAP_SYS_ADMIN")
        ):
            level, what = "note", f"{what} (the kernel wants {capability}, which it has not)"
        elif subject.own_user_namespace and level == "high":
            level = "low"
        items = tuple((call, "") for call in found)
        hint = "" if level == "note" else "leave them out"
        yield of_items(level, "system call", items, f"can {what}", f"{POINTER}/syscalls", hint)
    if filter.asks:
        agent = profile.get("listenerPath") or (subject.config.get("annotations") or {}).get(
            "run.oci.seccomp.receiver", ""
        )
        text = f"decided by {agent}: it can let through whatever it likes" if agent else "decided by a tracer"
        items = tuple((call, "") for call in sorted(filter.asks))
        yield of_items("note", "system call", items, text, f"{POINTER}/syscalls")


def withheld(subject: Subject) -> Iterator[Withheld]:
    profile = subject.linux.get("seccomp")
    if not profile:
        return
    filter = Filter(profile)
    if not filter.passes_by_default:
        count = len({name for rule in filter.rules if rule["action"] in PASSES for name in rule["names"]})
        yield Withheld("system call", "others", f"all system calls but {count} by name")
    stopped = [
        calls[0]
        for level, _, calls, _ in WAYS
        if level in ("high", "medium") and not any(map(filter.lets_through, calls))
    ]
    if stopped:
        yield Withheld("system call", "ways", f"the usual ways out: {', '.join(stopped)}")


class Filter:
    """A profile, and what it does with a call whose arguments the caller chooses."""

    def __init__(self, profile: dict[str, Any]) -> None:
        self.default = str(profile["defaultAction"])
        self.rules: list[dict[str, Any]] = profile.get("syscalls") or []
        self.passes_by_default = self.default in PASSES
        self.refused = {
            name
            for rule in self.rules
            if rule["action"] not in PASSES + ASKS and not rule.get("args")
            for name in rule["names"]
        }
        self.asks = {name for rule in self.rules if rule["action"] in ASKS for name in rule["names"]}
        self.makes_user_namespaces = any(map(self.lets_through, ("unshare", "clone", "clone3")))

    def lets_through(self, call: str) -> bool:
        """Whether the profile lets a harmful use of a call through: for clone, one with CLONE_NEWUSER.

        A rule with conditions on arguments counts unless these keep the harm away.
        """
        rules = [rule for rule in self.rules if call in rule["names"]]
        plain = [rule for rule in rules if not rule.get("args")]
        if plain:
            return any(rule["action"] in PASSES for rule in plain)
        harmless = [rule for rule in rules if _keeps_harm_away(call, rule)]
        if self.passes_by_default:
            return not harmless
        return any(rule["action"] in PASSES and rule not in harmless for rule in rules)

    def names(self) -> set[str]:
        return {name for rule in self.rules for name in rule["names"]}


def _keeps_harm_away(call: str, rule: dict[str, Any]) -> bool:
    """Whether a rule's conditions keep the harm away.

    For clone and unshare they do if they rule out CLONE_NEWUSER in the first argument. For personality they do if they
    allow single values, as Docker's do. For other calls no condition does. Conditions on one argument are alternatives;
    those on several arguments must all hold.
    """
    arguments: list[dict[str, Any]] = rule["args"]
    passes = rule["action"] in PASSES
    alternatives = len({argument["index"] for argument in arguments}) < len(arguments)
    # A rule that lets calls pass must be harmless in each alternative. One that refuses must cover all harm in one of
    # them.
    enough = all if passes == alternatives else any
    return (alternatives or passes or len(arguments) == 1) and enough(
        _is_about_harm(call, argument, passes) for argument in arguments
    )


def _is_about_harm(call: str, argument: dict[str, Any], passes: bool) -> bool:
    """Whether a condition tells harmful calls apart. In a rule that lets calls pass, it must hold for harmless calls
    only. In one that refuses them, it must hold for all harmful calls."""
    mask, wanted, comparison = argument["value"], argument.get("valueTwo", 0), str(argument["op"])
    if argument["index"] != 0:
        return False
    if call in ("clone", "unshare") and comparison == "SCMP_CMP_MASKED_EQ":
        if passes:
            return bool(mask & NEW_USER_NAMESPACE and not wanted & NEW_USER_NAMESPACE)
        return bool(mask == wanted == NEW_USER_NAMESPACE)
    return call == "personality" and passes and comparison == "SCMP_CMP_EQ"
