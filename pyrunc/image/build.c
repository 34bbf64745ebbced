/* The builder: initialises Python, runs warm.py, and writes the image.

       --build OUTPUT BYTECODE WARM.PY [ARGUMENT…]      BYTECODE: the folder where compiled modules are kept

   It is run twice. The first compiles, and the second, whose memory is kept, finds everything compiled. */

#include "image.h"
#include <internal/pycore_interp.h>
#include <internal/pycore_pystate.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef HASH_SEED
#define HASH_SEED 1
#endif

/* Those that pyrunc and its libraries use; all but the last lines are libpython's. What is not here can't be imported. */
#define MODULES(X) \
    X(_abc) X(_ast) X(_bisect) X(_codecs) X(_collections) X(_contextvars) X(_datetime) X(_functools) X(_heapq) X(_io) \
    X(_blake2) X(_json) X(_locale) X(_opcode) X(_operator) X(_signal) \
    X(_socket) X(_sre) X(_stat) X(_string) X(_struct) X(_suggestions) X(_symtable) X(_sysconfig) X(_thread) X(_tokenize) \
    X(_tracemalloc) X(_typing) X(_weakref) X(array) X(atexit) X(binascii) X(errno) X(fcntl) \
    X(itertools) X(math) X(posix) X(select) X(time) X(zlib) \
    X(_cffi_backend)

#define DECLARE(name) extern PyObject *PyInit_##name(void);
#define ENTRY(name) { #name, PyInit_##name },
MODULES(DECLARE)
extern PyObject *PyInit__imp(void), *PyInit_gc(void), *PyMarshal_Init(void), *_PyWarnings_Init(void), *PyInit__kernel(void);

struct _inittab _PyImport_Inittab[] = {
    MODULES(ENTRY)
    ENTRY(_imp) ENTRY(gc)
    { "marshal", PyMarshal_Init }, { "_warnings", _PyWarnings_Init },
    { "builtins", NULL }, { "sys", NULL },
    { "pyrunc.linux._kernel", PyInit__kernel }, { "pyrunc.image._linked", PyInit__linked },
    { NULL, NULL },
};

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        die("initialising", "Python", status.err_msg ? status.err_msg : "it refused");
}

/* Isolated, as the launcher starts an interpreter: no variables, no site, UTF-8, no bytecode written. */
static void initialise(const char *bytecode, int count, char **words)
{
    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    check(Py_PreInitialize(&before));
    arenas_of_python();
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.install_signal_handlers = 1;
    config.use_hash_seed = 1;
    config.hash_seed = HASH_SEED;
    config.code_debug_ranges = 0;       /* nobody sees columns: an error of ours is a line of text */
    config.parse_argv = 0;
    config.use_frozen_modules = 0;
    config.buffered_stdio = 1;
    check(PyConfig_SetBytesString(&config, &config.program_name, "/usr/bin/python3"));
    check(PyConfig_SetBytesString(&config, &config.pycache_prefix, bytecode));
    check(PyConfig_SetBytesArgv(&config, count, words));
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
}

/* For warm.py. */
static PyObject *compile_text(PyObject *module, PyObject *arguments)
{
    const char *text, *name, *mode;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "sss", &text, &name, &mode))
        return NULL;
    return Py_CompileString(text, name, Py_file_input);
}

static PyMethodDef compile_method = { "compile_text", compile_text, METH_VARARGS, NULL };

/* As __main__. Not by PyRun_SimpleFile(), which keeps what it has parsed until the end: holes in the image. */
static void run(const char *path)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) < 0)
        die("opening", path, strerror(errno));
    char *text = calloc(1, status.st_size + 1);
    if (!text || read(file, text, status.st_size) != status.st_size)
        die("reading", path, strerror(errno));
    close(file);
    PyObject *code = Py_CompileString(text, path, Py_file_input);
    free(text);
    PyObject *globals = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyObject *compile = PyCFunction_New(&compile_method, NULL);
    if (!code || !compile || PyDict_SetItemString(globals, "compile_text", compile) || !PyEval_EvalCode(code, globals, globals)) {
        PyErr_Print();
        _exit(1);
    }
    Py_DECREF(compile);
    Py_DECREF(code);
}

static PyObject *member(const char *module, const char *name)
{
    PyObject *found = PyObject_GetAttrString(PyImport_AddModule(module), name);
    if (!found) {
        PyErr_Print();
        _exit(1);
    }
    return found;
}

/* What depends on what the builder has met: its thread's number; what it has thrown away, in which order, and how often it
   has changed a dictionary. Two builds shall be equal. */
static void forget_its_host(PyInterpreterState *interpreter)
{
    image.thread->native_thread_id = 0;
    _PyGC_ClearAllFreeLists(interpreter);
    memset(&interpreter->object_state.freelists, 0, sizeof interpreter->object_state.freelists);
    interpreter->dict_state.global_version = 0;
}

void build(int count, char **words)
{
    image_heap_start = image_heap_top;
    initialise(words[3], count - 4, words + 4);
    run(words[4]);
    image.thread = PyThreadState_Get();
    image.entry = member("__main__", "entry");
    image.environment = member("posix", "environ");
    PyDict_Clear(image.environment);    /* the builder's own */
    PyInterpreterState *interpreter = image.thread->interp;     /* threading's, which has no threads to see to */
    Py_CLEAR(interpreter->before_forkers);
    Py_CLEAR(interpreter->after_forkers_parent);
    Py_CLEAR(interpreter->after_forkers_child);
    image.signal = member("_signal", "signal");
    memset(image.thread->datastack_top, 0, (char *)image.thread->datastack_limit - (char *)image.thread->datastack_top);
    size_t immortal = make_immortal(image.thread);
    forget_its_host(interpreter);
    fill_holes();
    forget_links_of_pools(interpreter);
    heap_seal();
    image.warm = 1;
    freeze(words[2]);
    printf("%zu objects are immortal\n", immortal);
    fflush(stdout);
    _exit(0);
}
