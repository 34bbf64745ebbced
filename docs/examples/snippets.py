"""A service that runs snippets of Python from strangers.

    python snippets.py [PORT]
    curl -d 'print(6 * 7)' http://127.0.0.1:8080/

The answer is JSON: what the snippet wrote, how it ended, and what it used. Each snippet has a container of its own,
made before it is asked for: no network, no file of the host's but /usr, 64 MiB of memory, 16 processes, half a CPU,
three seconds. So many run at once; who comes when all are busy is told so, and told when to come again.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyrunc

AT_ONCE = 4
SECONDS = 3.0
LONGEST = 100_000  # bytes of a snippet
OUTPUT = 100_000  # bytes of its output
PROGRAM = ["python3", "-I", "-S", "-"]  # reads it from standard input

pool: "pyrunc.Pool"
turns = threading.BoundedSemaphore(AT_ONCE)


def run(snippet: bytes) -> dict[str, Any]:
    """What became of it. Nothing that it does raises here; what is wrong with us does."""
    try:
        done = pool.run(snippet, timeout=SECONDS)
    except pyrunc.TimeoutExpired as error:
        return {"end": f"ended after {SECONDS:g} seconds", "output": text(error.stdout), "errors": text(error.stderr)}
    except pyrunc.OutputLimitExceeded as error:
        return {"end": f"ended after {OUTPUT} bytes", "output": text(error.stdout), "errors": text(error.stderr)}
    end = f"exit status {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
    return {
        "end": "out of memory" if done.oom else end,
        "output": text(done.stdout),
        "errors": text(done.stderr),
        "seconds": round(done.duration, 3),
        "megabytes": done.peak_memory >> 20,
    }


def text(output: bytes | str | None) -> str:
    """Whatever a stranger writes."""
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""


class Handler(BaseHTTPRequestHandler):
    timeout = 10  # for who connects and says nothing

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            return self.answer(413, {"error": f"a snippet has at most {LONGEST} bytes, and a Content-Length"})
        snippet = self.rfile.read(int(length))
        if not turns.acquire(timeout=SECONDS):
            return self.answer(503, {"error": "all are busy"}, {"Retry-After": "3"})
        try:
            found = run(snippet)
        except pyrunc.PyruncError as error:
            self.log_error("%s", error)  # which is ours to read, and none of theirs
            return self.answer(500, {"error": "this did not work"})
        finally:
            turns.release()
        self.answer(200, found)

    def answer(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(port: int) -> None:
    global pool
    made = pyrunc.Pool(PROGRAM, AT_ONCE, output_limit=OUTPUT, memory="64m", pids=16, cpus=0.5, tmp="8m")
    with made as pool, ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        pool.ready()  # whatever keeps a container from being made is told here, before anybody comes
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
