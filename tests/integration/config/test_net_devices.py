"""linux.netDevices: devices of a network of the test's own, moved into containers and given back."""

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from integration.support.bundle import NAMESPACES, OWN_USERS, namespaces
from integration.support.faulty import Faulty
from integration.support.runtime import wait_until
from sizes import size

CLONE_NEWNET = 0x40000000
NIC = "52:54:00:70:79:72"  # of the virtual machine: see tests/vm/host/machine.py
libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """A network namespace, new or our own: its file, and `ip` in it."""

    def __init__(self, new: bool = True) -> None:
        own = os.open("/proc/self/ns/net", os.O_RDONLY)
        if new:
            assert libc.unshare(CLONE_NEWNET) == 0
        self.fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        assert libc.setns(own, CLONE_NEWNET) == 0
        os.close(own)

    @property
    def path(self):
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def ip(self, words):
        return subprocess.run(
            ["nsenter", f"--net={self.path}", "ip", *words.split()],
            check=True, capture_output=True, text=True, timeout=60, pass_fds=[self.fd],
        ).stdout  # fmt: skip

    def device(self, name):
        """All of a device that a container must not change."""
        link = json.loads(self.ip(f"-j addr show dev {name}"))[0]
        addresses = {
            (a["local"], a["prefixlen"], a.get("broadcast"), a.get("address"), a.get("label"))
            for a in link["addr_info"]
            if a["scope"] == "global"
        }
        return {"up": "UP" in link["flags"], "mtu": link["mtu"], "mac": link.get("address"), "addresses": addresses}

    def names(self):
        return {link["ifname"] for link in json.loads(self.ip("-j link"))} - {"lo"}


