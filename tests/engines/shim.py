"""The shim without an engine: what containerd does, done by hand; its calls, its fifos, and the events it gets."""

import contextlib
import copy
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines import processes
from pyrunc.protobuf import decode, encode
from pyrunc.shim import messages, service, ttrpc

PYRUNC = os.environ.get("PYRUNC") or f"{os.path.dirname(sys.executable)}/pyrunc"
CGROUPS = f"pyrunc-engines-{os.getpid()}"  # another run at the same time has others
SHIM = Path(PYRUNC).parent / "containerd-shim-pyrunc-v2"
PRIVATE = "mount --make-rprivate / && mount -t tmpfs -o mode=755 run /run && exec sleep infinity"
UNIFIED = "mount --make-rprivate / && umount -R -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && "
CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "cwd": "/",
        "args": [],
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {name: ["CAP_CHOWN", "CAP_KILL"] for name in ("bounding", "effective", "permitted")},
    },
    "root": {"path": "rootfs"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
}


def wait_until(true: "Callable[[], object]", seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Host:
    """A mount namespace with a /run of its own, a root file system, and the other end of the shims' events."""

    def __init__(self, unified: bool = False) -> None:
        """`unified`: with cgroup v2 alone, and the controllers that v1 leaves it."""
        self.folder = Path(tempfile.mkdtemp(prefix="shim-", dir="/tmp"))
        setup = f"{UNIFIED if unified else ''}{PRIVATE}"
        self.keeper = subprocess.Popen(["unshare", "-m", "sh", "-e", "-c", setup], stdin=subprocess.DEVNULL)
        wait_until(lambda: Path(f"/proc/{self.keeper.pid}/comm").read_text() == "sleep\n")
        self.rootfs = self.folder / "box"
        for name in ("bin", "proc", "dev", "tmp"):
            (self.rootfs / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, self.rootfs / "bin/busybox")
        for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if name != "busybox":
                (self.rootfs / "bin" / name).symlink_to("busybox")
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.deaf = False  # takes events, and does not answer
        self.refuses: Callable[[str], int] = lambda topic: 0  # the code with which it refuses an event, where it does
        self.together: list[int] = []  # how many events each read of the socket has brought
        self.address = f"{self.folder}/events"
        self.listen()

    def listen(self) -> None:
        self.receivers: dict[socket.socket, threading.Thread] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen()
        self.acceptor = threading.Thread(target=self._accept, args=(self.listener,), daemon=True)
        self.acceptor.start()

    def hang_up(self) -> None:
        """What containerd does when it stops."""
        self.listener.shutdown(socket.SHUT_RDWR)  # closed alone it would not wake who waits in accept
        self.acceptor.join()
        self.listener.close()
        os.unlink(self.address)
        for connection, thread in [*self.receivers.items()]:
            with contextlib.suppress(OSError):  # its shim was faster
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            self.receivers[connection] = threading.Thread(target=self._receive, args=(connection,), daemon=True)
            self.receivers[connection].start()

    def _receive(self, connection: socket.socket) -> None:
        reader = ttrpc.Reader()
        try:
            while data := connection.recv(1 << 16):
                frames = [*reader.feed(data)]
                self.together.append(len(frames))
                for frame in frames:
                    answer = self._take(decode(messages.REQUEST, frame.payload or b""))
                    if not self.deaf:
                        connection.sendall(ttrpc.pack(frame.stream, ttrpc.RESPONSE, answer))
        except OSError:
            pass  # its shim was killed
        del self.receivers[connection]
        connection.close()

    def _take(self, request: dict[str, Any]) -> bytes:
        envelope = decode(messages.FORWARD, request["payload"])["envelope"]
        message = messages.EVENTS[envelope["topic"]][1]
        if code := self.refuses(envelope["topic"]):
            return encode(messages.RESPONSE, {"status": {"code": code, "message": "refused"}})
        self.events.append((envelope["topic"], decode(message, envelope["event"]["value"])))
        return b""

    def topics(self, id: str) -> list[str]:
        return [topic.removeprefix("/tasks/") for topic, event in self.events if event["container_id"] == id]

    def run(self, *command: object, **more: Any) -> "subprocess.CompletedProcess[bytes]":
        inside = ["nsenter", "-t", str(self.keeper.pid), "-m", "--", *map(str, command)]
        return subprocess.run(inside, timeout=30, **more)

    def shims(self) -> list[int]:
        """The shims that run here."""
        return processes.shims_beside(self.keeper.pid)

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.wait()
        self.hang_up()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in Path("/sys/fs/cgroup").glob(f"*/{CGROUPS}"):
            with contextlib.suppress(OSError):  # something is left in it: conftest.py says what
                folder.rmdir()


class Failed(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A connection to a shim; requests may be many at a time."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.reader = ttrpc.Reader()
        self.answers: dict[int, ttrpc.Frame] = {}
        self.arrived: list[int] = []  # all, in this order
        self.stream = -1
        self.services = service.NAMES
        self.metadata: dict[str, str] = {}

    def send(self, method: str, timeout: float = 0, **values: Any) -> tuple[int, str]:
        call, data = self.packed(method, timeout, **values)
        self.socket.sendall(data)
        return call

    def packed(self, method: str, timeout: float = 0, **values: Any) -> tuple[tuple[int, str], bytes]:
        self.stream += 2
        request = {
            "service": self.services[self.stream // 2 % len(self.services)],
            "method": method,
            "payload": encode(service.METHODS[method][0], values),
            "timeout_nano": int(timeout * 10**9),
            "metadata": [{"key": key, "value": value} for key, value in self.metadata.items()],
        }
        return (self.stream, method), ttrpc.pack(self.stream, ttrpc.REQUEST, encode(messages.REQUEST, request))

    def receive(self, call: tuple[int, str]) -> dict[str, Any]:
        stream, method = call
        while stream not in self.answers:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            for frame in self.reader.feed(data):
                self.answers[frame.stream] = frame
                self.arrived.append(frame.stream)
        response = decode(messages.RESPONSE, self.answers.pop(stream).payload or b"")
        if response["status"] and response["status"]["code"]:
            raise Failed(response["status"]["code"], response["status"]["message"])
        return decode(service.METHODS[method][1], response["payload"])

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        return self.receive(self.send(method, **values))


class Container:
    """One container, and the shim that it has or shares."""

    def __init__(self, host: Host, id: str, *args: str, **config: Any) -> None:
        self.host = host
        self.id = id
        self.bundle = host.folder / id
        (self.bundle / "rootfs").mkdir(parents=True)
        os.mkfifo(self.bundle / "log", 0o700)
        self.log = os.open(self.bundle / "log", os.O_RDWR | os.O_NONBLOCK)
        document = copy.deepcopy(CONFIG)
        document["process"]["args"] = list(args)
        document["process"].update(config.pop("process", {}))
        document["linux"].update(config.pop("linux", {}))
        document["linux"]["cgroupsPath"] = f"/{CGROUPS}/{id}"
        document.update(config)
        (self.bundle / "config.json").write_text(json.dumps(document))
        self.client: Client
        self.opened = [self.log]
        self.address = ""
        self.publisher = "/bin/false"

    def command(self, verb: str, **more: Any) -> "subprocess.CompletedProcess[bytes]":
        environment = {**os.environ, "TTRPC_ADDRESS": self.host.address, **more.pop("env", {})}
        words = ["-namespace", "tests", "-address", "/run/none", "-publish-binary", self.publisher, "-id", self.id]
        words += ["-bundle", str(self.bundle)] if verb == "delete" else []
        more = {"input": b"", **more}
        return self.host.run(
            "env", "-C", self.bundle, SHIM, *words, "-debug", verb, capture_output=True, env=environment, **more
        )

    def start_shim(self, **more: Any) -> "Container":
        done = self.command("start", **more)
        assert done.returncode == 0, done.stderr
        self.address = done.stdout.decode()
        if self.address.startswith("{"):  # as a containerd 2 reads it
            said = json.loads(self.address)
            assert (said["version"], said["protocol"]) == (3, "ttrpc")
            self.address = said["address"]
        assert self.address.startswith("unix:///run/containerd/s/"), done
        self.client = Client(self.socket)
        return self

    @property
    def socket(self) -> str:
        """The path of it outside its namespaces."""
        return f"/proc/{self.host.keeper.pid}/root{self.address.removeprefix('unix://')}"

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        return self.client.call(method, id=self.id, **values)

    def create(self, **values: Any) -> "Container":
        mount = {"type": "bind", "source": str(self.host.rootfs), "options": ["rbind", "ro"]}
        self.call("Create", bundle=str(self.bundle), rootfs=[mount], **values)
        return self

    def fifo(self, name: str) -> str:
        path = self.bundle / name
        os.mkfifo(path)
        return str(path)

    def open(self, path: str, flags: int = os.O_RDONLY | os.O_NONBLOCK) -> int:
        """Closed when the container is removed."""
        self.opened.append(os.open(path, flags))
        return self.opened[-1]

    def messages(self) -> str:
        try:
            return os.read(self.log, 1 << 16).decode()
        except BlockingIOError:
            return ""

    def kill_shim(self) -> None:
        """When this returns the shim has ended."""
        try:
            pidfd = os.pidfd_open(Client(self.socket).call("Connect", id=self.id)["shim_pid"])
        except (OSError, EOFError):
            return
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()  # select() takes no number above 1023, and benchmarks/scale.py has them
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000)
        os.close(pidfd)

    def remove(self) -> None:
        """Whatever is left of it."""
        if self.address:
            self.kill_shim()
        self.command("delete")
        for descriptor in self.opened:
            os.close(descriptor)
