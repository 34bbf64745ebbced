/* Modules of the image's own: `_contextvars`, which Debian's archive lacks, and `pyrunc.image._linked`, where the
   stand-in for ctypes (stand_in_ctypes.py) finds the functions of libseccomp. */

#include "image.h"
#include <gnu/libc-version.h>
#include <internal/pycore_context.h>
#include <seccomp.h>

static PyObject *copy_context(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyContext_CopyCurrent();
}

static PyMethodDef context_methods[] = { { "copy_context", copy_context, METH_NOARGS, NULL }, { NULL, NULL, 0, NULL } };

PyObject *PyInit__contextvars(void)
{
    static PyModuleDef definition = { PyModuleDef_HEAD_INIT, .m_name = "_contextvars", .m_size = -1, .m_methods = context_methods };
    PyObject *module = PyModule_Create(&definition);
    if (!module || PyModule_AddObjectRef(module, "Context", (PyObject *)&PyContext_Type)
        || PyModule_AddObjectRef(module, "ContextVar", (PyObject *)&PyContextVar_Type)
        || PyModule_AddObjectRef(module, "Token", (PyObject *)&PyContextToken_Type))
        return NULL;
    return module;
}

#define FUNCTION(name) { #name, (void *)name },
static const struct { const char *name; void *address; } FUNCTIONS[] = {
    FUNCTION(free)
    FUNCTION(seccomp_init) FUNCTION(seccomp_reset) FUNCTION(seccomp_release) FUNCTION(seccomp_merge)
    FUNCTION(seccomp_load) FUNCTION(seccomp_attr_get) FUNCTION(seccomp_attr_set) FUNCTION(seccomp_arch_exist)
    FUNCTION(seccomp_arch_add) FUNCTION(seccomp_arch_remove) FUNCTION(seccomp_arch_native)
    FUNCTION(seccomp_syscall_resolve_name_arch) FUNCTION(seccomp_syscall_resolve_name) FUNCTION(seccomp_syscall_resolve_num_arch)
    FUNCTION(seccomp_syscall_resolve_name_rewrite) FUNCTION(seccomp_rule_add_array) FUNCTION(seccomp_rule_add_exact_array)
    FUNCTION(seccomp_syscall_priority) FUNCTION(seccomp_export_bpf) FUNCTION(seccomp_export_pfc) FUNCTION(seccomp_version)
    FUNCTION(seccomp_api_get) FUNCTION(seccomp_api_set)
    FUNCTION(seccomp_notify_alloc) FUNCTION(seccomp_notify_free) FUNCTION(seccomp_notify_fd)
    FUNCTION(seccomp_notify_receive) FUNCTION(seccomp_notify_respond) FUNCTION(seccomp_notify_id_valid)
};

/* _linked.pyi says what is in it. */
PyObject *PyInit__linked(void)
{
    static PyModuleDef definition = { PyModuleDef_HEAD_INIT, .m_name = "pyrunc.image._linked", .m_size = -1 };
    PyObject *module = PyModule_Create(&definition), *table = PyDict_New();
    for (size_t i = 0; table && i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++) {
        PyObject *address = PyLong_FromVoidPtr(FUNCTIONS[i].address);
        if (!address || PyDict_SetItemString(table, FUNCTIONS[i].name, address))
            return NULL;
        Py_DECREF(address);
    }
    if (!module || !table || PyModule_Add(module, "FUNCTIONS", table))
        return NULL;
    PyObject *inside = PyDict_New(), *version = PyUnicode_FromFormat("%d.%d.%d", SCMP_VER_MAJOR, SCMP_VER_MINOR, SCMP_VER_MICRO);
    PyObject *libc = PyUnicode_FromFormat("glibc %s", gnu_get_libc_version()), *seed = PyUnicode_FromFormat("%08x", HASH_SEED);
    if (!inside || PyDict_SetItemString(inside, "libseccomp", version) || PyDict_SetItemString(inside, "libc", libc)
        || PyDict_SetItemString(inside, "image", seed) || PyModule_Add(module, "INSIDE", inside))
        return NULL;
    PyObject *library = PyUnicode_FromFormat("image-%u/libseccomp.so.%d.%d.%d", HASH_SEED, SCMP_VER_MAJOR, SCMP_VER_MINOR,
                                             SCMP_VER_MICRO);
    return PyModule_Add(module, "LIBSECCOMP", library) ? NULL : module;
}
