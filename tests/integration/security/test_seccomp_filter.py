"""seccomp: what a profile forbids, and the cache of compiled ones. config-linux.md#seccomp"""

import os
import platform
import shutil
import time

import pyseccomp
import pytest

from integration.support.bundle import full

GETPID, GETPPID, SYNC = (
    pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) for name in ("getpid", "getppid", "sync")
)
NEWER = 100000
of_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64's")
EVERYTHING = "SCMP_ACT_ALLOW"


def deny(*names, action="SCMP_ACT_ERRNO", **members):
    return {"defaultAction": EVERYTHING, "syscalls": [{"names": list(names), "action": action, **members}]}


def call(c, number, *arguments, **how):
    return c.run("probe", "syscall", str(number), *map(str, arguments), **how)


def test_the_filter_is_there(container):
    c = container(seccomp=deny("mkdirat"))
    assert c.sh("grep -E '^Seccomp:' /proc/self/status").split() == ["Seccomp:", "2"]


def test_a_call_fails_with_eperm_by_default(container):
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"


def test_a_flag_for_waiting_listeners_says_nothing_without_one(container):
    """The kernel refuses it (EINVAL)."""
    c = container(seccomp=deny("getppid", errnoRet=28) | {"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]})
    assert call(c, GETPPID) == "ENOSPC"


def test_a_call_fails_with_the_error_of_its_rule(container):
    assert call(container(seccomp=deny("getppid", errnoRet=28)), GETPPID) == "ENOSPC"


FCHMODAT2, NO_SUCH_CALL = 452, 471


def test_a_call_that_is_younger_than_libseccomp(container):
    """Else it would be a way around a rule against its elder."""
    c = container(seccomp=deny("fchmodat", "fchmodat2", "rseq_slice_yield", errnoRet=28))
    assert call(c, FCHMODAT2, -1, 0, 0, 0) == "ENOSPC"
    assert call(c, NO_SUCH_CALL) == "ENOSPC"
    assert call(c, GETPID) == "1"


@of_x86
def test_a_younger_call_of_the_smaller_brothers(container):
    profile = deny("rseq_slice_yield", errnoRet=28)
    profile["architectures"] = ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]
    c = container(seccomp=profile)
    assert call(c, NO_SUCH_CALL) == "ENOSPC"
    assert call(c, NO_SUCH_CALL | 0x40000000) == "ENOSPC"
    assert call(c, GETPID) == "1"


@pytest.mark.skipif(
    pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "rseq_slice_yield") != -1, reason="libseccomp knows it"
)
def test_the_arguments_of_a_younger_call_are_unknown(container):
    profile = deny("rseq_slice_yield", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}])
    assert "this libseccomp does not know it" in container(seccomp=profile).refused("true")


def test_an_error_of_zero_is_success(container):
    assert call(container(seccomp=deny("getppid", errnoRet=0)), GETPPID) == "0"


def test_other_calls_go_through(container):
    c = container(seccomp=deny("getppid"))
    assert call(c, GETPID) == "1"


@pytest.mark.parametrize(
    ("action", "code"),
    [("SCMP_ACT_KILL", 159), ("SCMP_ACT_KILL_PROCESS", 159), ("SCMP_ACT_KILL_THREAD", 159), ("SCMP_ACT_TRAP", 159)],
)
def test_a_call_ends_the_program(container, action, code):
    assert container(seccomp=deny("getppid", action=action)).attempt("probe", "syscall", str(GETPPID)).code == code


def test_a_call_that_is_only_logged_goes_through(container):
    assert call(container(seccomp=deny("getppid", action="SCMP_ACT_LOG")), GETPPID) == "0"


