"""Host name, domain name and kernel parameters. config.md#hostname, config-linux.md#sysctl"""

from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, namespaces


def test_the_hostname(container):
    assert container(hostname="web.example").run("hostname") == "web.example"


def test_the_domainname(container):
    assert container(domainname="example.org").run("cat", "/proc/sys/kernel/domainname") == "example.org"


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_a_name_without_a_namespace_is_refused(container, name):
    error = container(**{name: "x"}, namespaces=namespaces("mount", "pid")).refused("true")
    assert name in error
    assert "uts" in error.lower()


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("net.ipv4.ip_forward", "1", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/lo/forwarding", "1", "net/ipv4/conf/lo/forwarding"),
        ("kernel.shm_rmid_forced", "1", "kernel/shm_rmid_forced"),
        ("fs.mqueue.msg_max", "11", "fs/mqueue/msg_max"),
        ("kernel.domainname", "example.org", "kernel/domainname"),
    ],
)
def test_kernel_parameters(container, key, value, path):
    c = container(sysctl={key: value}, readonlyPaths=["/proc/sys"])
    assert c.run("cat", f"/proc/sys/{path}") == value


@pytest.mark.parametrize(
    "key",
    ["kernel.panic", "vm.swappiness", "kernel.hostname", "../../etc/x", "net.../../kernel/panic", "net"],
)
def test_parameters_of_the_host_are_refused(container, key):
    """The kernel would refuse the value, too."""
    before = Path("/proc/sys/kernel/panic").read_text()
    error = container(sysctl={key: "pyrunc-test"}).refused("true")
    assert key.replace("/", "~1") in error or key in error  # a JSON pointer
    assert Path("/proc/sys/kernel/panic").read_text() == before


def test_a_parameter_of_a_namespace_that_is_the_hosts_is_refused(container):
    error = container(sysctl={"net.ipv4.ip_forward": "1"}, namespaces=namespaces("mount", "pid", "ipc", "uts")).refused(
        "true"
    )
    assert "net.ipv4.ip_forward" in error


OF_NAMESPACES = {
    "network": ("net", "net.ipv4.ip_default_ttl", "77"),
    "ipc": ("ipc", "kernel.msgmax", "7777"),
    "uts": ("uts", "kernel.domainname", "renamed"),
    "user": ("user", "user.max_inotify_watches", ""),  # of the host: the value that it has
}


@pytest.mark.parametrize("kind", OF_NAMESPACES)
@pytest.mark.parametrize("link", [False, True])
def test_a_parameter_of_a_namespace_that_is_the_runtimes_is_refused(container, tmp_path, kind, link):
    """config.json names it by a path. The path may mean something else by the time it is opened."""
    name, key, value = OF_NAMESPACES[kind]
    file = f"/proc/sys/{key.replace('.', '/')}"
    path = f"/proc/self/ns/{name}"
    if link:
        (tmp_path / "link").symlink_to(path)
        path = str(tmp_path / "link")
    c = container(sysctl={key: value or Path(file).read_text().strip()})
    c.change(namespaces=namespaces(*(each for each in NAMESPACES if each != kind), **{kind: path}))
    before = ("unshare", "--net", "--ipc", "--uts", "sh", "-c", f'cat {file}; "$0" "$@"; s=$?; cat {file}; exit $s')
    result = c.attempt("true", wrapper=before)
    assert result.code == 1, repr(result)
    assert f'sysctl "{key}" not allowed in host {kind} namespace; its path' in result.err
    was, is_now = result.out.split()
    assert was == is_now
    c.assert_gone()


@pytest.mark.parametrize("member", ["hostname", "domainname"])
def test_the_runtimes_own_names_are_not_changed(container, member):
    c = container(**{member: "renamed"})
    c.change(namespaces=namespaces(*(each for each in NAMESPACES if each != "uts"), uts="/proc/self/ns/uts"))
    script = f'{member} ours; "$0" "$@"; s=$?; {member}; exit $s'
    result = c.attempt("true", wrapper=("unshare", "--uts", "busybox", "sh", "-c", script))
    assert (result.code, result.out) == (1, "ours\n"), repr(result)
    assert f'{member} "renamed" not allowed in host uts namespace' in result.err
    c.change(**{member: "ours"})  # nothing is to change: engines write the host's name for its own network
    assert c.attempt("true", wrapper=("unshare", "--uts", "busybox", "sh", "-c", script)).code == 0


def test_two_domain_names_are_refused(container):
    error = container(domainname="one", sysctl={"kernel.domainname": "two"}).refused("true")
    assert "/linux/sysctl/kernel.domainname" in error
    c = container(domainname="one", sysctl={"kernel/domainname": "one"})
    assert c.run("cat", "/proc/sys/kernel/domainname") == "one"
