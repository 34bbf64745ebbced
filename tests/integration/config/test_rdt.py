"""linux.intelRdt: classes of service and monitoring groups in resctrl. resctrl.py plays it: few hosts have one."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from integration.support.bundle import NAMESPACES, OWN_USERS, namespaces
from integration.support.faulty import Faulty
from integration.support.runtime import wait_until

SERVER = Path(__file__).with_name("resctrl.py")
MNT_DETACH = 2
pytestmark = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="/dev/fuse is not there")


@pytest.fixture
def resctrl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resctrl")
    server = subprocess.Popen([sys.executable, str(SERVER), str(folder)])
    wait_until(lambda: (folder / "schemata").exists(), "the file system")
    yield folder
    ctypes.CDLL(None).umount2(os.fsencode(folder), MNT_DETACH)
    server.kill()
    server.wait()


@pytest.fixture
def runtime(runtime, resctrl):
    """The runtime on a host that has resctrl."""
    return Faulty(runtime, "resctrl", str(resctrl))


def groups(resctrl):
    return {entry.name for entry in resctrl.iterdir() if (entry / "tasks").exists()}


def lines(group):
    return (group / "schemata").read_text().split()


def tasks(group):
    return (group / "tasks").read_text().split()


# --- the container's own class


def test_a_container_has_a_class_of_its_own_name(resctrl, container):
    c = container(intelRdt={}).up()
    assert groups(resctrl) == {c.id}
    assert tasks(resctrl / c.id) == [str(c.pid)]
    assert lines(resctrl / c.id) == ["L3:0=fff;1=fff", "MB:0=100;1=100"]
    c.delete("--force")
    assert groups(resctrl) == set()


def test_schemata_are_written_and_the_later_one_counts(resctrl, container):
    rdt = {"schemata": ["L3:1=f", "MB:1=30"], "l3CacheSchema": "L3:0=f0;1=f0", "memBwSchema": "MB:0=50;1=70"}
    c = container(intelRdt=rdt).up()
    assert lines(resctrl / c.id) == ["L3:0=f0;1=f", "MB:0=50;1=30"]


def test_a_class_of_the_containers_name_that_was_there_stays(resctrl, container):
    c = container(intelRdt={"l3CacheSchema": "L3:0=f"})
    (resctrl / c.id).mkdir()
    c.up()
    assert lines(resctrl / c.id)[0] == "L3:0=f;1=fff"
    c.delete("--force")
    assert groups(resctrl) == {c.id}


def test_exec_joins_it(resctrl, container):
    c = container(intelRdt={"enableMonitoring": True}).up()
    process = c.runtime.spawn("exec", c.id, "sh", "-c", "echo up; sleep 1000")
    wait_until(lambda: "up" in process.out, "the second process")
    assert len(tasks(resctrl / c.id)) == 2
    assert len(tasks(resctrl / c.id / "mon_groups" / c.id)) == 2
    c.delete("--force")
    process.end()


def test_in_a_user_namespace_and_after_a_second_clone(resctrl, container):
    one = container(intelRdt={}).up()
    kinds = namespaces(*(kind for kind in NAMESPACES if kind != "pid"))
    joined = [*kinds, {"type": "pid", "path": f"/proc/{one.pid}/ns/pid"}]
    two = container(intelRdt={"closID": one.id}, namespaces=joined).up()
    assert set(tasks(resctrl / one.id)) == {str(one.pid), str(two.pid)}
    three = container(intelRdt={}, **OWN_USERS)
    three.reachable().up()
    assert tasks(resctrl / three.id) == [str(three.pid)]


# --- a class that is named


def test_a_named_class_is_joined_as_it_is(resctrl, container):
    (resctrl / "gold").mkdir()
    c = container(intelRdt={"closID": "gold"}).up()
    assert tasks(resctrl / "gold") == [str(c.pid)]
    c.delete("--force")
    assert groups(resctrl) == {"gold"}


def test_a_named_class_that_is_not_there(resctrl, container):
    error = container(intelRdt={"closID": "gold"}).refused("true")
    assert '/linux/intelRdt/closID: there is no class "gold"' in error
    assert groups(resctrl) == set()


def test_a_named_class_is_made_with_its_schemata_and_stays(resctrl, container):
    c = container(intelRdt={"closID": "gold", "memBwSchema": "MB:0=20"}).up()
    assert tasks(resctrl / "gold") == [str(c.pid)]
    c.delete("--force")
    assert groups(resctrl) == {"gold"}
    assert lines(resctrl / "gold")[1] == "MB:0=20;1=100"


@pytest.mark.parametrize(
    "rdt",
    [
        {"l3CacheSchema": "L3:1=FFF;0=00f"},
        {"l3CacheSchema": "L3:0=f"},
        {"memBwSchema": "MB:1=95;0=100"},
        {"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=91"},
    ],
)
def test_a_named_class_that_has_what_is_asked_for(resctrl, container, rdt):
    """The same values in another order, with leading zeros, or rounded as the kernel rounds, are equal."""
    (resctrl / "gold").mkdir()
    (resctrl / "gold/schemata").write_text("L3:0=f\n")
    c = container(intelRdt={"closID": "gold", **rdt}).up()
    assert tasks(resctrl / "gold") == [str(c.pid)]
    assert lines(resctrl / "gold") == ["L3:0=f;1=fff", "MB:0=100;1=100"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("l3CacheSchema", "L3:0=f;1=f"),
        ("memBwSchema", "MB:0=50"),
        ("l3CacheSchema", "L3:7=fff"),
        ("memBwSchema", "MB:0=x"),
    ],
)
def test_a_named_class_that_has_something_else(resctrl, container, member, value):
    (resctrl / "gold").mkdir()
    error = container(intelRdt={"closID": "gold", member: value}).refused("true")
    assert f'/linux/intelRdt/{member}: class "gold" exists and has' in error
    assert lines(resctrl / "gold") == ["L3:0=fff;1=fff", "MB:0=100;1=100"]


def test_schemata_change_a_named_class(resctrl, container):
    """config-linux.md: l3CacheSchema and memBwSchema are compared, `schemata` is written."""
    (resctrl / "gold").mkdir()
    container(intelRdt={"closID": "gold", "schemata": ["L3:0=f"]}).up()
    assert lines(resctrl / "gold")[0] == "L3:0=f;1=fff"


def test_the_root_class(resctrl, container):
    c = container(intelRdt={"closID": "/", "enableMonitoring": True}).up()
    assert str(c.pid) in tasks(resctrl)
    assert tasks(resctrl / "mon_groups" / c.id) == [str(c.pid)]
    c.delete("--force")
    assert list((resctrl / "mon_groups").iterdir()) == []
    assert (resctrl / "tasks").exists()


# --- monitoring


def test_a_monitoring_group_ends_with_the_container(resctrl, container):
    (resctrl / "gold").mkdir()
    c = container(intelRdt={"closID": "gold", "enableMonitoring": True}).up()
    assert tasks(resctrl / "gold/mon_groups" / c.id) == [str(c.pid)]
    c.delete("--force")
    assert list((resctrl / "gold/mon_groups").iterdir()) == []
    assert groups(resctrl) == {"gold"}


def test_a_monitoring_group_of_somebody_else(resctrl, container):
    c = container(intelRdt={"closID": "/", "enableMonitoring": True})
    (resctrl / "mon_groups" / c.id).mkdir()
    assert "has a monitoring group" in c.refused("true")
    assert (resctrl / "mon_groups" / c.id).exists()


def test_too_many_monitoring_groups(resctrl, container):
    for name in ("a", "b"):
        (resctrl / "mon_groups" / name).mkdir()
    assert "no space left on device (Out of RMIDs)" in container(
        intelRdt={"closID": "/", "enableMonitoring": True}
    ).refused("true")


# --- refused, and nothing left


def test_too_many_classes(resctrl, container):
    for name in ("a", "b", "c"):
        (resctrl / name).mkdir()
    error = container(intelRdt={}).refused("true")
    assert "resctrl: making" in error
    assert "no space left on device (Out of CLOSIDs)" in error
    assert groups(resctrl) == {"a", "b", "c"}


def test_what_the_kernel_refuses_is_said_in_its_words(resctrl, container):
    error = container(intelRdt={"l3CacheSchema": "L3:0=f0f"}).refused("true")
    assert "invalid argument (The mask f0f has non-consecutive 1-bits)" in error
    assert groups(resctrl) == set()


def test_a_named_class_of_a_failed_create_is_not_left(resctrl, container):
    container(intelRdt={"closID": "gold", "l3CacheSchema": "L3:0=f0f"}).refused("true")
    container(intelRdt={"closID": "gold", "l3CacheSchema": "L3:0=f", "enableMonitoring": True}).refused("nonesuch")
    assert groups(resctrl) == set()


@pytest.mark.parametrize("member", ["l3CacheSchema", "schemata"])
def test_a_resource_that_the_host_has_not(resctrl, container, member):
    value = "L2:0=f"
    error = container(intelRdt={member: [value] if member == "schemata" else value}).refused("true")
    assert f'/linux/intelRdt/{member}: resctrl has no resource "L2" on this host' in error


@pytest.mark.parametrize("name", ["info", "mon_groups", "mon_data", "schemata"])
def test_names_that_are_resctrls_own(resctrl, container, name):
    container(intelRdt={"closID": name}).refused("true")
    assert groups(resctrl) == set()


def test_a_failed_create_leaves_nothing(resctrl, container):
    container(intelRdt={"enableMonitoring": True}).refused("nonesuch")
    container(intelRdt={"closID": "/", "enableMonitoring": True}).refused("nonesuch")
    assert groups(resctrl) == set()
    assert list((resctrl / "mon_groups").iterdir()) == []


def test_a_killed_create_leaves_what_delete_force_removes(resctrl, container, tmp_path):
    for name in ("", "gold"):
        mark = tmp_path / f"mark{name}"
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f"touch {mark}; exec sleep 1000"]}
        rdt = {"closID": name, "memBwSchema": "MB:0=50", "enableMonitoring": True}
        c = container(intelRdt=rdt, hooks={"createRuntime": [hook]})
        c._prepare(("true",))
        process = c.runtime.spawn("create", "--bundle", c.bundle.path, c.id)
        wait_until(mark.exists, "the hook")
        assert groups(resctrl) == {name or c.id}
        process.send_signal(signal.SIGKILL)
        process.end()
        c.delete("--force")
        c.assert_gone()
        assert groups(resctrl) == set()


def test_delete_force_removes_it_when_the_state_can_not_be_read(resctrl, container):
    c = container(intelRdt={"enableMonitoring": True}).up()
    (c.runtime.root / c.id / "state.json").write_text("{")
    c.delete("--force")
    assert groups(resctrl) == set()


# --- update and events


def test_update_changes_the_schemata(resctrl, container):
    c = container(intelRdt={"l3CacheSchema": "L3:0=f"}).up()
    c.runtime("update", "--l3-cache-schema", "L3:0=ff;1=f0", "--mem-bw-schema", "MB:1=50", c.id)
    assert lines(resctrl / c.id) == ["L3:0=ff;1=f0", "MB:0=100;1=50"]
    assert rdt_on_record(c) == {"l3CacheSchema": "L3:0=ff;1=f0", "memBwSchema": "MB:1=50"}


@pytest.mark.parametrize("flags", [("--mem-bw-schema", "MB:7=50"), ("--memory", "1")])
def test_an_update_that_is_refused_changes_nothing(resctrl, container, flags):
    c = container(intelRdt={"l3CacheSchema": "L3:0=f"}).up()
    result = c.runtime("update", "--l3-cache-schema", "L3:0=ff;1=f0", *flags, c.id, check=False)
    assert result.code == 1, repr(result)
    assert lines(resctrl / c.id) == ["L3:0=f;1=fff", "MB:0=100;1=100"]
    assert rdt_on_record(c) == {"l3CacheSchema": "L3:0=f"}


def test_update_of_a_container_without_a_class(resctrl, container):
    c = container().up()
    result = c.runtime("update", "--l3-cache-schema", "L3:0=ff", c.id, check=False)
    assert "its configuration has no intelRdt" in result.err
    assert groups(resctrl) == set()


def rdt_on_record(c):
    return json.loads((c.runtime.root / c.id / "config.json").read_text())["linux"]["intelRdt"]


def test_events_report_it(resctrl, container):
    c = container(intelRdt={}).up()
    data = json.loads(c.runtime("events", "--stats", c.id).out)["data"]["intel_rdt"]
    assert data["schemata"] == ["L3:0=fff;1=fff", "MB:0=100;1=100"]
    assert data["cmt_stats"] == [{"llc_occupancy": 4096}] * 2


@pytest.mark.parametrize("monitored", [False, True])
def test_statistics_are_those_of_runcs_events(resctrl, container, monitored):
    from pyrunc.cgroups import rdt
    from pyrunc.linux.fd import open_at

    c = container(intelRdt={"l3CacheSchema": "L3:0=f", "enableMonitoring": monitored}).up()
    record = {"name": c.id, "shared": False, "made": True, "monitor": c.id if monitored else ""}
    group = rdt.Group(open_at(None, str(resctrl), rdt.DIRECTORY), **record)
    assert rdt.statistics(group) == {
        "l3_cache_info": {"cbm_mask": "fff", "min_cbm_bits": 1, "num_closids": 4},
        "l3_cache_schema_root": "L3:0=fff;1=fff",
        "l3_cache_schema": "L3:0=f;1=fff",
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 4},
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=100;1=100",
        "schemata": ["L3:0=f;1=fff", "MB:0=100;1=100"],
        "mbm_stats": [{"mbm_total_bytes": 200, "mbm_local_bytes": 100}] * 2,
        "cmt_stats": [{"llc_occupancy": 4096}] * 2,
    }
