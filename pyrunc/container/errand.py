"""Something that a child of ours does elsewhere: in a namespace that we must not enter ourselves."""

import errno

from pyrunc.container.patience import DEATH_SECONDS, ERRAND_SECONDS
from pyrunc.errors import reason
from pyrunc.init import channel
from pyrunc.init.channel import Channel
from pyrunc.linux.fd import Fd
from pyrunc.linux.pid import end
from pyrunc.linux.process import in_child, refuse_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Errand:
    """A child that does `work`. When the constructor returns, the work is done. The child stays where it is until the
    `with` block ends.

    Args:
        work: what the child does. The descriptor that it returns is `brought` to us.
        flags: CLONE_NEW*, of the namespaces that the child is born in.

    Raises OSError with what failed in the child, or that it died.
    """

    __slots__ = ("brought", "line", "pid", "pidfd")

    def __init__(self, work: "Callable[[], Fd | None]", flags: int = 0) -> None:
        refuse_threads()
        self.line, theirs = Channel.pair()

        def run() -> None:
            self.line.close()  # else the child would never see the parent's end close
            try:
                brought = work()
            except (OSError, ValueError, OverflowError) as error:
                theirs.send(channel.FAILED, str(getattr(error, "errno", 0) or 0), reason(error))
            else:
                theirs.send(channel.GO, fd=brought)
                theirs.receive()  # waits until the parent's end is closed

        self.pid, self.pidfd = in_child(run, flags)
        theirs.close()
        try:
            self.line.socket.settimeout(ERRAND_SECONDS)
            said = self._said()
            if said.kind == channel.FAILED:
                raise OSError(int(said.fields[0]), said.fields[1])
            if said.kind != channel.GO:
                raise OSError(errno.ECHILD, "the helper died")
        except BaseException:
            self.close()
            raise
        self.brought = said.descriptor

    def _said(self) -> channel.Message:
        try:
            return self.line.receive()
        except TimeoutError:
            cause = f"it has taken more than {ERRAND_SECONDS:.0f} s; does a file server not answer?"
            raise OSError(errno.ETIMEDOUT, cause) from None

    def __enter__(self) -> "Errand":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child. One that hangs in a system call is left alone."""
        self.line.close()
        with self.pidfd:
            end(self.pidfd, DEATH_SECONDS)
