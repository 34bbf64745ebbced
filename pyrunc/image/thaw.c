/* Goes on where the builder stood: what the kernel and libc hold for a process is made anew, and the verb is called. */

#include "image.h"
#include <internal/pycore_pystate.h>
#include <internal/pycore_runtime.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* libc is cold: it does not know the key of Python's thread-local storage, nor that there is a thread. */
static void adopt_thread(void)
{
    Py_tss_t *key = &_PyRuntime.autoTSSkey;
    key->_is_initialized = 0;
    if (PyThread_tss_create(key) || PyThread_tss_set(key, image.thread))
        die("starting", "the image", "libc has no room for a thread-local variable");
    _Py_tss_tstate = image.thread;
    for (unsigned long **place = image.idents; *place; place++)
        **place = PyThread_get_thread_ident();
    image.thread->native_thread_id = syscall(SYS_gettid);
}

/* As Py_Initialize does: what the caller ignores (nohup) Python knows to be ignored. All else is the default in the image,
   and so it is here. */
static void set_signals(void)
{
    for (int number = 1; number < SIGRTMIN; number++) {
        struct sigaction inherited;
        if (number == SIGPIPE || number == SIGXFSZ)
            signal(number, SIG_IGN);
        else if (sigaction(number, NULL, &inherited) == 0 && inherited.sa_handler == SIG_IGN)
            Py_XDECREF(PyObject_CallFunction(image.signal, "ii", number, 1));
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);      /* seal.h left SIGINT blocked, until now */
}

/* gmtime() and localtime() would read /etc/localtime where they are called first, which may be in a container. */
static void set_time_zone(void)
{
    setenv("TZ", "UTC0", 1);
    tzset();
    unsetenv("TZ");
}

static void set_environment(void)
{
    for (char **variable = environ; *variable; variable++) {
        char *equals = strchr(*variable, '=');
        if (!equals)
            continue;
        PyObject *key = PyBytes_FromStringAndSize(*variable, equals - *variable), *value = PyBytes_FromString(equals + 1);
        if (!key || !value || !PyDict_SetDefault(image.environment, key, value))
            die("starting", "the image", "out of memory");
        Py_DECREF(key);
        Py_DECREF(value);
    }
}

/* argv[0] too: it says which of the programs is meant. */
static PyObject *words_of(int count, char **words)
{
    PyObject *list = PyList_New(count);
    for (int i = 0; list && i < count; i++) {
        PyObject *word = PyUnicode_DecodeFSDefault(words[i]);
        if (!word)
            die("starting", "the image", "out of memory");
        PyList_SET_ITEM(list, i, word);
    }
    return list;
}

void thaw(int count, char **words)
{
    adopt_thread();
    set_signals();
    set_time_zone();
    set_environment();
    PyObject *list = words_of(count, words), *result = list ? PyObject_CallOneArg(image.entry, list) : NULL;
    if (!result) {
        PyErr_Print();
        _exit(1);
    }
    _exit((int)PyLong_AsLong(result));
}
