"""The library, for who is not root: limits that can't be held are said, and all else is as for root."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from integration.support.bundle import BUSYBOX

USER = 12345
PROGRAM = """
import json, sys
packages, state, tar, folder = sys.argv[1:]
sys.path.insert(0, packages)
import pyrunc
def run(*args, **options):
    try:
        done = pyrunc.run([*args], text=True, state_root=state, timeout=60, **options)
        return [done.returncode, done.stdout, done.stderr]
    except pyrunc.PyruncError as error:
        return str(error)
with pyrunc.Container.run(pyrunc.sandbox(["sleep", "1000"]), state_root=state) as container:
    with container.exec(["echo", "added"], stdout=pyrunc.PIPE) as process:
        added = process.communicate()[0].decode()
    container.process.kill()
    killed = container.wait(20)
print(json.dumps({
    "status": run("sh", "-c", "id -u; grep -E 'CapEff|CapBnd|Seccomp:' /proc/self/status; touch /usr/x"),
    "memory": run("true", memory="50m"), "tar": run("/bin/sh", "-c", "echo > /new; ls /", root=tar, write="1m"),
    "folder": run("/bin/sh", "-c", "echo > /new; ls /", root=folder), "added": added, "killed": killed,
}))
"""


def test_without_root(binary, tmp_path_factory):
    prefix = Path(binary).parents[1]
    packages = next(iter(prefix.glob("lib*/python3*/*-packages/pyrunc/library")), None)
    if packages is None:
        pytest.skip("the image has no library")
    place = tmp_path_factory.mktemp("rootless")
    for folder in (place, *place.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    os.chown(place, USER, USER)
    with tarfile.open(place / "root.tar", "w") as archive:
        archive.add(BUSYBOX, "bin/sh")
        archive.add(BUSYBOX, "bin/ls")
        for name in ("proc", "dev", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
    subprocess.run(["mkdir", place / "root"], check=True)
    subprocess.run(["tar", "-xf", place / "root.tar", "-C", place / "root"], check=True)
    python = os.path.realpath(sys.executable)
    command = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", python]
    words = [packages.parents[1], place / "state", place / "root.tar", place / "root"]
    done = subprocess.run(
        [*command, "-c", PROGRAM, *words], cwd="/", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    _, out, err = found["status"]
    assert out.split() == ["0", "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "Seccomp:", "2"], found
    assert "Read-only file system" in err
    assert (
        found["memory"] == "linux.resources memory: cannot set memory limit: container could not join or create cgroup"
    )
    assert found["tar"] == [0, "bin\ndev\nnew\nproc\ntmp\n", ""]
    assert found["folder"][:2] == [0, "bin\ndev\nproc\ntmp\n"]
    assert (found["added"], found["killed"]) == ("added\n", -9)
    assert [name for name in os.listdir(place / "state") if ":" not in name] == []
