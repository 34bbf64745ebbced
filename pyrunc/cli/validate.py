"""pyrunc validate: check a bundle's configuration, and explain every mistake with its place."""

import os

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call, say
from pyrunc.cli.create import BUNDLE
from pyrunc.errors import ConfigError, words
from pyrunc.spec import everything, load, report
from pyrunc.spec.report import Path_, Problem

NAME = "config.json"

USAGE = Usage(
    "validate",
    "",
    "check a bundle's configuration and explain every mistake",
    (BUNDLE,),
    details="""All mistakes are told at once, each with its line and column: what the schema of runtime-spec 1.3
refuses, what its rules forbid, members, capabilities and system calls whose names nobody knows, and a root file
system that is not there. The exit status is 1 if there is a mistake, and 0 with `OK` if there is none; what is
doubtful only is a warning.""",
)


def main(call: Call) -> int:
    bundle = call.arguments.text("bundle") or "."
    try:
        directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as failure:
        raise ConfigError("reading", bundle, words(failure), "--bundle DIR names another") from failure
    try:
        written = load.read(directory, NAME)
    except ConfigError:
        os.close(directory)
        raise
    try:
        text, document = load.parse(written, NAME)
        found = everything.Found(document)
        found.doubts += everything.given_twice(text)
        found.mistakes += [*missing_root(document, directory), *unknown_calls(document)]
    except ConfigError as refused:
        say(str(refused))
        return 1
    finally:
        os.close(directory)
    for line in sorted(report.lines(NAME, text, found.doubts), key=lambda line: line.offset):
        say(f"warning: {line}")
    for line in sorted(report.lines(NAME, text, found.mistakes), key=lambda line: line.offset):
        say(str(line))
    if not found.mistakes:
        say("OK")
    return 1 if found.mistakes else 0


def missing_root(document: object, directory: int) -> list[Problem]:
    root = document.get("root") if isinstance(document, dict) else None
    path = root.get("path") if isinstance(root, dict) else None
    if not isinstance(path, str) or not path or "\0" in path:
        return []
    try:
        os.close(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory))
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", "") or str(error)).lower()
        cause = f"the root file system {path}: {why}"
        return [Problem(("root", "path"), cause, "a relative path starts at the bundle")]
    return []


def unknown_calls(document: object) -> list[Problem]:
    linux = document.get("linux") if isinstance(document, dict) else None
    profile = linux.get("seccomp") if isinstance(linux, dict) else None
    rules = profile.get("syscalls") if isinstance(profile, dict) else None
    named: list[tuple[Path_, str]] = [
        (("linux", "seccomp", "syscalls", index, "names", number), name)
        for index, rule in enumerate(rules if isinstance(rules, list) else ())
        if isinstance(rule, dict) and isinstance(rule.get("names"), list)
        for number, name in enumerate(rule["names"])
        if isinstance(name, str) and name.isprintable() and name
    ]
    if not named:
        return []
    from pyrunc.seccomp import names

    unknown = [(path, name) for path, name in named if not names.is_known(name)]
    known = names.all_known() if unknown else set()
    return [
        Problem(path, f'no kernel has a system call "{name}"', everything.guess(name, known)) for path, name in unknown
    ]