@pytest.mark.parametrize(
    ("op", "value", "two", "refused"),
    [
        ("SCMP_CMP_EQ", 5, 0, [5]),
        ("SCMP_CMP_NE", 5, 0, [4, 6, 2**40]),
        ("SCMP_CMP_LT", 5, 0, [0, 4]),
        ("SCMP_CMP_LE", 5, 0, [0, 5]),
        ("SCMP_CMP_GT", 5, 0, [6, 2**40]),
        ("SCMP_CMP_GE", 5, 0, [5, 6]),
        ("SCMP_CMP_MASKED_EQ", 4, 4, [4, 5, 12]),
        ("SCMP_CMP_EQ", 2**40 + 1, 0, [2**40 + 1]),
    ],
)
def test_conditions_on_arguments(container, op, value, two, refused):
    # The first argument of sync(2), which has none and always succeeds.
    c = container(seccomp=deny("sync", args=[{"index": 0, "value": value, "valueTwo": two, "op": op}]))
    candidates = [0, 4, 5, 6, 12, 2**40, 2**40 + 1]
    script = "; ".join(f"probe syscall {SYNC} {value}" for value in candidates)
    if op == "SCMP_CMP_MASKED_EQ":  # value is the mask, valueTwo what is left of it
        refused = [v for v in candidates if v & value == two]
    else:
        compare = {"EQ": "__eq__", "NE": "__ne__", "LT": "__lt__", "LE": "__le__", "GT": "__gt__", "GE": "__ge__"}[
            op[9:]
        ]
        refused = [v for v in candidates if getattr(v, compare)(value)]
    found = c.sh(script).split()
    assert [v for v, text in zip(candidates, found, strict=True) if text == "EPERM"] == refused


def test_conditions_on_two_arguments_must_both_hold(container):
    args = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]
    c = container(seccomp=deny("sync", args=args))
    assert c.sh(f"probe syscall {SYNC} 1 2; probe syscall {SYNC} 1 3; probe syscall {SYNC} 0 2").split() == [
        "EPERM",
        "0",
        "0",
    ]


def test_of_two_conditions_on_one_argument_either_holds(container):
    """libseccomp takes one condition for each argument. runc does the same."""
    args = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]
    c = container(seccomp=deny("sync", args=args))
    assert c.sh(f"probe syscall {SYNC} 1; probe syscall {SYNC} 2; probe syscall {SYNC} 3").split() == [
        "EPERM",
        "EPERM",
        "0",
    ]


def test_a_name_that_nobody_knows_is_no_error(container):
    assert call(container(seccomp=deny("getppid", "no_such_call")), GETPPID) == "EPERM"


def allow_list(*without, **members):
    """Everything that a shell needs, by its name, and an error for the rest."""
    names = []
    for number in range(450):
        try:
            name = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, number)
        except ValueError:
            continue  # a gap
        name = name.decode() if isinstance(name, bytes) else name
        if name not in without:
            names.append(name)
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}], **members}


def test_what_a_list_of_allowed_calls_leaves_out_fails(container):
    c = container(seccomp=allow_list("getppid"))
    assert call(c, GETPPID) == "EPERM"


def test_the_error_of_the_default_action(container):
    assert call(container(seccomp=allow_list("getppid", defaultErrnoRet=28)), GETPPID) == "ENOSPC"


def test_a_call_that_is_newer_than_the_profile_does_not_exist(container):
    """ENOSYS, so that a C library falls back to an older one (runc#2750)."""
    c = container(seccomp=allow_list("getppid"))
    assert call(c, NEWER) == "ENOSYS"


