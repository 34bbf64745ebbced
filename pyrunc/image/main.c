/* Which of its lives the executable is in: the builder, the launcher that seals what it executes, or the image. */

#include "../launcher/seal.h"
#include "../launcher/shim.h"
#include "image.h"
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

struct image image;

void die(const char *operation, const char *subject, const char *cause)
{
    dprintf(2, "pyrunc: %s %s: %s\n", operation, subject, cause);
    _exit(126);
}

/* Whether this process was executed from what seal.h makes. A caller can't say so for it: a file is the root of a
   mount, "/", or a memfd with its seals, only where somebody made it so. Of a mount its flags tell, and not access(2),
   which for a user without rights has another error. */
static int is_sealed(void)
{
    char path[32];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path);
    struct statfs mount;
    if (length == 1)
        return statfs("/proc/self/exe", &mount) == 0 && mount.f_flags & ST_RDONLY;
    if (length < 8 || memcmp(path, "/memfd:", 7))
        return 0;
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int seals = fcntl(file, F_GET_SEALS);
    close(file);
    return seals > 0 && seals & F_SEAL_WRITE;
}

static void execute_sealed(char **words)
{
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        die("opening", "/proc/self/exe", errno == ENOENT ? "No such file or directory (is /proc mounted?)" : strerror(errno));
    int program = sealed(file);
    if (program < 0)
        die("sealing", "/proc/self/exe, by open_tree and mount_setattr or by memfd_create", strerror(errno));
    if (program == file) {      /* nobody who is in reach of this process can write to it */
        close(file);
        return;
    }
    syscall(SYS_execveat, program, "", words, environ, AT_EMPTY_PATH);
    die("executing", "/proc/self/exe, sealed, by execveat", strerror(errno));
}

int main(int count, char **words)
{
    if (!image.warm) {
        if (count < 5 || strcmp(words[1], "--build"))
            die("building", "the image", "usage: --build OUTPUT BYTECODE WARM.PY [ARGUMENT...]");
        build(count, words);
    }
    fill_standard_streams();
    const char *program = count ? basename(words[0]) : "";
    answer_delete(program, count, words);
    listen_to_signals();
    clean(environ);
    if (!is_sealed()) {
        go_on_in_child(program, &count, &words);
        execute_sealed(words);
    }
    thaw(count, words);
}
