"""All controllers, in the order in which their limits are written and their statistics are told."""

from pyrunc.cgroups import blkio, cpu, cpuset, hugetlb, memory, net_cls_prio, pids, rdma, unified

CONTROLLERS = (
    cpu.CONTROLLER,
    cpuset.CONTROLLER,
    memory.CONTROLLER,
    pids.CONTROLLER,
    blkio.CONTROLLER,
    hugetlb.CONTROLLER,
    net_cls_prio.CLASSES,
    net_cls_prio.PRIORITIES,
    rdma.CONTROLLER,
    unified.CONTROLLER,  # last: a file that is named overrules what the other members say of it
)
