"""Words of the callers that are not UTF-8, or very long: on the command line, in paths, in config.json."""

import json
import os
import shutil
from pathlib import Path

import pytest

from integration.support.host import all_cgroups
from integration.support.runtime import wait_until

BYTES = (b"\xff", b"a\xffb\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f", "ü€😀".encode(), b"\x01\x7f\n\t")


def raw(c, *words, **how):
    """What a command printed, as bytes."""
    c.runtime(*[os.fsdecode(word) for word in words], **how)
    return (c.runtime.scratch / f"{c.runtime.count}.out").read_bytes()


@pytest.mark.parametrize("text", BYTES, ids=repr)
def test_words_of_exec_come_out_as_they_went_in(container, text):
    c = container().up()
    assert raw(c, b"exec", c.id.encode(), b"printf", b"%s", text) == text
    assert raw(c, b"exec", b"--env", b"A=" + text, c.id.encode(), b"sh", b"-c", b'printf %s "$A"') == text
    if b"\0" not in text:
        place = c.bundle.rootfs / os.fsdecode(text)
        place.mkdir()
        assert raw(c, b"exec", b"--cwd", b"/" + text, c.id.encode(), b"pwd") == b"/" + text + b"\n"
        shutil.copy(c.bundle.rootfs / "bin/busybox", place / "echo")
        assert raw(c, b"exec", c.id.encode(), b"/" + text + b"/echo", b"fine") == b"fine\n"


@pytest.mark.parametrize("text", BYTES, ids=repr)
def test_paths_of_the_callers(container, tmp_path, text):
    """The bundle, the state root, the log, the pid file, and a source of a mount below the bundle."""
    place = os.fsencode(tmp_path) + b"/" + text
    os.mkdir(place)
    c = container(mounts=[{"destination": "/m", "type": "bind", "source": "folder", "options": ["bind"]}])
    c._prepare(("sh", "-c", "cat /m/file; exec sleep 1000"))
    (c.bundle.path / "folder").mkdir()
    (c.bundle.path / "folder/file").write_text("mounted")
    os.rename(c.bundle.path, place + b"/bundle")
    root = os.fsdecode(place + b"/root")
    before = c.runtime.root
    c.runtime.root = root
    try:
        files = (b"--pid-file", place + b"/pid", b"--bundle", place + b"/bundle")
        raw(c, b"--log", place + b"/log", b"--debug", b"run", b"-d", *files, c.id.encode())
        output = c.runtime.scratch / f"{c.runtime.count}.out"
        wait_until(lambda: output.read_text() == "mounted", "the program")
        state = json.loads(c.runtime("state", c.id).out.encode("utf-8", "surrogateescape"))
        assert state["status"] == "running"
        assert int(Path(os.fsdecode(place + b"/pid")).read_text()) == state["pid"]
        assert os.stat(place + b"/log").st_size
        assert raw(c, b"exec", c.id.encode(), b"echo", b"fine") == b"fine\n"
        c.runtime("list")
    finally:
        c.runtime("delete", "--force", c.id)
        c.runtime.root = before
        os.rename(place + b"/bundle", c.bundle.path)


@pytest.mark.parametrize("text", ["ü€😀", "\u202e", "a\tb\nc", "\x7f\x01", "'\"\\$(id)`;&|", " ", "%s%n{}"], ids=repr)
def test_texts_of_the_configuration(container, text):
    c = container(
        env=["PATH=/bin", f"A={text}"],
        annotations={text: text},
        cwd=f"/{text}",
        mounts=[{"destination": f"/mount{text}", "type": "tmpfs", "source": text, "options": ["mode=755"]}],
        maskedPaths=[f"/masked{text}"],
    )
    c.file(f"/masked{text}", "secret")
    script = 'printf "%s|%s|%s|" "$A" "$1" "$(pwd; echo .)"; cat "/masked$1"; [ -d "/mount$1" ] && echo mounted'
    assert c.run("sh", "-c", script, "sh", text) == f"{text}|{text}|/{text}\n.|mounted"


NAMES = (b"\xff", b"a\xc3\x28", "ü".encode(), b"x" * 100_000, b"x" * 300, b"-")


@pytest.mark.parametrize("verb", ["create", "state", "start", "delete", "kill", "exec"])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:8]))
def test_names_of_containers(container, verb, name):
    c = container()
    c._prepare(("true",))
    more = ("--bundle", c.bundle.path) if verb == "create" else ()
    command = ("true",) if verb == "exec" else ()
    result = c.runtime(verb, *more, "--", os.fsdecode(name), *command, check=False)
    if result.code == 0:
        c.runtime("delete", "--force", "--", os.fsdecode(name))
        return
    assert result.code in (1, 255), repr(result)[:1000]
    assert result.err.startswith("pyrunc"), result.err[:300]
    assert result.err.count("\n") == 1
    assert "internal error" not in result.err
    assert not c.runtime.root.exists() or not os.listdir(c.runtime.root)


def test_very_long_words(container, tmp_path):
    """Each is as long as the kernel allows."""
    long = "x" * 131_000
    c = container().up()
    assert len(c.exec("printf", "%s", long)) == len(long)
    assert len(c.exec("sh", "-c", "echo $A", flags=("--env", f"A={long}"))) == len(long)
    assert len(container(args=["printf", "%s", long]).run("printf", "%s", long)) == len(long)
    for flag in ("--pid-file", "--console-socket", "--bundle"):
        result = c.runtime("create", flag, f"/{long}", "other", check=False, cwd=c.bundle.path)
        assert result.code == 1
        assert result.err.startswith("pyrunc")
    for flag in ("--log", "--root"):
        result = c.runtime(flag, f"/{long}", "state", c.id, check=False)
        assert result.code == 1
        assert result.err.startswith("pyrunc")


def test_thousands_of_words(container):
    words = [str(n) for n in range(20_000)]
    c = container().up()
    assert c.exec("echo", *words).split() == words
    assert container().run("echo", *words).split() == words


def test_no_cgroup_is_left_by_any_of_these(container):
    c = container()
    assert not [path for path in all_cgroups() if c.id.rpartition("-")[0] in path]
