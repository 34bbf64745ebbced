"""The table of `list` at a terminal."""

import os

from pyrunc.cli import screen

HEAD = ["ID", "STATUS", "BUNDLE", "OWNER"]


def test_the_long_path_gives_way(monkeypatch):
    monkeypatch.setattr("posix.get_terminal_size", lambda _: os.terminal_size((60, 25)))
    rows = screen.fitted([HEAD, ["one", "running", "/a/very/long/path/to/a/bundle", "root"]], 2)
    assert rows[0] == HEAD
    short = rows[1].pop(2)
    assert rows[1] == ["one", "running", "root"]
    assert short.startswith("…")
    assert short.endswith("/bundle")
    assert len(short) + 3 <= 60 - 3 * 12


def test_a_short_path_stays(monkeypatch):
    monkeypatch.setattr("posix.get_terminal_size", lambda _: os.terminal_size((200, 25)))
    rows = [HEAD, ["one", "running", "/bundle", "root"]]
    assert screen.fitted(rows, 2) == rows


def test_colours_only_where_they_are_wanted(monkeypatch):
    table = "ID   STATUS    BUNDLE\none   running   /running"
    assert screen.coloured(table) == "ID   STATUS    BUNDLE\none   \x1b[32mrunning\x1b[0m   /running"
    monkeypatch.setitem(screen.posix.environ, b"NO_COLOR", b"1")
    assert screen.coloured(table) == table