@pytest.fixture
def network() -> Iterator[Network]:
    """The network of the runtime and the test. It is not the host's. It has one end of a pair of devices, that
    has all that a container must find again; the other end is a network's of nobody."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    network, nobody = Network(), Network()
    assert libc.setns(network.fd, CLONE_NEWNET) == 0
    network.ip(f"link add v0 type veth peer name peer netns {nobody.path}")
    nobody.ip("link set peer up")
    network.ip("link set v0 mtu 1456 address 02:11:22:33:44:55 up")
    network.ip("addr add 10.1.2.3/24 broadcast + dev v0 label v0:one")
    network.ip("addr add 10.9.9.1 peer 10.9.9.2 dev v0")
    network.ip("addr add 169.254.169.77/32 dev v0")
    network.ip("addr add fd00::1/64 dev v0 nodad")
    yield network
    assert libc.setns(own, CLONE_NEWNET) == 0
    for fd in (own, network.fd, nobody.fd):
        os.close(fd)


@pytest.fixture
def other() -> Iterator[Network]:
    """A network that somebody has made for the container."""
    network = Network()
    yield network
    os.close(network.fd)


def joining(network):
    return [*namespaces(*(kind for kind in NAMESPACES if kind != "network")), {"type": "network", "path": network.path}]


def renamed(device, name):
    """What `device` says of a device that has another name, and so another label."""
    addresses = {(*rest, (label or "").replace("v0", name) or None) for *rest, label in device["addresses"]}
    return {**device, "addresses": addresses}


# --- there


def test_a_device_is_moved_as_it_is(network, container, other):
    before = network.device("v0")
    assert len(before["addresses"]) == 4
    container(namespaces=joining(other), netDevices={"v0": {}}).run("true")
    assert other.device("v0") == before
    assert network.names() == set()


def test_a_device_is_renamed(network, container, other):
    before = network.device("v0")
    container(namespaces=joining(other), netDevices={"v0": {"name": "eth0"}}).run("true")
    assert other.names() == {"eth0"}
    assert other.device("eth0") == renamed(before, "eth0")


def test_the_container_sees_it_in_a_namespace_of_its_own(network, container):
    out = container(netDevices={"v0": {"name": "eth0"}}).run("ip", "addr", "show", "dev", "eth0")
    assert "mtu 1456" in out
    assert "UP" in out
    assert "ether 02:11:22:33:44:55" in out
    assert "inet 10.1.2.3/24 brd 10.1.2.255 scope global eth0:one" in out
    assert "inet 10.9.9.1 peer 10.9.9.2/32 scope global eth0" in out
    assert "inet6 fd00::1/64 scope global" in out


def test_a_device_that_is_down_is_set_up(network, container):
    network.ip("link set v0 down")
    assert ",UP" in container(netDevices={"v0": {}}).run("ip", "link", "show", "dev", "v0")


def test_addresses_of_a_smaller_scope_and_for_a_time_stay_behind(network, container):
    network.ip("addr add 127.0.0.33/8 dev v0")
    network.ip("addr add 10.7.7.7/24 valid_lft 1000 preferred_lft 1000 dev v0")
    network.ip("addr add 10.8.8.8/24 scope link dev v0")
    out = container(netDevices={"v0": {}}).run("ip", "addr", "show", "dev", "v0")
    assert "10.1.2.3" in out
    for gone in ("127.0.0.33", "10.7.7.7", "10.8.8.8"):
        assert gone not in out


@pytest.mark.parametrize("kind", ["ifb", "tap", "tun"])
def test_devices_of_other_kinds(network, container, kind):
    network.ip("link add x0 type ifb" if kind == "ifb" else f"tuntap add dev x0 mode {kind}")
    network.ip("addr add 10.3.3.3/24 dev x0")
    assert "10.3.3.3/24" in container(netDevices={"x0": {"name": "y0"}}).run("ip", "addr", "show", "dev", "y0")


def test_several_devices_change_places(network, container, other):
    network.ip("link add v1 type veth peer name v2")
    macs = {name: network.device(name)["mac"] for name in ("v0", "v1", "v2")}
    moved = {"v0": {"name": "v1"}, "v1": {"name": "v0"}, "v2": {}}
    container(namespaces=joining(other), netDevices=moved).run("true")
    assert {name: other.device(name)["mac"] for name in ("v1", "v0", "v2")} == {
        "v1": macs["v0"], "v0": macs["v1"], "v2": macs["v2"],
    }  # fmt: skip


def test_a_template_takes_the_first_number_that_is_free(network, container, other):
    network.ip("link add v1 type veth peer name v2")
    other.ip("link add eth0 type ifb")
    other.ip("link add v0 type ifb")  # the kernel would have to rename it on its way
    template = {"name": "eth%d"}
    container(namespaces=joining(other), netDevices={"v0": template, "v1": template}).run("true")
    assert other.names() == {"eth0", "v0", "eth1", "eth2"}
    assert other.device("eth1")["mac"] == "02:11:22:33:44:55"


def test_a_device_known_by_another_name(network, container):
    network.ip("link property add dev v0 altname another-and-longer")
    out = container(netDevices={"v0": {}}).run("ip", "link", "show", "dev", "v0")
    assert "02:11:22:33:44:55" in out


def test_a_user_namespace_too(network, container):
    c = container(**OWN_USERS, netDevices={"v0": {}}).reachable()
    assert "10.1.2.3/24" in c.run("ip", "addr", "show", "dev", "v0")


def test_in_the_mount_namespace_of_the_host(network, container):
    kinds = [kind for kind in NAMESPACES if kind != "mount"]
    c = container(namespaces=namespaces(*kinds), mounts=[], netDevices={"v0": {}})
    c.config["mounts"].clear()
    assert "10.1.2.3/24" in c.run("ip", "addr", "show", "dev", "v0")


def test_createRuntime_hooks_find_the_devices_there(network, container, tmp_path):  # noqa: N802
    script = f"nsenter --net=/proc/$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')/ns/net ip addr > {tmp_path}/seen"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
    container(netDevices={"v0": {}}, hooks={"createRuntime": [hook]}).run("true")
    assert "10.1.2.3/24" in (tmp_path / "seen").read_text()


# --- at the end


def test_a_device_stays_in_the_namespace_of_somebody_else(network, container, other):
    """config-linux.md: "The runtime MUST NOT attempt to move the interface out of the namespace before deletion"."""
    c = container(namespaces=joining(other), netDevices={"v0": {"name": "eth0"}}).up()
    c.delete("--force")
    assert other.names() == {"eth0"}
    assert len(other.device("eth0")["addresses"]) == 4
    other.ip(f"link set eth0 netns {os.getpid()} name v0")


def test_a_virtual_device_ends_with_the_containers_namespace(network, container):
    c = container(netDevices={"v0": {}}).up()
    c.delete("--force")
    c.assert_gone()
    assert network.names() == set()


@pytest.fixture
def host() -> Iterator[Network]:
    """The host's own network, where that is a virtual machine of ours, with a physical device in it: v0."""
    host = Network(new=False)
    name = next((link["ifname"] for link in json.loads(host.ip("-j link")) if link.get("address") == NIC), None)
    if name is None:
        os.close(host.fd)
        pytest.skip("only in the virtual machine of tests/vm is there a device that can be taken away")
    host.ip(f"link set {name} down")
    host.ip(f"link set {name} name v0 mtu 1400")
    host.ip("addr add 192.0.2.5/24 dev v0")
    host.ip("link set v0 up")
    host.ip("addr add fd00::5/64 dev v0 nodad")
    yield host
    host.ip("link set v0 down")
    host.ip("addr flush dev v0")
    os.close(host.fd)


