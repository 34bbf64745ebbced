"""Programs as people write them, each with many runs at once. Run by test_programs.py, and by hand:

    python tests/integration/library/programs.py KIND [RUNS [AT-ONCE]]

KIND: threads, fifty-threads, http, asyncio, asyncio-http, aiohttp, forkserver, fork, gevent. Prints how many results
were right, and how many descriptors and children the program has more than after its first run.
"""

import gc
import json
import os
import sys
import time

STATE = os.environ.get("STATE_ROOT")
CODE = "import sys; n = int(sys.stdin.read()); print(n * n)"


def square(number):
    import pyrunc

    done = pyrunc.run(["python3", "-S", "-c", CODE], input=f"{number}", text=True, timeout=300, state_root=STATE)
    return done.returncode == 0 and done.stdout == f"{number * number}\n" and done.stderr == ""


def threads(runs, at_once):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(square, range(runs)))


def fifty_threads(runs, at_once):
    """In a process of fifty threads that are at work themselves, as a notebook's is."""
    import threading

    over = threading.Event()

    def work():
        while not over.wait(0.01):
            sum(range(1000))

    others = [threading.Thread(target=work) for _ in range(50)]
    for thread in others:
        thread.start()
    try:
        return threads(runs, at_once)
    finally:
        over.set()
        for thread in others:
            thread.join()


def http(runs, at_once):
    """A server of the standard library's, with a thread for each request; its clients in this program, too."""
    import threading
    import urllib.request
    from concurrent.futures import ThreadPoolExecutor
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"right" if square(int(self.path[1:])) else b"wrong"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(number):
            url = f"http://127.0.0.1:{server.server_port}/{number}"
            with urllib.request.urlopen(url, timeout=300) as answer:
                return answer.read() == b"right"

        with ThreadPoolExecutor(at_once) as pool:
            right = sum(pool.map(ask, range(runs)))
        server.shutdown()
    return right


def asyncio_(runs, at_once):
    import asyncio

    return asyncio.run(_all(runs, at_once, _square))


async def _square(number):
    from pyrunc import aio

    done = await aio.run(["python3", "-S", "-c", CODE], input=f"{number}", text=True, timeout=300, state_root=STATE)
    return done.returncode == 0 and done.stdout == f"{number * number}\n" and done.stderr == ""


async def _all(runs, at_once, square):
    import asyncio

    turn = asyncio.Semaphore(at_once)

    async def one(number):
        async with turn:
            return await square(number)

    return sum(await asyncio.gather(*map(one, range(runs))))


def asyncio_http(runs, at_once):
    """A server of asyncio's, in whose loop everything happens: no thread."""
    import asyncio

    async def serve():
        async def answer(reader, writer):
            number = int(await reader.readline())
            writer.write(b"right" if await _square(number) else b"wrong")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def ask(number):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"%d\n" % number)
            found = await reader.read()
            writer.close()
            return found == b"right"

        async with server:
            return await _all(runs, at_once, ask)

    return asyncio.run(serve())


def aiohttp(runs, at_once):
    """aiohttp's server, and its client, in one loop."""
    import asyncio

    from aiohttp import ClientSession, TCPConnector, web

    async def serve():
        async def answer(request):
            return web.Response(text="right" if await _square(int(request.match_info["number"])) else "wrong")

        app = web.Application()
        app.router.add_get("/{number}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        async with ClientSession(connector=TCPConnector(force_close=True)) as session:

            async def ask(number):
                async with session.get(f"http://127.0.0.1:{port}/{number}") as found:
                    return await found.text() == "right"

            right = await _all(runs, at_once, ask)
        await runner.cleanup()
        return right

    return asyncio.run(serve())


def _processes(kind, runs, at_once):
    import multiprocessing

    with multiprocessing.get_context(kind).Pool(min(at_once, 4)) as pool:
        right = sum(pool.map(square, range(runs)))
        pool.close()
        pool.join()
    return right


def forkserver(runs, at_once):
    return _processes("forkserver", runs, at_once)


def fork(runs, at_once):
    """Children that are forked while their parent has a worker: theirs are their own."""
    return _processes("fork", runs, at_once)


def gevent(runs, at_once):
    from gevent.pool import Pool

    return sum(Pool(at_once).imap_unordered(square, range(runs)))


KINDS = {
    "threads": threads, "fifty-threads": fifty_threads, "http": http, "asyncio": asyncio_, "asyncio-http": asyncio_http,
    "aiohttp": aiohttp, "forkserver": forkserver, "fork": fork, "gevent": gevent,
}  # fmt: skip


def has():
    """Our descriptors, and our children: the worker is one."""
    gc.collect()  # gevent's loop keeps some until then
    descriptors = len(os.listdir("/proc/self/fd"))
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        return descriptors, len(children.read().split())


def main(kind, runs="1000", at_once="16"):
    if kind == "gevent":
        from gevent import monkey

        monkey.patch_all()
    work = KINDS[kind]
    assert square(7)
    work(2, 2)
    before, began = has(), time.monotonic()
    right = work(int(runs), int(at_once))
    seconds = time.monotonic() - began
    more = [now - then for now, then in zip(has(), before, strict=True)]
    print(json.dumps({"right": right, "of": int(runs), "more": more, "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
