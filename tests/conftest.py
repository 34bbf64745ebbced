"""What holds for every test."""

import gc
import os
import subprocess
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Temporary files are in a folder of this run's own, which is kept when a test has failed.

    pytest's folder is one for all runs, and each run that starts makes it private. The users of a user namespace have
    to enter it (Container.reachable), so that a second run would make tests of the first one fail.
    """
    hypothesis.settings.register_profile("ours", deadline=None)  # a busy machine takes longer than 0.2 s now and then
    hypothesis.settings.load_profile("ours")
    if config.option.basetemp is None:
        folder = tempfile.mkdtemp(prefix="pytest-")
        config.option.basetemp = f"{folder}/t"
        config.pluginmanager.register(OwnFolder(folder))


class OwnFolder:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.failed:
            terminalreporter.write_line(f"temporary files: {self.folder}")

    def pytest_unconfigure(self) -> None:
        if not self.failed:
            subprocess.run(["rm", "-rf", "--one-file-system", self.folder], check=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Not the status of failed tests where the run was stopped half-way, by its time limit: the rest is not known."""
    if session.shouldfail:
        session.exitstatus = pytest.ExitCode.INTERRUPTED


@pytest.fixture(scope="session", autouse=True)
def no_file_is_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """A descriptor that a test leaves open is inherited, and takes a number that another test may ask for."""
    before = _opened()
    yield
    if request.session.shouldfail:
        return  # stopped half-way
    gc.collect()
    assert not [name for file, name in _opened().items() if file not in before]


def _opened() -> dict[tuple[int, int], str]:
    """Files and namespaces: descriptor and inode (a name changes with the mount namespace), and the name.

    Of sockets, threads that outlive their test may have some for a moment.
    """
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
            inode = os.fstat(number).st_ino
        except OSError:
            continue  # that of this listing
        if not name.startswith(("socket:", "pipe:", "anon_inode:")):
            found[number, inode] = name
    return found
