/* pyrunc: start the interpreter sealed, with nothing between it and our package.

   /proc/PID/exe of a runtime that enters a container is, for the container, a way to the host's file: what
   CVE-2019-5736 wrote to was the runtime itself, and here it would be the host's Python. So what runs is not
   the interpreter's file but a clone of its mount, read-only and attached nowhere: one cannot open it for
   writing (EROFS), nor remount it, and it costs two system calls. A caller who may not mount gets a sealed
   copy in memory, unless the file is one that he can't write anyway.

   Nor do the caller's variables choose the code that runs: what the dynamic loader, glibc, Python or OpenSSL
   would load code or data by is removed; the rest is the runtime's, its hooks' and systemd's. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Younger than Debian 11's headers; the numbers are those of every architecture. */
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x1
#endif

/* PYTHON ("python3.11"), INTERPRETER (what the build ran under), NAME (our own) and MODULE (whose main() is called: there
   is one program for each) come from meson.build. */
static const char CODE[] =
    "import _signal,marshal,posix,sys\n"
    "if _signal.getsignal(2) is _signal.default_int_handler:_signal.signal(2,_signal.SIG_DFL)\n" /* until main() has one */
    "_signal.pthread_sigmask(_signal.SIG_SETMASK,())\n"
    "sys.excepthook=lambda _,error,__:posix.write(2,b'" NAME ": starting: %s\\n'%str(getattr(error,'strerror',0)or error).encode())\n"
    "i=sys.argv.index('--')\n"
    "home=sys.argv[1]\n"
    "sys.path+=sys.argv[1:i]\n" /* after the standard library: nothing there can stand in for it */
    "try:archive=posix.open(home+'/pyrunc/modules.marshal',posix.O_RDONLY|posix.O_CLOEXEC)\n"
    "except OSError:pass\n"
    "else:exec(marshal.loads(posix.read(archive,int.from_bytes(posix.read(archive,4),'little'))))\n" /* boot.py */
    "from " MODULE " import main\n"
    "posix._exit(main(sys.argv[i+1:]))"; /* no finalization: nothing is left to finalize */

/* Where an installation keeps its packages, below the prefix whose bin/ we are in. */
static const char *const HOMES[] = {
    "lib/" PYTHON "/site-packages", "lib/" PYTHON "/dist-packages",
    "lib64/" PYTHON "/site-packages", "lib/python3/dist-packages",
};

/* Where Debian has cffi, if pip found it there and saw no reason to install another. Not for a venv. */
static char *const SYSTEM_HOMES[] = { "/usr/local/lib/" PYTHON "/dist-packages", "/usr/lib/python3/dist-packages" };

/* A star: whatever begins so. glibc's are those that it ignores in a setuid program (sysdeps/generic/unsecvars.h), and
   TZ, of which it ignores only the value: `:/path` is opened and read. What we print is UTC. */
static const char *const HOSTILE[] = {
    "PYTHON*", "LD_*", "GLIBC_TUNABLES", "GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LANGUAGE", "LOCALDOMAIN",
    "LOCPATH", "MALLOC_*", "NIS_PATH", "NLSPATH", "OPENSSL_*", "RESOLV_HOST_CONF", "RES_OPTIONS", "TZ", "TZDIR",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static _Noreturn void fail(int status, const char *operation, const char *subject, const char *cause, const char *hint)
{
    dprintf(2, NAME ": %s %s: %s; %s\n", operation, subject, cause, hint);
    _exit(status);
}

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
   Python is an exception with a traceback, when CODE has undone that. */
static void listen_to_signals(void)
{
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
}

static char *format(const char *template, const char *first, const char *second)
{
    char *text;
    if (asprintf(&text, template, first, second) < 0)
        _exit(126);
    return text;
}

/* The prefix that we are installed below: /proc/self/exe is the file, whatever symlinks led to it. */
static char *installation(void)
{
    static char path[PATH_MAX];
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0)
        fail(127, "reading", "/proc/self/exe", strerror(errno), "pyrunc needs /proc to find its own installation");
    for (int level = 0; level < 2; level++) {
        char *slash = strrchr(path, '/');
        if (slash)
            *slash = '\0';
    }
    return path;
}

static char *package_home(const char *prefix)
{
    for (size_t i = 0; i < COUNT(HOMES); i++) {
        char *home = format("%s/%s", prefix, HOMES[i]);
        if (access(format("%s/%s", home, "pyrunc/cli"), F_OK) == 0)
            return home;
    }
    fail(127, "finding", format("%s/lib*/" PYTHON "/*-packages/%s", prefix, "pyrunc"), "no such directory",
         "this program only works beside the package that pip installed it with");
}

/* A venv's interpreter is a symlink to the one that it was made from. Python finds its library by that one's path. */
static char *interpreter_path(const char *prefix)
{
    const char *candidates[] = { format("%s/bin/%s", prefix, PYTHON), INTERPRETER, "/usr/bin/" PYTHON };
    for (size_t i = 0; i < COUNT(candidates); i++) {
        char *path = realpath(candidates[i], NULL);
        if (path)
            return path;
    }
    fail(127, "finding", PYTHON, strerror(errno), "pyrunc was built for this version; install it, or build pyrunc again");
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

int main(int count, char **arguments, char **environment)
{
    fill_standard_streams();
    listen_to_signals();
    clean(environment);
    const char *prefix = installation();
    char *home = package_home(prefix), *path = interpreter_path(prefix);
    int venv = access(format("%s/%s", prefix, "pyvenv.cfg"), F_OK) == 0;

    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        fail(127, "opening", path, strerror(errno), "pyrunc runs in this interpreter");
    int sealed = as_read_only_mount(file);
    if (sealed < 0)
        sealed = within_reach(file) ? as_sealed_copy(file) : file;
    if (sealed < 0)
        fail(126, "sealing", path, strerror(errno),
             "neither a read-only mount (open_tree, mount_setattr) nor a sealed copy (memfd_create) could be made of it");

    /* -I: no variables, no user's packages; -S: no site; -B: no bytecode is written as whoever runs us first. */
    char *options[] = { path, "-ISB", "-Xutf8", "-c", (char *)CODE, home };
    char *words[COUNT(options) + COUNT(SYSTEM_HOMES) + 2 + count], **end = words;
    end = mempcpy(end, options, sizeof options);
    if (!venv)
        end = mempcpy(end, SYSTEM_HOMES, sizeof SYSTEM_HOMES);
    *end++ = "--";
    memcpy(end, arguments + (count > 0), (count > 0 ? count : 1) * sizeof *arguments);  /* with the NULL */

    syscall(SYS_execveat, sealed, "", words, environment, AT_EMPTY_PATH);
    fail(126, "executing", path, format("execveat: %s%s", strerror(errno), ""), "pyrunc runs in this interpreter");
}
