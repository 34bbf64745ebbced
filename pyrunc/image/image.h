/* The image: one executable whose memory is that of an interpreter which has already imported pyrunc.

   build.py links it, executes it once as the builder, and the builder writes a copy of the executable with its own
   memory in it (freeze.c). Executed, that copy goes on where the builder stood (thaw.c).

   What is written out lies between two marks, in link order: mark_start.o, ours, libpython, libffi, libseccomp,
   mark_end.o. libc comes after them: what it holds belongs to one process (stack canary, TLS, CPU features,
   descriptors, locale) and starts anew in each. */

#define PY_SSIZE_T_CLEAN
#define Py_BUILD_CORE 1
#include <Python.h>

#if PY_VERSION_HEX < 0x030D0000 || PY_VERSION_HEX >= 0x030E0000
#error "the image was tried with CPython 3.13 only: freeze.c and thaw.c know what its runtime holds"
#endif

#define HEAP_SIZE (64UL << 20)          /* of the builder; freeze.c leaves the image what it uses */
#define SPARE (1UL << 20)               /* and so much for what a process needs */

extern char image_data_start[], image_data_end[], image_bss_start[], image_bss_end[];
extern char image_heap[HEAP_SIZE], *image_heap_start, *image_heap_top, *image_heap_end;

/* What the image remembers of its builder. */
struct image {
    int warm;                   /* this process goes on from an image */
    PyThreadState *thread;
    PyObject *entry;            /* called with the words of the command line */
    PyObject *environment;      /* posix.environ */
    PyObject *signal;           /* _signal.signal */
    unsigned long *idents[64];  /* where the number of the thread is written down, which is another in each process */
};
extern struct image image;

_Noreturn void die(const char *operation, const char *subject, const char *cause);
void heap_seal(void);
void arenas_of_python(void);
void fill_holes(void);
void forget_links_of_pools(PyInterpreterState *interpreter);
size_t make_immortal(PyThreadState *thread);
void freeze(const char *path);
_Noreturn void thaw(int count, char **words);
_Noreturn void build(int count, char **words);
extern PyObject *PyInit__contextvars(void), *PyInit__linked(void);
