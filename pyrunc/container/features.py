"""What this runtime supports, from the tables that it acts on. features.md"""

from pyrunc import SPECIFICATION, __version__, inside
from pyrunc.init import attributes
from pyrunc.init.namespaces import FLAGS_OF
from pyrunc.linux import mount_options
from pyrunc.seccomp import cache, profile
from pyrunc.spec.rules import CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUNC = "1.5.1"  # whose command line, words and suite of tests we follow: who asks for a version means these
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
UNSAFE_ANNOTATIONS = (
    "bundle", "org.criu.config", "org.pyrunc.landlock.", "org.pyrunc.rootfs.idmap",
    "org.systemd.property.", "run.oci.delegate-cgroup", "run.oci.hooks.stderr", "run.oci.hooks.stdout",
    "run.oci.keep_original_groups",
    "run.oci.mount_context_type", "run.oci.pidfd_receiver", "run.oci.seccomp.receiver", "run.oci.seccomp_bpf_data",
    "run.oci.systemd.force_cgroup_v1", "run.oci.systemd.subgroup", "run.oci.timens_offset",
)  # fmt: skip


def features() -> "dict[str, Any]":
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPECIFICATION,
        "hooks": list(HOOKS),
        "mountOptions": mount_options.known(),
        "linux": {
            "namespaces": sorted(FLAGS_OF),
            "capabilities": list(CAPABILITIES),
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
            "org.opencontainers.runc.checkpoint.enabled": "true",  # the name that engines know
            "io.github.seccomp.libseccomp.version": profile.version(),
            "org.opencontainers.runc.version": RUNC,
            **{f"io.github.pyrunc.{name}": version for name, version in inside().items() if name != "libseccomp"},
        },
        "potentiallyUnsafeConfigAnnotations": list(UNSAFE_ANNOTATIONS),
    }
