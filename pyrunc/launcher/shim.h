/* What the shim's program does without Python: containerd executes it twice for a container, and waits for its end. */

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static const char SHIM[] = "containerd-shim-pyrunc-v2";

static int is(const char *program, const char *verb, int count, char **words)
{
    return strcmp(program, SHIM) == 0 && count > 1 && strcmp(words[count - 1], verb) == 0;
}

/* Whether its shim was killed since. Then others of its containers may be left, and its socket is. */
static int was_killed(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client < 0 || strlen(path) >= sizeof address.sun_path)
        return 1;
    strcpy(address.sun_path, path);
    return connect(client, (struct sockaddr *)&address, sizeof address) < 0 && errno == ECONNREFUSED;
}

/* `delete`. Of a container that the shim has deleted nothing is left, and the answer lies in its bundle
   (shim/making.py). Returns when there is more to do, or may be. */
static void answer_delete(const char *program, int count, char **words)
{
    char said[512], *bundle = NULL; /* the path of the socket, a zero byte, the answer */
    if (!is(program, "delete", count, words))
        return;
    for (int i = 1; i < count - 1; i++)
        if (strcmp(words[i], "-bundle") == 0)
            bundle = words[i + 1];
    int folder = bundle ? open(bundle, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int file = folder < 0 ? -1 : openat(folder, "deleted", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t size = file < 0 ? -1 : read(file, said, sizeof said), path = size < 0 ? 0 : (ssize_t)strnlen(said, size);
    if (path + 1 >= size || size == sizeof said || was_killed(said))
        return;
    _exit(write(1, said + path + 1, size - path - 1) < 0);
}

/* `start`. What follows goes on in a child, which may become the shim: then it writes a byte to the descriptor that
   -ready names (shim/start.py), and we end. Were Python to fork, both sides would copy its pages, and containerd would
   wait for the end of an interpreter. -caller is who has executed us. */
static void go_on_in_child(const char *program, int *count, char ***words)
{
    char byte, *ready, *caller;
    int line[2], status;
    if (!is(program, "start", *count, *words))
        return;
    pid_t parent = getppid(), child = pipe2(line, 0) < 0 ? -1 : fork();
    if (child < 0 || asprintf(&ready, "%d", line[1]) < 0 || asprintf(&caller, "%d", parent) < 0) {
        dprintf(2, "%s: starting: %s\n", program, strerror(errno));
        _exit(1);
    }
    if (child) {
        close(line[1]);
        if (read(line[0], &byte, 1) == 1)
            _exit(0);
        _exit(waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    close(line[0]);
    char *first[] = { **words, "-ready", ready, "-caller", caller }, **all = malloc((*count + COUNT(first)) * sizeof *all);
    if (!all)
        _exit(1);
    memcpy(all, first, sizeof first);
    memcpy(all + COUNT(first), *words + 1, *count * sizeof *all);  /* with the NULL */
    *words = all;
    *count += COUNT(first) - 1;
}
