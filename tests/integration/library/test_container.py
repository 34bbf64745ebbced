"""pyrunc.Container, Process, Config and Pool."""

import os
import signal
import subprocess
import threading

import pytest

import pyrunc
from pyrunc import PIPE, Config, Container, Pool, sandbox


def test_from_create_to_delete(state):
    config = sandbox(["sh", "-c", "read x; echo got $x; exit 3"])
    container = Container.create(config, "one", stdin=PIPE, stdout=PIPE, text=True, state_root=state)
    assert (container.id, container.status) == ("one", "created")
    assert [each.id for each in Container.list(state)] == ["one"]
    container.start()
    assert (container.status, container.ps()) == ("running", [container.pid])
    assert Container.load("one", state).state() == container.state()
    process = container.process
    with pytest.raises(pyrunc.TimeoutExpired):
        container.wait(0.05)
    assert process.communicate("this") == ("got this\n", None)
    assert (container.wait(), container.status, container.pid) == (3, "stopped", 0)
    container.delete()
    with pytest.raises(pyrunc.NoSuchContainer):
        container.state()
    with pytest.raises(pyrunc.NoSuchContainer):
        Container.load("one", state)
    process.close()


def test_an_id_is_taken_until_its_container_is_deleted_by_whomever(state, binary):
    config = sandbox(["sleep", "1000"])
    with Container.run(config, "one", state_root=state) as container:
        for _ in range(20):
            with pytest.raises(pyrunc.StateError, match="container with given ID already exists"):
                Container.create(config, "one", state_root=state)
            assert container.status == "running"
        subprocess.run([binary, "--root", state, "delete", "--force", "one"], check=True)
        with Container.create(config, "one", state_root=state) as again:
            assert again.status == "created"
    with pytest.raises(pyrunc.UsageError, match="invalid container ID format"):
        Container.create(config, "../x", state_root=state)


def test_with_leaves_nothing(state):
    with Container.run(sandbox(["sleep", "1000"]), state_root=state) as container:
        pid = container.pid
    assert Container.list(state) == []
    assert not os.path.exists(f"/proc/{pid}")


def test_further_processes(state):
    with Container.run(sandbox(["sleep", "1000"]), state_root=state) as container:
        with container.exec(["sh", "-c", "id -u; echo $A; pwd; exit 5"], env={"A": "b"}, cwd="/usr", stdout=PIPE,
                            stderr=subprocess.STDOUT, text=True) as process:  # fmt: skip
            assert process.communicate()[0] == "65534\nb\n/usr\n"
        assert process.returncode == 5
        with container.exec(["sleep", "1000"]) as process:
            assert sorted(container.ps()) == sorted([container.pid, process.pid])
            assert process.poll() is None
            process.send_signal("TERM")
            assert process.wait(10) == -signal.SIGTERM
        with pytest.raises(pyrunc.PyruncError, match="executable file not found"):
            container.exec(["nothing"])
        process = container.exec(["sh", "-c", "echo a; exec sleep 99"], stdout=PIPE)
        with pytest.raises(pyrunc.TimeoutExpired) as caught:
            process.communicate(timeout=0.5)
        process.kill()
        assert process.communicate() == (b"a\n", None)
        process.close()
        assert caught.value.stdout == b"a\n"


def test_pause_update_and_statistics(state):
    with Container.run(sandbox(["sleep", "1000"], memory="100m"), state_root=state) as container:
        container.pause()
        assert container.status == "paused"
        container.resume()
        container.update(memory="50m", pids=20)
        found = container.stats()
        assert (found["memory"]["usage"]["limit"], found["pids"]["limit"]) == (50 << 20, 20)
        assert container.config.document["linux"]["resources"]["pids"] == {"limit": 20}
        with pytest.raises(pyrunc.StateError, match="cannot resume container"):
            container.resume()
        events = container.events(0.05)
        assert next(events)["type"] == "stats"
        container.kill()
        assert [event for event in events if event["type"] != "stats"] == []
        assert container.wait(10) == -9
        with pytest.raises(pyrunc.NotRunning):
            container.kill("TERM")


def test_who_has_not_made_it_can_wait_and_nobody_knows_the_status(state):
    with Container.run(sandbox(["sleep", "1000"]), state_root=state) as container:
        other = Container.load(container.id, state)
        with pytest.raises(pyrunc.TimeoutExpired):
            other.wait(0.1)
        with pytest.raises(pyrunc.StateError, match="another program has made it"), other:
            pass
        threading.Timer(0.2, other.kill).start()
        assert other.wait(10) is None


