"""Talking to systemd over D-Bus: transient scopes are made, changed and stopped. org.freedesktop.systemd1(5)

A scope is ours to use (Delegate=), but systemd owns the tree above it, and writes the limits that it knows to the
scope's own files. It would undo what we write there behind its back. So we tell it every limit that it has a property
for (systemd_properties.py).
"""

import errno
import posix
import socket
import time

from jeepney import DBusAddress, HeaderFields, MessageType, Parser, new_method_call

from pyrunc.errors import PyruncError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NotRequired, TypedDict

    from jeepney import Message

    Property = tuple[str, tuple[str, Any]]

    class Unit(TypedDict):
        """A scope."""

        name: str
        slice: str
        user: bool  # of the user's own instance of systemd
        subgroup: NotRequired[str]  # the path below it of the container's cgroup


BUS = "org.freedesktop.DBus"
MANAGER = "org.freedesktop.systemd1.Manager"
SCOPE = "org.freedesktop.systemd1.Scope"
SYSTEMD = "org.freedesktop.systemd1"
TOP = "/org/freedesktop/systemd1"
JOB_SECONDS = 30.0  # for an answer or a job, counted from the question. Other messages in between do not extend it
SYSTEM_SLICE, USER_SLICE = "system.slice", "user.slice"
PREFIX = "pyrunc"


class BusError(Exception):
    """systemd, or the bus, refused: the error's name and its words."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(words or name)
        self.name = name


class NotThere(PyruncError):
    """Nobody listens where systemd should."""


class Taken(PyruncError):
    """Somebody else has a unit of this name."""


def unit_of(cgroups_path: str, container_id: str, user: bool) -> "Unit":
    """The scope that linux.cgroupsPath names. Engines write `slice:prefix:name` for prefix-name.scope in the slice. Any
    part may be empty."""
    slice_name, prefix, name = "", PREFIX, container_id
    if cgroups_path:
        parts = cgroups_path.split(":")
        if len(parts) != 3:
            words = 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups'
            raise PyruncError("linux.cgroupsPath", f'"{cgroups_path}"', words)
        slice_name, prefix, name = parts
    if not name or name.endswith(".slice") or "/" in "".join((slice_name, prefix, name)):
        raise PyruncError("linux.cgroupsPath", f'"{cgroups_path}"', "names no scope")
    if slice_name == "-":
        slice_name = "-.slice"
    return {
        "name": f"{prefix}-{name}.scope" if prefix else f"{name}.scope",
        "slice": slice_name or (USER_SLICE if user else SYSTEM_SLICE),
        "user": user,
    }


def control_group_to_be(unit: "Unit") -> str:
    """The path that systemd will give the scope, below the hierarchy's root: `a-b.slice` is in `a.slice`."""
    top, name = "", unit["slice"].removesuffix(".slice")
    if unit["user"]:
        try:
            with Manager(user=True) as manager:
                top = manager.property(TOP, MANAGER, "ControlGroup")[1]
        except (BusError, OSError) as error:
            raise PyruncError("systemd: asking for", "the user's cgroup", reason(error)) from error
    parts = name.split("-") if name != "-" else []
    slices = ["-".join(parts[: count + 1]) for count in range(len(parts))]
    return "/".join((top, *(f"{part}.slice" for part in slices), unit["name"]))


def start(unit: "Unit", container_id: str, pid: int, properties: "list[Property]") -> str:
    """Make the scope with the process in it. Returns the path of its cgroup below the hierarchy's root."""
    wanted: list[Property] = [
        ("Description", ("s", f"pyrunc container {container_id}")),
        ("Slice", ("s", unit["slice"])),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [pid])),
        ("DefaultDependencies", ("b", False)),
        *((f"{name}Accounting", ("b", True)) for name in ("Memory", "CPU", "IO", "Tasks")),
        *properties,
    ]
    try:
        with Manager(unit["user"]) as manager:
            manager.subscribe()
            try:
                job = manager.start(unit["name"], wanted)
            except BusError as error:
                if error.name != f"{SYSTEMD}.UnitExists":
                    raise
                manager.reset(unit["name"])  # a unit that has failed stays until it is reset
                try:
                    job = manager.start(unit["name"], wanted)
                except BusError as again:
                    raise Taken("systemd: starting unit", unit["name"], reason(again)) from again
            result = manager.wait(job)
            if result != "done":
                raise BusError("", f"its job ended with: {result}")
            return manager.control_group(unit["name"])
    except (BusError, OSError) as error:
        raise PyruncError("systemd: starting unit", unit["name"], reason(error)) from error