@of_x86
def test_a_program_of_another_architecture_is_filtered_too(container):
    profile = {**deny("getppid"), "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    c = container(seccomp=profile)
    result = container().attempt("probe", "int80", "64")
    if result.code:
        pytest.skip("this kernel runs no 32 bit calls")
    assert c.run("probe", "int80", "64") == "EPERM"
    assert call(c, GETPPID) == "EPERM"
    assert call(c, 0x40000000 | GETPPID) in ("EPERM", "ENOSYS")  # x32's; a kernel without it has no such call


@of_x86
def test_an_architecture_that_the_profile_does_not_name_is_not_allowed(container):
    c = container(seccomp=deny("getppid"))
    assert c.attempt("probe", "int80", "20").code != 0  # libseccomp: a call of a foreign architecture kills


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_the_runtimes_own_calls_are_not_filtered(container, no_new_privileges):
    """Little is left between the filter and execve: a profile may forbid what set the container up."""
    names = [
        "mount",
        "umount2",
        "pivot_root",
        "setuid",
        "setgid",
        "setresuid",
        "setresgid",
        "setgroups",
        "capset",
        "prctl",
        "unshare",
        "setns",
        "mkdirat",
        "openat2",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "sethostname",
        "close_range",
        "sendmsg",
        "recvmsg",
    ]
    c = container(seccomp=deny(*names, action="SCMP_ACT_KILL_PROCESS"), noNewPrivileges=no_new_privileges)
    result = c.attempt("probe", "syscall", str(GETPID))
    # Without no_new_privs CAP_SYS_ADMIN is given up after the filter, which takes capset and prctl.
    if no_new_privileges:
        assert (result.code, result.out) == (0, "1\n"), repr(result)


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_the_program_has_no_right_left_of_installing_the_filter(container, no_new_privileges):
    c = container(seccomp=deny("getppid"), noNewPrivileges=no_new_privileges, capabilities=full("CAP_CHOWN"))
    lines = c.run("grep", "Cap", "/proc/self/status").splitlines()
    assert {line.split()[0]: int(line.split()[1], 16) for line in lines} == {
        "CapInh:": 0,
        "CapPrm:": 1,
        "CapEff:": 1,
        "CapBnd:": 1,
        "CapAmb:": 0,
    }


def test_an_unprivileged_user_is_filtered(container):
    c = container(seccomp=deny("getppid"), user={"uid": 1000, "gid": 1000}, capabilities={})
    assert call(c, GETPPID) == "EPERM"


def test_exec_is_filtered(container):
    c = container(seccomp=deny("getppid")).up()
    assert c.exec("probe", "syscall", str(GETPPID)) == "EPERM"


def test_a_hook_in_the_container_is_filtered(container, tmp_path):
    (tmp_path / "out").touch()
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"probe syscall {GETPPID} > /out"], "env": ["PATH=/bin"]}
    mount = {"destination": "/out", "type": "bind", "source": str(tmp_path / "out"), "options": ["bind"]}
    container(seccomp=deny("getppid"), hooks={"startContainer": [hook]}, mounts=[mount]).run("true")
    assert (tmp_path / "out").read_text() == "EPERM\n"


def test_a_profile_that_forbids_execve_is_an_error_of_start(container):
    c = container(seccomp=deny("execve"))
    c.create("true")
    result = c.start(check=False)
    assert result.code == 1
    assert "not permitted" in result.err
    c.wait_for("stopped")


@pytest.mark.parametrize(
    "flags", [[], ["SECCOMP_FILTER_FLAG_LOG"], ["SECCOMP_FILTER_FLAG_TSYNC"], ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]]
)
def test_flags(container, flags):
    assert call(container(seccomp={**deny("getppid"), "flags": flags}), GETPPID) == "EPERM"


def test_speculation_is_left_alone_by_default(container):
    """Without flags it is SPEC_ALLOW, as with runc and crun."""
    line = "grep Speculation_Store_Bypass /proc/self/status"
    assert container(seccomp=deny("getppid")).sh(line) == container().sh(line)


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"defaultAction": "SCMP_ACT_NO_SUCH"}, "SCMP_ACT_NO_SUCH"),
        ({"architectures": ["SCMP_ARCH_NO_SUCH"]}, "SCMP_ARCH_NO_SUCH"),
        pytest.param({"architectures": ["SCMP_ARCH_S390X"]}, "SCMP_ARCH_S390X: its order of bytes", marks=of_x86),
        ({"flags": ["SECCOMP_FILTER_FLAG_NO_SUCH"]}, "SECCOMP_FILTER_FLAG_NO_SUCH"),
        (
            {
                "syscalls": [
                    {
                        "names": ["sync"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}],
                    }
                ]
            },
            "index",
        ),
        (
            {
                "syscalls": [
                    {"names": ["sync"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "EQUAL"}]}
                ]
            },
            "EQUAL",
        ),
    ],
)
def test_profiles_that_are_none_are_explained(container, change, culprit):
    assert culprit in container(seccomp={**deny("getppid"), **change}).refused("true")