def test_several_threads_wait_for_the_same_end(state):
    with Container.run(sandbox(["sh", "-c", "read x; exit 3"]), stdin=PIPE, state_root=state) as container:
        ends = []
        threads = [threading.Thread(target=lambda: ends.append(container.wait(60))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert container.process.poll() is None
        with pytest.raises(pyrunc.TimeoutExpired):
            container.wait(0.05)
        container.process.communicate(b"\n")
        for thread in threads:
            thread.join(30)
        assert ends == [3, 3, 3]


def test_who_is_forked_in_a_block_leaves_it_and_its_parent_s_containers_alone(state):
    config = sandbox(["sleep", "1000"])
    with Container.run(config, state_root=state) as container, container.exec(["sleep", "1000"]) as process:
        with Pool(["cat"], 1, state_root=state) as pool:
            pool.ready()
            child = os.fork()
            if not child:
                try:
                    for block in (pool, process, container):
                        block.__exit__(SystemExit, SystemExit(5), None)
                    os._exit(7)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert pool.run(b"x").stdout == b"x"
        assert process.poll() is None
        assert container.status == "running"
        process.kill()


def test_a_terminal(state):
    config = sandbox(["sh", "-c", "stty size; read x; echo got $x"]).terminal(rows=33, columns=99)
    with Container.run(config, state_root=state) as container:
        terminal, shown = container.process.terminal, b""
        while b"33 99" not in shown:
            shown += terminal.read()
        terminal.resize(10, 10)
        terminal.write(b"this\n")
        while part := terminal.read():
            shown += part
        assert b"got this" in shown
        assert container.wait(10) == 0


def test_a_bundle_and_the_command_line_s_containers(container, state, tmp_path):
    made = container()
    made._prepare(("sh", "-c", "exit 6"))
    with Container.run(made.bundle.path, state_root=state) as own:
        assert own.wait(10) == 6


def test_each_verb_of_a_configuration_makes_another(tmp_path):
    first = Config()
    second = (
        first.args("ls", "-l").env(A="1").env({"A": "2"}, B="3").memory("1g").cpus(0.5).pids(7).user(5, 6, [7])
        .capabilities("net_bind_service").network("host").seccomp("default").mount(tmp_path, "/data")
        .tmpfs("/scratch", "1m")        .rlimit("nofile", 5).hostname("h").cwd("/tmp").root(tmp_path)
    )  # fmt: skip
    assert first == Config()
    document = second.validate().document
    assert document["process"]["args"] == ["ls", "-l"]
    assert document["process"]["env"][-2:] == ["A=2", "B=3"]
    assert document["process"]["user"] == {"uid": 5, "gid": 6, "additionalGids": [7]}
    assert document["linux"]["resources"]["memory"] == {"limit": 1 << 30, "swap": 1 << 30}
    assert document["linux"]["resources"]["cpu"] == {"quota": 50_000, "period": 100_000}
    assert "network" not in [each["type"] for each in document["linux"]["namespaces"]]
    assert document["process"]["capabilities"]["bounding"] == ["CAP_NET_BIND_SERVICE"]
    assert Config(document) == second


def test_validation_says_all_that_is_wrong(tmp_path):
    config = Config({"ociVersion": "1.0.0", "process": {"cwd": 5, "args": "ls"}, "root": {}})
    with pytest.raises(pyrunc.Invalid) as caught:
        config.validate()
    assert [problem.subject for problem in caught.value.problems] == ["/process/cwd", "/process/args", "/root"]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(pyrunc.ConfigError, match="not JSON"):
        Config.load(tmp_path)
    with pytest.raises(pyrunc.ConfigError, match="no such file"):
        Config.load(tmp_path / "nothing")
    with pytest.raises(pyrunc.UsageError, match='is neither "none" nor "host"'):
        Config().network("bridge")


def test_a_pool(state):
    with Pool(["cat"], 2, state_root=state, memory="50m", text=True) as pool:
        pool.ready()
        assert [pool.run(f"{n}", timeout=20).stdout for n in range(6)] == [*"012345"]
        with pytest.raises(pyrunc.UsageError, match="is neither bytes nor text"):
            pool.run(5)
        found = []
        threads = [threading.Thread(target=lambda n=n: found.append(pool.run(f"{n}").stdout)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [*"01234"]
    with Pool(["sleep", "1000"], 1, state_root=state) as pool, pytest.raises(pyrunc.TimeoutExpired):
        pool.run(timeout=0.3)
    with pytest.raises(pyrunc.UsageError, match="it is closed"):
        pool.run()


def test_a_pool_that_can_t_be_made(state):
    with (
        Pool(["nothing"], 1, state_root=state) as pool,
        pytest.raises(pyrunc.PyruncError, match="executable file not found"),
    ):
        pool.run()


WATCH = """
import os, sys, time
found, end = set(), time.monotonic() + 1.5
while time.monotonic() < end:
    for pid in os.listdir("/proc"):
        for name in ("mem", "exe", "environ", "maps", "cwd") if pid.isdigit() and int(pid) != os.getpid() else ():
            try:
                os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
                found.add(os.readlink(f"/proc/{pid}/exe"))
            except OSError:
                continue
print(*found)
"""


def test_who_watches_for_what_is_brought_in_sees_only_the_program(state):
    """Nothing of ours can be opened in /proc, from before a process enters the container until it is its program."""
    config = sandbox(["python3", "-c", WATCH], user=0)
    with Container.run(config, stdout=PIPE, text=True, state_root=state) as container:
        for _ in range(15):
            with container.exec(["sleep", "0.01"]):
                pass
        assert container.process.communicate() == ("/usr/bin/sleep\n", None)
