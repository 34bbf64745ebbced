"""The machine's side of tests/vm/run: runs commands for the host, one at a time on each virtio-serial port.

host/talk.py says what a frame is.
"""

import contextlib
import glob
import json
import os
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 65536
CGROUPS = "/sys/fs/cgroup"
ENOUGH = 1 << 20  # of input that a command has not taken yet


def main() -> None:
    pass_on_every_controller()
    for name in glob.glob("/sys/class/virtio-ports/*/name"):
        if Path(name).read_text().startswith("vm-agent"):
            threading.Thread(target=Port("/dev/" + name.split("/")[-2]).serve).start()


def pass_on_every_controller() -> None:
    """To our cgroup, which we leave empty for that, and to the rootless user's: systemd does not know hugetlb, rdma
    and misc."""
    own = Path("/proc/self/cgroup").read_text().split("::", 1)[1].strip()
    os.mkdir(f"{CGROUPS}{own}/agent")
    Path(f"{CGROUPS}{own}/agent/cgroup.procs").write_text("0")
    for path in (own, "/user.slice/user-1000.slice"):
        place = CGROUPS
        for part in ["", *path.strip("/").split("/")]:
            place = os.path.join(place, part)
            with contextlib.suppress(OSError):
                for name in Path(place, "cgroup.controllers").read_text().split():
                    with contextlib.suppress(OSError):
                        Path(place, "cgroup.subtree_control").write_text(f"+{name}")


class Gone(Exception):
    """Nobody is at the host's end of the port."""


