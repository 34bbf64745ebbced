"""A virtual machine: started from the saved one, with folders of the host's in it, and thrown away."""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from host import talk
from host.qemu import CACHE, PORTS, Failed, Qmp, fingerprint, hardware

RUNNING = CACHE / "run"  # name of a machine that was kept -> its folder
BOOT_SECONDS = 240
NIC = "52:54:00:70:79:72"  # a network device that leads nowhere, to be moved into containers
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")
TIED = ("setpriv", "--pdeathsig", "KILL", "--")

# What every use of the machine would read from its disk is in its memory when it is saved.
WARM_UP = """
python3 -c 'import subprocess, json, argparse, ctypes, unittest'
for engine in runc crun podman ctr; do $engine --version; done
modprobe -a overlay veth bridge virtiofs
runuser -l rootless -c 'systemctl --user is-system-running --wait'
systemctl daemon-reload
systemd-run --wait true
sync
"""


class Share(NamedTuple):
    """A folder of the host's, and where it is in the machine."""

    path: str
    inside: str
    read_only: bool


class Machine:
    """A folder with QEMU's sockets, the console's text, and the pid."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def file(self, name: str) -> str:
        return os.path.join(self.folder, name)

    # --- starting

    @classmethod
    def start(cls, shares: list[Share], tied: bool = True) -> "Machine":
        """From the saved machine in seconds, from the beginning where none fits.

        Args:
            tied: whether it must not outlive us.
        """
        if not (CACHE / "root.img").exists():
            raise Failed(f"there is no machine in {CACHE}: tests/vm/build makes it")
        saved = _read(CACHE / "saved.fingerprint") == fingerprint()
        if saved:
            disk = f"{CACHE}/saved.qcow2,format=qcow2,snapshot=on"
            words = ["-incoming", f"exec:exec cat {shlex.quote(str(CACHE / 'saved.ram'))}"]
        else:
            disk, words = f"{CACHE}/root.img,format=raw,snapshot=on", []
        machine = cls._new()
        try:
            machine._launch(disk, words, tied)
            with machine.qmp() as qmp:
                if saved:
                    _wait_for_migration(qmp)
                    qmp("cont")
                for number, share in enumerate(shares):
                    machine._plug(qmp, number, share.path, tied)
                qmp("device_add", driver="virtio-net-pci", id="nic", mac=NIC)
            ready = _set_clock() if saved else WAIT_FOR_SYSTEMD
            machine._prepare(ready, "modprobe virtio_net", *map(_mount, range(len(shares)), shares))
        except BaseException:
            machine.stop()
            raise
        return machine

    @classmethod
    def _new(cls) -> "Machine":
        return cls(tempfile.mkdtemp(prefix="pyrunc-vm-"))  # not in the cache: a socket's path must be short

    def _launch(self, disk: str, words: list[str], tied: bool) -> None:
        command = [*hardware(), "-drive", f"file={disk},if=none,id=root,cache=unsafe",
                   "-qmp", f"unix:{self.file('qmp')},server=on,wait=off",
                   "-serial", f"file:{self.file('console')}", *words]  # fmt: skip
        for i in range(PORTS):
            command += ["-chardev", f"socket,id=port{i},path={self.file(f'port{i}')},server=on,wait=off"]
        process = self._spawn(command, tied)
        Path(self.file("pid")).write_text(str(process.pid))

    def _plug(self, qmp: Qmp, number: int, path: str, tied: bool) -> None:
        """One virtiofsd for each folder; it ends when QEMU does."""
        program = next((name for name in VIRTIOFSD if os.access(name, os.X_OK)), None)
        if program is None:
            raise Failed("virtiofsd is missing; .ci/vm installs it")
        name = f"share{number}"
        command = [program, f"--socket-path={self.file(name)}", "-o", f"source={path}",
                   "-o", "sandbox=chroot", "-o", "xattr", "-o", "cache=auto"]  # fmt: skip
        process = self._spawn(command, tied)
        while not os.path.exists(self.file(name)):
            if process.poll() is not None:
                raise Failed(f"virtiofsd did not start:\n{self._said()}")
            time.sleep(0.01)
        backend = {"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": self.file(name)}}, "server": False}}  # fmt: skip
        qmp("chardev-add", id=name, backend=backend)
        qmp("device_add", driver="vhost-user-fs-pci", id=f"{name}-device", chardev=name, tag=name)

    def _spawn(self, command: list[str], tied: bool) -> subprocess.Popen[bytes]:
        with open(self.file("log"), "ab") as log:
            return subprocess.Popen(
                [*(TIED if tied else ()), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "TMPDIR": self.folder}, start_new_session=True,
            )  # fmt: skip

    def _prepare(self, *script: str) -> None:
        try:
            with _deadline(BOOT_SECONDS), self.port() as port:
                code, output = talk.capture(port, "sh", "-ec", "\n".join(script))
        except (Failed, OSError) as error:
            raise Failed(f"the machine did not come up: {error}\n{self._said()}") from None
        if code:
            raise Failed(f"the machine came up, but: {output}")

    def _said(self) -> str:
        return "".join(f"{line}\n" for name in ("log", "console") for line in _read(self.file(name)).splitlines()[-20:])

    # --- running

    def alive(self) -> bool:
        pid = _read(self.file("pid"))
        return bool(pid) and self.folder in _read(f"/proc/{pid}/cmdline")

    def qmp(self) -> Qmp:
        return Qmp(self._connect("qmp"))

    @contextlib.contextmanager
    def port(self) -> Iterator[socket.socket]:
        """A port that nobody else is using."""
        while True:
            for i in range(PORTS):
                with open(self.file(f"lock{i}"), "w") as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    with self._connect(f"port{i}") as port:
                        yield port
                    return
            time.sleep(0.1)

    def _connect(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        for _ in range(500):
            try:
                connection.connect(self.file(name))
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
        raise Failed(f"QEMU did not start, or has ended:\n{self._said()}")

    def save(self) -> None:
        """Into the cache; this one ends. What it has read so far makes those that are started from it quick."""
        with self.port() as port:
            talk.capture(port, "sh", "-c", WARM_UP)
        with self.qmp() as qmp:
            qmp("stop")
            qmp("migrate-set-parameters", **{"max-bandwidth": 10**10})
            qmp("migrate", uri=f"exec:exec cat >{shlex.quote(str(CACHE / 'saved.ram'))}")
            _wait_for_migration(qmp)
            qmp("quit")
        (CACHE / "saved.fingerprint").write_text(fingerprint())

    def stop(self) -> None:
        """Its disk is thrown away: only what it has written to shared folders must be there first."""
        if self.alive():
            with contextlib.suppress(Failed, OSError), _deadline(10), self.port() as port:
                talk.capture(port, "umount", "-a", "-t", "virtiofs")
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + 5
            if self.alive():
                os.kill(int(_read(self.file("pid"))), number)
            while self.alive() and time.monotonic() < until:
                time.sleep(0.02)
        shutil.rmtree(self.folder, ignore_errors=True)


WAIT_FOR_SYSTEMD = "systemctl is-system-running --wait >/dev/null || systemctl --failed --no-legend --plain >&2"


def _set_clock() -> str:
    return f"date -s @{time.time():.2f} >/dev/null"


def _mount(number: int, share: Share) -> str:
    """A device that was plugged in takes a moment to appear."""
    place, option = shlex.quote(share.inside), "-o ro" if share.read_only else ""
    return f"""mkdir -p {place}
        n=0
        until mount -t virtiofs {option} share{number} {place} 2>/run/mount.err; do
            n=$((n + 1))
            [ $n -lt 100 ] || {{ cat /run/mount.err >&2; exit 1; }}
            sleep 0.1
        done"""


def _wait_for_migration(qmp: Qmp) -> None:
    while (status := qmp("query-migrate").get("status")) != "completed":
        if status in ("failed", "cancelled"):
            raise Failed(f"moving the machine's memory {status}")
        time.sleep(0.05)


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"nothing for {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


# --- those that stay


def place(name: str) -> Path:
    return RUNNING / name


def named(name: str) -> Machine:
    try:
        machine = Machine(os.readlink(place(name)))
    except OSError:
        raise Failed(f"there is no machine called {name}; --keep starts one") from None
    return machine


def keep(name: str, shares: list[Share]) -> None:
    RUNNING.mkdir(exist_ok=True)
    if place(name).is_symlink():
        if named(name).alive():
            raise Failed(f"{name} is running already")
        place(name).unlink()
    place(name).symlink_to(Machine.start(shares, tied=False).folder)


def save() -> None:
    """Boot a machine and save it, for all those to come."""
    for file in CACHE.glob("saved.*"):
        file.unlink()
    disk = CACHE / "saved.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "root.img", disk], check=True)
    machine = Machine._new()
    try:
        machine._launch(f"{disk},format=qcow2", [], tied=True)
        machine._prepare(WAIT_FOR_SYSTEMD)
        machine.save()
    finally:
        machine.stop()
