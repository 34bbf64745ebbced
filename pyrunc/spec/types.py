"""The documents of runtime-spec 1.3 as types: config.json, the state, the features.

For mypy and for readers only. `import typing` costs two bare interpreters, so that this module is imported
under `TYPE_CHECKING = False; if TYPE_CHECKING:` and never at run time. A member without Required may be
absent; none is ever None (load.py drops null members).
"""

from typing import Literal, Required, TypedDict

NamespaceType = Literal["mount", "pid", "network", "uts", "ipc", "user", "cgroup", "time"]


class Root(TypedDict, total=False):
    path: Required[str]
    readonly: bool


class IDMapping(TypedDict):
    containerID: int
    hostID: int
    size: int


class Mount(TypedDict, total=False):
    destination: Required[str]
    type: str
    source: str
    options: list[str]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]


class ConsoleSize(TypedDict):
    height: int
    width: int


class User(TypedDict, total=False):
    uid: int
    gid: int
    umask: int
    additionalGids: list[int]
    username: str


class Capabilities(TypedDict, total=False):
    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Rlimit(TypedDict):
    type: str
    soft: int
    hard: int


class Scheduler(TypedDict, total=False):
    policy: Required[str]
    nice: int
    priority: int
    flags: list[str]
    runtime: int
    deadline: int
    period: int


IOPriority = TypedDict("IOPriority", {"class": Required[str], "priority": int}, total=False)


class ExecCPUAffinity(TypedDict, total=False):
    initial: str
    final: str


class Process(TypedDict, total=False):
    cwd: Required[str]
    terminal: bool
    consoleSize: ConsoleSize
    user: User
    args: list[str]
    commandLine: str
    env: list[str]
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    selinuxLabel: str
    oomScoreAdj: int
    scheduler: Scheduler
    ioPriority: IOPriority
    execCPUAffinity: ExecCPUAffinity


class Hook(TypedDict, total=False):
    path: Required[str]
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Namespace(TypedDict, total=False):
    type: Required[NamespaceType]
    path: str


class TimeOffset(TypedDict, total=False):
    secs: int
    nanosecs: int


class TimeOffsets(TypedDict, total=False):
    monotonic: TimeOffset
    boottime: TimeOffset


class Device(TypedDict, total=False):
    type: Required[str]
    path: Required[str]
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class NetDevice(TypedDict, total=False):
    name: str


class DeviceRule(TypedDict, total=False):
    allow: Required[bool]
    type: str
    major: int
    minor: int
    access: str


class Pids(TypedDict):
    limit: int


class Memory(TypedDict, total=False):
    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class CPU(TypedDict, total=False):
    shares: int
    quota: int
    period: int
    burst: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class WeightDevice(TypedDict, total=False):
    major: Required[int]
    minor: Required[int]
    weight: int
    leafWeight: int


class ThrottleDevice(TypedDict, total=False):
    major: Required[int]
    minor: Required[int]
    rate: int


class BlockIO(TypedDict, total=False):
    weight: int
    leafWeight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugepageLimit(TypedDict):
    pageSize: str
    limit: int


class InterfacePriority(TypedDict):
    name: str
    priority: int


class Network(TypedDict, total=False):
    classID: int
    priorities: list[InterfacePriority]


class Rdma(TypedDict, total=False):
    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    unified: dict[str, str]
    devices: list[DeviceRule]
    pids: Pids
    memory: Memory
    cpu: CPU
    blockIO: BlockIO
    hugepageLimits: list[HugepageLimit]
    network: Network
    rdma: dict[str, Rdma]


class SyscallArg(TypedDict, total=False):
    index: Required[int]
    value: Required[int]
    op: Required[str]
    valueTwo: int


class Syscall(TypedDict, total=False):
    names: Required[list[str]]
    action: Required[str]
    errnoRet: int
    args: list[SyscallArg]


class Seccomp(TypedDict, total=False):
    defaultAction: Required[str]
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[Syscall]


class IntelRdt(TypedDict, total=False):
    closID: str
    schemata: list[str]
    l3CacheSchema: str
    memBwSchema: str
    enableMonitoring: bool


class MemoryPolicy(TypedDict, total=False):
    mode: str
    nodes: str
    flags: list[str]


class Personality(TypedDict, total=False):
    domain: str
    flags: list[str]


class Linux(TypedDict, total=False):
    namespaces: list[Namespace]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]
    timeOffsets: TimeOffsets
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    cgroupsPath: str
    resources: Resources
    rootfsPropagation: str
    seccomp: Seccomp
    sysctl: dict[str, str]
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: IntelRdt
    memoryPolicy: MemoryPolicy
    personality: Personality


class Config(TypedDict, total=False):
    ociVersion: Required[str]
    root: Root
    mounts: list[Mount]
    process: Process
    hostname: str
    domainname: str
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux


Status = Literal["creating", "created", "running", "stopped"]


class State(TypedDict, total=False):
    ociVersion: Required[str]
    id: Required[str]
    status: Required[Status]
    pid: int
    bundle: Required[str]
    annotations: dict[str, str]


class Enabled(TypedDict, total=False):
    enabled: bool


class CgroupFeatures(TypedDict, total=False):
    v1: bool
    v2: bool
    systemd: bool
    systemdUser: bool
    rdma: bool


class SeccompFeatures(TypedDict, total=False):
    enabled: bool
    actions: list[str]
    operators: list[str]
    archs: list[str]
    knownFlags: list[str]
    supportedFlags: list[str]


class MountExtensions(TypedDict, total=False):
    idmap: Enabled


class RdtFeatures(TypedDict, total=False):
    enabled: bool
    schemata: bool
    monitoring: bool


class MemoryPolicyFeatures(TypedDict, total=False):
    modes: list[str]
    flags: list[str]


class LinuxFeatures(TypedDict, total=False):
    namespaces: list[NamespaceType]
    capabilities: list[str]
    cgroup: CgroupFeatures
    seccomp: SeccompFeatures
    apparmor: Enabled
    selinux: Enabled
    intelRdt: RdtFeatures
    memoryPolicy: MemoryPolicyFeatures
    mountExtensions: MountExtensions
    netDevices: Enabled


class Features(TypedDict, total=False):
    ociVersionMin: Required[str]
    ociVersionMax: Required[str]
    hooks: list[str]
    mountOptions: list[str]
    annotations: dict[str, str]
    potentiallyUnsafeConfigAnnotations: list[str]
    linux: LinuxFeatures
