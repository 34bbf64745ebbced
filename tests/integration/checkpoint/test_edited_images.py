"""Checkpoints whose images say something else than what a container was: CRIU believes them, with the host's rights."""

import os
import resource
import subprocess

import pytest

from integration.checkpoint.edited import Image, changed, fields, joined, replaced
from integration.support.bundle import full
from integration.support.runtime import wait_until

UP = "../" * 20


@pytest.fixture
def written(saved):
    """A checkpoint, and the container that it was made of, which is gone."""

    def make(**changes):
        s = saved(**changes)
        s.container.reachable()
        (s.rootfs / "tmp").mkdir(exist_ok=True)
        (s.rootfs / "tmp").chmod(0o777)
        s.counting()
        wait_until(lambda: s.count > 1, "it to count")
        s.checkpoint()
        return s

    return make


# --- what every process has, in core-PID.img

TASK, THREAD = 3, 5
RLIMITS, OOM = 8, 14  # of the task
NICE, POLICY, PRIORITY, CREDS = 3, 4, 5, 10  # of the thread
SETS = (10, 11, 12)  # of capabilities: permitted, effective, bounding, each of two numbers of 32 bits


def edit_core(s, task=None, thread=None, creds=None):
    for path in s.images.glob("core-*.img"):
        image = Image(path)
        (core,) = image.messages
        if creds is not None:
            core = changed(core, THREAD, lambda message: changed(message, CREDS, creds))
        core = changed(core, TASK, task) if task is not None else core
        core = changed(core, THREAD, thread) if thread is not None else core
        image.messages = [core]
        image.save()


def test_capabilities(written):
    s = written()

    def add(creds, bit=21):
        seen, found = set(), []
        for number, value in creds:
            found.append((number, value | 1 << bit if number in SETS and number not in seen else value))
            seen.add(number)
        return found

    edit_core(s, creds=add)
    assert "it has CAP_SYS_ADMIN, which config.json does not grant" in s.refused()


@pytest.mark.parametrize("what", ["user", "group", "groups"])
def test_another_user(written, what):
    """Who can't become another user may not have been it."""
    s = written(capabilities={}, noNewPrivileges=True)
    if what == "groups":
        edit_core(s, creds=lambda creds: replaced(creds, _14=6))
    else:
        s.container.change(user={"uid": 1000, "gid": 0} if what == "user" else {"uid": 0, "gid": 1000})
        s.container.bundle.write()
    assert f"its {what.rstrip('s')} is {6 if what == 'groups' else 0}, which /process/user can't become" in s.refused()


def test_resource_limits(written):
    s = written(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}])

    def more(task):
        return changed(task, RLIMITS, lambda limits: [(1, joined([(1, 1 << 20), (2, 1 << 20)])) for _ in limits])

    edit_core(s, task=more)
    s.restore()
    assert resource.prlimit(s.container.pid, resource.RLIMIT_NOFILE) == (200, 200)


def test_the_oom_killers_score(written):
    s = written(oomScoreAdj=500)
    edit_core(s, task=lambda task: replaced(task, _14=(1 << 64) - 900))
    s.restore()
    with open(f"/proc/{s.container.pid}/oom_score_adj") as file:
        assert file.read() == "500\n"