class Port:
    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.data = b""
        # Edge-triggered: with nobody at the other end a port is hung up for ever.
        self.change = select.epoll()
        self.change.register(self.fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def serve(self) -> None:
        while True:
            try:
                self.receive()
                for kind, data in self.frames():
                    if kind == b"R":
                        run(self, json.loads(data))
                        break
                else:
                    self.change.poll()
            except Gone:
                self.data = b""
                self.change.poll()
            except Exception as error:  # whatever was asked for: serve the next
                print("vm-agent:", repr(error), file=sys.stderr, flush=True)
                self.data = b""

    def receive(self) -> None:
        try:
            data = os.read(self.fd, BLOCK)
        except BlockingIOError:
            return
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        self.data += data

    def frames(self) -> Iterator[tuple[bytes, bytes]]:
        while len(self.data) >= 5:
            end = 5 + struct.unpack_from("!I", self.data, 1)[0]
            if len(self.data) < end:
                return
            one, self.data = self.data[:end], self.data[end:]
            yield one[:1], one[5:]

    def send(self, kind: bytes, data: bytes = b"") -> None:
        data = kind + struct.pack("!I", len(data)) + data
        while data:
            try:
                data = data[os.write(self.fd, data[:BLOCK]) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                if any(events & select.POLLHUP for _, events in poll.poll()):
                    raise Gone from None
            except OSError:
                raise Gone from None


def run(port: Port, request: dict[str, Any]) -> None:
    words, environment, folder = command(request)
    try:
        session = (Terminal if request.get("tty") else Session)(port, words, environment, folder)
    except OSError as error:
        port.send(b"E", f"vm-agent: {words[0]}: {error.strerror}\n".encode())
        port.send(b"X", json.dumps({"code": 127 if isinstance(error, FileNotFoundError) else 126}).encode())
        return
    try:
        session.pump()
        code = session.process.wait()
        port.send(b"X", json.dumps({"code": 128 - code if code < 0 else code}).encode())
    except Gone:
        session.signal(signal.SIGKILL)
        session.process.wait()
        raise
    finally:
        session.close()


def command(request: dict[str, Any]) -> tuple[list[str], dict[str, str], str]:
    """Arguments, environment and working directory. Another user gets a login session, which has systemd's instance
    for him, and its bus."""
    words, variables, folder = request["argv"], request.get("env", {}), request.get("cwd") or "/root"
    user = request.get("user")
    if user in (None, "root"):
        return words, {**os.environ, **variables}, folder
    exports = [f"export {name}={shlex.quote(value)};" for name, value in variables.items()]
    line = " ".join([*exports, f"cd {shlex.quote(folder)} &&", "exec", shlex.join(words)])
    return ["runuser", "-l", user, "-c", line], {**os.environ}, "/"


class Session:
    """A command whose standard streams are pipes."""

    def __init__(self, port: Port, words: list[str], environment: dict[str, str], folder: str) -> None:
        self.port = port
        self.unwritten = b""
        self.at_end = False  # of the input
        self.start(words, environment, folder)
        os.set_blocking(self.input, False)

    def start(self, words: list[str], environment: dict[str, str], folder: str) -> None:
        ends = [os.pipe() for _ in range(3)]
        (stdin, self.input), (output, stdout), (errors, stderr) = ends
        try:
            self.process = subprocess.Popen(
                words, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, cwd=folder, start_new_session=True
            )
        except OSError:
            for fd in (self.input, output, errors):
                os.close(fd)
            raise
        finally:
            for fd in (stdin, stdout, stderr):
                os.close(fd)
        self.outputs = {output: b"O", errors: b"E"}
        self.open = {self.input, output, errors}

    def close(self) -> None:
        for fd in self.open:
            os.close(fd)
        self.open = set()

    def end_input(self) -> None:
        self.open.discard(self.input)
        os.close(self.input)
        self.input = -1

    def resize(self, rows: int, columns: int) -> None:
        pass

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def pump(self) -> None:
        """Everything in both directions, until the command has ended and what it printed is sent. A process that it
        left in the background, with its output open, is not waited for."""
        outputs = dict(self.outputs)
        end = os.pidfd_open(self.process.pid)
        ended = False
        try:
            self.obey()  # what came along with the request
            while outputs or not ended:
                poll = select.poll()
                for fd in outputs:
                    poll.register(fd, select.POLLIN)
                if not ended:
                    poll.register(end, select.POLLIN)
                if len(self.unwritten) < ENOUGH:
                    poll.register(self.port.fd, select.POLLIN)
                if self.unwritten and self.input >= 0:
                    poll.register(self.input, select.POLLOUT | (select.POLLIN if self.input in outputs else 0))
                ready = dict(poll.poll(200 if ended else None))
                if ended and not ready.keys() & outputs.keys():
                    return
                ended = ended or end in ready
                if self.port.fd in ready:
                    self.port.receive()
                    self.obey()
                if self.unwritten and ready.get(self.input, 0) & ~select.POLLIN:
                    self.feed()
                for fd in [fd for fd in outputs if ready.get(fd, 0) & (select.POLLIN | select.POLLHUP)]:
                    data = self.read(fd)
                    if data:
                        self.port.send(outputs[fd], data)
                    else:
                        del outputs[fd]
        finally:
            os.close(end)

    def read(self, fd: int) -> bytes:
        try:
            return os.read(fd, BLOCK)
        except OSError:  # a terminal that nobody uses any more
            return b""

    def obey(self) -> None:
        for kind, data in self.port.frames():
            if kind == b"I" and not self.at_end:
                self.unwritten += data
                self.at_end = not data
                self.feed()
            elif kind == b"S":
                self.signal(int(data))
            elif kind == b"W":
                rows, columns = data.split(b",")
                self.resize(int(rows), int(columns))

    def feed(self) -> None:
        try:
            while self.unwritten and self.input >= 0:
                self.unwritten = self.unwritten[os.write(self.input, self.unwritten) :]
        except BlockingIOError:
            return
        except OSError:  # the command does not read any more
            self.unwritten = b""
        if self.at_end and self.input >= 0:
            self.end_input()


class Terminal(Session):
    """A command on a terminal of its own."""

    def start(self, words: list[str], environment: dict[str, str], folder: str) -> None:
        self.input, slave = os.openpty()
        self.open = {self.input}
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", "--wait", *words], stdin=slave, stdout=slave, stderr=slave, env=environment,
                cwd=folder, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(slave)
        self.outputs = {self.input: b"O"}

    def end_input(self) -> None:
        os.write(self.input, b"\x04")

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.input, (rows, columns))


if __name__ == "__main__":
    main()
