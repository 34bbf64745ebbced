"""pyrunc.aio: awaited, and called off."""

import asyncio
import os

import pytest

import pyrunc
from pyrunc import PIPE, aio, sandbox
from pyrunc.library.running import GRACE_SECONDS
from sizes import size


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


def left(state):
    return [name for name in os.listdir(state) if ":" not in name]


def moments():
    """Up to the time that a container takes here."""
    return [number / size(4000, 400) for number in range(size(100, 12))]


@pytest.mark.parametrize("what", ["run", "create", "pool", "exec"])
def test_whatever_is_cancelled_at_any_moment_leaves_nothing(state, what):
    async def main():
        config = sandbox(["sleep", "1000"])
        async with await aio.Container.run(config, state_root=state) as other:
            await aio.run(["true"], state_root=state)
            before = len(os.listdir("/proc/self/fd"))

            async def from_a_pool():
                async with aio.Pool(config, 1, state_root=state) as pool:
                    await pool.run()

            actions = {
                "run": lambda: aio.run(["sleep", "1000"], state_root=state),
                "create": lambda: aio.Container.run(config, stdin=PIPE, stdout=PIPE, stderr=PIPE, state_root=state),
                "pool": from_a_pool,
                "exec": lambda: other.exec(["sleep", "1000"], stdin=PIPE, stdout=PIPE, stderr=PIPE),
            }
            for seconds in moments():
                task = asyncio.ensure_future(actions[what]())
                await asyncio.sleep(seconds)
                task.cancel()
                try:
                    made = await task
                except asyncio.CancelledError:
                    continue
                if what == "create":
                    await made.delete(force=True)
                    made.process.close()
                else:
                    made.kill()
                    await made.wait()
                    made.close()
            for _ in range(1000):  # what was made when nobody waited any more is removed behind us
                if left(state) == [other.id] and await other.ps() == [other.process.pid]:
                    break
                await asyncio.sleep(0.02)
            assert left(state) == [other.id]
            assert await other.ps() == [other.process.pid]
            assert len(asyncio.all_tasks()) == 1
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_several_tasks_wait_for_the_same_end(state):
    async def main():
        config = sandbox(["sh", "-c", "read x; exit 3"])
        async with await aio.Container.run(config, stdin=PIPE, state_root=state) as container:
            process = container.process
            waiting = [asyncio.ensure_future(process.wait()) for _ in range(3)]
            with pytest.raises(pyrunc.TimeoutExpired):
                await process.wait(0.01)
            await asyncio.sleep(0)
            waiting.pop().cancel()
            await process.communicate(b"\n")
            assert await asyncio.wait_for(asyncio.gather(*waiting), 30) == [3, 3]
        other = await aio.Container.run(sandbox(["sleep", "1000"]), state_root=state)
        waiting = asyncio.ensure_future(other.process.wait())
        await asyncio.sleep(0)
        other.process.close()
        with pytest.raises(pyrunc.UsageError, match="it was closed"):
            await asyncio.wait_for(waiting, 30)
        await other.delete(force=True)

    asyncio.run(main())


def test_a_pool_s_containers_are_awaited_by_several_and_called_off(state):
    """Who awaits `ready` shares the socket with who awaits `run`, and is cancelled or not."""

    async def main():
        async with aio.Pool(["cat"], 2, state_root=state) as pool:
            ready = [asyncio.ensure_future(pool.ready()) for _ in range(2)]
            runs = [asyncio.ensure_future(pool.run(b"x")) for _ in range(3)]
            await asyncio.sleep(0)
            runs.pop(0).cancel()
            ready.pop().cancel()
            assert [each.stdout for each in await asyncio.wait_for(asyncio.gather(*runs), 60)] == [b"x", b"x"]
            await asyncio.wait_for(ready[0], 60)
        assert left(state) == []

    asyncio.run(main())


def test_a_fork_that_has_the_other_end_of_a_pipe_holds_nobody_up(state):
    async def main():
        pipes, made = [], os.pipe

        def pipe():
            ends = made()
            pipes.extend(map(os.dup, ends))  # as a fork between pipe(2) and close(2) has them
            return ends

        os.pipe = pipe
        try:
            began = asyncio.get_running_loop().time()
            done = await aio.run(["echo", "out"], timeout=60, state_root=state)
        finally:
            os.pipe = made
            for number in pipes:
                os.close(number)
        assert done.stdout == b"out\n"
        assert asyncio.get_running_loop().time() - began < GRACE_SECONDS

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
