/* What a shell can't ask the kernel. Static, so that it runs in any image. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define IS_WORD(text, word) (strcmp(text, word) == 0)
#define IS(word) IS_WORD(arguments[1], word)

/* syscall NUMBER [ARGUMENT...]: prints what it returned, or the name of its error. */
static int system_call(int count, char **arguments)
{
    long a[6] = {0};
    for (int i = 0; i < 6 && i < count - 1; i++)
        a[i] = strtol(arguments[i + 1], NULL, 0);
    errno = 0;
    long result = syscall(strtol(arguments[0], NULL, 0), a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result < 0)
        printf("%s\n", strerrorname_np(errno));
    else
        printf("%ld\n", result);
    return 0;
}

/* int80 NUMBER: the same as a program of 32 bits would ask it. */
static int system_call_32(const char *number)
{
#ifdef __x86_64__
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(atoi(number)), "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0)
        printf("%s\n", strerrorname_np(-result));
    else
        printf("%d\n", result);
    return 0;
#else
    (void)number;
    return 77;
#endif
}

static int keyring(void)
{
    char text[256] = "";
    if (syscall(SYS_keyctl, 6 /* DESCRIBE */, -3 /* the session's */, text, sizeof text) < 0)
        printf("%s\n", strerrorname_np(errno));
    else
        printf("%s\n", text);
    return 0;
}

static int descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    while ((entry = readdir(folder))) {
        char link[4096] = "", path[300];
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(folder))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, link, sizeof link - 1) > 0)
            printf("%s %s\n", entry->d_name, link);
    }
    return 0;
}

static int attributes(void)
{
    cpu_set_t cpus;
    struct timespec t;
    mode_t mask = umask(0);
    sched_getaffinity(0, sizeof cpus, &cpus);
    printf("umask %04o\n", mask);
    printf("dumpable %d\n", prctl(PR_GET_DUMPABLE));
    printf("keepcaps %d\n", prctl(PR_GET_KEEPCAPS));
    printf("securebits %d\n", prctl(PR_GET_SECUREBITS));
    printf("subreaper %d\n", prctl(PR_GET_CHILD_SUBREAPER, &mask) ? -1 : (int)mask);
    printf("pdeathsig %d\n", prctl(PR_GET_PDEATHSIG, &mask) ? -1 : (int)mask);
    printf("timerslack %d\n", prctl(PR_GET_TIMERSLACK));
    printf("thp %d\n", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    printf("personality %x\n", personality(0xffffffff));
    printf("scheduler %d\n", sched_getscheduler(0));
    printf("nice %d\n", getpriority(PRIO_PROCESS, 0));
    printf("ioprio %ld\n", syscall(SYS_ioprio_get, 1, 0));
    printf("cpus %d\n", CPU_COUNT(&cpus));
    printf("ids %d %d %d\n", getpid() == 1, getpgrp() == getpid(), getsid(0) == getpid());
    printf("terminal %d %d %d\n", isatty(0), isatty(1), isatty(2));
    clock_getres(CLOCK_MONOTONIC, &t);
    return 0;
}

/* open PATH FLAGS: whether and how it can be opened. */
static int open_file(const char *path, int flags)
{
    int fd = open(path, flags);
    printf("%s\n", fd < 0 ? strerrorname_np(errno) : "opened");
    return 0;
}

/* overwrite-exe INODE SECONDS: of every process that runs the file of this inode, try to open /proc/PID/exe for writing,
   the way of CVE-2019-5736: an O_PATH descriptor first, which keeps the file when the process has gone on. Until
   /tmp/stop is there. */
static int overwrite_exe(unsigned long inode, int seconds)
{
    time_t end = time(NULL) + seconds;
    struct stat other;
    int seen = 0, written = 0;
    char outcomes[4096] = "";
    printf("ready\n");
    fflush(stdout);
    while (time(NULL) < end && access("/tmp/stop", F_OK) != 0) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(proc))) {
            char path[300];
            if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
                continue;
            snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
            int handle = open(path, O_PATH);
            if (handle < 0)
                continue;
            if (fstat(handle, &other) < 0 || other.st_ino != inode) {
                close(handle);
                continue;
            }
            seen++;
            snprintf(path, sizeof path, "/proc/self/fd/%d", handle);
            for (int again = 0; again < 100; again++, usleep(2000)) {
                int file = open(path, O_WRONLY);
                if (file >= 0) {
                    written++;
                    close(file);
                    break;
                }
                const char *name = strerrorname_np(errno);
                if (!strstr(outcomes, name))
                    strcat(strcat(outcomes, name), " ");
                if (errno != ETXTBSY)
                    break;   /* that one lasts while it runs */
            }
            close(handle);
        }
        closedir(proc);
    }
    printf("seen %d written %d outcomes %s\n", seen, written, outcomes);
    return 0;
}

