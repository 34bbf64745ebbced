"""What a program finds when it starts: arguments, environment, directory, streams, signals. config.md#process"""

import os
import signal
from pathlib import Path

import pytest

from integration.support.bundle import BUSYBOX
from integration.support.container import status_of


def test_arguments_are_the_programs(container):
    assert container().run("printf", "[%s]", "a b", "", "ünï", "-x") == "[a b][][ünï][-x]"


def test_the_environment_is_the_configurations_and_home(container):
    c = container(env=["PATH=/bin", "A=1", "B=x=y", "A=2", "E=", "Ü=ö"])
    assert sorted(c.run("env").splitlines()) == ["A=2", "B=x=y", "E=", "HOME=/root", "PATH=/bin", "Ü=ö"]


@pytest.mark.parametrize(("uid", "home"), [(0, "/root"), (1000, "/home/user"), (1234, "/")])
def test_home_is_that_of_the_images_passwd(container, uid, home):
    assert container(user={"uid": uid, "gid": 0}).sh("echo $HOME") == home


def test_home_of_the_configuration_stays(container):
    assert container(env=["PATH=/bin", "HOME=/mine"]).sh("echo $HOME") == "/mine"


def test_home_of_an_image_without_passwd(container):
    c = container()
    (c.bundle.rootfs / "etc/passwd").unlink()
    assert c.sh("echo $HOME") == "/"


@pytest.mark.parametrize("content", ["", "\x00\xff\n::::::\nroot", "x" * 100000, "root:x:0:0\n"])
def test_a_passwd_that_is_none(container, content):
    assert container().file("/etc/passwd", content).sh("echo $HOME") == "/"


@pytest.mark.parametrize("target", ["/proc/kmsg", "/proc/self/environ", "/sys/kernel/notes", "/dev/zero", "/etc"])
def test_a_passwd_that_leads_to_another_file(container, target):
    """/proc/kmsg holds who reads it, and its reader takes the host's messages from the log."""
    c = container()
    (c.bundle.rootfs / "etc/passwd").unlink()
    (c.bundle.rootfs / "etc/passwd").symlink_to(target)
    assert c.sh("echo $HOME") == "/"


def test_a_passwd_that_is_a_fifo_does_not_hang(container):
    c = container()
    (c.bundle.rootfs / "etc/passwd").unlink()
    os.mkfifo(c.bundle.rootfs / "etc/passwd")
    assert c.sh("echo $HOME") == "/"


def test_the_working_directory(container):
    assert container(cwd="/tmp").run("pwd") == "/tmp"


def test_a_missing_working_directory_of_a_read_only_root_is_made_too(container):
    assert container(cwd="/not/there", root={"path": "rootfs", "readonly": True}).run("pwd") == "/not/there"


def test_a_working_directory_that_is_not_there_is_made(container):
    c = container(cwd="/not/there", user={"uid": 1000, "gid": 1000})
    assert c.sh("pwd; stat -c '%a %u' .") == "/not/there\n755 0"


def test_a_working_directory_that_only_the_user_may_enter(container):
    c = container(cwd="/home/user", user={"uid": 1000, "gid": 1000}, capabilities={})
    (c.bundle.rootfs / "home/user").mkdir(parents=True)
    (c.bundle.rootfs / "home/user").chmod(0o700)
    os.chown(c.bundle.rootfs / "home/user", 1000, 1000)
    assert c.run("pwd") == "/home/user"


def test_a_working_directory_that_is_a_file_is_refused(container):
    assert "/etc/passwd" in container(cwd="/etc/passwd").refused("true")


def test_the_session_keyring_is_its_own(container):
    c = container()
    assert c.run("probe", "keyring").endswith(f";_ses.{c.id}")


def test_the_session_keyring_is_the_callers_when_asked(container):
    c = container()
    assert not c.run("probe", "keyring", flags=("--no-new-keyring",)).endswith(c.id)


def test_the_first_process_leads_a_session(container):
    assert "ids 1 1 1" in container().run("probe", "attributes")


def test_signals_have_their_default_actions(container):
    assert status_of(container(), "SigBlk", "SigIgn") == ["0000000000000000"] * 2


def test_signals_that_the_caller_ignores_are_not_ignored_in_the_container(container):
    def arrange():
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})

    assert status_of(container(), "SigBlk", "SigIgn", preexec_fn=arrange) == ["0000000000000000"] * 2


def test_the_program_outlives_the_runtime(container):
    assert "pdeathsig 0" in container().run("probe", "attributes")


def test_the_streams_are_the_users(container):
    assert container(user={"uid": 1000, "gid": 1000}).sh("echo fine > /dev/stdout; cat /dev/stdin") == "fine"


def test_a_program_is_found_with_the_containers_path(container):
    c = container(env=["PATH=/nothing:/opt/here:/bin"])
    (c.bundle.rootfs / "opt/here").mkdir(parents=True)
    c.file("/opt/here/mine", "#!/bin/sh\necho $0\n", 0o755)
    assert c.run("mine") == "/opt/here/mine"


def test_a_script_runs_by_its_first_line(container):
    assert container().file("/script", "#!/bin/sh\necho $0 $1\n", 0o755).run("/script", "x") == "/script x"


def test_busybox_is_what_it_was(container):
    c = container()
    c.run("true")
    assert (c.bundle.rootfs / "bin/busybox").read_bytes() == Path(BUSYBOX).read_bytes()
