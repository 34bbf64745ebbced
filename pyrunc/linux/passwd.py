"""Names of the host's users: passwd(5), read as runc reads it.

Not by getpwuid(3): it loads the libraries that nsswitch.conf names, and the image, which is one static file, can't
load any.
"""

from pyrunc.linux.fd import read_file


def name_of(uid: int) -> "str | None":
    try:
        lines = read_file("/etc/passwd").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(b":")
        if len(fields) == 7 and fields[2] == b"%d" % uid:
            return fields[0].decode("utf-8", "surrogateescape")
    return None
