"""Talking with the agent in the machine (guest/agent.py), over one of its serial ports.

A frame is a letter, the length of what follows in four bytes, and that. From us: R a request (JSON), I input (empty:
its end), S a signal's number, W rows,columns of the terminal. From the agent: O output, E errors, X the exit status
(JSON).
"""

import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any

from host.qemu import Failed

BLOCK = 65536
TIMED_OUT = 124
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def frame(kind: bytes, data: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(data)) + data


def frames(data: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Those that are complete; they are taken out of `data`."""
    while len(data) >= 5:
        end = 5 + struct.unpack_from("!I", data, 1)[0]
        if len(data) < end:
            return
        one = bytes(data[:end])
        del data[:end]
        yield one[:1], one[5:]


def capture(port: socket.socket, *command: str) -> tuple[int, str]:
    """Run a command of our own: exit status and output."""
    port.sendall(frame(b"R", json.dumps({"argv": command}).encode()) + frame(b"I"))
    output, received = b"", bytearray()
    while block := port.recv(BLOCK):
        received += block
        for kind, data in frames(received):
            if kind == b"X":
                return int(json.loads(data)["code"]), output.decode(errors="replace")
            output += data
    raise Failed("the machine is gone")


def execute(port: socket.socket, request: dict[str, Any], seconds: int, terminal: bool) -> int:
    """Run the caller's command, connected to our own standard streams. Returns its exit status."""
    if terminal:
        request["env"].setdefault("TERM", os.environ.get("TERM", "linux"))
    port.sendall(frame(b"R", json.dumps(request | {"tty": terminal}).encode()))
    caught, note = os.pipe()
    for number in FORWARDED:
        signal.signal(number, lambda number, _: os.write(note, bytes([number])))
    if not terminal:
        return _pump(port, caught, seconds)
    size = shutil.get_terminal_size()
    port.sendall(frame(b"W", f"{size.lines},{size.columns}".encode()))
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        return _pump(port, caught, seconds)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _pump(port: socket.socket, caught: int, seconds: int) -> int:
    """Everything in both directions, until the exit status comes. Sending never blocks: the agent may itself be
    waiting for us to read."""
    until = time.monotonic() + seconds if seconds else None
    received, unsent, input_open = bytearray(), b"", True
    while True:
        poll = select.poll()
        poll.register(port, select.POLLIN | (select.POLLOUT if unsent else 0))
        poll.register(caught, select.POLLIN)
        if input_open and not unsent:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll(None if until is None else max(0.0, until - time.monotonic()) * 1000))
        if not ready:
            print(f"tests/vm/run: no end after {seconds} s", file=sys.stderr)
            return TIMED_OUT
        if 0 in ready:
            data = os.read(0, BLOCK) if ready[0] & (select.POLLIN | select.POLLHUP) else b""
            input_open = bool(data)
            unsent = frame(b"I", data)
        if caught in ready:
            for number in os.read(caught, 16):
                unsent += frame(b"S", str(number).encode())
        if unsent and ready.get(port.fileno(), 0) & select.POLLOUT:
            unsent = unsent[port.send(unsent, socket.MSG_DONTWAIT) :]
        if ready.get(port.fileno(), 0) & (select.POLLIN | select.POLLHUP):
            block = port.recv(BLOCK)
            if not block:
                raise Failed("the machine is gone")
            received += block
            for kind, data in frames(received):
                if kind == b"X":
                    return int(json.loads(data)["code"])
                _write(1 if kind == b"O" else 2, data)


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])
