"""python -m pyrunc: the command line, without the launcher: nothing seals the interpreter (docs/security.md)."""

import sys

from pyrunc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
