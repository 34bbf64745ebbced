"""The image's stand-ins for two shared objects do what these do, as far as our libraries use them."""

import ctypes
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
import rpds
from hypothesis import given
from hypothesis import strategies as st

IMAGE = Path(__file__).parents[2] / "pyrunc/image"
pytestmark = pytest.mark.skipif(not IMAGE.is_dir(), reason="the tree is not there")


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- ctypes

FUNCTIONS = (
    "seccomp_init", "seccomp_reset", "seccomp_release", "seccomp_merge", "seccomp_load", "seccomp_attr_get",
    "seccomp_attr_set", "seccomp_arch_exist", "seccomp_arch_add", "seccomp_arch_remove", "seccomp_arch_native",
    "seccomp_syscall_resolve_name_arch", "seccomp_syscall_resolve_num_arch", "seccomp_rule_add_array",
    "seccomp_rule_add_exact_array", "seccomp_syscall_priority", "seccomp_export_bpf", "seccomp_export_pfc",
)  # fmt: skip


@pytest.fixture
def profiles(monkeypatch):
    """pyrunc.seccomp.profile twice: over the real ctypes, and over the stand-in with the same library."""
    pytest.importorskip("pyseccomp")
    library = ctypes.CDLL("libseccomp.so.2")
    addresses = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in FUNCTIONS}
    addresses["free"] = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p).value
    real = load("profile_over_ctypes", IMAGE.parent / "seccomp/profile.py")

    linked = types.ModuleType("pyrunc.image._linked")
    linked.FUNCTIONS = addresses
    package = types.ModuleType("pyrunc.image")
    package._linked = linked
    monkeypatch.setitem(sys.modules, "pyrunc.image", package)
    monkeypatch.setitem(sys.modules, "pyrunc.image._linked", linked)
    stand_in = load("stand_in_ctypes", IMAGE / "stand_in_ctypes.py")
    stand_in.util = types.SimpleNamespace(find_library=str)
    monkeypatch.setitem(sys.modules, "ctypes", stand_in)
    monkeypatch.setitem(sys.modules, "ctypes.util", stand_in.util)
    monkeypatch.delitem(sys.modules, "pyseccomp")
    other = load("profile_over_the_stand_in", IMAGE.parent / "seccomp/profile.py")
    assert other.pyseccomp.ctypes is stand_in
    return real, other


def docker_like():
    names = ["read", "write", "openat", "execve", "exit_group", "mmap", "futex", "no_such_call", "socket"]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 0xFFFFFFFF, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["ptrace"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    }  # fmt: skip


def test_profiles_are_compiled_to_the_same_program(profiles):
    real, other = profiles
    bundles = [docker_like(), {"defaultAction": "SCMP_ACT_ALLOW"}, {"defaultAction": "SCMP_ACT_KILL_PROCESS"}]
    for profile in bundles:
        assert other.compile(json.loads(json.dumps(profile))) == real.compile(profile)


def test_what_a_library_knows_is_the_same(profiles):
    real, other = profiles
    assert other.architecture_names() == real.architecture_names()
    for name in ("read", "clone3", "no_such_call"):
        for token in (0, real.pyseccomp.Arch.X86, real.pyseccomp.Arch.AARCH64):
            assert other.pyseccomp.resolve_syscall(token, name) == real.pyseccomp.resolve_syscall(token, name)
    assert other.pyseccomp.resolve_syscall(0, 0) == real.pyseccomp.resolve_syscall(0, 0)


def test_what_is_refused_is_refused(profiles):
    for each in profiles:
        program = each.pyseccomp.SyscallFilter(each.pyseccomp.ALLOW)
        with pytest.raises(OSError, match="exists"):
            program.add_arch(each.pyseccomp.system_arch())


# --- rpds

stand_in = load("stand_in_rpds", IMAGE / "stand_in_rpds.py") if IMAGE.is_dir() else rpds
KEYS = st.integers(0, 6)
STEPS = st.lists(st.tuples(st.sampled_from(["insert", "remove", "discard", "update"]), KEYS, KEYS), max_size=12)


def outcome(action):
    try:
        return action()
    except (KeyError, IndexError) as error:
        return type(error)


@given(STEPS)
def test_maps(steps):
    ours, theirs = stand_in.HashTrieMap(), rpds.HashTrieMap()
    for verb, key, value in steps:
        words = {"insert": (key, value), "remove": (key,), "discard": (key,), "update": ({key: value},)}[verb]
        one, other = (outcome(lambda each=each: getattr(each, verb)(*words)) for each in (ours, theirs))  # noqa: B023
        assert isinstance(one, type) == isinstance(other, type)
        if not isinstance(one, type):
            ours, theirs = one, other
        assert dict(ours) == dict(theirs)
        assert len(ours) == len(theirs)
        assert ours.get(key) == theirs.get(key)
        assert (key in ours) == (key in theirs)
    assert stand_in.HashTrieMap.convert({1: 2})[1] == rpds.HashTrieMap.convert({1: 2})[1]


@given(STEPS)
def test_sets(steps):
    ours, theirs = stand_in.HashTrieSet(), rpds.HashTrieSet()
    for verb, key, value in steps:
        words = ([key, value],) if verb == "update" else (key,)
        one, other = (outcome(lambda each=each: getattr(each, verb)(*words)) for each in (ours, theirs))  # noqa: B023
        assert isinstance(one, type) == isinstance(other, type)
        if not isinstance(one, type):
            ours, theirs = one, other
        assert set(ours) == set(theirs)


@given(st.lists(KEYS, max_size=5), KEYS)
def test_lists(items, item):
    ours, theirs = stand_in.List(items), rpds.List(items)
    assert list(ours.push_front(item)) == list(theirs.push_front(item))
    assert list(reversed(ours)) == list(reversed(theirs))
    assert outcome(lambda: ours.first) == outcome(lambda: theirs.first)
    assert outcome(lambda: list(ours.drop_first())) == outcome(lambda: list(theirs.drop_first()))
