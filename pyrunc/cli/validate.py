"""pyrunc validate: check a bundle's configuration, and explain every mistake with its place."""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call
from pyrunc.cli.create import BUNDLE

USAGE = Usage(
    "validate",
    "",
    "check a bundle's configuration and explain every mistake",
    (BUNDLE,),
    details="The exit status is 0 when config.json is what runtime-spec 1.3 asks for, and 1 when it is not.",
)


def main(call: Call) -> int:
    import sys

    from pyrunc.spec.report import print_report

    status = print_report(call.arguments.text("bundle") or ".")
    sys.stdout.flush()  # the launcher leaves by _exit
    return status
