"""What a caller without privileges has to say in config.json. It is told, and not guessed: the mappings decide whose
files are whose, on disk too."""

import posix

from pyrunc.errors import ConfigError
from pyrunc.linux.fd import read_file
from pyrunc.linux.passwd import name_of


def needs_user_namespace() -> ConfigError:
    uid, gid = posix.geteuid(), posix.getegid()
    cause = f"user {uid} has no privileges, and there is no user namespace to have them in"
    hint = (
        f'add {{"type": "user"}} to it, and to linux "uidMappings": [{_mapping(0, uid, 1)}], '
        f'"gidMappings": [{_mapping(0, gid, 1)}], as `pyrunc spec --rootless` does'
    )
    more = [_further(uid, "/etc/subuid"), _further(uid, "/etc/subgid")]
    if all(more):
        hint += f"; /etc/subuid has {more[0]} for you, too, and /etc/subgid {more[1]}"
    return ConfigError("config.json", "/linux/namespaces", cause, hint)


def _mapping(inside: int, outside: int, size: int) -> str:
    return f'{{"containerID": {inside}, "hostID": {outside}, "size": {size}}}'


def _further(uid: int, file: str) -> str:
    """The first range of subordinate IDs as a mapping. subuid(5): a name or a number, the first ID, how many."""
    names = {str(uid).encode(), (name_of(uid) or str(uid)).encode("utf-8", "surrogateescape")}
    try:
        fields = [line.split(b":") for line in read_file(file).splitlines()]
        return next(_mapping(1, int(f[1]), int(f[2])) for f in fields if len(f) == 3 and f[0] in names)
    except (OSError, ValueError, StopIteration):
        return ""
