"""Network devices: moved into the container's network namespace as they are. config-linux.md#network-devices

When a device changes its namespace, the kernel takes its addresses away and sets it down. It keeps the rest. At the
end of the namespace the kernel destroys virtual devices. Physical ones come back to the host, without addresses, under
the name that they had inside. `restore` makes them what they were.
"""

import errno
import posix
import select
import time

from pyrunc.errors import ConfigError, PyruncError, reason
from pyrunc.init.namespaces import is_same, own, verify_kinds
from pyrunc.linux.fd import Fd, open_at
from pyrunc.linux.netlink import Link, Netlink
from pyrunc.linux.process import refuse_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.linux.netlink import Address
    from pyrunc.log import Log
    from pyrunc.spec.types import Linux, NetDevice

WHERE = "/linux/netDevices"
REFUNDED = ("", "can")  # kinds of devices that the kernel gives back and does not destroy: physical ones
RETURN_SECONDS = 1.0


class Move:
    """One device on its way.

    Attributes:
        link, addresses: as it was on the host.
        wanted, inside: its name inside as the configuration has it, perhaps with a %d, and as it comes to be.
        begun: whether the kernel was asked to move it.
    """

    __slots__ = ("addresses", "begun", "inside", "link", "wanted")

    def __init__(self, link: Link, wanted: str) -> None:
        self.link = link
        self.wanted = self.inside = wanted
        self.addresses: list[Address] = []
        self.begun = False


class NetDevices:
    """linux.netDevices of a container that is being made. Everything that can be wrong is looked at before that."""

    __slots__ = ("host", "joined", "moves", "namespace", "own", "target")

    def __init__(self, linux: "Linux", rootless: bool) -> None:
        if rootless:
            raise ConfigError("config.json", WHERE, "network devices are not supported for rootless containers")
        refuse_threads()  # we visit the container's namespace
        self.own = open_at(None, own("network"), posix.O_RDONLY)
        self.host = Netlink()
        self.namespace: Fd | None = None
        self.target: Netlink | None = None
        self.moves = [self._move(name, device) for name, device in linux["netDevices"].items()]
        self.joined = next((n.get("path") or "" for n in linux.get("namespaces") or [] if n["type"] == "network"), "")
        if self.joined:
            self._enter(open_at(None, self.joined, posix.O_RDONLY))

    def descriptors(self) -> "list[Fd | Netlink]":
        """What is open here, and must not reach the container's process."""
        return [each for each in (self.own, self.host, self.namespace, self.target) if each is not None]

    def close(self) -> None:
        for each in self.descriptors():
            each.close()

    def _move(self, name: str, device: "NetDevice") -> Move:
        link = self.host.link(name)
        if link is None:
            raise ConfigError("config.json", f"{WHERE}/{name}", "there is no such network device on the host")
        return Move(link, device.get("name") or link.name)

    def _enter(self, namespace: Fd) -> None:
        """Make a socket in the namespace, and choose the devices' final names, which nothing in there may have."""
        verify_kinds([("network", namespace)])
        if is_same(namespace, own("network")):
            cause = "the container's network namespace is the runtime's own: no device can be moved there"
            raise ConfigError("config.json", WHERE, cause)
        for before in (self.namespace, self.target):
            if before is not None:
                before.close()
        self.namespace, self.target = namespace, Netlink.inside(namespace, self.own)
        taken = {link.name for link in self.target.links()}
        for move in self.moves:
            numbered = (move.wanted.replace("%d", str(number)) for number in range(len(taken) + 1))
            move.inside = next((name for name in numbered if name not in taken), move.wanted)
            if move.inside in taken:
                cause = f'a network device "{move.inside}" exists already in the container\'s namespace'
                raise ConfigError("config.json", f"{WHERE}/{move.link.name}", cause)
            taken.add(move.inside)

    # --- there

    def arrive(self, namespace: Fd) -> None:
        """The namespace exists and the container's process is in it: learn all that is needed before anything is
        moved.
        """
        self._enter(namespace)
        for move in self.moves:
            move.addresses = self.host.addresses(move.link)

    def record(self) -> "list[dict[str, Any]]":
        """What `restore` needs to know of the devices that the kernel will give back. Only of a namespace that is
        made for the container.
        """
        if self.joined:
            return []
        return [
            {
                "name": move.link.name,
                "identity": move.link.identity,
                "mtu": move.link.mtu,
                "address": move.link.address.hex(),
                "up": move.link.up,
                "addresses": move.addresses,
            }
            for move in self.moves
            if move.link.kind in REFUNDED and move.link.identity
        ]

    def move(self) -> None:
        """Move them, give them their names inside and their addresses, and set them up."""
        assert self.namespace is not None
        assert self.target is not None
        for move in self.moves:
            move.begun = True
            try:
                self.host.change(move.link, namespace=self.namespace.number, name=move.inside)
                link = self._found(move, move.inside)
                if link is None:
                    raise OSError(errno.ENODEV, "it vanished on its way", move.inside)
                for address in move.addresses:
                    self.target.add_address(link, address)
                self.target.change(link, up=True)
            except OSError as error:
                raise PyruncError("moving network device", move.link.name, reason(error)) from error

    def _found(self, move: Move, name: str) -> "Link | None":
        """Our device in the container's namespace. None: a device of that name is another one."""
        assert self.target is not None
        link = self.target.link(name)
        same = link is not None and (link.address, link.identity) == (move.link.address, move.link.identity)
        return link if same else None

    # --- and back

    def give_back(self, log: "Log") -> None:
        """After a failed create: every device that has left comes back as it was.

        Our socket has kept the container's namespace alive, and so the devices that the kernel would have destroyed.
        """
        for move in self.moves:
            if move.begun and self.target is not None:
                try:
                    self._back(move)
                except OSError as error:
                    log.warning(f"giving network device {move.link.name} back: {reason(error)}")

    def _back(self, move: Move) -> None:
        assert self.target is not None
        # The kernel moves it first and renames it then. If that fails, it is there under its old name.
        there = self._found(move, move.inside) or self._found(move, move.link.name)
        if there is None:
            return  # it never left
        self.target.change(there, namespace=self.own.number, name=move.link.name)
        here = self.host.link(move.link.name)
        if here is not None:
            _configure(self.host, here, move.addresses, move.link.up)


