"""pyrunc features: what this runtime supports, from the tables that it acts on. features.md"""

from pyrunc import __version__
from pyrunc.cli.arguments import Usage
from pyrunc.cli.main import Call, say
from pyrunc.cli.version import SPEC, inside
from pyrunc.init import attributes, options
from pyrunc.init.capabilities import NAMES
from pyrunc.init.namespaces import FLAGS_OF
from pyrunc.seccomp import cache, profile
from pyrunc.spec.jsonc import dumps_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USAGE = Usage(
    "features", "", "show what this runtime supports, as JSON", details="See features.md of the runtime specification."
)

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
UNSAFE_ANNOTATIONS = (
    "bundle", "org.systemd.property.", "org.criu.config", "org.pyrunc.rootfs.idmap", "run.oci.seccomp.receiver",
)  # fmt: skip


def features() -> "dict[str, Any]":
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC,
        "hooks": list(HOOKS),
        "mountOptions": options.known(),
        "linux": {
            "namespaces": sorted(FLAGS_OF),
            "capabilities": list(NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted([*profile.ACTIONS, *profile.WITH_ERRNO]),
                "operators": sorted(profile.OPERATORS),
                "archs": sorted(f"SCMP_ARCH_{name}" for name in profile.architecture_names()),
                "knownFlags": sorted(cache.FLAGS),
                "supportedFlags": sorted(cache.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": sorted(attributes.MEMORY_MODES), "flags": sorted(attributes.MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "io.github.pyrunc.version": __version__,
            "io.github.seccomp.libseccomp.version": profile.version(),
            **{f"io.github.pyrunc.{name}": version for name, version in inside().items() if name != "libseccomp"},
        },
        "potentiallyUnsafeConfigAnnotations": list(UNSAFE_ANNOTATIONS),
    }


def main(_: Call) -> None:
    say(dumps_pretty(features(), "    "))
