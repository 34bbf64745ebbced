"""Loop devices: a file as a disk. The snapshotters blockfile and erofs have them for layers. loop(4), Linux 5.8"""

import errno
import fcntl
import posix
import time
from _struct import pack

from pyrunc.linux import encoded
from pyrunc.linux.fd import Fd, open_at

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 1, 4, 16
# struct loop_config: the file, the size of a block, struct loop_info64 (here its flags and the file's name), room.
LOOP_CONFIG = "=II 40x 3I I 64s 64x 32x 16x 64x"
NAME = 63  # bytes of the file's name: for people
TRIES = 50


def attached(path: str, read_only: bool, direct: bool) -> Fd:
    """Attach a file to a free loop device. The device is named as in /dev.

    The kernel detaches it as soon as nobody has it open and nothing of it is mounted. That is when somebody unmounts
    the container's root, or when we are killed before anything is mounted.
    """
    mode = posix.O_RDONLY if read_only else posix.O_RDWR
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0) | (LO_FLAGS_DIRECT_IO if direct else 0)
    with open_at(None, path, mode) as file, open_at(None, "/dev/loop-control", posix.O_RDWR) as control:
        config = pack(LOOP_CONFIG, file.number, 0, 0, 0, 0, flags, encoded(path)[:NAME])
        for attempt in range(TRIES):
            device = open_at(None, f"/dev/loop{fcntl.ioctl(control.number, LOOP_CTL_GET_FREE)}", mode)
            try:
                fcntl.ioctl(device.number, LOOP_CONFIGURE, config)
                return device
            except OSError as error:
                device.close()
                if error.errno != errno.EBUSY or attempt == TRIES - 1:
                    raise OSError(error.errno, f"{error.strerror} (loop device of {path})", device.name) from error
            time.sleep(attempt * 0.001)  # somebody else has taken the same device
    raise AssertionError  # not reached
