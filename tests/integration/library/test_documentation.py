"""The examples of docs/library.md, and the service of docs/examples, are what they say."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pyrunc

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "library.md").read_text()
SERVICE = DOCS / "examples/snippets.py"


@pytest.mark.slow
def test_the_examples_run_and_are_typed(tmp_path):
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    assert len(examples) > 6
    (tmp_path / "examples.py").write_text("\n".join(examples))
    done = subprocess.run([sys.executable, "examples.py"], cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    pytest.importorskip("mypy")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "examples.py", str(SERVICE)]
    done = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_on_the_page():
    names = [*pyrunc.__all__]
    for each in (pyrunc.Container, pyrunc.Process, pyrunc.Config, pyrunc.Pool, pyrunc.Terminal):
        names += [name for name in vars(each) if not name.startswith("_")]
    from pyrunc.library.result import Result
    from pyrunc.library.sandbox import Options

    names += [*Options.__annotations__, *Result.__annotations__]
    unsaid = {name for name in names if not re.search(rf"\b{name}\b", PAGE)}
    assert unsaid <= {"__version__"}


@pytest.fixture
def service():
    command = [sys.executable, str(SERVICE), "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored below a job in the background
    ) as program:  # fmt: skip
        yield program.stdout.readline().strip()
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 0


def post(url, snippet):
    try:
        with urllib.request.urlopen(url, snippet.encode(), timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, **json.load(error)}


def test_the_service_runs_what_strangers_send(service):
    assert len(SERVICE.read_text().splitlines()) <= 100
    found = post(service, "print(6 * 7)")
    assert (found["output"], found["errors"], found["end"]) == ("42\n", "", "exit status 0")
    hostile = {
        "while True: pass": "ended after 3 seconds",
        "import os\nwhile True: os.fork()": "exit status 1",
        "x = bytearray(10**9)": "out of memory",
        "while True: print('x' * 1000)": "ended after 100000 bytes",
        "import os; os.kill(os.getppid(), 9); os.kill(1, 9); print(os.getpid())": "exit status 0",
        "import socket; socket.create_connection(('127.0.0.1', 22), 1)": "exit status 1",
        "open('/etc/shadow')": "exit status 1",
        "import sys; sys.exit(7)": "exit status 7",
    }
    with ThreadPoolExecutor(4) as threads:
        ends = dict(zip(hostile, threads.map(lambda snippet: post(service, snippet)["end"], hostile), strict=True))
    assert ends == hostile
    assert post(service, "x" * 200_000)["status"] == 413
    assert post(service, "print(1)")["output"] == "1\n"
