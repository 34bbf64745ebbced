"""A file system that behaves as resctrl does, for hosts whose processor or kernel has none: `resctrl.py FOLDER`.

It speaks FUSE's protocol (linux/fuse.h) itself. Classes fill themselves with files, are limited in number, and refuse
what the kernel refuses, with its words in info/last_cmd_status. Two caches; masks of 12 bits; bandwidth in steps of 10.
"""

import ctypes
import errno
import os
import stat
import struct
import sys

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, RMDIR = 1, 2, 3, 4, 9, 11
OPEN, READ, WRITE, STATFS, RELEASE = 14, 15, 16, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
DIRECT_IO = 1
DOMAINS = ("0", "1")
FULL = {"L3": "fff", "MB": "100"}
CLASSES = 4
COUNTERS = {"llc_occupancy": "4096", "mbm_total_bytes": "200", "mbm_local_bytes": "100"}


class Refused(Exception):
    def __init__(self, number, words=""):
        super().__init__(number)
        self.number = number
        self.words = words


class Group:
    """A class of service; `parent`: a monitoring group of one."""

    def __init__(self, parent=None):
        self.parent = parent
        self.tasks = set()
        self.shares = {resource: dict.fromkeys(DOMAINS, value) for resource, value in FULL.items()}
        self.monitors = {}

    def schemata(self):
        return "".join(
            f"{resource:>6}:{';'.join(f'{d}={v}' for d, v in shares.items())}\n"
            for resource, shares in self.shares.items()
        )

    def tree(self):
        data = {f"mon_L3_0{domain}": dict(COUNTERS) for domain in DOMAINS}
        tree = {"tasks": self, "mon_data": data}
        if self.parent is None:
            tree |= {"schemata": self, "mon_groups": {name: group.tree() for name, group in self.monitors.items()}}
        return tree


