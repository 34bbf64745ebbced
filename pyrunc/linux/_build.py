"""Writes the C of the extension `pyrunc.linux._kernel`: the system calls that Python's `posix` does not have.

Run by the build: `python _build.py OUTPUT.c`. API mode: the compiler checks every type against the kernel's
own headers, and a call costs no more than one of `posix`. Numbers that the oldest headers may lack are in machine.h,
and structures that they may lack are given here.
"""

import sys
from pathlib import Path

import cffi

DECLARATIONS = """
int sys_open_tree(int dfd, const char *path, unsigned int flags);
int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned int flags);
int sys_fsopen(const char *type, unsigned int flags);
int sys_fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux);
int sys_fspick(int dfd, const char *path, unsigned int flags);
int sys_fsmount(int fd, unsigned int flags, unsigned int attributes);
int sys_mount_setattr(int dfd, const char *path, unsigned int flags, uint64_t set, uint64_t clear,
                      uint64_t propagation, int userns);
int sys_openat2(int dfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int sys_pivot_root(const char *new_root, const char *put_old);
int sys_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int sys_umount2(const char *target, int flags);
int64_t sys_fstatfs_type(int fd);
int sys_clone3(uint64_t flags, int cgroup, int *pidfd);
int sys_clone(unsigned long flags, int *pidfd);
int sys_setns(int fd, int flags);
int sys_unshare(int flags);
int sys_pidfd_getfd(int pidfd, int fd, unsigned int flags);
int sys_close_range(unsigned int first, unsigned int last, unsigned int flags);
int sys_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int sys_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable);
int sys_capget(uint64_t sets[3]);
int sys_prlimit(int pid, int resource, uint64_t soft, uint64_t hard);
int64_t sys_keyctl_join(const char *name);
int sys_keyctl_setperm(int64_t key, uint32_t permissions);
int64_t sys_keyctl_describe(int64_t key, char *text, size_t size);
int sys_seccomp(unsigned int operation, unsigned int flags, const char *program, unsigned short count);
int sys_filter_and_execve(const char *program, unsigned short count, unsigned int flags, const char *path, char **argv,
                          char **envp);
int sys_sethostname(const char *name, size_t length);
int sys_setdomainname(const char *name, size_t length);
int sys_personality(unsigned long domain);
int sys_ioprio_set(int which, int who, int priority);
int sys_sched_setattr(uint32_t policy, uint64_t flags, int32_t nice, uint32_t priority, uint64_t runtime,
                      uint64_t deadline, uint64_t period);
int sys_set_mempolicy(int mode, const char *nodes, unsigned long bits);
int sys_bpf_load(unsigned int type, const char *instructions, unsigned int count, const char *license);
int sys_bpf_attach(int target, int program, unsigned int type, unsigned int flags);
int sys_bpf_replace(int target, int program, unsigned int type, unsigned int flags, int old);
int sys_bpf_query(int target, unsigned int type, uint32_t *ids, uint32_t *count);
int sys_bpf_by_id(uint32_t id);
int sys_bpf_tag(int program, char *tag);
int sys_inotify(const char *path, uint32_t events);
int sys_landlock_create_ruleset(const char *attributes, size_t size, unsigned int flags);
int sys_landlock_add_rule(int ruleset, unsigned int type, const char *attributes);
int sys_landlock_restrict_self(int ruleset);
int reset_signals(void);
int end_by(int signal);
unsigned char *shared_page(void);
void drop_shared_page(unsigned char *page);
struct apart { const char *folder; long number, arguments[5], result; int times, gives; ...; };
static const int NR_MOUNT, NR_UMOUNT, NR_OPEN_TREE;
int start_apart(struct apart *call);
"""

