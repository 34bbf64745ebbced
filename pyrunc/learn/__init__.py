"""The least that a program needs, seen while it runs: `pyrunc learn`. Off the path of every other verb."""
