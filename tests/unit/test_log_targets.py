"""--log to a service that hangs keeps nobody for long."""

import socket
import time

from pyrunc.cli import log_targets


def test_a_service_that_takes_nothing_is_waited_for_once(tmp_path, monkeypatch):
    place = str(tmp_path / "socket")
    monkeypatch.setattr(log_targets, "MESSAGE_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(place)
        log = log_targets.Journal(place, "name", False, True)
        began = time.monotonic()
        for _ in range(2000):  # more than its queue holds
            log.error("text")
        assert time.monotonic() - began < 20
        assert b"text" in service.recv(4096)
        assert log.socket is None
