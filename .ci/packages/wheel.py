"""Make a wheel for every CPython ≥ 3.11: wheel.py BUILT IMAGE FOLDER.

BUILT is what `python -m build` makes. Its launchers start the interpreter of the machine that built them, and its
archive is of one minor version. Here the programs are the image, which needs no interpreter. The library stays as it
is, since its one compiled module keeps to the stable ABI. A wheel has no links, so the shim is a few bytes of C that
execute the program beside it.
"""

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TAG = "cp311-abi3-manylinux_2_17_{machine}"
# Called by whatever path, it takes its own folder from /proc; the name in argv[0] says which program the image is.
SHIM = r"""
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    char path[4096];
    long size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0 || count < 1) return 127;
    path[size] = 0;
    strcpy(strrchr(path, '/') + 1, "pyrunc");
    words[0] = "containerd-shim-pyrunc-v2";
    execv(path, words);
    return 127;
}
"""


def shim(folder: Path) -> bytes:
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(["cc", "-Os", "-static", "-s", "-o", folder / "shim", folder / "shim.c"], check=True)
    return (folder / "shim").read_bytes()


def repacked(built: Path, image: Path, folder: Path) -> Path:
    name, version, _ = built.name.split("-", 2)
    tag = TAG.format(machine=os.uname().machine)
    information = f"{name}-{version}.dist-info"
    programs = f"{name}-{version}.data/scripts"
    # The library's worker has a launcher where pip has built one; elsewhere it seals itself (pyrunc/library/bare.py).
    left_out = (f"{information}/RECORD", "pyrunc/modules.marshal", f"{programs}/pyrunc-worker")
    with tempfile.TemporaryDirectory() as work:
        files = {f"{programs}/pyrunc": image.read_bytes(), f"{programs}/containerd-shim-pyrunc-v2": shim(Path(work))}
    with zipfile.ZipFile(built) as source:
        for item in source.infolist():
            if not item.is_dir() and item.filename not in left_out:
                files.setdefault(item.filename, source.read(item))
    if "pyrunc/shim/main.py" not in files:
        sys.exit(f"{built}: the shim is missing")
    files[f"{information}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: pyrunc\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    record = f"{information}/RECORD"
    files[record] = "".join(f"{path},{digest(data)},{len(data)}\n" for path, data in files.items()).encode() + (
        f"{record},,\n".encode()
    )
    target = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for path, data in files.items():
            item = zipfile.ZipInfo(path)  # its time is that of the format's beginning, whenever this runs
            item.external_attr = (0o100755 if path.startswith(programs) else 0o100644) << 16
            item.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(item, data)
    return target


def digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    print(repacked(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
