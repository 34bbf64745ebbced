"""Four servers, as `pyrunc learn` sees them, and then run with what it has written: each passes the same test twice.

    mmdebstrap --variant=minbase --include=busybox,nginx-light,python3,redis-server,redis-tools bookworm ROOT
    python benchmarks/learn.py ROOT [--config FILE]

For root, in a network namespace of its own: nothing is reached from outside. FILE is a config.json to start from, such
as Docker writes, whose profile and capabilities are then counted beside those that were learned. ROOT stays as it is.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import common

SECONDS = 120  # for a server to come, or to go
LOADS = 500
NGINX = """
error_log /var/log/nginx/error.log;
pid /run/nginx.pid;
events { worker_connections 64; }
http { access_log /var/log/nginx/access.log; sendfile on; server { listen 80; root /srv; } }
"""
REDIS = ("SET key value", "GET key", "INCR number", "RPUSH list a b c", "LRANGE list 0 -1", "ZADD set 1 a 2 b",
         "ZRANGE set 0 -1", "EVAL return(redis.call('GET','key')) 0", "EXPIRE key 100", "SAVE", "BGREWRITEAOF",
         "DBSIZE", "DEL list")  # fmt: skip
FRESH = ("/run", "/tmp", "/var/lib/nginx", "/var/lib/redis", "/var/log/nginx")

Answers = list[object]


class Server(NamedTuple):
    name: str
    version: tuple[str, ...]
    command: tuple[str, ...]
    port: int
    signal: str
    test: Callable[[Path, int], Answers]


def http_answers(_: Path, port: int) -> Answers:
    """What there is, a part of it, its head, and what there is not; and then many at once."""

    def ask(method: str, path: str, **headers: str) -> tuple[int, int]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, len(answer.read())

    found: Answers = [ask("GET", path) for path in ("/", "/large", "/folder/", "/nothing", "/../etc/passwd")]
    found += [ask("HEAD", "/large"), ask("GET", "/large", Range="bytes=10-19"), ask("PUT", "/x")]
    with ThreadPoolExecutor(8) as pool:
        found += pool.map(lambda _: ask("GET", "/large"), range(LOADS))
    return found


def redis_answers(root: Path, port: int) -> Answers:
    """By its own client, and its own load."""
    client = ["chroot", str(root), "redis-cli", "-p", str(port)]
    found: Answers = [output_of(*client, *words.split()) for words in REDIS]
    load = output_of("chroot", str(root), "redis-benchmark", "-p", str(port), "-n", str(LOADS), "-c", "8", "-q")
    tests = [line.partition(":")[0] for line in load.replace("\r", "\n").split("\n") if "requests per second" in line]
    return [*found, *tests]


SERVERS = (
    Server("busybox httpd", ("busybox",), ("busybox", "httpd", "-f", "-p", "80", "-h", "/srv"), 80, "KILL",
           http_answers),
    Server("python3 -m http.server", ("python3", "--version"),
           ("python3", "-m", "http.server", "8080", "-d", "/srv"), 8080, "INT", http_answers),
    Server("redis-server", ("redis-server", "--version"),
           ("redis-server", "--dir", "/var/lib/redis", "--appendonly", "yes"), 6379, "TERM", redis_answers),
    Server("nginx", ("nginx", "-v"), ("nginx", "-c", "/srv/nginx.conf", "-g", "daemon off;"), 80, "QUIT",
           http_answers),
)  # fmt: skip


def output_of(*words: str) -> str:
    result = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
    return result.stdout.strip()


def configure(bundle: Path, content: Path) -> None:
    """The network is ours, what a server writes to is empty, and what it serves is there."""
    path = bundle / "config.json"
    config: common.Config = json.loads(path.read_text())
    config["process"]["env"] = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    config["root"]["readonly"] = False
    linux = config["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "network"]
    linux.pop("sysctl", None)  # of the network
    mounts = config["mounts"]
    mounts[:] = [each for each in mounts if each.get("type") != "bind"]
    mounts += [{"destination": each, "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]} for each in FRESH]
    mounts.append({"destination": "/srv", "type": "bind", "source": str(content), "options": ["bind", "ro"]})
    path.write_text(json.dumps(config))


def fill(content: Path) -> None:
    (content / "folder").mkdir(parents=True)
    content.chmod(0o755)
    for name, text in (("index.html", "hello\n"), ("large", "x" * 1_000_000), ("folder/index.html", "in it\n")):
        (content / name).write_text(text)
    (content / "nginx.conf").write_text(NGINX)


@contextlib.contextmanager
def running(server: Server, runtime: str, *words: str) -> Iterator[None]:
    """From its first connection on, until it has been told to end, and has."""
    container = f"benchmark-{os.getpid()}"
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen([runtime, *words, container], stdout=said, stderr=said) as (process),
    ):
        try:
            wait_for(server, process, said)
            yield
        finally:
            subprocess.run([runtime, "kill", container, server.signal], timeout=SECONDS, check=False)
            process.wait(SECONDS)


def wait_for(server: Server, process: "subprocess.Popen[bytes]", said: IO[bytes]) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            said.seek(0)
            sys.exit(f"{server.name} has ended with {process.returncode}: {said.read().decode()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return
        time.sleep(0.05)
    sys.exit(f"{server.name} does not listen")


def size_of(config: dict[str, Any]) -> tuple[int, int]:
    """Names that pass, and capabilities."""
    profile = config["linux"].get("seccomp") or {}
    rules = profile.get("syscalls") or []
    names = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    return len(names), len(config["process"]["capabilities"].get("bounding") or [])


def measure(server: Server, runtime: str, root: Path, bundle: Path) -> tuple[str, str]:
    """The row, and what `learn` took beside `run`, by the test's time."""
    output = bundle / "learned.json"
    began = time.monotonic()
    with running(server, runtime, "learn", "--bundle", str(bundle), "--output", str(output)):
        first = server.test(root, server.port)
    learning = time.monotonic() - began
    learned, path = json.loads(output.read_text()), bundle / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: merged(value, learned.get(name)) for name, value in config.items()}))
    began = time.monotonic()
    with running(server, runtime, "run", "--bundle", str(bundle)):
        second = server.test(root, server.port)
    took = time.monotonic() - began
    if first != second:
        sys.exit(f"{server.name} answers otherwise with what was learned:\n{first}\n{second}")
    calls, _ = size_of(learned)
    kept = [name.removeprefix("CAP_") for name in learned["process"]["capabilities"].get("bounding") or []]
    version = re.search(r"\d+\.[\d.]+", output_of("chroot", str(root), *server.version))
    name = f"{server.name}, {version[0] if version else '?'}"
    row = f"| {name} | {calls} | {', '.join(sorted(kept)) or 'none'} | {len(first)} |"
    return row, f"{server.name}: {learning:.1f} s learning, {took:.1f} s after"


