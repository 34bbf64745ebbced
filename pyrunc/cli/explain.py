"""pyrunc explain: what a configuration, or a container, grants and withholds, worst first."""

import os

from pyrunc.cli.arguments import Flag, Usage
from pyrunc.cli.call import Call, say
from pyrunc.container.container import Container
from pyrunc.container.state import is_root_of_host
from pyrunc.errors import ConfigError, NoSuchContainer, UsageError, words
from pyrunc.explain import report
from pyrunc.explain.finding import LEVELS, VERDICTS
from pyrunc.linux.fd import read_file
from pyrunc.spec import load
from pyrunc.spec.jsonc import dumps_pretty
from pyrunc.spec.types import Config

FAILED = 2  # 1 is a failure of ours
WIDTH = 100

USAGE = Usage(
    "explain",
    "[ID|PATH]",
    "say what a configuration or a container grants and withholds, worst first",
    (
        Flag(
            "compare", help="only what it grants beside what another container or configuration does", value="ID|PATH"
        ),
        Flag("fail-on", help="exit with 2 if something is of LEVEL or worse", value="LEVEL"),
        Flag("json", help="print JSON"),
    ),
    most=1,
    details=f"""A word with a slash, or `.`, is the path of a bundle or of its config.json; another is the ID of a
container. The default is the bundle in the current folder.

LEVEL is one of {", ".join(LEVELS)}:
{chr(10).join(f"    {level:<9} {text}" for level, text in VERDICTS.items())}

With --compare, --fail-on looks at what is granted beyond the other. A file does not tell whether an engine without
privileges runs it, for which user 0 is the user himself: `pyrunc --rootless true explain PATH` takes it as such.""",
)


def main(call: Call) -> int:
    arguments = call.arguments
    limit, other = arguments.text("fail-on"), arguments.text("compare")
    if limit and limit not in LEVELS:
        raise UsageError("--fail-on", f'"{limit}"', "is no level", ", ".join(LEVELS))
    explained = _explained(call, arguments.rest[0] if arguments.rest else ".")
    width = _width()
    if other:
        old = _explained(call, other)
        found = report.document_of_two(explained, old)
        text = report.text_of_two(explained, old, width)
        findings = report.compare(explained, old).more
    else:
        found, text = report.document(explained), report.text(explained, width)
        findings = explained.granted
    say(dumps_pretty(found) if arguments.on("json") else text)
    return FAILED if limit and any(each.rank <= LEVELS.index(limit) for each in findings) else 0


def _explained(call: Call, subject: str) -> report.Explanation:
    if "/" in subject or subject in (".", ".."):
        folder = subject if os.path.isdir(subject) else os.path.dirname(subject)
        return report.explain(_configuration(subject), subject, None, bool(call.rootless), os.path.abspath(folder))
    try:
        container = Container.load(call.state_root, subject, call.log)
    except NoSuchContainer as error:
        error.hint = f"for the path write ./{subject}" if os.path.exists(subject) else ""
        raise
    # Its state is ours: who made it was, as we are, the host's root or not.
    rootless = not is_root_of_host() if call.rootless is None else call.rootless
    return report.explain(container.config, subject, _now(container), rootless, container.record["bundle"])


def _configuration(path: str) -> Config:
    """Of a bundle, or of a file of whatever name."""
    folder, name = (path, "config.json") if os.path.isdir(path) else (os.path.dirname(path), os.path.basename(path))
    try:
        number = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError("reading", path, words(error)) from error
    try:
        return load.config(number, name)
    finally:
        os.close(number)


def _now(container: Container) -> list[str]:
    """What the kernel says of its first process. The program may have given up rights since; `exec` has them still."""
    status = container.status()
    if status not in ("running", "paused"):
        return [f"it is {status}"]
    try:
        lines = read_file(f"/proc/{container.pid}/status").decode("utf-8", "replace").splitlines()
    except OSError:
        return ["it has ended"]
    said = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    from pyrunc.init.capabilities import names_of

    names = names_of(int(said.get("CapEff", "0"), 16))
    kinds = {"0": "no filter", "1": "strict", "2": f"{said.get('Seccomp_filters', '1')} filter(s)"}
    return [
        f"its first process, {container.pid}, has user {said['Uid'].split()[1]}"
        f" and the capabilities {', '.join(names) or '(none)'}",
        f"system calls: {kinds.get(said.get('Seccomp', '0'), '?')};"
        f" no_new_privs is {'set' if said.get('NoNewPrivs') == '1' else 'not set'}",
    ]


def _width() -> int:
    try:
        return max(40, min(WIDTH, os.get_terminal_size(1).columns))
    except OSError:
        return WIDTH
