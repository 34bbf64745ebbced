"""Make a container image that installs pyrunc on a Kubernetes node: node.py TAR VERSION.

TAR is an image as `ctr image import`, `podman load` and `docker load` take it: one layer with the one file, busybox,
and node/pyrunc-node, which says what it does. Its bytes depend on what is in it alone.
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
TOOLS = (
    "cat", "chmod", "cmp", "cp", "grep", "head", "ln", "mkdir", "mv", "nsenter", "readlink", "rm", "sed", "sh", "sleep",
    "stat", "tail",
)  # fmt: skip


def layer() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for folder in ("bin", "host", "tmp"):
            add(tar, folder, b"", tarfile.DIRTYPE)
        for path, source in (
            ("pyrunc", HERE.parents[1] / "dist/pyrunc"),
            ("bin/busybox", Path("/bin/busybox")),
            ("bin/pyrunc-node", HERE / "node/pyrunc-node"),
        ):
            add(tar, path, source.read_bytes())
        for tool in TOOLS:
            add(tar, f"bin/{tool}", b"busybox", tarfile.SYMTYPE)
    return target.getvalue()


def add(tar: tarfile.TarFile, path: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    """A file, a folder, or a link to `data`."""
    item = tarfile.TarInfo(path)
    item.type = kind
    item.mode = 0o755
    if kind == tarfile.SYMTYPE:
        item.linkname = data.decode()
        data = b""
    item.size = len(data)
    tar.addfile(item, io.BytesIO(data))


def image(version: str) -> "dict[str, bytes]":
    """The files of an OCI image layout, and the manifest.json of Docker's own format beside it."""
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return digest

    def described(kind: str, data: bytes) -> "dict[str, object]":
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{blob(data)}",
            "size": len(data),
        }

    content = layer()
    diff = f"sha256:{hashlib.sha256(content).hexdigest()}"
    config = as_json(
        {
            "architecture": MACHINES[os.uname().machine],
            "os": "linux",
            "config": {"Entrypoint": ["/bin/pyrunc-node"], "Env": ["PATH=/bin:/usr/sbin:/usr/bin:/sbin"]},
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        }
    )
    name = f"docker.io/pyrunc/pyrunc-node:{version}"
    manifest = as_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", config),
            "layers": [described("layer.v1.tar", content)],
        }
    )
    index = described("manifest.v1+json", manifest)
    index["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": version}
    files["index.json"] = as_json({"schemaVersion": 2, "manifests": [index]})
    docker = {"Config": f"blobs/sha256/{blob(config)}", "RepoTags": [name], "Layers": [f"blobs/sha256/{blob(content)}"]}
    files["manifest.json"] = as_json([docker])
    return files


def as_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    with tarfile.open(sys.argv[1], "w", format=tarfile.GNU_FORMAT) as archive:
        for path, data in sorted(image(sys.argv[2]).items()):
            item = tarfile.TarInfo(path)
            item.size = len(data)
            item.mode = 0o644
            archive.addfile(item, io.BytesIO(data))