class Resctrl:
    def __init__(self):
        self.root = Group()
        self.classes = {}
        self.said = "ok"

    def tree(self):
        info = {
            "L3": {"cbm_mask": "fff", "min_cbm_bits": "1", "num_closids": str(CLASSES)},
            "MB": {"bandwidth_gran": "10", "delay_linear": "1", "min_bandwidth": "10", "num_closids": str(CLASSES)},
            "L3_MON": {"mon_features": "\n".join(COUNTERS), "num_rmids": "8"},
            "last_cmd_status": self.said,
        }
        return {**self.root.tree(), "info": info, **{name: group.tree() for name, group in self.classes.items()}}

    def at(self, path):
        found = self.tree()
        for name in path.split("/"):
            if name:
                if not isinstance(found, dict) or name not in found:
                    raise Refused(errno.ENOENT)
                found = found[name]
        return found

    def group(self, path):
        """The class that a path belongs to, and the monitoring group, or None."""
        names = [name for name in path.split("/") if name]
        above = self.classes[names.pop(0)] if names and names[0] in self.classes else self.root
        return above, above.monitors.get(names[1]) if len(names) > 1 and names[0] == "mon_groups" else None

    def read(self, path):
        file = self.at(path)
        if not isinstance(file, Group):
            return f"{file}\n"
        if path.endswith("schemata"):
            return file.schemata()
        return "".join(f"{pid}\n" for pid in sorted(file.tasks) if os.path.exists(f"/proc/{pid}"))

    def write(self, path, text):
        if not isinstance(self.at(path), Group):
            raise Refused(errno.EACCES)
        above, monitor = self.group(path)
        if path.endswith("tasks"):
            self.move(int(text), above, monitor)
        else:
            self.limit(above, text)
        self.said = "ok"

    def move(self, pid, above, monitor):
        if not os.path.exists(f"/proc/{pid}"):
            raise Refused(errno.ESRCH, f"No task {pid}")
        if monitor is not None:
            if pid not in above.tasks:
                raise Refused(errno.EINVAL, "Can't move task to different control group")
            monitor.tasks.add(pid)
            return
        for group in (self.root, *self.classes.values()):
            for each in (group, *group.monitors.values()):
                each.tasks.discard(pid)
        above.tasks.add(pid)

    def limit(self, group, text):
        if not text.endswith("\n"):
            raise Refused(errno.EINVAL)
        for line in text.splitlines():
            resource, _, rest = line.partition(":")
            if resource.strip() not in FULL:
                raise Refused(errno.EINVAL, f"Unknown or unsupported resource name '{resource}'")
            for part in rest.split(";"):
                domain, _, value = part.strip().partition("=")
                if domain not in DOMAINS:
                    raise Refused(errno.EINVAL, f"Unknown domain {domain}")
                group.shares[resource.strip()][domain] = self.share(resource.strip(), value)

    def share(self, resource, value):
        if resource == "MB":
            return str(-(-int(value) // 10) * 10)
        mask = int(value, 16)
        if mask == 0 or mask > 0xFFF or "0" in f"{mask:b}".strip("0"):
            raise Refused(errno.EINVAL, f"The mask {value} has non-consecutive 1-bits")
        return f"{mask:x}"

    def mkdir(self, parent, name):
        if parent == "":
            if len(self.classes) == CLASSES - 1:
                raise Refused(errno.ENOSPC, "Out of CLOSIDs")
            self.classes[name] = Group()
        elif parent.endswith("mon_groups"):
            above, _ = self.group(parent)
            if len(above.monitors) == 2:
                raise Refused(errno.ENOSPC, "Out of RMIDs")
            above.monitors[name] = Group(above)
        else:
            raise Refused(errno.EPERM)

    def rmdir(self, parent, name):
        if parent == "" and name in self.classes:
            self.root.tasks |= self.classes.pop(name).tasks
        elif parent.endswith("mon_groups"):
            del self.group(parent)[0].monitors[name]
        else:
            raise Refused(errno.EPERM)


class Server:
    """Answer one request after the other. A node is a path. It gets its number at the first lookup, and keeps it."""

    def __init__(self, fs, device):
        self.fs = fs
        self.device = device
        self.paths = {1: ""}
        self.numbers = {"": 1}

    def serve(self):
        while True:
            try:
                data = os.read(self.device, 1 << 18)
            except OSError:
                return  # unmounted
            _, opcode, unique, node = struct.unpack_from("=IIQQ", data)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            try:
                answer, number = self.answer(opcode, self.paths.get(node, "?"), data[40:]), 0
            except Refused as refused:
                answer, number = b"", -refused.number
                self.fs.said = refused.words or self.fs.said
            os.write(self.device, struct.pack("=IiQ", 16 + len(answer), number, unique) + answer)

    def answer(self, opcode, path, body):
        if opcode == INIT:
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 8, 8, 65536, 1, 1, 0, 0)
        if opcode in (GETATTR, SETATTR):
            return struct.pack("=QII", 0, 0, 0) + self.attributes(path)
        if opcode == LOOKUP:
            return self.entry(path, body)
        if opcode == MKDIR:
            self.fs.mkdir(path, body[8:].rstrip(b"\0").decode())
            return self.entry(path, body[8:])
        if opcode == RMDIR:
            self.fs.rmdir(path, body.rstrip(b"\0").decode())
            return b""
        if opcode in (OPEN, OPENDIR):
            return struct.pack("=QII", 0, DIRECT_IO if opcode == OPEN else 0, 0)
        if opcode == READ:
            offset, size = struct.unpack_from("=QI", body, 8)
            return self.fs.read(path).encode()[offset : offset + size]
        if opcode == WRITE:
            size = struct.unpack_from("=I", body, 16)[0]
            self.fs.write(path, body[40 : 40 + size].decode())
            return struct.pack("=II", size, 0)
        if opcode == READDIR:
            return self.entries(path, struct.unpack_from("=Q", body, 8)[0])
        if opcode == STATFS:
            return bytes(80)
        if opcode in (RELEASE, RELEASEDIR, DESTROY):
            return b""
        raise Refused(errno.ENOSYS)

    def entry(self, parent, name):
        path = f"{parent}/{name.rstrip(chr(0).encode()).decode()}".lstrip("/")
        self.fs.at(path)
        number = self.numbers.setdefault(path, len(self.numbers) + 1)
        self.paths[number] = path
        return struct.pack("=QQQQII", number, 0, 0, 0, 0, 0) + self.attributes(path)

    def attributes(self, path):
        folder = isinstance(self.fs.at(path), dict)
        mode = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644
        return struct.pack("=QQQQQQIIIIIIIIII", self.numbers[path], *[0] * 8, mode, 2 if folder else 1, *[0] * 5)

    def entries(self, path, offset):
        found = b""
        for index, (name, child) in enumerate(self.fs.at(path).items()):
            if index >= offset:
                data, kind = name.encode(), 4 if isinstance(child, dict) else 8
                found += struct.pack("=QQII", index + 2, index + 1, len(data), kind) + data + bytes(-len(data) % 8)
        return found


def main(folder):
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if ctypes.CDLL(None, use_errno=True).mount(b"resctrl", os.fsencode(folder), b"fuse.resctrl", 0, options):
        sys.exit(os.strerror(ctypes.get_errno()))
    Server(Resctrl(), device).serve()


if __name__ == "__main__":
    main(sys.argv[1])