def test_a_rule_without_names_is_none(container):
    """Generators leave such rules. runc takes them."""
    profile = deny("getppid")
    profile["syscalls"] += [{"names": [], "action": "SCMP_ACT_KILL"}, {"names": [], "action": "SCMP_ACT_NOTIFY"}]
    assert call(container(seccomp=profile), GETPPID) == "EPERM"
    assert call(container(seccomp={"defaultAction": EVERYTHING, "syscalls": profile["syscalls"][1:]}), GETPPID) == "0"


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        ({}, "SCMP_ACT_NOTIFY needs listenerPath"),
        ({"run.oci.seccomp.receiver": "relative"}, "SCMP_ACT_NOTIFY needs listenerPath"),
        ({"run.oci.seccomp.plugins": "x.so"}, "run.oci.seccomp.plugins: pyrunc loads none"),
    ],
)
def test_nobody_to_notify_is_an_error(container, annotations, why):
    """A call that is to be asked about would go through, or fail, without anybody having been asked."""
    error = container(seccomp=deny("getppid", action="SCMP_ACT_NOTIFY"), annotations=annotations).refused("true")
    assert f"/linux/seccomp/syscalls/0/action: {why}" in error or why in error


def test_what_is_not_supported_yet_is_refused_and_not_ignored(container):
    profile = deny("getppid", action="SCMP_ACT_NOTIFY")
    c = container(seccomp={**profile, "listenerPath": "/no/such/socket"})
    assert c.attempt("true").code == 1
    c.assert_gone()


# --- the cache


@pytest.fixture
def cache(runtime):
    class Cache:
        folder = runtime.root / ":seccomp"

        def entries(self):
            return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

        def entry(self):
            (only,) = self.entries()
            return only

    return Cache()


def test_a_compiled_profile_is_kept_privately(container, cache):
    container(seccomp=deny("getppid")).run("true")
    status = cache.entry().stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o600, 0)
    assert cache.folder.stat().st_mode & 0o7777 == 0o700


def test_of_many_profiles_the_newest_are_kept(container, cache):
    """Somebody may make a profile for each of his containers, for years."""
    container(seccomp=deny("getppid")).run("true")
    first = cache.entry()
    for index in range(100):
        (cache.folder / f"{index:064}").touch(mode=0o600)
    os.utime(first, ns=(1, 1))
    container(seccomp=deny("getpid")).run("true")
    assert len(cache.entries()) == 64
    assert first not in cache.entries()
    container(seccomp=deny("getpid")).run("true")
    container(seccomp=deny("getppid")).run("true")


def test_a_hit_is_faster_than_compiling(container, cache):
    def seconds(profile):
        before = time.perf_counter()
        container(seccomp=profile).run("true")
        return time.perf_counter() - before

    profile = allow_list("getppid")
    first = seconds(profile)
    assert min(seconds(profile) for _ in range(4)) < first
    assert len(cache.entries()) == 1


