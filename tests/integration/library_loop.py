"""Run beside a test: create and delete a container again and again in one process, which takes 8 ms a time.

Prints how many creates succeeded and failed. Usage: python library_loop.py STATE-ROOT BUNDLE TIMES PREFIX
"""

import os
import sys

from pyrunc import Container, PyruncError, StateRoot


def main(root: str, bundle: str, times: str, prefix: str) -> None:
    state_root = StateRoot(root)
    made = failed = 0
    for number in range(int(times)):
        name = f"{prefix}-{number}"
        try:
            container = Container.create(state_root, name, bundle)
        except PyruncError:
            failed += 1
            continue
        made += 1
        Container.delete(state_root, name, force=True)
        try:
            os.waitpid(container.pid, 0)
        except ChildProcessError:
            pass
    print(made, failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