/* Whether a process is still the runtime on its way, and not yet a program of the container's. Where the host's processes
   are in sight: that of the container with this ID, which is a word of its command line. */
static int is_runtime(pid_t pid, const char *id)
{
    char path[64], text[4096] = "";
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    int is_ours = strstr(text, "python") || strstr(text, "pyrunc");     /* the first word: an image has no interpreter */
    return size > 0 && is_ours && memmem(text, size, id, strlen(id));
}

/* watch-strangers SECONDS ID: of every process of the runtime's that turns up, whether we can trace it or read its
   descriptors (CVE-2016-9962). It may become the program between two calls of ours, so it is asked again after. */
static int watch_strangers(int seconds, const char *id)
{
    time_t end = time(NULL) + seconds;
    int seen = 0, traced = 0, followed = 0;
    printf("ready\n");
    fflush(stdout);
    while (time(NULL) < end && access("/tmp/stop", F_OK) != 0) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(proc))) {
            pid_t pid = atoi(entry->d_name);
            char path[300];
            if (pid <= 1 || pid == getpid() || !is_runtime(pid, id))
                continue;
            seen++;
            for (int n = -3; n < 16; n++) {
                static const char *const links[] = { "exe", "cwd", "root" };
                char target[4096];
                if (n < 0)
                    snprintf(path, sizeof path, "/proc/%d/%s", pid, links[n + 3]);
                else
                    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, n);
                if (readlink(path, target, sizeof target) > 0)
                    followed += is_runtime(pid, id);
            }
            if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                int status;
                if (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
                    traced += is_runtime(pid, id);
                    ptrace(PTRACE_DETACH, pid, 0, 0);
                }
            }
        }
        closedir(proc);
    }
    printf("seen %d traced %d followed %d\n", seen, traced, followed);
    return 0;
}

/* watch-rights: of all other processes that turn up, until /tmp/stop is there: how many looks, the capabilities that any of
   them has had, and how often its folder was not the container's root. */
static int watch_rights(void)
{
    unsigned long long rights = 0;
    int looks = 0, outside = 0;
    struct stat root, other;
    stat("/", &root);
    printf("ready\n");
    fflush(stdout);
    while (access("/tmp/stop", F_OK) != 0) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(proc))) {
            pid_t pid = atoi(entry->d_name);
            char path[300], text[4096], *at;
            if (pid <= 1 || pid == getpid())
                continue;
            snprintf(path, sizeof path, "/proc/%d/status", pid);
            int fd = open(path, O_RDONLY);
            ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
            close(fd);
            text[length > 0 ? length : 0] = 0;
            looks += length > 0;
            if ((at = strstr(text, "CapPrm:")))
                rights |= strtoull(at + 7, NULL, 16);
            snprintf(path, sizeof path, "/proc/%d/root", pid);
            outside += stat(path, &other) == 0 && (other.st_ino != root.st_ino || other.st_dev != root.st_dev);
        }
        closedir(proc);
    }
    printf("looks %d rights %llx outside %d\n", looks, rights, outside);
    return 0;
}

/* cover FROM TO: FROM is mounted on TO and taken away again, without a pause, until /tmp/stop is there (CVE-2025-52881).
   Prints how often. */
static int cover(const char *from, const char *to)
{
    long times = 0;
    printf("ready\n");
    fflush(stdout);
    for (; access("/tmp/stop", F_OK) != 0; times++)
        if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0 || umount2(to, MNT_DETACH) < 0)
            return 1;
    printf("times %ld\n", times);
    return 0;
}

/* huge BYTES: whether that much memory of huge pages is to be had, and can be written to. */
static int huge(size_t size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (memory == MAP_FAILED) {
        printf("%s\n", strerrorname_np(errno));
        return 0;
    }
    memset(memory, 1, size);
    printf("had\n");
    return 0;
}