@pytest.mark.parametrize("how", ["realtime", "nice"])
def test_the_scheduler(written, how):
    grouped = os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")  # without a share no process of it can be realtime
    share = {"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 1000000}} if grouped else {}
    s = written(resources=share)
    if how == "realtime":
        edit_core(s, thread=lambda thread: replaced(thread, _4=1, _5=99))
    else:
        edit_core(s, thread=lambda thread: replaced(thread, _3=39))  # zigzag of -20
    assert "scheduler" in s.refused()


# --- cgroup.img


def edit_cgroups(s, controller=None, member=None):
    (path,) = s.images.glob("cgroup.img")
    image = Image(path)
    (message,) = image.messages
    message = changed(message, 2, controller) if controller else message
    image.messages = [changed(message, 1, lambda each: changed(each, 2, member)) if member else message]
    image.save()


def folder(name, *files):
    """Of a cgroup, which is given away, with files (name, text)."""
    mode = joined([(1, 0o777), (2, 1000), (3, 1000)])
    return joined([(1, name), *((3, joined([(1, file), (2, text)])) for file, text in files), (4, mode)])


@pytest.fixture
def in_cgroup(written):
    return lambda: written(cgroupsPath=f"/pyrunc-test-{os.getpid()}")


@pytest.mark.parametrize("where", ["beside", "below"])
def test_a_cgroup_that_leads_elsewhere(in_cgroup, canary, where):
    """CRIU would give that folder the mode and owner that stand there."""
    s = in_cgroup()
    evil = folder(f"{UP}{canary}".encode())
    if where == "beside":
        edit_cgroups(s, lambda controller: [*controller, (2, evil)])
    else:
        edit_cgroups(s, lambda controller: changed(controller, 2, lambda top: [*top, (2, evil)]))
    words = s.refused()
    assert canary.stat().st_mode & 0o777 == 0o755
    assert canary.stat().st_uid == 0
    assert f"{s.images}/cgroup.img: " in words


def test_a_file_of_a_cgroup_that_leads_elsewhere(in_cgroup, canary):
    """CRIU would write any text into any file that is there."""
    s = in_cgroup()
    evil = folder(b"new", (f"{UP}{canary}/file".encode(), b"changed"))
    edit_cgroups(s, lambda controller: changed(controller, 2, lambda top: [*top, (2, evil)]))
    words = s.refused()
    assert (canary / "file").read_text() == "untouched\n"
    assert f"{s.images}/cgroup.img: a cgroup has a file " in words


def test_a_cgroup_of_somebody_elses(in_cgroup):
    s = in_cgroup()
    other = f"/sys/fs/cgroup/pids/pyrunc-test-{os.getpid()}-other"
    os.mkdir(other)
    try:
        name = other.rpartition("/")[2].encode()
        edit_cgroups(s, lambda controller: [(n, folder(name) if n == 2 else v) for n, v in controller])
        words = s.refused()
        assert os.stat(other).st_uid == 0
        assert f"{s.images}/cgroup.img: a cgroup is not that of its processes" in words
    finally:
        os.rmdir(other)


@pytest.mark.parametrize("name", [b"name=evil", b"name=evil,release_agent=/evil", b"x" * 200, b"/../../x"])
def test_a_hierarchy_that_is_not_there(in_cgroup, name):
    """CRIU would make it, with these options, and the kernel runs a release_agent."""
    s = in_cgroup()
    edit_cgroups(s, lambda controller: [(n, name if n == 1 else v) for n, v in controller])
    assert f"{s.images}/cgroup.img: it has a cgroup in a hierarchy of " in s.refused()
    with open("/proc/self/cgroup") as file:
        assert "evil" not in file.read()


def test_messages_that_have_no_end(in_cgroup):
    s = in_cgroup()
    evil = folder(b"a")
    for _ in range(3000):
        evil = joined([(1, b"a"), (2, evil)])
    edit_cgroups(s, lambda controller: [(n, evil if n == 2 else v) for n, v in controller])
    assert f"{s.images}/cgroup.img: " in s.refused()


def test_its_cgroups_may_be_left_alone(in_cgroup):
    """And then nobody reads that file."""
    s = in_cgroup()
    edit_cgroups(s, lambda controller: [(n, b"evil" if n == 1 else v) for n, v in controller])
    s.restore("--manage-cgroups-mode", "ignore")
    s.assert_goes_on(wait_until)


def test_limits_that_the_images_raise(in_cgroup):
    s = in_cgroup()
    s.container.change(resources={"pids": {"limit": 77}})
    s.container.bundle.write()
    s.restore("--manage-cgroups-mode", "full")
    with open(f"/sys/fs/cgroup/pids/pyrunc-test-{os.getpid()}/pids.max") as file:
        assert file.read() == "77\n"


# --- mountpoints-N.img

KIND, ROOT, PLACE, SOURCE, OPTIONS, FSNAME = 1, 6, 7, 8, 9, 14
AUTO, OVERLAY, CGROUP, DEVTMPFS = 16, 17, 12, 3


def add_mount(s, like=b"/", **values):
    """Another one, like that which is there."""
    (path,) = s.images.glob("mountpoints-*.img")
    image = Image(path)
    root = next(m for m in image.messages if dict(m)[PLACE].lstrip(b".") in (b"/", b""))
    model = next((m for m in image.messages if dict(m)[PLACE] == like), root)
    image.messages.append(replaced(model, _2=9999, _4=dict(root)[2], **values))
    image.save()
    (s.rootfs / "place").mkdir()


def root_of(s):
    (path,) = s.images.glob("mountpoints-*.img")
    return next(dict(m)[ROOT] for m in Image(path).messages if dict(m)[PLACE].lstrip(b".") in (b"/", b""))


def test_a_mount_whose_root_leads_elsewhere(written, canary):
    s = written()
    add_mount(s, _6=root_of(s) + f"/{UP}{canary}".encode(), _7=b"/place")
    assert "mountpoints-" in (words := s.refused())
    assert "a path leads up" in words


def test_a_mount_whose_root_is_a_symlink(written, canary):
    """CRIU follows it, on the host."""
    s = written()
    (s.rootfs / "link").symlink_to(canary.parent)
    add_mount(s, _6=root_of(s) + b"/link/canary", _7=b"/place")
    words = s.refused()
    assert f"mount /place: it shows {canary} of a file system of the host's" in words


def test_with_cap_sys_admin_too(saved, canary):
    s = saved(capabilities=full("CAP_SYS_ADMIN")).counting()
    s.checkpoint()
    (s.rootfs / "link").symlink_to(canary.parent)
    add_mount(s, _6=root_of(s) + b"/link/canary", _7=b"/place")
    assert f"mount /place: it shows {canary} of a file system of the host's" in s.refused()


@pytest.mark.parametrize("kind", ["a disk", "overlay", "devtmpfs"])
def test_a_file_system_that_shows_the_host(written, canary, kind):
    s = written()
    more = {
        "a disk": {"_1": AUTO, "_14": b"ext4", "_8": b"/dev/vda"},
        "overlay": {"_1": OVERLAY, "_8": b"overlay", "_9": f"lowerdir={canary}:/usr".encode()},
        "devtmpfs": {"_1": DEVTMPFS},
    }[kind]
    add_mount(s, like=b"/proc", _6=b"/", _7=b"/place", **more)
    assert "CRIU would make a file system at /place that shows what it likes" in s.refused()


def test_a_hierarchy_with_a_release_agent(written):
    s = written()
    add_mount(s, like=b"/proc", _1=CGROUP, _7=b"/place", _9=b"none,name=evil,release_agent=/evil")
    assert "a cgroup hierarchy has the option name=evil" in s.refused()
    with open("/proc/self/cgroup") as file:
        assert "evil" not in file.read()


def test_a_device_node_that_is_another_file_system(written):
    s = written()
    add_mount(s, like=b"/proc", _7=b"/dev/null")
    s.refused()


# --- what a process holds


def test_criu_s_own_mount_namespace(written, canary):
    """Without one of its own in its image, it is chrooted in CRIU's, which has all of the host's mounts."""
    s = written()
    (path,) = s.images.glob("inventory.img")
    host = dict(fields(dict(Image(path).messages[0])[3]))  # root_ids: the namespaces that CRIU was in
    for path in s.images.glob("ids-*.img"):
        image = Image(path)
        image.messages = [replaced(message, _9=host[9]) for message in image.messages]
        image.save()
    s.refused()


# --- filters


def test_a_filter_that_lets_everything_pass(written):
    """The configuration's own is put below it."""
    denied = {"names": ["uname"], "action": "SCMP_ACT_ERRNO"}
    s = written(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "syscalls": [denied]})
    image = Image(s.images / "seccomp.img")
    allow = (6).to_bytes(2, "little") + b"\0\0" + (0x7FFF0000).to_bytes(4, "little")  # BPF_RET, SECCOMP_RET_ALLOW
    image.messages = [changed(message, 1, lambda each: replaced(each, _1=allow)) for message in image.messages]
    image.save()
    s.restore()
    s.assert_goes_on(wait_until)
    with open(f"/proc/{s.container.pid}/status") as file:
        assert "Seccomp_filters:\t2\n" in file.read()