@pytest.mark.vm
@pytest.mark.parametrize("name", ["eth0", "lost0"])
def test_a_physical_device_is_the_hosts_again(host, container, name):
    """Under the name that it had, although the kernel brings it back under that which it had inside, or, where that
    is taken, any; and as it was, whatever the container has made of it."""
    before = host.device("v0")
    c = container(netDevices={"v0": {"name": name}}).up()
    inside = ["nsenter", f"--net=/proc/{c.pid}/ns/net", "ip"]
    assert "192.0.2.5/24" in subprocess.run([*inside, "addr"], check=True, capture_output=True, text=True).stdout
    subprocess.run([*inside, "link", "set", name, "mtu", "1300", "address", "02:00:00:00:00:01"], check=True)
    if name == "lost0":
        host.ip("link add lost0 type ifb")
    c.kill("KILL")
    c.wait_for("stopped")
    c.delete()
    assert host.device("v0") == before
    if name == "lost0":
        host.ip("link del lost0")


@pytest.mark.vm
def test_a_physical_device_of_a_running_container(host, container):
    before = host.device("v0")
    container(netDevices={"v0": {"name": "eth0"}}).up().delete("--force")
    assert host.device("v0") == before


@pytest.mark.vm
def test_a_physical_device_of_a_create_that_was_killed(host, container, tmp_path):
    before = host.device("v0")
    mark = tmp_path / "mark"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"touch {mark}; exec sleep 1000"]}
    c = container(netDevices={"v0": {"name": "eth0"}}, hooks={"createRuntime": [hook]})
    c._prepare(("true",))
    process = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
    wait_until(mark.exists, "the hook", 60)
    process.send_signal(signal.SIGKILL)
    process.end()
    c.delete("--force")
    assert host.device("v0") == before


@pytest.mark.vm
def test_a_physical_device_of_a_create_that_fails(host, container):
    before = host.device("v0")
    container(netDevices={"v0": {"name": "eth0"}}).refused("nonesuch")
    assert host.device("v0") == before


# --- refused, and given back


def test_a_device_that_is_not_there(network, container):
    error = container(netDevices={"v9": {}}).refused("true")
    assert "/linux/netDevices/v9: there is no such network device on the host" in error


def test_a_name_that_is_taken_inside(network, container, other):
    before = network.device("v0")
    other.ip("link add eth0 type ifb")
    error = container(namespaces=joining(other), netDevices={"v0": {"name": "eth0"}}).refused("true")
    assert 'a network device "eth0" exists already' in error
    assert network.device("v0") == before


