"""The other side of a terminal."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from typing import Any

BUSYBOX = shutil.which("busybox") or "/bin/busybox"


def receive_descriptor(listener: socket.socket, seconds: float = 30.0) -> tuple[int, bytes]:
    """The descriptor that a caller's socket gets, and the word that comes with it."""
    listener.settimeout(seconds)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(seconds)
        data, fds, _, _ = socket.recv_fds(connection, 4096, 4)
    assert len(fds) == 1
    return fds[0], data


def read_terminal(master: int, until: Callable[[str], Any] | None = None, seconds: float = 30.0) -> str:
    """What comes out of a terminal, until it is enough or the other side is gone."""
    data = b""
    deadline = time.monotonic() + seconds
    os.set_blocking(master, False)
    while time.monotonic() < deadline:
        try:
            block = os.read(master, 65536)
        except BlockingIOError:
            if until is not None and until(data.decode(errors="replace")):
                break
            time.sleep(0.005)
            continue
        except OSError:
            break
        if not block:
            break
        data += block
    text = data.decode(errors="replace")
    assert until is None or until(text), f"the terminal said only {text!r}"
    return text