def stop(unit: "Unit") -> None:
    """Stop the scope, if it is still there, and forget that it failed."""
    try:
        with Manager(unit["user"]) as manager:
            manager.subscribe()
            try:
                manager.wait(manager.call("StopUnit", "ss", (unit["name"], "replace"))[0])
            except BusError as error:
                if error.name != f"{SYSTEMD}.NoSuchUnit":
                    raise
            manager.reset(unit["name"])
    except (BusError, OSError) as error:
        raise PyruncError("systemd: stopping unit", unit["name"], reason(error)) from error


def set_properties(unit: "Unit", properties: "list[Property]") -> "list[Property]":
    """Change properties of a scope, for as long as it lasts. Returns the properties as they were."""
    if not properties:
        return []
    try:
        with Manager(unit["user"]) as manager:
            before = [(name, manager.scope_property(unit["name"], name)) for name, _ in properties]
            manager.call("SetUnitProperties", "sba(sv)", (unit["name"], True, properties))
            return before
    except (BusError, OSError) as error:
        raise PyruncError("systemd: unable to set unit properties of", unit["name"], reason(error)) from error


def move(unit: "Unit", pid: int, below: str = "") -> None:
    """Move a process into the scope, or a cgroup below it. A rootless caller needs this: he may not write to
    cgroup.procs across the tree."""
    try:
        with Manager(unit["user"]) as manager:
            manager.call("AttachProcessesToUnit", "ssau", (unit["name"], below and f"/{below}", [pid]))
    except (BusError, OSError) as error:
        raise PyruncError("systemd: moving a process to unit", unit["name"], reason(error)) from error


def version(user: bool) -> int:
    """systemd's version: 252."""
    try:
        with Manager(user) as manager:
            text = manager.property(TOP, MANAGER, "Version")[1]
    except (BusError, OSError) as error:
        raise PyruncError("systemd: asking for", "its version", reason(error)) from error
    digits = text.lstrip("v")
    return int(digits[: len(digits) - len(digits.lstrip("0123456789"))] or 0)


class Manager:
    """A connection to systemd, the system's or the user's own instance.

    It goes over the bus. Where there is no bus it goes over systemd's own socket. That speaks the same protocol, and
    does not mind that it is addressed by its name on the bus.
    """

    __slots__ = ("_deadline", "_parser", "_serial", "_socket", "_waiting", "over_bus")

    def __init__(self, user: bool) -> None:
        self._parser = Parser()
        self._serial = 0
        self._waiting: list[Message] = []
        try:
            self._socket, self.over_bus = _connect(_user_addresses() if user else _system_addresses())
        except OSError as error:
            words = "systemd not running on this host, cannot use systemd cgroups manager"  # runc's
            raise NotThere("--systemd-cgroup", "", f"{words}: {reason(error)}") from error
        self._socket.settimeout(JOB_SECONDS)
        if self.over_bus:
            self.call("Hello", to=DBusAddress("/org/freedesktop/DBus", BUS, BUS))

    def __enter__(self) -> "Manager":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, signature: str = "", body: "tuple[Any, ...]" = (), to: "Any" = None) -> "Any":
        """A method's results, as a tuple. Signals that arrive meanwhile are kept for wait()."""
        to = to or DBusAddress(TOP, SYSTEMD, MANAGER)
        self._serial += 1
        self._deadline = time.monotonic() + JOB_SECONDS
        self._socket.sendall(new_method_call(to, method, signature or None, body).serialise(self._serial))
        while True:
            message = self._receive()
            if message.header.fields.get(HeaderFields.reply_serial) == self._serial:
                break
            self._waiting.append(message)
        if message.header.message_type == MessageType.error:
            words = str(message.body[0]) if message.body else ""
            raise BusError(message.header.fields.get(HeaderFields.error_name, ""), words)
        return message.body

    def _receive(self) -> "Message":
        while (message := self._parser.get_next_message()) is None:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "systemd closed the connection")
            self._parser.add_data(data)
        return message

    def subscribe(self) -> None:
        """Ask for the signals that say how jobs end."""
        if self.over_bus:
            rule = f"type='signal',interface='{MANAGER}',member='JobRemoved',path='{TOP}'"
            self.call("AddMatch", "s", (rule,), DBusAddress("/org/freedesktop/DBus", BUS, BUS))
        self.call("Subscribe")

    def start(self, name: str, properties: "list[Property]") -> str:
        job: str = self.call("StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "replace", properties, []))[0]
        return job

    def wait(self, job: str) -> str:
        """Wait for a job. Returns how it ended: "done" when all is well."""
        self._deadline = time.monotonic() + JOB_SECONDS
        while True:
            message = self._waiting.pop(0) if self._waiting else self._receive()
            fields = message.header.fields
            if fields.get(HeaderFields.member) == "JobRemoved" and message.body[1] == job:
                return str(message.body[3])

    def reset(self, name: str) -> None:
        try:
            self.call("ResetFailedUnit", "s", (name,))
        except BusError:
            pass  # there is no such unit, which is as good

    def control_group(self, name: str) -> str:
        path: str = self.scope_property(name, "ControlGroup")[1]
        if not path:
            raise BusError("", "it has no cgroup: its process has ended")
        return path

    def scope_property(self, name: str, which: str) -> "tuple[str, Any]":
        return self.property(f"{TOP}/unit/{escaped(name)}", SCOPE, which)

    def property(self, path: str, interface: str, which: str) -> "tuple[str, Any]":
        """A property as a variant of D-Bus: its signature, and the value."""
        to = DBusAddress(path, SYSTEMD, "org.freedesktop.DBus.Properties")
        found: tuple[str, Any] = self.call("Get", "ss", (interface, which), to)[0]
        return found


def escaped(name: str) -> str:
    """A unit's name as the last part of its object's path: letters and digits stay, all else becomes _xx.
    sd_bus_path_encode(3)"""
    if not name:
        return "_"
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 and not (index == 0 and chr(byte).isdigit()) else f"_{byte:02x}"
        for index, byte in enumerate(name.encode())
    )


