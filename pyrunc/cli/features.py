"""pyrunc features: what this runtime supports, as JSON."""

from pyrunc.cli.arguments import Usage
from pyrunc.cli.call import Call, say
from pyrunc.container.features import features
from pyrunc.spec.jsonc import dumps_pretty

USAGE = Usage(
    "features", "", "show what this runtime supports, as JSON", details="See features.md of the runtime specification."
)


def main(_: Call) -> None:
    say(dumps_pretty(features(), "    "))
