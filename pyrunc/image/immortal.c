/* Objects of the image are not counted any more (PEP 683): counting is writing, and each page that is written to
   becomes the process's own, in a fault of its own: 1.3 MB in place of 2.9 in a process that waits for `start`. */

#include "image.h"
#include <internal/pycore_dict.h>
#include <internal/pycore_global_objects.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>
#include <internal/pycore_typeobject.h>
#include <stdint.h>
#include <sys/mman.h>

enum { SEEN = 1 << 25, WAITING = 1 << 27 };

static PyObject **waiting;
static size_t count, found;
static unsigned char *seen;     /* a bit for 16 bytes of the lowest 4 GB, where all of the image is */

static int visit(PyObject *object, void *unused)
{
    (void)unused;
    if (!object || (uintptr_t)object >> 32)
        return 0;
    size_t bit = (uintptr_t)object >> 4;
    if (seen[bit >> 3] & 1 << (bit & 7))
        return 0;
    seen[bit >> 3] |= 1 << (bit & 7);
    object->ob_refcnt = _Py_IMMORTAL_REFCNT;
    waiting[count++] = object;
    found++;
    return 0;
}

/* What a type or a code object refers to without telling the collector. */
static void visit_type(PyTypeObject *type)
{
    PyObject *parts[] = { PyType_GetDict(type), type->tp_dict, type->tp_mro, type->tp_bases, type->tp_cache };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        visit(parts[i], NULL);
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE)
        Py_TYPE(type)->tp_traverse((PyObject *)type, visit, NULL);
}

static void visit_code(PyCodeObject *code)
{
    PyObject *parts[] = {
        code->co_consts, code->co_names, code->co_exceptiontable, code->co_localsplusnames, code->co_localspluskinds,
        code->co_filename, code->co_name, code->co_qualname, code->co_linetable,
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        visit(parts[i], NULL);
}

/* A count of changes to dictionaries, which nothing reads. It can look like an address, for which freeze.c would take it.
   Its last bits say who watches the dictionary. */
static void forget_version(PyDictObject *dict)
{
    dict->ma_version_tag &= DICT_VERSION_INCREMENT - 1;
}

static void *scratch(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        die("counting", "the image's objects", "out of memory");
    return memory;
}

/* Everything that can be reached from what the collector knows, and from the interpreter's own constants. */
size_t make_immortal(PyThreadState *thread)
{
    seen = scratch(SEEN);
    waiting = scratch(WAITING);
    struct _gc_runtime_state *gc = &thread->interp->gc;
    PyGC_Head *heads[] = { &gc->generations[0].head, &gc->generations[1].head, &gc->generations[2].head,
                           &gc->permanent_generation.head };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        for (PyGC_Head *head = (PyGC_Head *)(heads[i]->_gc_next & ~3UL); head != heads[i];
             head = (PyGC_Head *)(head->_gc_next & ~3UL))
            visit((PyObject *)(head + 1), NULL);
    PyObject *constants[] = { Py_None, Py_True, Py_False, Py_Ellipsis, PyTuple_New(0), PyUnicode_New(0, 0),
                              PyBytes_FromStringAndSize(NULL, 0) };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        visit(constants[i], NULL);
    while (count) {
        PyObject *object = waiting[--count];
        visit((PyObject *)Py_TYPE(object), NULL);
        if (PyDict_CheckExact(object))
            forget_version((PyDictObject *)object);
        if (PyType_Check(object))
            visit_type((PyTypeObject *)object);
        else if (PyCode_Check(object))
            visit_code((PyCodeObject *)object);
        else if (Py_TYPE(object)->tp_traverse)
            Py_TYPE(object)->tp_traverse(object, visit, NULL);
    }
    munmap(seen, SEEN), munmap(waiting, WAITING);
    seen = NULL, waiting = NULL;
    return found;
}
