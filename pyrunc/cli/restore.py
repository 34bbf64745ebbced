"""pyrunc restore ID: make a container of a checkpoint, which goes on where it was."""

from pyrunc.cli import checkpoint, create
from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call
from pyrunc.container.checkpoint.options import RestoreOptions
from pyrunc.container.container import Container
from pyrunc.container.options import Options
from pyrunc.errors import NoSuchContainer

USAGE = Usage(
    "restore",
    "ID",
    "make a container of a checkpoint, and let it go on where it was",
    (
        create.BUNDLE,
        checkpoint.IMAGE_PATH,
        checkpoint.WORK_PATH,
        Flag("detach", "d", help="do not wait for its end"),
        create.PID_FILE,
        create.CONSOLE_SOCKET,
        Flag("no-subreaper", help="do not adopt the container's orphans while it runs"),
        Flag("no-pivot", help="the host's root is a ramdisk, which pivot_root can't leave"),
        checkpoint.TCP_ESTABLISHED,
        checkpoint.EXT_UNIX_SK,
        checkpoint.SHELL_JOB,
        checkpoint.FILE_LOCKS,
        checkpoint.LAZY_PAGES,
        checkpoint.CGROUPS,
        checkpoint.EMPTY_NS,
        checkpoint.AUTO_DEDUP,
        Flag("lsm-profile", help="the profile or label of its processes: TYPE:NAME", value="PROFILE"),
        Flag("lsm-mount-context", help="the SELinux context of its mounts", value="CONTEXT"),
    ),
    least=1,
    most=1,
    details="""CRIU does it, the program criu in PATH. The bundle has to be the one of the container that was written,
or a copy: its configuration says what comes from the host, and what the container may do.""",
)


def main(call: Call) -> int:
    arguments = call.arguments
    restoring = RestoreOptions(
        checkpoint.images(arguments),
        **checkpoint.common(arguments),
        lsm_profile=arguments.text("lsm-profile"),
        lsm_mount_context=arguments.text("lsm-mount-context"),
    )
    bundle = arguments.text("bundle") or "."
    settings = Options(
        pid_file=create.absolute(arguments.text("pid-file")),
        console_socket=create.absolute(arguments.text("console-socket")),
        no_pivot=arguments.on("no-pivot"),
        rootless=call.rootless,
        systemd=call.manager == "systemd",
        no_cgroup=call.manager == "disabled",
    )
    if arguments.on("detach"):
        Container.restore(call.state_root, call.id, bundle, restoring, settings, call.log)
        return 0
    from pyrunc.container.foreground import Foreground

    settings.detach = False
    with Foreground(subreaper=not arguments.on("no-subreaper")) as foreground:
        settings.console, settings.pidfd = foreground.take_master, foreground.take_pidfd
        container = Container.restore(call.state_root, call.id, bundle, restoring, settings, call.log)
        try:
            return foreground.wait(container.pid)
        finally:
            try:
                Container.delete(call.state_root, call.id, True, call.log)
            except NoSuchContainer:
                pass  # somebody else was quicker