def _system_addresses() -> "list[tuple[str, bool]]":
    """Where the system's instance can be reached: (socket, whether a bus listens there)"""
    return [
        *_from_environment(b"DBUS_SYSTEM_BUS_ADDRESS"),
        ("/run/dbus/system_bus_socket", True),
        ("/run/systemd/private", False),
    ]


def _user_addresses() -> "list[tuple[str, bool]]":
    runtime = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape") or f"/run/user/{_own_uid()}"
    return [
        *_from_environment(b"DBUS_SESSION_BUS_ADDRESS"),
        (f"{runtime}/bus", True),
        (f"{runtime}/systemd/private", False),
    ]


def _from_environment(name: bytes) -> "list[tuple[str, bool]]":
    found = []
    for address in posix.environ.get(name, b"").decode("utf-8", "replace").split(";"):
        kind, _, rest = address.partition(":")
        values = dict(part.partition("=")[::2] for part in rest.split(","))
        if kind == "unix" and "path" in values:
            found.append((_unescaped(values["path"]), True))
        elif kind == "unix" and "abstract" in values:
            found.append(("\0" + _unescaped(values["abstract"]), True))
    return found


def _unescaped(value: str) -> str:
    first, *rest = value.split("%")
    return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)


def _connect(addresses: "list[tuple[str, bool]]") -> "tuple[socket.socket, bool]":
    """Connect to the first socket where somebody listens, and authenticate: EXTERNAL, by the socket's credentials.
    D-Bus specification, "Authentication Protocol"

    BEGIN is sent together with AUTH, not after the answer to it. Sent later, systemd's own socket may read it together
    with the first message, and then leave that message unread until another one comes.
    """
    failure: OSError | None = None
    for path, is_bus in addresses:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(JOB_SECONDS)
        try:
            connection.connect(path)
            connection.sendall(b"\0AUTH EXTERNAL " + str(_own_uid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
            answer = connection.recv(1024)
            if not answer.startswith(b"OK "):
                raise ConnectionRefusedError(
                    errno.ECONNREFUSED, f"authentication: {answer.decode('utf-8', 'replace').strip()}", path
                )
            return connection, is_bus
        except OSError as error:
            connection.close()
            failure = failure or error
    raise failure or FileNotFoundError(errno.ENOENT, "No D-Bus socket is known")


def _own_uid() -> int:
    """Our user ID on the host, which the other end compares. In a user namespace geteuid(2) says another one."""
    uid = posix.geteuid()
    with open("/proc/self/uid_map", encoding="ascii") as maps:
        for line in maps:
            inside, outside, count = map(int, line.split())
            if inside <= uid < inside + count:
                return outside + uid - inside
    return uid
