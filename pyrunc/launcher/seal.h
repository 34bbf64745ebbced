/* What the launcher and the image do first, and why.

   /proc/PID/exe of a runtime that enters a container is, for the container, a way to the host's file: what
   CVE-2019-5736 wrote to was the runtime itself. So what runs is not the file but a clone of its mount, read-only and
   attached nowhere: one cannot open it for writing (EROFS), nor remount it, and it costs two system calls. A caller
   who may not mount gets a sealed copy in memory, unless the file is one that he can't write anyway.

   Nor do the caller's variables choose the code that runs: what the dynamic loader, glibc, Python or OpenSSL would
   load code or data by is removed; the rest is the runtime's, its hooks' and systemd's. */

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../linux/machine.h"

/* Younger than Debian 11's headers. */
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x1
#endif

/* A star: whatever begins so. glibc's are those that it ignores in a setuid program (sysdeps/generic/unsecvars.h), and
   TZ, of which it ignores only the value: `:/path` is opened and read. What we print is UTC. */
static const char *const HOSTILE[] = {
    "PYTHON*", "LD_*", "GLIBC_TUNABLES", "GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LANGUAGE", "LOCALDOMAIN",
    "LOCPATH", "MALLOC_*", "NIS_PATH", "NLSPATH", "OPENSSL_*", "RESOLV_HOST_CONF", "RES_OPTIONS", "TZ", "TZDIR",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static int hostile(const char *variable)
{
    size_t length = strcspn(variable, "=");
    for (size_t i = 0; i < COUNT(HOSTILE); i++) {
        size_t stem = strcspn(HOSTILE[i], "*");
        if (strncmp(variable, HOSTILE[i], stem) == 0 && (length == stem || HOSTILE[i][stem] == '*'))
            return 1;
    }
    return 0;
}

static void clean(char **environment)
{
    char **kept = environment;
    for (; *environment; environment++)
        if (!hostile(*environment))
            *kept++ = *environment;
    *kept = NULL;
}

/* A descriptor below 3 that is closed would be the next file that is opened: an error message into state.json. */
static void fill_standard_streams(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            open("/dev/null", O_RDWR);
}

/* The caller's mask and what he ignores of his children's ends are not ours: without SIGCHLD nobody wakes us when a
   container ends, and where it is ignored nobody tells how. What was blocked and waits comes now; but SIGINT, which for
   Python is an exception with a traceback, when the program that follows has undone that. */
static void listen_to_signals(void)
{
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
}

static int as_read_only_mount(int file)
{
    struct { uint64_t set, clear, propagation, userns; } read_only = { .set = MOUNT_ATTR_RDONLY };
    int mount = syscall(SYS_open_tree, file, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (mount >= 0 && syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &read_only, sizeof read_only) == 0)
        return mount;
    if (mount >= 0)
        close(mount);   /* Linux before 5.12 */
    return -1;
}

/* Whether the caller, and so his containers, may write the file or allow himself to. Root may, somehow. */
static int within_reach(int file)
{
    struct stat status;
    if (geteuid() == 0 || fstat(file, &status) < 0 || status.st_uid == geteuid())
        return 1;
    return syscall(SYS_faccessat2, file, "", W_OK, AT_EACCESS | AT_EMPTY_PATH) == 0 || errno != EACCES;
}

static int as_sealed_copy(int file)
{
    struct stat status;
    off_t sent = 0;
    int copy = memfd_create("pyrunc", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    if (copy < 0 && errno == EINVAL)    /* Linux before 6.3 */
        copy = memfd_create("pyrunc", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (copy < 0 || fstat(file, &status) < 0)
        return -1;
    while (sent < status.st_size)
        if (sendfile(copy, file, &sent, status.st_size - sent) <= 0)
            return -1;
    return fcntl(copy, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0 ? -1 : copy;
}

/* What of `file` may be executed: a mount, the file itself, or a copy. Negative, with errno: nothing. */
static int sealed(int file)
{
    int mount = as_read_only_mount(file);
    if (mount >= 0)
        return mount;
    return within_reach(file) ? as_sealed_copy(file) : file;
}
