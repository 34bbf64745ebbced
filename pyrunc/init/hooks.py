"""The hooks that run on the way from clone to execve, and the wait for the runtime's. config.md#posix-platform-hooks"""

import posix

from pyrunc.hook_runner import run_all
from pyrunc.init import channel
from pyrunc.init.context import Context, step


@step("running createContainer hooks")
def create_container(context: Context) -> None:
    """In the container's namespaces, before pivot_root: the program is the host's, and all mounts are there to see. The
    pid that they read is the one that it has there (config.md#createcontainer-hooks).
    """
    hooks = (context.config.get("hooks") or {}).get("createContainer") or []
    if hooks and context.root is not None:
        posix.fchdir(context.root.number)  # where runc starts them: hooks such as ldconfig's rely on it
    run_all("createContainer", hooks, context.state("creating", posix.getpid()), {}, outputs=context.hook_outputs)


@step("running startContainer hooks")
def start_container(context: Context) -> None:
    """Programs of the container's, in the container, as its user: whatever the filter and the rights let them do. The
    filter is each one's own, and not yet ours: it may forbid what it takes to run them.
    """
    hooks = (context.config.get("hooks") or {}).get("startContainer") or []
    filter = (None, 0) if context.bpf_installed else (context.bpf, context.bpf_flags)
    state = context.state("created", posix.getpid())
    run_all("startContainer", hooks, state, context.environment, filter=filter, outputs=context.hook_outputs)


@step("waiting for the runtime's hooks")
def ask_runtime(context: Context) -> None:
    """prestart and createRuntime are the runtime's to run, in its own namespaces, once ours exist."""
    hooks = context.config.get("hooks") or {}
    if hooks.get("prestart") or hooks.get("createRuntime"):
        context.ask(channel.RUN_HOOKS)
