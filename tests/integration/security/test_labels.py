"""AppArmor and SELinux. A kernel with AppArmor runs the first half (the virtual machine's), one without the other."""

import shutil
from pathlib import Path

import pytest

from pyrunc.init import labels
from pyrunc.init.context import Context

APPARMOR = labels.has_apparmor()
SELINUX = labels.has_selinux()


@pytest.mark.skipif(not APPARMOR, reason="a kernel with AppArmor")
def test_the_program_has_its_profile(container):
    # unconfined is the one profile that every kernel with AppArmor has: the transition is asked for, and granted
    made = container(apparmorProfile="unconfined")
    assert made.run("cat", "/proc/self/attr/current").startswith("unconfined")


@pytest.mark.skipif(not APPARMOR, reason="a kernel with AppArmor")
def test_a_profile_that_is_not_loaded_is_an_error(container):
    assert "no-such-profile" in container(apparmorProfile="no-such-profile").refused("true")


@pytest.mark.skipif(APPARMOR, reason="a kernel without AppArmor")
def test_a_profile_without_apparmor_is_a_warning(container):
    result = container(apparmorProfile="web").attempt("echo", "runs")
    assert result.out == "runs\n"
    assert "the kernel has no AppArmor: profile web is not applied" in result.err


@pytest.mark.skipif(SELINUX, reason="a kernel without SELinux")
@pytest.mark.parametrize("name", ["selinuxLabel", "mountLabel"])
def test_a_label_without_selinux_is_a_warning(container, name):
    result = container(**{name: "system_u:object_r:container_file_t:s0:c1,c2"}).attempt("echo", "runs")
    assert result.out == "runs\n"
    assert "the kernel has no SELinux" in result.err


@pytest.mark.skipif(APPARMOR or SELINUX, reason="a kernel without both")
def test_what_the_image_has_for_sys_is_not_asked(container):
    """The kernel is asked, not the image's files: these could fake a security module, or hide one."""
    made = container(apparmorProfile="web", selinuxLabel="a:b:c")
    made.config["mounts"] = [mount for mount in made.config["mounts"] if mount["type"] != "sysfs"]
    made.file("/sys/module/apparmor/parameters/enabled", "Y\n").file("/sys/fs/selinux/enforce", "1")
    assert made.attempt("echo", "runs").out == "runs\n"


@pytest.mark.skipif(APPARMOR or SELINUX, reason="a kernel without both")
def test_a_container_without_labels_says_nothing_of_them(container):
    assert container().attempt("true").err == ""


def test_new_file_systems_get_the_mount_label_but_not_the_kernels_own():
    context = Context()
    context.config = {}
    assert labels.for_mount(context, "tmpfs") == []
    context.mount_label = "system_u:object_r:container_file_t:s0:c1,c2"
    assert labels.for_mount(context, "tmpfs") == [("context", context.mount_label)]
    assert labels.for_mount(context, "devpts") == [("context", context.mount_label)]
    for kind in ("proc", "sysfs", "mqueue", "cgroup", "cgroup2"):
        assert labels.for_mount(context, kind) == []


def test_what_the_kernel_has_is_what_is_said():
    parameter = Path("/sys/module/apparmor/parameters/enabled")
    assert (parameter.exists() and parameter.read_text().startswith("Y")) == APPARMOR


@pytest.mark.skipif(not shutil.which("strace"), reason="strace, which makes system calls fail, is not installed")
@pytest.mark.parametrize(
    ("place", "changes"),
    [
        ("/sys/module/apparmor/parameters/enabled", {"apparmorProfile": "unconfined"}),
        ("/sys/fs/selinux", {"mountLabel": "system_u:object_r:container_file_t:s0"}),
    ],
)
def test_a_call_that_fails_does_not_say_that_the_kernel_has_none(container, place, changes):
    failing = ("-P", place, "-e", "trace=openat", "-e", "inject=openat:error=EMFILE")
    wrapper = ("strace", "-f", "-qq", "-o", "/dev/null", *failing)
    assert place in container(**changes).refused("true", wrapper=wrapper)