def test_the_runtimes_own_namespace(network, container):
    before = network.device("v0")
    error = container(namespaces=joining(network), netDevices={"v0": {"name": "x"}}).refused("true")
    assert "the container's network namespace is the runtime's own" in error
    assert network.device("v0") == before


def test_rootless(network, container, runtime):
    c = container(netDevices={"v0": {}})
    c._prepare(("true",))
    result = runtime("--rootless=true", "create", "--bundle", c.bundle.path, c.id, check=False)
    assert "network devices are not supported for rootless containers" in result.err
    c.assert_gone()


def test_a_device_that_the_kernel_does_not_let_go(network, container):
    """By then the first device has moved. It comes back."""
    network.ip("link add br0 type bridge")
    before = network.device("v0")
    error = container(netDevices={"v0": {"name": "eth0"}, "br0": {}}).refused("true")
    assert "moving network device br0" in error
    assert network.names() == {"v0", "br0"}
    assert network.device("v0") == before


@pytest.mark.parametrize("where", ["own", "joined"])
@pytest.mark.parametrize("failure", ["program", "hook", "pid file"])
def test_a_create_that_fails_gives_it_back_as_it_was(network, container, other, where, failure):
    before = network.device("v0")
    c = container(netDevices={"v0": {"name": "eth0"}})
    if where == "joined":
        c.change(namespaces=joining(other))
    if failure == "hook":
        c.change(hooks={"createRuntime": [{"path": "/bin/false"}]})
    flags = ("--pid-file", "/nonexistent/pid") if failure == "pid file" else ()
    result = c.attempt("nonesuch" if failure == "program" else "true", flags=flags)
    assert result.code == 1, repr(result)
    assert network.device("v0") == before
    assert other.names() == set()
    c.assert_gone()


def test_a_device_that_was_down_comes_back_down(network, container):
    network.ip("link set v0 down")
    before = network.device("v0")
    container(netDevices={"v0": {}}).refused("nonesuch", code=1)
    assert network.device("v0") == before
    assert not before["up"]


@pytest.mark.slow
def test_whatever_function_of_the_hosts_side_fails(network, container, runtime, other, tmp_path):
    def attempt(nth):
        c = container(namespaces=joining(other), netDevices={"v0": {"name": "eth0"}})
        c._prepare(("true",))
        return c, Faulty(runtime, "call", str(nth))("create", "--bundle", c.bundle.path, c.id, check=False)

    def fetch():
        other.ip(f"link set eth0 netns {os.getpid()} name v0")
        for address in ("10.1.2.3/24 broadcast + label v0:one", "10.9.9.1 peer 10.9.9.2", "169.254.169.77/32"):
            network.ip(f"addr add {address} dev v0")
        network.ip("addr add fd00::1/64 dev v0 nodad")
        network.ip("link set v0 up")
        assert network.device("v0") == before

    before = network.device("v0")
    c, whole = attempt(0)
    assert whole.code == 0, repr(whole)
    c.delete("--force")
    fetch()
    total = int(whole.err.rpartition("calls: ")[2])
    for nth in range(40, total, max(1, total // size(30, 8))):
        c, result = attempt(nth)
        if other.names():  # it failed where a failure does not matter, or after the end, closing and unlocking
            assert result.code == 0 or nth > total - 30, f"call {nth} of {total}: {result!r}"
            c.delete("--force")
            fetch()
        c.delete("--force")
        c.assert_gone()
        assert network.names() == {"v0"}, f"call {nth} of {total}: {other.names()} {result!r}"
        assert network.device("v0") == before, f"call {nth} of {total}: {result!r}"


def test_a_create_that_is_killed_leaves_nothing(network, container, tmp_path):
    mark = tmp_path / "mark"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"touch {mark}; exec sleep 1000"]}
    c = container(netDevices={"v0": {}}, hooks={"createRuntime": [hook]})
    c._prepare(("true",))
    process = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
    wait_until(mark.exists, "the hook")
    process.send_signal(signal.SIGKILL)
    process.end()
    c.delete("--force")
    c.assert_gone()
