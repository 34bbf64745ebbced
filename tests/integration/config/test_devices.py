"""Device nodes: those of the configuration and those that every container has. config-linux.md#devices"""

import os


def test_the_devices_that_every_container_has(container):
    out = container().sh("for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a %u:%g' /dev/$d; done")
    assert out.splitlines() == [
        f"/dev/{name} character special file {number} 666 0:0"
        for name, number in [
            ("null", "1:3"),
            ("zero", "1:5"),
            ("full", "1:7"),
            ("random", "1:8"),
            ("urandom", "1:9"),
            ("tty", "5:0"),
        ]
    ]


def test_the_links_that_every_container_has(container):
    out = container().sh("for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done")
    assert out.split() == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]


def test_devices_of_the_configuration(container):
    devices = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/deep/er/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
        {"path": "/elsewhere", "type": "u", "major": 1, "minor": 5},
    ]
    out = container(devices=devices).sh(
        "for d in dev/mine dev/deep/er/block dev/pipe elsewhere; do stat -c '%F %t:%T %a %u:%g' /$d; done"
    )
    assert out.splitlines() == [
        "character special file 1:3 640 7:8",
        "block special file 7:0 600 0:0",
        "fifo 0:0 622 0:0",
        "character special file 1:5 666 0:0",
    ]


def test_the_callers_umask_does_not_reach_devices_and_mount_points(container):
    def arrange():
        os.umask(0o077)

    c = container(mounts=[{"destination": "/new/m", "type": "tmpfs", "source": "tmpfs"}])
    assert c.sh("stat -c %a /dev/null /new; umask", preexec_fn=arrange).split() == ["666", "755", "0022"]


def test_a_device_in_the_way_of_another_is_refused(container):
    c = container(devices=[{"path": "/thing", "type": "c", "major": 1, "minor": 3}])
    c.file("/thing", "a file")
    assert "/thing" in c.refused("true")
    assert (c.bundle.rootfs / "thing").read_text() == "a file"
