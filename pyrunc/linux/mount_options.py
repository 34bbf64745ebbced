"""The mount options of config.md#linux-mount-options, as one table. Options that are not in it are the file
system's own.
"""

from pyrunc.linux.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

# option: (attributes to set, attributes to clear). With an "r" in front of the option they are those of every mount
# below it too. The ways to keep atime are one field, which is cleared before one of them is set (mount_setattr(2)).
ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "relatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    "norelatime": (0, MOUNT_ATTR__ATIME),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "atime": (0, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nostrictatime": (0, MOUNT_ATTR__ATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}

WAYS_OF_ATIME = ("relatime", "noatime", "strictatime", "nodiratime")

PROPAGATION = {
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "private": MS_PRIVATE,
    "unbindable": MS_UNBINDABLE,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "rprivate": MS_PRIVATE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

# Flags of the superblock, as fsconfig(2) names them. None is the default, of which the kernel is told nothing. A single
# mount can't have them: crun's options with an "r" in front mean the same as those without.
SUPERBLOCK = {
    "sync": "sync",
    "async": "async",
    "dirsync": "dirsync",
    "mand": "mand",
    "nomand": "nomand",
    "lazytime": "lazytime",
    "nolazytime": "nolazytime",
    "iversion": "iversion",
    "noiversion": None,
    "silent": "silent",
    "loud": None,
    "defaults": None,
    "rsync": "sync",
    "rasync": "async",
    "rdirsync": "dirsync",
    "rmand": "mand",
    "rnomand": "nomand",
}
SAFER_WRITES = ("sync", "dirsync", "mand")

# Options without a value, and their attributes in MountOptions. Those about symlinks are crun's.
SWITCHES = {
    "tmpcopyup": "copy_up",
    "remount": "remount",
    "copy-symlink": "copy_link",
    "src-nofollow": "source_link",
    "dest-nofollow": "target_link",
}

# Options of file systems and of mount(8) that say who owns or may use what is there, or how much of it is shown. A bind
# mount can't have them. To ignore them would give more than was asked for, or give it to others.
NOT_FOR_BINDS = ("uid", "gid", "umask", "fmask", "dmask", "uids", "gids", "uidmap", "gidmap", "subdir")
MOUNT_8 = "X-mount."


class MountOptions:
    """The options of one entry of `mounts`.

    Attributes:
        bind, recursive: `bind` and `rbind` (both set).
        set, clear: MOUNT_ATTR_* of this mount.
        all_set, all_clear: MOUNT_ATTR_* of this mount and all below it.
        atime: whether a way of keeping it is named.
        propagation: MS_* in the order given.
        superblock: flags of the file system, for fsconfig.
        data: (key, value or None) of the file system.
        idmap: `idmap` or `ridmap`; mapping: what stands behind it, `uids=…;gids=…`.
        copy_link: of a bind whose source is a symlink: one like it is made.
        source_link, target_link: a symlink is not followed, but mounted, or mounted on.
    """

    __slots__ = (
        "all_clear",
        "all_set",
        "atime",
        "bind",
        "clear",
        "copy_link",
        "copy_up",
        "data",
        "idmap",
        "mapping",
        "propagation",
        "recursive",
        "remount",
        "set",
        "source_link",
        "superblock",
        "target_link",
    )

    def __init__(self, options: "list[str]") -> None:
        self.bind = self.recursive = self.copy_up = self.remount = False
        self.copy_link = self.source_link = self.target_link = False
        self.atime = False
        self.set = self.clear = self.all_set = self.all_clear = 0
        self.propagation: list[int] = []
        self.superblock: list[str] = []
        self.data: list[tuple[str, str | None]] = []
        self.idmap = self.mapping = ""
        for option in options:
            if option:  # an empty one says nothing; Podman writes them
                self._take(option)

    def _take(self, option: str) -> None:
        if option in ATTRIBUTES:
            to_set, to_clear = ATTRIBUTES[option]
            self.set = self.set & ~to_clear | to_set
            self.clear = self.clear & ~to_set | to_clear
            self.atime = self.atime or option in WAYS_OF_ATIME
        elif option in PROPAGATION:
            self.propagation.append(PROPAGATION[option])
        elif option in ("bind", "rbind"):
            self.bind = True
            self.recursive = option == "rbind"
        elif option in SUPERBLOCK:
            flag = SUPERBLOCK[option]
            if flag:
                self.superblock.append(flag)
        elif option[:1] == "r" and option[1:] in ATTRIBUTES:
            to_set, to_clear = ATTRIBUTES[option[1:]]
            self.all_set = self.all_set & ~to_clear | to_set
            self.all_clear = self.all_clear & ~to_set | to_clear
        elif option in SWITCHES:
            setattr(self, SWITCHES[option], True)
        else:
            key, equals, value = option.partition("=")
            if key in ("idmap", "ridmap"):
                self.idmap, self.mapping = key, value
            else:
                self.data.append((key, value if equals else None))


def asks_for_mapping(options: "list[str]") -> bool:
    return any(option.partition("=")[0] in ("idmap", "ridmap") for option in options)


def known() -> "list[str]":
    """Every option that this runtime knows, for features.md#mountoptions."""
    recursive = [f"r{name}" for name in ATTRIBUTES]
    other = ["bind", "rbind", "idmap", "ridmap"]
    return sorted({*ATTRIBUTES, *recursive, *PROPAGATION, *SUPERBLOCK, *SWITCHES, *other})
