"""QEMU: whether it has KVM, how it is called, and the socket that it is controlled by."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("PYRUNC_VM_CACHE") or Path.home() / ".cache/pyrunc-vm")
PORTS = 8  # commands at a time: one for each virtio-serial port
CPUS = min(2, os.cpu_count() or 1)
MEMORY = 2048
PROBE_SECONDS = 10


class Failed(Exception):
    """What this program can't do, said in one line."""


def accelerator() -> str:
    """kvm or tcg. A /dev/kvm that opens may be unable to run a kernel like ours (where virtual machines are nested,
    or emulated): so it is tried, once for each boot of this host."""
    wanted = os.environ.get("PYRUNC_VM_ACCELERATOR")
    if wanted:
        return wanted
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    memo = CACHE / "accelerator"
    with contextlib.suppress(OSError, ValueError):
        known, found = memo.read_text().split()
        if known == boot:
            return found
    found = "kvm" if _kvm_works() else "tcg"
    memo.write_text(f"{boot} {found}\n")
    return found


def _kvm_works() -> bool:
    with tempfile.TemporaryDirectory(prefix="pyrunc-vm-") as folder:
        console = Path(folder, "console")
        console.touch()
        command = [*_base("kvm"), "-m", "256M", "-serial", f"file:{console}", *_kernel("vmprobe")]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS)
        return b"VM-PROBE-OK" in console.read_bytes()


def hardware() -> list[str]:
    """The machine, without its disk and what its devices are connected to: what a saved one must agree with."""
    words = [
        *_base(accelerator()), *_kernel("root=/dev/vda"), "-m", f"{MEMORY}M", "-smp", str(CPUS),
        "-device", "virtio-blk-pci,drive=root",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
        # virtiofsd needs shared memory
        "-object", f"memory-backend-memfd,id=ram,size={MEMORY}M,share=on", "-numa", "node,memdev=ram",
        "-device", f"virtio-serial-pci,max_ports={PORTS + 1}",
    ]  # fmt: skip
    for i in range(PORTS):
        words += ["-device", f"virtserialport,chardev=port{i},name=vm-agent{i}"]
    return words


def fingerprint() -> str:
    """Of all that a saved machine depends on."""
    words = hardware()
    version = subprocess.run([words[0], "--version"], capture_output=True, check=True).stdout
    model = ""
    if accelerator() == "kvm":  # -cpu host: this processor
        model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    image = os.stat(CACHE / "root.img")
    return hashlib.sha256(repr((words, version, model, image.st_ino, image.st_mtime_ns)).encode()).hexdigest()


def _base(accelerator: str) -> list[str]:
    # QEMU 7.2 emulates cmpxchg16b wrongly (EFLAGS are garbage after it), and the kernel oopses now and then.
    cpu = "host,-arch-capabilities" if accelerator == "kvm" else "max,-la57,-cx16"
    speed = "kvm" if accelerator == "kvm" else "tcg,thread=multi,tb-size=512"
    return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "pc,hpet=off", "-accel", speed, "-cpu", cpu]  # fmt: skip


def _kernel(*parameters: str) -> list[str]:
    # Mitigations and a random layout would only cost time in here.
    line = ["console=ttyS0", "quiet", "loglevel=4", "panic=-1", "mitigations=off", "nokaslr", "audit=0",
            "net.ifnames=0", "systemd.show_status=error", *parameters]  # fmt: skip
    return ["-kernel", f"{CACHE}/vmlinuz", "-initrd", f"{CACHE}/initrd.img", "-append", " ".join(line)]


class Qmp:
    """QEMU's control socket: `qmp("cont")`."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.stream = connection.makefile("rb")
        self.stream.readline()  # the greeting
        self("qmp_capabilities")

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.connection.close()

    def __call__(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        for line in self.stream:
            reply: dict[str, Any] = json.loads(line)
            if "error" in reply:
                raise Failed(f"QEMU: {command}: {reply['error']['desc']}")
            if "return" in reply:
                return dict(reply["return"])
        raise Failed(f"QEMU ended during {command}")
