"""Run beside a test: exchange two names for ever, as a hostile container on a shared volume would. RENAME_EXCHANGE"""

import ctypes
import sys

RENAME_EXCHANGE = 2
AT_FDCWD = -100


def main(one: bytes, other: bytes) -> None:
    renameat2 = ctypes.CDLL(None).renameat2
    while True:
        renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)


if __name__ == "__main__":
    main(sys.argv[1].encode(), sys.argv[2].encode())