def test_filters_are_not_more_and_more(saved):
    denied = {"names": ["uname"], "action": "SCMP_ACT_ERRNO"}
    s = saved(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]}).counting()
    for _ in range(2):
        s.checkpoint()
        s.restore()
    with open(f"/proc/{s.container.pid}/status") as file:
        assert "Seccomp_filters:\t1\n" in file.read()


def test_filters_in_a_circle(written):
    denied = {"names": ["uname"], "action": "SCMP_ACT_ERRNO"}
    s = written(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]})
    image = Image(s.images / "seccomp.img")
    image.messages = [changed(message, 1, lambda each: replaced(each, _2=0)) for message in image.messages]
    image.save()
    assert "its filters are in no order" in s.refused()


# --- what is as it was is let run


def test_mounts_of_its_own_open_files_and_a_zombie(saved):
    """A container that may mount has mounted."""
    kinds = (("/run", "tmpfs"), ("/dev/mqueue", "mqueue"))
    s = saved(
        capabilities=full("CAP_SYS_ADMIN"),
        mounts=[{"destination": place, "type": kind, "source": kind} for place, kind in kinds],
    )
    script = (
        "mkdir -p /tmp /run/a /run/b; mount -t tmpfs none /run/a; mount -o bind /bin /run/b; sleep 0.1 &"
        "cd /run; exec 5>/run/x 6</dev/zero; touch /tmp/count; exec sleep 1000"
    )
    s.container.up("sh", "-c", script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: (s.rootfs / "tmp/count").exists(), "its mounts")
    s.checkpoint()
    s.restore()
    assert s.container.exec("ls", "/run") == "a\nb\nx"
    assert os.readlink(f"/proc/{s.container.pid}/cwd") == "/run"
