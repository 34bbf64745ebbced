"""The hooks that run on the way from clone to execve, and the wait for the runtime's. config.md#posix-platform-hooks"""

import posix

from pyrunc.hook_runner import run_all
from pyrunc.init import channel
from pyrunc.init.context import Context, step


@step("running createContainer hooks")
def create_container(context: Context) -> None:
    """In the container's namespaces, before pivot_root: the program is one of the host's, and all mounts can be
    seen. The pid that hooks read is the one in the container (config.md#createcontainer-hooks).
    """
    hooks = (context.config.get("hooks") or {}).get("createContainer") or []
    if hooks and context.root is not None:
        posix.fchdir(context.root.number)  # runc starts them there, and hooks such as that for ldconfig rely on it
    run_all("createContainer", hooks, context.state("creating", posix.getpid()), {}, outputs=context.hook_outputs)


@step("running startContainer hooks")
def start_container(context: Context) -> None:
    """Programs of the container, run in it as its user, with its filter and its rights. Each hook gets the filter
    by itself. This process does not have it yet: the filter may forbid what it takes to run hooks.
    """
    hooks = (context.config.get("hooks") or {}).get("startContainer") or []
    filter = (None, 0) if context.bpf_installed else (context.bpf, context.bpf_flags)
    state = context.state("created", posix.getpid())
    run_all("startContainer", hooks, state, context.environment, filter=filter, outputs=context.hook_outputs)


@step("waiting for the runtime's hooks")
def ask_runtime(context: Context) -> None:
    """The runtime runs prestart and createRuntime hooks in its own namespaces, when those of the container exist."""
    hooks = context.config.get("hooks") or {}
    if hooks.get("prestart") or hooks.get("createRuntime"):
        context.ask(channel.RUN_HOOKS)
