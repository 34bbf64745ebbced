"""pyrunc.aio: awaited, and called off."""

import asyncio
import os

import pytest

import pyrunc
from pyrunc import PIPE, aio, sandbox


def test_a_run(state):
    async def main():
        done = await aio.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in" * 100_000, state_root=state)
        assert (done.stdout, done.stderr, done.returncode) == (b"in" * 100_000, b"err\n", 3)
        with pytest.raises(pyrunc.TimeoutExpired) as late:
            await aio.run(["sh", "-c", "echo a; sleep 99"], timeout=1, text=True, state_root=state)
        assert late.value.stdout == "a\n"
        with pytest.raises(pyrunc.OutputLimitExceeded) as full:
            await aio.run(["yes"], output_limit=1000, state_root=state)
        assert len(full.value.stdout) == 1000
        with pytest.raises(pyrunc.StepError, match="executable file not found"):
            await aio.run(["nothing"], state_root=state)
        with pytest.raises(pyrunc.ProcessFailed):
            await aio.run(["false"], check=True, state_root=state)

    asyncio.run(main())


def test_a_run_that_is_cancelled_leaves_nothing_when_it_returns(state):
    async def main():
        await aio.run(["true"], state_root=state)
        before = len(os.listdir("/proc/self/fd"))
        for seconds in (0.0, 0.005, 0.02, 0.5):
            task = asyncio.ensure_future(aio.run(["sleep", "1000"], state_root=state))
            await asyncio.sleep(seconds)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [name for name in os.listdir(state) if ":" not in name] == []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await aio.run(["sleep", "1000"], state_root=state)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_a_container(state):
    async def main():
        async with await aio.Container.run(sandbox(["cat"]), stdin=PIPE, stdout=PIPE, state_root=state) as container:
            assert (await container.state())["status"] == "running"
            assert [each.id for each in await aio.Container.list(state)] == [container.id]
            first = container.process
            first.stdin.write(b"line\n")
            assert await first.stdout.readline() == b"line\n"
            async with await container.exec(["sh", "-c", "read x; echo $x; exit 5"], stdin=PIPE, stdout=PIPE) as added:
                assert await added.communicate(b"word\n") == (b"word\n", None)
            assert added.returncode == 5
            await container.pause()
            await container.resume()
            await container.update(memory="50m")
            assert (await container.stats())["memory"]["usage"]["limit"] == 50 << 20
            with pytest.raises(pyrunc.TimeoutExpired):
                await container.wait(0.05)
            kinds = set()
            async for event in container.events(0.05):
                kinds.add(event["type"])
                if len(await container.ps()) == 1:
                    await container.kill()
            assert kinds == {"stats"}
            assert await container.wait(10) == -9
        assert await aio.Container.list(state) == []
        with pytest.raises(pyrunc.NoSuchContainer):
            await aio.Container.load(container.id, state)

    asyncio.run(main())


def test_a_pool(state):
    async def main():
        async with aio.Pool(["cat"], 2, state_root=state, text=True) as pool:
            await pool.ready()
            found = await asyncio.gather(*(pool.run(f"{n}", timeout=30) for n in range(6)))
            assert [done.stdout for done in found] == [*"012345"]
        async with aio.Pool(["sleep", "1000"], 1, state_root=state) as pool:
            with pytest.raises(pyrunc.TimeoutExpired, match=r"within 0.3 s"):
                await pool.run(timeout=0.3)
            task = asyncio.ensure_future(pool.run())
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with pytest.raises(pyrunc.UsageError, match="it is closed"):
            await pool.run()
        async with aio.Pool(["nothing"], 1, state_root=state) as pool:
            with pytest.raises(pyrunc.StepError, match="executable file not found"):
                await pool.ready()

    asyncio.run(main())
