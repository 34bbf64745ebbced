"""The attributes of a terminal: struct termios, as ioctl(2) takes it on x86_64 and aarch64.

Not by Python's module termios: it is a shared object, and the image, which is one static file, can't load any.
"""

import fcntl

TCGETS, TCSETS = 0x5401, 0x5402
SIZE = 36  # four words, the line discipline, 19 control characters

# c_iflag, c_oflag, c_cflag, c_lflag: termios(3)
IGNBRK, BRKINT, PARMRK, INPCK, ISTRIP = 0o1, 0o2, 0o10, 0o20, 0o40
INLCR, IGNCR, ICRNL, IXON = 0o100, 0o200, 0o400, 0o2000
OPOST, ONLCR = 0o1, 0o4
CSIZE, CS8, PARENB = 0o60, 0o60, 0o400
ISIG, ICANON, ECHO, ECHONL, IEXTEN = 0o1, 0o2, 0o10, 0o100, 0o100000
VTIME, VMIN = 5, 6


class Attributes:
    __slots__ = ("control", "input", "line", "local", "output")

    def __init__(self, data: bytes) -> None:
        words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 16, 4)]
        self.input, self.output, self.control, self.local = words
        self.line = bytearray(data[16:SIZE])

    def data(self) -> bytes:
        words = (self.input, self.output, self.control, self.local)
        return b"".join(word.to_bytes(4, "little") for word in words) + self.line

    def character(self, index: int, value: int) -> None:
        """One of c_cc, which begins after the line discipline."""
        self.line[1 + index] = value


def get(number: int) -> Attributes:
    """Of the terminal that the descriptor is. Raises OSError."""
    return Attributes(fcntl.ioctl(number, TCGETS, bytes(SIZE)))


def set(number: int, attributes: Attributes) -> None:
    """Set them at once (TCSANOW). A job in the background is stopped here until it is in the foreground. Raises
    OSError.
    """
    while True:
        try:
            fcntl.ioctl(number, TCSETS, attributes.data())
            return
        except InterruptedError:
            pass


def make_raw(attributes: Attributes, output: bool) -> None:
    """Typed characters are neither echoed nor interpreted. With `output`, printed ones are not changed either.
    cfmakeraw(3)
    """
    attributes.input &= ~(BRKINT | ICRNL | INPCK | ISTRIP | IXON | IGNBRK | PARMRK | INLCR | IGNCR)
    if output:
        attributes.output &= ~OPOST
    attributes.control = attributes.control & ~(CSIZE | PARENB) | CS8
    attributes.local &= ~(ECHO | ECHONL | ICANON | IEXTEN | ISIG)
    attributes.character(VMIN, 1)
    attributes.character(VTIME, 0)