SOURCE = r"""
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

static int sys_open_tree(int dfd, const char *path, unsigned int flags)
{ return syscall(SYS_open_tree, dfd, path, flags); }

static int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned int flags)
{ return syscall(SYS_move_mount, from, from_path, to, to_path, flags); }

static int sys_fsopen(const char *type, unsigned int flags)
{ return syscall(SYS_fsopen, type, flags); }

static int sys_fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux)
{ return syscall(SYS_fsconfig, fd, command, key, value, aux); }

static int sys_fspick(int dfd, const char *path, unsigned int flags)
{ return syscall(SYS_fspick, dfd, path, flags); }

static int sys_fsmount(int fd, unsigned int flags, unsigned int attributes)
{ return syscall(SYS_fsmount, fd, flags, attributes); }

static int sys_mount_setattr(int dfd, const char *path, unsigned int flags, uint64_t set, uint64_t clear,
                             uint64_t propagation, int userns)
{
    struct { uint64_t set, clear, propagation, userns; } attr = { set, clear, propagation, userns < 0 ? 0 : userns };
    return syscall(SYS_mount_setattr, dfd, path, flags, &attr, sizeof attr);
}

static int sys_openat2(int dfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct { uint64_t flags, mode, resolve; } how = { flags, mode, resolve };
    int fd;
    /* EAGAIN: a rename raced with a ".." or an in-root lookup; openat2(2) asks for another try. With RESOLVE_CACHED
       (0x20) it is the answer: not in the cache. */
    for (int tries = 0; tries < 128; tries++) {
        fd = syscall(SYS_openat2, dfd, path, &how, sizeof how);
        if (fd >= 0 || (errno != EINTR && (errno != EAGAIN || resolve & 0x20)))
            return fd;
    }
    return fd;
}

static int sys_pivot_root(const char *new_root, const char *put_old)
{ return syscall(SYS_pivot_root, new_root, put_old); }

static int sys_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{ return mount(source, target, type, flags, data); }

static int sys_umount2(const char *target, int flags)
{ return umount2(target, flags); }

static int64_t sys_fstatfs_type(int fd)
{
    struct statfs s;
    return fstatfs(fd, &s) < 0 ? -1 : (int64_t)(uint32_t)s.f_type;
}

static int sys_clone3(uint64_t flags, int cgroup, int *pidfd)
{
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } args;
    memset(&args, 0, sizeof args);
    args.flags = flags;
    args.pidfd = (uint64_t)(uintptr_t)pidfd;
    args.exit_signal = SIGCHLD;
    args.cgroup = cgroup < 0 ? 0 : (uint64_t)cgroup;
    return syscall(SYS_clone3, &args, sizeof args);
}

/* The pidfd takes the place of parent_tid, which is the third argument on x86_64 and on aarch64. */
static int sys_clone(unsigned long flags, int *pidfd) { return syscall(SYS_clone, flags, 0, pidfd, 0, 0); }
static int sys_setns(int fd, int flags) { return setns(fd, flags); }
static int sys_unshare(int flags) { return unshare(flags); }

static int sys_pidfd_getfd(int pidfd, int fd, unsigned int flags)
{ return syscall(SYS_pidfd_getfd, pidfd, fd, flags); }

static int sys_close_range(unsigned int first, unsigned int last, unsigned int flags)
{ return syscall(SYS_close_range, first, last, flags); }

static int sys_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{ return prctl(option, a, b, c, d); }

static int sys_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = {
        { (uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable },
        { (uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32) },
    };
    return syscall(SYS_capset, &header, data);
}

static int sys_capget(uint64_t sets[3])
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return -1;
    sets[0] = data[0].effective | (uint64_t)data[1].effective << 32;
    sets[1] = data[0].permitted | (uint64_t)data[1].permitted << 32;
    sets[2] = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
    return 0;
}

static int sys_prlimit(int pid, int resource, uint64_t soft, uint64_t hard)
{
    struct { uint64_t soft, hard; } limit = { soft, hard };
    return syscall(SYS_prlimit64, pid, resource, &limit, NULL);
}

static int64_t sys_keyctl_join(const char *name)
{ return syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name, 0, 0, 0); }

static int64_t sys_keyctl_describe(int64_t key, char *text, size_t size)
{ return syscall(SYS_keyctl, KEYCTL_DESCRIBE, key, text, size, 0); }

static int sys_keyctl_setperm(int64_t key, uint32_t permissions)
{ return syscall(SYS_keyctl, KEYCTL_SETPERM, key, permissions, 0, 0); }

static int sys_seccomp(unsigned int operation, unsigned int flags, const char *program, unsigned short count)
{
    struct sock_fprog prog = { count, (struct sock_filter *)program };
    return syscall(SYS_seccomp, operation, flags, &prog);
}

/* 1: the filter was refused; 2: the program. Nothing of the interpreter's runs between the two. */
static int sys_filter_and_execve(const char *program, unsigned short count, unsigned int flags, const char *path,
                                 char **argv, char **envp)
{
    if (count && sys_seccomp(1, flags, program, count) < 0)
        return 1;
    execve(path, argv, envp);
    return 2;
}

static int sys_sethostname(const char *name, size_t length) { return sethostname(name, length); }
static int sys_setdomainname(const char *name, size_t length) { return setdomainname(name, length); }
static int sys_personality(unsigned long domain) { return syscall(SYS_personality, domain); }
static int sys_ioprio_set(int which, int who, int priority) { return syscall(SYS_ioprio_set, which, who, priority); }

static int sys_sched_setattr(uint32_t policy, uint64_t flags, int32_t nice, uint32_t priority, uint64_t runtime,
                             uint64_t deadline, uint64_t period)
{
    struct {
        uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { 48, policy, flags, nice, priority, runtime, deadline, period };
    return syscall(SYS_sched_setattr, 0, &attr, 0);
}

static int sys_set_mempolicy(int mode, const char *nodes, unsigned long bits)
{ return syscall(SYS_set_mempolicy, mode, bits ? nodes : NULL, bits); }

static int sys_bpf_load(unsigned int type, const char *instructions, unsigned int count, const char *license)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = type;
    attr.insn_cnt = count;
    attr.insns = (uint64_t)(uintptr_t)instructions;
    attr.license = (uint64_t)(uintptr_t)license;
    return syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
}

static int sys_bpf_attach(int target, int program, unsigned int type, unsigned int flags)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.target_fd = target;
    attr.attach_bpf_fd = program;
    attr.attach_type = type;
    attr.attach_flags = flags;
    return syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
}

static int sys_bpf_replace(int target, int program, unsigned int type, unsigned int flags, int old)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.target_fd = target;
    attr.attach_bpf_fd = program;
    attr.attach_type = type;
    attr.attach_flags = flags;
    attr.replace_bpf_fd = old;
    return syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
}

static int sys_bpf_query(int target, unsigned int type, uint32_t *ids, uint32_t *count)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.query.target_fd = target;
    attr.query.attach_type = type;
    attr.query.prog_ids = (uint64_t)(uintptr_t)ids;
    attr.query.prog_cnt = *count;
    int result = syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof attr);
    *count = attr.query.prog_cnt;
    return result;
}

static int sys_bpf_by_id(uint32_t id)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_id = id;
    return syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attr, sizeof attr);
}

static int sys_bpf_tag(int program, char *tag)
{
    union bpf_attr attr;
    struct bpf_prog_info info;
    memset(&attr, 0, sizeof attr);
    memset(&info, 0, sizeof info);
    attr.info.bpf_fd = program;
    attr.info.info_len = sizeof info;
    attr.info.info = (uint64_t)(uintptr_t)&info;
    int result = syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof attr);
    memcpy(tag, info.tag, sizeof info.tag);
    return result;
}

static int sys_inotify(const char *path, uint32_t events)
{
    int fd = inotify_init1(IN_CLOEXEC);
    if (fd >= 0 && inotify_add_watch(fd, path, events) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Linux 5.13 */
static int sys_landlock_create_ruleset(const char *attributes, size_t size, unsigned int flags)
{ return syscall(SYS_landlock_create_ruleset, attributes, size, flags); }
static int sys_landlock_add_rule(int ruleset, unsigned int type, const char *attributes)
{ return syscall(SYS_landlock_add_rule, ruleset, type, attributes, 0); }
static int sys_landlock_restrict_self(int ruleset)
{ return syscall(SYS_landlock_restrict_self, ruleset, 0); }

/* Every handler to its default and nothing blocked: an ignored signal and the mask survive execve(2), and
   CPython ignores SIGPIPE and SIGXFSZ. */
static int reset_signals(void)
{
    struct sigaction action;
    sigset_t none;
    memset(&action, 0, sizeof action);
    for (int n = 1; n <= 64; n++)
        sigaction(n, &action, NULL);
    sigemptyset(&none);
    return sigprocmask(SIG_SETMASK, &none, NULL);
}

static void end(int signal) { _exit(128 + signal); }

/* At once. A handler in Python would only be noted, if the signal came right before a system call that waits. */
static int end_by(int signal)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = end;
    return sigaction(signal, &action, NULL);
}

static unsigned char *shared_page(void)
{
    void *page = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? NULL : page;
}

static void drop_shared_page(unsigned char *page) { munmap(page, 1); }

/* One system call in a task that shares our memory and our descriptors, and nothing else: see apart.py. It has our
   thread's storage too, so it touches no errno: the calls are made without the C library. Nor does a handler of ours run
   there, on its small stack: all signals are blocked from its first instruction on, but SIGKILL.
   A call that opens something (`gives` is a socket) is made with descriptors of the task's own, of which it keeps none,
   and what it opens is sent. Were it opened among ours, a task that is killed in the instant would leave it there, and
   nobody would know its number. */
struct apart {
    const char *folder;
    long number, arguments[5], result, caller;
    int times, gives;
    char stack[8192] __attribute__((aligned(16)));
};
enum { NR_MOUNT = SYS_mount, NR_UMOUNT = SYS_umount2, NR_OPEN_TREE = SYS_open_tree };

#if defined(__x86_64__)
static inline long raw_call(long number, const long *a)
{
    register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4];
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long raw_call(long number, const long *a)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a[0], x1 __asm__("x1") = a[1], x2 __asm__("x2") = a[2],
                  x3 __asm__("x3") = a[3], x4 __asm__("x4") = a[4];
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
#else
#define NO_RAW_CALL
#endif

#ifndef NO_RAW_CALL
static long send_apart(int socket, int fd)
{
    char byte = 0;
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof fd)]; } control = {
        .header = { .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
    struct iovec data = { .iov_base = &byte, .iov_len = 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    *(int *)CMSG_DATA(&control.header) = fd;
    const long arguments[5] = { socket, (long)&message, MSG_NOSIGNAL };
    return raw_call(SYS_sendmsg, arguments);
}

static int run_apart(void *argument)
{
    struct apart *call = argument;
    const long folder[5] = { (long)call->folder }, death[5] = { PR_SET_PDEATHSIG, SIGKILL }, none[5] = { 0 };
    long done = raw_call(SYS_prctl, death); /* or our descriptors would stay open after us, and nobody see our end */
    if (raw_call(SYS_getppid, none) != call->caller)
        return 0;
    if (call->gives >= 0) { /* or whoever waits for the end of a pipe of ours would wait for the call */
        const long below[5] = { 0, call->gives - 1 }, above[5] = { call->gives + 1, ~0U };
        done = raw_call(SYS_close_range, above);
        if (done >= 0 && call->gives > 0)
            done = raw_call(SYS_close_range, below);
    }
    if (call->folder && done >= 0)
        done = raw_call(SYS_chdir, folder);
    for (int i = 0; i < call->times && done >= 0; i++)
        done = raw_call(call->number, call->arguments);
    if (call->gives >= 0 && done >= 0)
        done = send_apart(call->gives, done);
    call->result = done;
    return 0;
}
#endif

static int start_apart(struct apart *call)
{
#ifdef NO_RAW_CALL
    (void)call;
    errno = ENOSYS;
    return -1;
#else
    sigset_t all, ours;
    call->result = -EINTR;
    call->caller = getpid();
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &ours);
    int shared = CLONE_VM | (call->gives < 0 ? CLONE_FILES : 0);
    int pid = clone(run_apart, call->stack + sizeof call->stack, shared | SIGCHLD, call), error = errno;
    sigprocmask(SIG_SETMASK, &ours, NULL);
    errno = error;
    return pid;
#endif
}

"""


def main(output: str) -> None:
    builder = cffi.FFI()
    builder.cdef(DECLARATIONS)
    builder.set_source("pyrunc.linux._kernel", Path(__file__).with_name("machine.h").read_text() + SOURCE)
    builder.emit_c_code(output)


if __name__ == "__main__":
    main(sys.argv[1])
