"""rtnetlink(7), as much as moving network devices takes: links and addresses, asked for and changed.

A socket belongs to the network namespace that it was made in, wherever its process goes later, and keeps it alive.
"""

import _socket
import errno
import posix
from _struct import Struct

from pyrunc.linux.fd import Fd
from pyrunc.linux.process import CLONE_NEWNET, setns

NETLINK_ROUTE = 0
SOL_NETLINK = 270
NETLINK_EXT_ACK = 11

HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
LINK = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
ADDRESS = Struct("=BBBBi")  # struct ifaddrmsg: family, prefix length, flags, scope, index
ATTRIBUTE = Struct("=HH")  # struct rtattr: length, type
NUMBER = Struct("=I")
ERROR = Struct("=i")

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP, NLM_F_REPLACE, NLM_F_CREATE = 0x300, 0x100, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
NESTED = 0x8000  # NLA_F_NESTED: a flag in an attribute's type

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_NET_NS_FD, IFLA_EXT_MASK = 1, 3, 4, 18, 28, 29
IFLA_PHYS_PORT_ID, IFLA_PHYS_PORT_NAME, IFLA_PERM_ADDRESS = 34, 38, 54
IFLA_PARENT_DEV_NAME, IFLA_PARENT_DEV_BUS_NAME = 56, 57
KNOWN_BY = (IFLA_PARENT_DEV_BUS_NAME, IFLA_PARENT_DEV_NAME, IFLA_PERM_ADDRESS, IFLA_PHYS_PORT_ID, IFLA_PHYS_PORT_NAME)
IFLA_INFO_KIND = 1
RTEXT_FILTER_SKIP_STATS = 8
IFNAMSIZ = 16

IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 3, 4, 6, 8
IFA_RT_PRIORITY, IFA_PROTO = 9, 11
IFA_F_PERMANENT = 0x80
RT_SCOPE_UNIVERSE = 0
KEPT = (IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_CACHEINFO, IFA_RT_PRIORITY, IFA_PROTO)
KEPT_FLAGS = (
    0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400
)  # what an administrator sets; the other flags say what state it is in

ROOM = 1 << 18  # for one datagram of the kernel's, which are 32 KiB at most but for a device with many functions
TRIES = 8

Address = tuple[int, int, str, str]
"""Family, prefix length, attributes in hexadecimal, and what its label has behind the device's name."""


class Link:
    """One network device.

    Attributes:
        index, name, up, mtu, address (the MAC's bytes).
        kind: of a virtual device: veth, bridge, … ; "" of a physical one.
        identity: what a physical device is known by, whatever it is called: its place on its bus, its own address.
    """

    __slots__ = ("address", "identity", "index", "kind", "mtu", "name", "up")

    def __init__(self, message: bytes) -> None:
        _, _, self.index, flags, _ = LINK.unpack_from(message)
        found = attributes(message[LINK.size :])
        self.name = found[IFLA_IFNAME].rstrip(b"\0").decode("utf-8", "surrogateescape")
        self.up = bool(flags & IFF_UP)
        self.mtu: int = NUMBER.unpack_from(found[IFLA_MTU])[0]
        self.address = found.get(IFLA_ADDRESS, b"")
        self.kind = attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
        self.identity = "".join(attribute(each, found[each]).hex() for each in KNOWN_BY if each in found)


