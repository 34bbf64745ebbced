"""pyrunc learn: what is written is what the program needs, and it runs with that."""

import json

import pytest

from integration.support.bundle import full

CHOWN = "touch /tmp/x && chown 1000 /tmp/x && cat /proc/sys/kernel/ostype && stat -c %u /tmp/x"


def learn(container, *flags, check=True):
    c = container
    c.bundle.write()
    output = c.bundle.path / "learned.json"
    result = c.runtime("learn", "--bundle", c.bundle.path, "--output", output, *flags, c.id, check=check)
    return result, json.loads(output.read_text()) if output.exists() else {}


def merged(container, learned):
    """As `jq '.[0] * .[1]'` does it."""
    for name, value in learned.items():
        container.config[name] = {**container.config[name], **value}
    return container


@pytest.fixture
def writer(container):
    c = container(capabilities=full("CAP_CHOWN", "CAP_FOWNER", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_ADMIN"))
    return c.change(args=["sh", "-c", CHOWN])


def test_a_learned_profile_runs_the_same_program(writer):
    result, learned = learn(writer)
    assert result.out == "Linux\n1000\n"
    assert "system calls" in result.err
    writer.assert_gone()
    rule = learned["linux"]["seccomp"]["syscalls"][0]
    assert {"fchownat", "chown"} & {*rule["names"]}
    assert not {"socket", "mount", "unshare", "ptrace"} & {*rule["names"]}
    assert 20 < len(rule["names"]) < 80
    assert learned["root"]["readonly"] is False
    (writer.bundle.rootfs / "tmp/x").unlink()
    assert merged(writer, learned).run(*writer.config["process"]["args"]) == "Linux\n1000"


def test_what_it_did_not_do_it_may_not_do(writer):
    _, learned = learn(writer)
    c = merged(writer, learned)
    assert c.attempt("sh", "-c", "mkdir /tmp/folder").code != 0
    assert c.attempt("unshare", "-U", "true").code != 0


def test_capabilities(writer):
    """By the kernel's own word, or, where that is not to be had, by the system calls."""
    result, learned = learn(writer)
    kept = {*learned["process"]["capabilities"]["bounding"]}
    assert "CAP_CHOWN" in kept
    assert "CAP_NET_RAW" not in kept  # no socket was made
    if "which capabilities the kernel asked for" not in result.err:
        assert not {"CAP_SYS_ADMIN", "CAP_KILL"} & kept  # asked for by every mmap, and not needed


def test_paths(container):
    c = container(args=["cat", "/proc/timer_list"])
    _, learned = learn(c)
    assert "/proc/timer_list" not in learned["linux"]["maskedPaths"]
    assert {"/proc/kcore", "/sys/firmware"} <= {*learned["linux"]["maskedPaths"]}
    assert learned["root"]["readonly"] is True
    c = container(args=["sh", "-c", "cd /proc/sys/net/core; echo 100 >somaxconn"])
    _, learned = learn(c)
    assert "/proc/sys" not in learned["linux"]["readonlyPaths"]
    assert "/proc/irq" in learned["linux"]["readonlyPaths"]


def test_several_runs_are_joined(container):
    one, other = container(args=["hostname"]), container(args=["mkdir", "/tmp/a"])
    _, first = learn(one)
    _, both = learn(other, "--add", one.bundle.path / "learned.json")
    calls = {*both["linux"]["seccomp"]["syscalls"][0]["names"]}
    assert calls >= {*first["linux"]["seccomp"]["syscalls"][0]["names"]} | {"mkdir"}
    assert both["root"]["readonly"] is False
    assert merged(one, both).run("hostname")
    (one.bundle.path / "other.json").write_text("{}")
    result, _ = learn(other, "--add", one.bundle.path / "other.json", check=False)
    assert "is nothing that pyrunc learn has written" in result.err


def test_the_exit_status_is_the_programs(container):
    result, learned = learn(container(args=["sh", "-c", "exit 9"]), check=False)
    assert result.code == 9
    assert learned


def test_threads_and_children_are_seen(container):
    c = container(args=["sh", "-c", "(sleep 0.1; hostname -F /dev/null) & wait; uname"])
    _, learned = learn(c)
    assert {"uname", "wait4"} & {*learned["linux"]["seccomp"]["syscalls"][0]["names"]}
    assert merged(c, learned).run(*c.config["process"]["args"]) == "Linux"


def test_without_the_tracepoint_calls_say_what_can_not_be_needed():
    from pyrunc.learn.rights import possible

    granted = {"CAP_CHOWN", "CAP_NET_RAW", "CAP_DAC_OVERRIDE", "CAP_SYS_TIME"}
    assert possible({"fchown", "read"}, granted) == {"CAP_CHOWN", "CAP_DAC_OVERRIDE"}


def test_what_the_kernel_asks_for_to_be_generous_does_not_count():
    from pyrunc.learn.rights import was_needed

    assert not was_needed("CAP_SYS_ADMIN", "mmap", set())
    assert not was_needed("CAP_SYS_ADMIN", "read", set())  # the stack has grown
    assert was_needed("CAP_SYS_ADMIN", "sethostname", set())
    assert was_needed("CAP_SYS_ADMIN", "write", {"/proc/sys/kernel/msgmax"})
    assert not was_needed("CAP_SYS_RESOURCE", "fork", set())
    assert was_needed("CAP_SYS_RESOURCE", "prlimit64", set())


def test_an_administrators_right_that_is_used_is_kept(container):
    c = container(args=["sh", "-c", "hostname other && hostname"], capabilities=full("CAP_SYS_ADMIN", "CAP_CHOWN"))
    result, learned = learn(c)
    assert "CAP_SYS_ADMIN" in learned["process"]["capabilities"]["bounding"], result
    assert merged(c, learned).run(*c.config["process"]["args"]) == "other"


def test_processes_are_made_and_namespaces_are_not(container):
    """A program that forks needs clone(2), and with it alone any user namespace could be made."""
    result, learned = learn(container(args=["sh", "-c", "(true); echo done"]))
    assert result.out == "done\n"
    (clone,) = [rule for rule in learned["linux"]["seccomp"]["syscalls"] if "clone" in rule["names"]]
    assert clone["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


def test_whoever_makes_namespaces_may_go_on_to():
    from pyrunc.learn import profile

    calls = {"calls": ["clone"], "architectures": [], "namespaces": []}
    few, more = profile._seccomp(calls), profile._seccomp({**calls, "namespaces": ["clone"]})
    assert [rule.get("args") for rule in more["syscalls"]] == [None]
    common = {"process": {"capabilities": {}}, "root": {"readonly": True}}
    documents = [{**common, "linux": {"maskedPaths": [], "readonlyPaths": [], "seccomp": it}} for it in (few, more)]
    for one, other in (documents, documents[::-1]):
        assert profile.union(one, other)["linux"]["seccomp"]["syscalls"] == more["syscalls"]
    assert profile.union(documents[0], documents[0])["linux"]["seccomp"]["syscalls"] == few["syscalls"]
