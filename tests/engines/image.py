"""An image made with the standard library: an OCI layout of one layer, busybox and its names, as a tar archive.

`ctr images import`, `docker load` and `podman load` take it.
"""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

NAME = "example.org/box:latest"
PAUSE = "example.org/pause:latest"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def make(path: Path, name: str = NAME, command: "tuple[str, ...]" = ("/bin/sh",)) -> Path:
    busybox = shutil.which("busybox") or "/bin/busybox"
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer = _tar(
        [
            ("bin", None, 0o755),
            ("etc", None, 0o755),
            ("proc", None, 0o755),
            ("root", None, 0o700),
            ("tmp", None, 0o1777),
            ("bin/busybox", Path(busybox).read_bytes(), 0o755),
            ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n", 0o644),
            ("etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644),
        ],
        links=[(f"bin/{name}", "busybox") for name in names if name != "busybox"],
    )
    config = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created_by": "image.py"}],  # a build counts layers by it
    }
    blobs: dict[str, bytes] = {}
    kind = "application/vnd.oci.image"
    blob_config = _blob(blobs, json.dumps(config).encode(), f"{kind}.config.v1+json")
    layers = [_blob(blobs, layer, f"{kind}.layer.v1.tar")]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": blob_config,
        "layers": layers,
    }
    entry = _blob(blobs, json.dumps(manifest).encode(), f"{kind}.manifest.v1+json")
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}
    index = {"schemaVersion": 2, "manifests": [entry]}
    files = [(f"blobs/sha256/{digest}", data, 0o644) for digest, data in blobs.items()]
    files.append(("oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644))
    paths = [f"blobs/{str(blob['digest']).replace(':', '/')}" for blob in (blob_config, *layers)]
    archive = [{"Config": paths[0], "RepoTags": [name], "Layers": paths[1:]}]  # `docker load` wants to be told so
    files.append(("manifest.json", json.dumps(archive).encode(), 0o644))
    files.append(("index.json", json.dumps(index).encode(), 0o644))
    path.write_bytes(_tar(files))
    return path


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(blobs: "dict[str, bytes]", data: bytes, kind: str) -> "dict[str, object]":
    digest = _digest(data)
    blobs[digest.removeprefix("sha256:")] = data
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def _tar(files: "list[tuple[str, bytes | None, int]]", links: "list[tuple[str, str]] | None" = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data, mode in files:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            entry.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            entry.size = len(data or b"")
            archive.addfile(entry, io.BytesIO(data or b""))
        for name, target in links or []:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()
