"""Run beside a test: exchange names for ever, pair by pair, as a hostile container on a shared volume would.

Usage: python racer.py ONE OTHER [ONE OTHER]...
"""

import ctypes
import sys

RENAME_EXCHANGE = 2
AT_FDCWD = -100


def main(names: list[bytes]) -> None:
    renameat2 = ctypes.CDLL(None).renameat2
    pairs = [(names[n], names[n + 1]) for n in range(0, len(names), 2)]
    while True:
        for one, other in pairs:
            renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)


if __name__ == "__main__":
    main([name.encode() for name in sys.argv[1:]])