static int terminal_size(void)
{
    struct winsize size;
    if (ioctl(0, TIOCGWINSZ, &size) < 0)
        printf("%s\n", strerrorname_np(errno));
    else
        printf("%d %d\n", size.ws_row, size.ws_col);
    return 0;
}

/* A datagram to $NOTIFY_SOCKET, with a descriptor if there is one. */
static int tell(const char *text, size_t length, int fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    union { char space[CMSG_SPACE(sizeof fd)]; struct cmsghdr align; } control = {0};
    struct iovec data = {(char *)text, length};
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &data, .msg_iovlen = 1};
    strncpy(address.sun_path, getenv("NOTIFY_SOCKET"), sizeof address.sun_path - 1);
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    int out = socket(AF_UNIX, SOCK_DGRAM, 0);
    ssize_t sent = sendmsg(out, &message, MSG_NOSIGNAL);
    printf("%s\n", sent < 0 ? strerrorname_np(errno) : "told");
    fflush(stdout);
    close(out);
    return sent < 0;
}

/* notify TEXT: sd_notify(3), with a comma for the end of a line. LONG is 10,000 bytes. */
static int notify(const char *argument)
{
    static char text[10000];
    size_t length = IS_WORD(argument, "LONG") ? sizeof text : strlen(argument);
    memset(text, 'x', sizeof text);
    memcpy(text, argument, strlen(argument));
    for (size_t i = 0; i < length; i++)
        if (text[i] == ',')
            text[i] = '\n';
    return tell(text, length, -1);
}

/* barrier: sd_notify_barrier(3). */
static int barrier(void)
{
    int ends[2];
    char none;
    if (pipe(ends) < 0 || tell("BARRIER=1", 9, ends[1]))
        return 1;
    close(ends[1]);
    printf("%s\n", read(ends[0], &none, 1) == 0 ? "acknowledged" : "?");
    return 0;
}

/* leave-group: into the process group of a child, for ever. */
static int leave_group(void)
{
    pid_t child = fork();
    if (child == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    else if (setpgid(child, child) < 0 || setpgid(0, child) < 0)
        return 1;
    for (;;)
        pause();
}

/* clone3 FLAGS: as a C library tries it, and the older call where there is none. */
static int clone_3(unsigned long flags)
{
    struct { unsigned long flags, none[3], signal, more[6]; } how = {.flags = flags, .signal = SIGCHLD};
    long child = syscall(SYS_clone3, &how, sizeof how);
    int error = errno;
    if (child < 0)
        child = fork();
    if (child == 0)
        _exit(0);
    if (waitpid(child, NULL, 0) != child)
        return 1;
    printf("%s\n", error ? strerrorname_np(error) : "made");
    return 0;
}

/* socket PATH: binds one there. */
static int bind_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    return bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address) != 0;
}

int main(int count, char **arguments)
{
    if (count < 2)
        return 2;
    if (IS("syscall"))
        return system_call(count - 2, arguments + 2);
    if (IS("int80"))
        return system_call_32(arguments[2]);
    if (IS("keyring"))
        return keyring();
    if (IS("pause")) { /* for ever, by a call that nothing else makes */
        sigset_t none;
        sigemptyset(&none);
        return sigsuspend(&none);
    }
    if (IS("descriptors"))
        return descriptors();
    if (IS("attributes"))
        return attributes();
    if (IS("open"))
        return open_file(arguments[2], strtol(arguments[3], NULL, 0));
    if (IS("leave-group"))
        return leave_group();
    if (IS("overwrite-exe"))
        return overwrite_exe(strtoul(arguments[2], NULL, 0), atoi(arguments[3]));
    if (IS("watch-strangers"))
        return watch_strangers(atoi(arguments[2]), arguments[3] ? arguments[3] : "");
    if (IS("watch-rights"))
        return watch_rights();
    if (IS("cover"))
        return cover(arguments[2], arguments[3]);
    if (IS("huge"))
        return huge(strtoull(arguments[2], NULL, 10));
    if (IS("size"))
        return terminal_size();
    if (IS("notify"))
        return notify(arguments[2]);
    if (IS("barrier"))
        return barrier();
    if (IS("clone3")) {
        errno = 0;
        return clone_3(strtoul(arguments[2], NULL, 0));
    }
    if (IS("socket"))
        return bind_socket(arguments[2]);
    if (IS("crash"))
        __builtin_trap(); /* a fault: what a PID 1 sends itself it may ignore */
    return 2;
}
