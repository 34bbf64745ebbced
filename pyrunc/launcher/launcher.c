/* pyrunc: start the interpreter sealed (seal.h), with nothing between it and our package. */

#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "seal.h"
#include "shim.h"

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

static _Noreturn void fail(int status, const char *operation, const char *subject, const char *cause, const char *hint)
{
    dprintf(2, NAME ": %s %s: %s; %s\n", operation, subject, cause, hint);
    _exit(status);
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

int main(int count, char **arguments, char **environment)
{
    fill_standard_streams();
    answer_delete(NAME, count, arguments);
    listen_to_signals();
    clean(environment);
    go_on_in_child(NAME, &count, &arguments);
    const char *prefix = installation();
    char *home = package_home(prefix), *path = interpreter_path(prefix);
    int venv = access(format("%s/%s", prefix, "pyvenv.cfg"), F_OK) == 0;

    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        fail(127, "opening", path, strerror(errno), "pyrunc runs in this interpreter");
    int program = sealed(file);
    if (program < 0)
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

    syscall(SYS_execveat, program, "", words, environment, AT_EMPTY_PATH);
    fail(126, "executing", path, format("execveat: %s%s", strerror(errno), ""), "pyrunc runs in this interpreter");
}