def merged(one: Any, other: Any) -> Any:
    """As jq's `*` does it."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{name: merged(one.get(name), value) for name, value in other.items()}}
    return one if other is None else other


def in_a_network_of_its_own() -> None:
    if not os.environ.get("BENCHMARK_NETWORK"):
        script = 'ip link set lo up && exec "$@"'
        words = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, *sys.argv]
        os.execvpe(words[0], words, {**os.environ, "BENCHMARK_NETWORK": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT", help="a root file system with the four")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a config.json to start from")
    parser.add_argument("--runtime", default="pyrunc", metavar="PROGRAM", help="default: pyrunc")
    options = parser.parse_args()
    in_a_network_of_its_own()
    rows, times = [], []
    with common.Bundles(options.config, rootfs=options.root.resolve()) as bundles:
        content = bundles.folder / "content"
        bundles.folder.chmod(0o755)
        fill(content)
        for number, server in enumerate(SERVERS):
            bundle = bundles.make(str(number), *server.command)
            configure(bundle, content)
            before = size_of(json.loads((bundle / "config.json").read_text()))
            row, took = measure(server, options.runtime, options.root.resolve(), bundle)
            rows.append(row)
            times.append(took)
    print(f"Before: {before[0]} system calls, {before[1]} capabilities.\n")
    print("| program | system calls | capabilities | answers, the same twice |\n|--|--|--|--|")
    print("\n".join([*rows, "", *times]))


if __name__ == "__main__":
    main()
