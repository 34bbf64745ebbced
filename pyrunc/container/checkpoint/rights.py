"""Check the users, capabilities, limits and labels of restored processes against config.json.

The images decide what they are, config.json what they may be. What can be lowered is lowered. A process that has too
much of anything else is not let run.
"""

import posix

from pyrunc.errors import PyruncError
from pyrunc.init import labels
from pyrunc.init.attributes import POLICIES
from pyrunc.init.capabilities import BIT, Sets, names_of
from pyrunc.linux.fd import read_file, write_file
from pyrunc.linux.process import prlimit
from pyrunc.spec.rules import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, IDMapping, Process

SECCOMP_FILTER = "2"
REALTIME = (1, 2, 6)  # SCHED_FIFO, SCHED_RR, SCHED_DEADLINE
NICE, POLICY = 16, 38  # words of /proc/PID/stat, counted from the one after the name. proc(5)
UNLIMITED = (1 << 64) - 1
HINT = "the checkpoint was made with another configuration, or changed: it is not let run"


def refuse(what: str, cause: str) -> PyruncError:
    return PyruncError("restoring", what, cause, HINT)


class Rights:
    """What the configuration's process may be, and what it may become."""

    __slots__ = ("bounding", "config", "floor", "gids", "process", "profile", "score", "uids")

    def __init__(self, config: "Config", process: "Process", profile: str) -> None:
        """profile: what --lsm-profile says."""
        self.config = config
        self.process = process
        self.profile = profile.partition(":")[2]
        sets = Sets(process.get("capabilities") or {})
        self.bounding = sets.any()
        linux, user = config["linux"], process.get("user") or {}
        groups = [user.get("gid", 0), *(user.get("additionalGids") or [])]
        lasting = sets.ambient if user.get("uid") else self.bounding  # what is left after execve(2) with no_new_privs
        self.uids = self._only([user.get("uid", 0)], lasting & BIT["CAP_SETUID"], linux.get("uidMappings"))
        self.gids = self._only(groups, lasting & BIT["CAP_SETGID"], linux.get("gidMappings"))
        scheduler = process.get("scheduler")
        self.floor = scheduler.get("nice", 0) if scheduler else min(0, _nice("self"))
        score = process.get("oomScoreAdj")
        self.score = int(read_file("/proc/self/oom_score_adj")) if score is None else score

    def _only(self, ids: "list[int]", may_change: int, mappings: "list[IDMapping] | None") -> "set[int] | None":
        """The only IDs that the process may have, as the host counts them. None: it can become somebody else."""
        if may_change or not self.process.get("noNewPrivileges"):
            return None
        return {outside(each, mappings or []) for each in ids}

    def look(self, pid: int) -> None:
        """Check each thread: user, capabilities, no_new_privs, filter and scheduler are a thread's own."""
        for thread in posix.listdir(f"/proc/{pid}/task"):
            place = f"/proc/{pid}/task/{thread}"
            lines = read_file(f"{place}/status").decode("utf-8", "replace").splitlines()
            status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
            self._capabilities(pid, status)
            self._user(pid, status)
            self._scheduler(pid, place)
            self._labels(pid, place)
        self._limits(pid)

    def _capabilities(self, pid: int, status: "dict[str, str]") -> None:
        has = int(status["CapBnd"], 16) | int(status["CapPrm"], 16) | int(status["CapInh"], 16)
        if has & ~self.bounding:
            names = ", ".join(names_of(has & ~self.bounding)) or "capabilities"
            raise refuse(f"process {pid}", f"it has {names}, which config.json does not grant")
        if self.process.get("noNewPrivileges") and status["NoNewPrivs"] != "1":
            raise refuse(f"process {pid}", "it may get new privileges, and /process/noNewPrivileges is true")
        if self.config["linux"].get("seccomp") and status["Seccomp"] != SECCOMP_FILTER:
            raise refuse(f"process {pid}", "it has no seccomp filter, and /linux/seccomp asks for one")

    def _user(self, pid: int, status: "dict[str, str]") -> None:
        for name, has, may in (
            ("user", status["Uid"], self.uids),
            ("group", f"{status['Gid']} {status['Groups']}", self.gids),
        ):
            ids = {int(word) for word in has.split()}
            if may is not None and ids - may:
                other = ", ".join(map(str, sorted(ids - may)))
                raise refuse(f"process {pid}", f"its {name} is {other}, which /process/user can't become")

    def _scheduler(self, pid: int, place: str) -> None:
        wanted = self.process.get("scheduler")
        limits = {limit["type"] for limit in self.process.get("rlimits") or []}
        if self.bounding & BIT["CAP_SYS_NICE"] or limits & {"RLIMIT_NICE", "RLIMIT_RTPRIO"}:
            return
        words = _stat(place)
        policy, may = int(words[POLICY]), POLICIES.get(wanted["policy"] if wanted else "")
        if int(words[NICE]) < self.floor or (policy in REALTIME and may not in REALTIME):
            raise refuse(f"process {pid}", "it goes before others, which /process/scheduler does not grant")

    def _labels(self, pid: int, place: str) -> None:
        for wanted, file, there in (
            (self.process.get("apparmorProfile"), "apparmor/current", labels.has_apparmor),
            (self.process.get("selinuxLabel"), "current", labels.has_selinux),
        ):
            if wanted and there():
                has = read_file(f"{place}/attr/{file}").decode("utf-8", "replace").strip("\0\n").partition(" (")[0]
                if has not in (wanted, self.profile):
                    raise refuse(
                        f"process {pid}", f"its label is {has}, and config.json has {wanted} (see --lsm-profile)"
                    )

    def _limits(self, pid: int) -> None:
        lines = read_file(f"/proc/{pid}/limits").splitlines()
        for limit in self.process.get("rlimits") or []:
            number = RLIMITS[limit["type"]]
            soft, hard = (_limit(lines[number + 1][at : at + 20]) for at in (26, 47))  # the first line is a heading
            if hard > limit["hard"]:
                prlimit(pid, number, min(soft, limit["hard"]), limit["hard"])
        if int(read_file(f"/proc/{pid}/oom_score_adj")) < self.score:
            write_file(f"/proc/{pid}/oom_score_adj", str(self.score).encode())


def outside(number: int, mappings: "list[IDMapping]") -> int:
    """The host's ID for one of the container's."""
    for each in mappings:
        if each["containerID"] <= number < each["containerID"] + each["size"]:
            return number - each["containerID"] + each["hostID"]
    return number


def _limit(word: bytes) -> int:
    return UNLIMITED if word.startswith(b"unlimited") else int(word)


def _stat(place: str) -> "list[bytes]":
    return read_file(f"{place}/stat").rpartition(b") ")[2].split()


def _nice(pid: str) -> int:
    return int(_stat(f"/proc/{pid}")[NICE])