def test_the_second_time_nothing_is_compiled(container, cache):
    container(seccomp=deny("getppid")).run("true")
    before = cache.entry().stat()
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    after = cache.entry().stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_profiles_do_not_mix(container, cache):
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    assert call(container(seccomp=deny("getppid", errnoRet=28)), GETPPID) == "ENOSPC"
    assert call(container(seccomp=deny("sync")), GETPPID) == "0"
    other = {**deny("getppid"), "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]}
    assert call(container(seccomp=other), GETPPID) == "EPERM"
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    assert len(cache.entries()) == 4


def poison(cache, container):
    """An entry that allows everything, whole in itself, in the place of one that does not."""
    container(seccomp=deny("sync")).run("true")
    harmless = cache.entry()
    data = harmless.read_bytes()
    harmless.unlink()
    container(seccomp=deny("getppid")).run("true")
    return cache.entry(), data


@pytest.mark.parametrize(
    "spoil", ["owner", "mode", "truncated", "empty", "flipped", "link", "folder", "garbage", "fifo", "hardlink"]
)
def test_an_entry_that_is_not_ours_whole_and_private_is_not_used(container, cache, tmp_path, spoil):
    entry, harmless = poison(cache, container)
    genuine = entry.read_bytes()
    entry.unlink()
    if spoil == "owner":
        entry.write_bytes(harmless)
        entry.chmod(0o600)
        os.chown(entry, 1000, 1000)
    elif spoil == "mode":
        entry.write_bytes(harmless)
        entry.chmod(0o620)
    elif spoil == "truncated":
        entry.write_bytes(genuine[:-8])
        entry.chmod(0o600)
    elif spoil == "empty":
        entry.write_bytes(b"")
        entry.chmod(0o600)
    elif spoil == "flipped":
        entry.write_bytes(genuine[:-1] + bytes([genuine[-1] ^ 1]))
        entry.chmod(0o600)
    elif spoil == "garbage":
        entry.write_bytes(os.urandom(4096))
        entry.chmod(0o600)
    elif spoil == "link":
        (tmp_path / "target").write_bytes(harmless)
        (tmp_path / "target").chmod(0o600)
        entry.symlink_to(tmp_path / "target")
    elif spoil == "hardlink":
        (tmp_path / "target").write_bytes(harmless)
        (tmp_path / "target").chmod(0o644)
        os.link(tmp_path / "target", entry)
    elif spoil == "folder":
        entry.mkdir()
    elif spoil == "fifo":
        os.mkfifo(entry, 0o600)
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    if spoil == "folder":
        entry.rmdir()
    if spoil == "link":
        assert (tmp_path / "target").read_bytes() == harmless


def test_a_cache_folder_of_somebody_else_is_not_used(container, cache):
    entry, harmless = poison(cache, container)
    entry.write_bytes(harmless)
    os.chown(cache.folder, 1000, 1000)
    cache.folder.chmod(0o777)
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    shutil.rmtree(cache.folder)


def test_a_cache_folder_that_is_a_link_is_not_used(container, cache, tmp_path):
    entry, harmless = poison(cache, container)
    entry.write_bytes(harmless)
    cache.folder.rename(tmp_path / "moved")
    cache.folder.symlink_to(tmp_path / "moved")
    before = sorted(path.name for path in (tmp_path / "moved").iterdir())
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == before
    cache.folder.unlink()


def test_a_cache_that_can_not_be_written_is_no_error(container, cache):
    container().run("true")
    cache.folder.parent.mkdir(exist_ok=True)
    cache.folder.write_text("in the way")
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    cache.folder.unlink()


def test_another_library_compiles_anew(container, cache):
    """Inside an entry stands the libseccomp that made it."""
    import hashlib
    import marshal

    container(seccomp=deny("getppid")).run("true")
    entry = cache.entry()
    identity, code = marshal.loads(entry.read_bytes()[32:])
    assert os.path.basename(identity[0]).startswith("libseccomp")
    stale = marshal.dumps(((identity[0], identity[1], identity[2] - 1, *identity[3:]), b"\x06\0\0\0\0\0\xff\x7f"))
    entry.write_bytes(hashlib.sha256(stale).digest() + stale)
    assert call(container(seccomp=deny("getppid")), GETPPID) == "EPERM"
    assert marshal.loads(cache.entry().read_bytes()[32:]) == (identity, code)


def test_the_cache_is_no_container(container, cache):
    c = container(seccomp=deny("getppid"))
    c.run("true")
    assert cache.entries()
    assert c.runtime("list", "-q").out == ""
    assert c.runtime("state", ":seccomp", check=False).code == 1
