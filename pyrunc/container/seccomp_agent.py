"""SCMP_ACT_NOTIFY: a filter's listener, handed to its agent. config-linux.md#containerprocessstate"""

import _socket
import posix

from pyrunc.container.sender import limit, why
from pyrunc.errors import PyruncError
from pyrunc.init.channel import rights
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.process import pidfd_getfd
from pyrunc.spec.jsonc import dumps, loads
from pyrunc.spec.rules import listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.init.context import Context


def hand_over(context: "Context", pid: int, pidfd: Fd, number: int) -> None:
    """Fetch the listener from the process, and send it with the process's state to the agent's socket.

    We fetch it by pidfd_getfd, Linux 5.6. The process itself can hardly send it: its filter is in force and nobody
    answers it yet. Raises PyruncError: without its agent the container would hang in the first call that needs it.
    """
    seccomp = context.config["linux"]["seccomp"]
    place = listener(seccomp, context.config.get("annotations") or {})
    state = {
        "ociVersion": context.config["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": seccomp.get("listenerMetadata") or "",
        "state": loads(context.state("creating" if context.init else "running").decode("utf-8", "surrogateescape")),
    }
    try:
        with pidfd_getfd(pidfd, number) as filter:
            with open_at(None, place, posix.O_PATH) as target:
                agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
                limit(agent)
                agent.connect(f"/proc/self/fd/{target.number}")  # its path may be longer than a sockaddr
            agent.sendmsg([dumps(state).encode("utf-8", "surrogateescape")], [rights(filter)])
            agent.close()
    except OSError as error:
        raise PyruncError("failed to connect with seccomp agent", place, why(error), "is it running?") from error