def _configure(host: Netlink, link: Link, addresses: "list[Address]", up: bool) -> None:
    for address in addresses:
        host.add_address(link, address)
    if up:
        host.change(link, up=True)


def restore(record: "list[dict[str, Any]]", log: "Log") -> None:
    """After the end of a container: make its physical devices what they were. They are known by what no name changes.

    The kernel takes a moment to end a namespace. If somebody else keeps the namespace alive, it keeps its devices too.
    """
    host = Netlink()
    deadline = time.monotonic() + RETURN_SECONDS
    waiting = [*record]
    while waiting:
        links = {link.identity: link for link in host.links()}
        for before in [entry for entry in waiting if entry["identity"] in links]:
            waiting.remove(before)
            try:
                _restore(host, links[before["identity"]], before)
            except OSError as error:
                log.warning(f"restoring network device {before['name']}: {reason(error)}")
        if waiting and time.monotonic() > deadline:
            names = ", ".join(entry["name"] for entry in waiting)
            log.warning(f"not back from the container's network namespace: {names}")
            break
        if waiting:
            select.select([], [], [], 0.01)
    host.close()


def _restore(host: Netlink, link: Link, before: "dict[str, Any]") -> None:
    if link.name != before["name"]:
        host.change(link, name=before["name"])
        link.name = before["name"]
    if link.mtu != before["mtu"]:
        host.change(link, mtu=before["mtu"])
    if link.address.hex() != before["address"]:
        host.change(link, address=bytes.fromhex(before["address"]))
    _configure(host, link, before["addresses"], before["up"])