class Netlink:
    """A socket to the network part of the kernel, in the network namespace that we are in. Its methods raise OSError,
    with the words that the kernel has for it (NETLINK_EXT_ACK)."""

    __slots__ = ("sequence", "socket")

    def __init__(self) -> None:
        self.sequence = 0
        self.socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)

    @classmethod
    def inside(cls, namespace: Fd, own: Fd) -> "Netlink":
        """A socket in another namespace: this thread goes there and comes back to its own."""
        setns(namespace, CLONE_NEWNET)
        try:
            return cls()
        finally:
            setns(own, CLONE_NEWNET)

    def close(self) -> None:
        self.socket.close()

    def links(self) -> "list[Link]":
        return [Link(message) for message in self._dump(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + _without_statistics())]

    def link(self, name: str) -> "Link | None":
        body = LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _text(name)) + _without_statistics()
        try:
            return Link(self._request(RTM_GETLINK, NLM_F_ACK, body)[0])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def change(self, link: Link, *, up: bool = False, **what: "str | int | bytes") -> None:
        """Change a device, by its index: `name`, `mtu`, `address`, `namespace` (an fd to move it to); set it up."""
        flags = IFF_UP if up else 0
        body = LINK.pack(0, 0, link.index, flags, flags)
        for key, value in what.items():
            data = value if isinstance(value, bytes) else NUMBER.pack(value) if isinstance(value, int) else _text(value)
            body += attribute(CHANGES[key], data)
        self._request(RTM_NEWLINK, NLM_F_ACK, body)

    def addresses(self, link: Link) -> "list[Address]":
        """The permanent addresses of a device (IFA_F_PERMANENT) that are valid everywhere (RT_SCOPE_UNIVERSE)."""
        found = []
        for message in self._dump(RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, low_flags, scope, index = ADDRESS.unpack_from(message)
            values = attributes(message[ADDRESS.size :])
            flags = NUMBER.unpack(values[IFA_FLAGS])[0] if IFA_FLAGS in values else low_flags
            if index == link.index and flags & IFA_F_PERMANENT and scope == RT_SCOPE_UNIVERSE:
                data = b"".join(attribute(kind, values[kind]) for kind in KEPT if kind in values)
                data += attribute(IFA_FLAGS, NUMBER.pack(flags & KEPT_FLAGS))
                label = values.get(IFA_LABEL, b"").rstrip(b"\0").decode("utf-8", "surrogateescape")
                found.append((family, prefix, data.hex(), label.removeprefix(link.name)))
        return found

    def add_address(self, link: Link, address: Address) -> None:
        """Give a device an address, or replace the same address. A label begins with the device's name of now."""
        family, prefix, data, label = address
        body = ADDRESS.pack(family, prefix, 0, RT_SCOPE_UNIVERSE, link.index) + bytes.fromhex(data)
        if label.startswith(":") and len(_text(link.name + label)) <= IFNAMSIZ:
            body += attribute(IFA_LABEL, _text(link.name + label))
        self._request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)

    # --- messages

    def _dump(self, kind: int, body: bytes) -> "list[bytes]":
        """All entries of a kind. If the list changed while the kernel told it, ask again."""
        for _ in range(TRIES):
            try:
                return self._request(kind, NLM_F_DUMP, body)
            except InterruptedError:
                continue
        raise OSError(errno.EINTR, "the list of network devices changes all the time")

    def _request(self, kind: int, flags: int, body: bytes) -> "list[bytes]":
        """Send one request. Returns the bodies of all messages until the kernel says that there are no more."""
        self.sequence += 1
        header = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self.sequence, 0)
        self.socket.send(header + body)
        found: list[bytes] = []
        interrupted = False
        while True:
            data, _, message_flags, (port, _) = self.socket.recvmsg(ROOM)
            if port:
                continue  # not from the kernel: others in that namespace may be allowed to write to our socket
            if message_flags & _socket.MSG_TRUNC:
                raise OSError(errno.EMSGSIZE, "a message of rtnetlink is too long")
            while data:
                length, kind, flags, sequence, _ = HEADER.unpack_from(data)
                message, data = data[HEADER.size : length], data[(length + 3) & ~3 :]
                if sequence != self.sequence:
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_ERROR:
                    _raise(message, flags)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    if interrupted:
                        raise InterruptedError
                    return found
                found.append(message)


CHANGES = {"name": IFLA_IFNAME, "mtu": IFLA_MTU, "address": IFLA_ADDRESS, "namespace": IFLA_NET_NS_FD}


def attribute(kind: int, value: bytes) -> bytes:
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def attributes(data: bytes) -> "dict[int, bytes]":
    """A run of attributes, by their type; of one that comes twice the last counts."""
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if length < ATTRIBUTE.size:
            break
        found[kind & ~NESTED] = data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def _raise(message: bytes, flags: int) -> None:
    """Raise the error that a message of type NLMSG_ERROR has. Its number 0 means that the request is done."""
    number = -ERROR.unpack_from(message)[0]
    if not number:
        return
    words = posix.strerror(number)
    if flags & NLM_F_ACK_TLVS:  # behind the request that failed, or, when it is capped, behind its header
        request = HEADER.unpack_from(message, ERROR.size)[0]
        behind = ERROR.size + (HEADER.size if flags & NLM_F_CAPPED else (request + 3) & ~3)
        said = attributes(message[behind:]).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode("utf-8", "replace")
        words = f"{words} ({said})" if said else words
    raise OSError(number, words)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _without_statistics() -> bytes:
    return attribute(IFLA_EXT_MASK, NUMBER.pack(RTEXT_FILTER_SKIP_STATS))
