/* Writes the image: a copy of this executable in which the writable segment is as it is now. See image.h. */

#include "image.h"
#include <internal/pycore_runtime.h>
#include <elf.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef void constructor(void);
extern constructor *__init_array_start[], *__init_array_end[];
extern char _end[];

/* --- Nothing in the image may point to what is elsewhere in the next process: stack, brk, mappings, vDSO. */

struct range { uintptr_t start, end; char name[64]; };

/* Not by fopen(), whose buffer would be part of what is looked at. */
static int ranges_that_move(struct range *ranges, int most)
{
    char text[1 << 16];
    int count = 0, maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    ssize_t size = 0, more;
    while (maps >= 0 && (more = read(maps, text + size, sizeof text - 1 - size)) > 0)
        size += more;
    close(maps);
    if (!size)
        die("reading", "/proc/self/maps", strerror(errno));
    text[size] = 0;
    for (char *line = strtok(text, "\n"); line && count < most; line = strtok(NULL, "\n")) {
        struct range *range = &ranges[count];
        range->name[0] = 0;
        sscanf(line, "%lx-%lx %*s %*s %*s %*s %63s", &range->start, &range->end, range->name);
        if (range->start >= (uintptr_t)_end && range->start < 1UL << 63)      /* all but the kernel's vsyscall */
            count++;
    }
    return count;
}

static size_t check(const void *from, const void *to, const char *what)
{
    struct range ranges[64];
    int count = ranges_that_move(ranges, 64);
    size_t found = 0;
    for (const uintptr_t *word = from; word < (const uintptr_t *)to; word++)
        for (int i = 0; i < count; i++)
            if (*word >= ranges[i].start && *word < ranges[i].end) {
                fprintf(stderr, "%s at %p: %#lx is in %s, which moves\n", what, (const void *)word, *word, ranges[i].name);
                found++;
            }
    return found;
}

struct part { char *from, *to; const char *name; };

#define PARTS { \
    { image_data_start, image_data_end, "data" }, { image_bss_start, image_bss_end, "bss" }, \
    { (char *)&_PyRuntime, (char *)(&_PyRuntime + 1), "_PyRuntime" },   /* a section of its own */ \
    { image_heap_start, image_heap_top, "heap" } }
enum { COUNT_OF_PARTS = 4 };

/* The thread's number is an address too, of libc's. Locks, the runtime and mimalloc remember it: thaw.c writes the new one
   there. As a Python integer it would not be found; nothing that is in the image asks for it. */
static void take_idents(const struct part *parts)
{
    unsigned long ident = PyThread_get_thread_ident();
    size_t count = 0;
    for (int i = 0; i < COUNT_OF_PARTS; i++)
        for (unsigned long *word = (unsigned long *)parts[i].from; word < (unsigned long *)parts[i].to; word++)
            if (*word == ident) {
                if (count == sizeof image.idents / sizeof *image.idents)
                    die("checking", "the image", "it has the thread's number in too many places");
                *word = 0;
                image.idents[count++] = word;
            }
}

static void check_pointers(const struct part *parts)
{
    size_t found = 0;
    for (int i = 0; i < COUNT_OF_PARTS; i++)
        found += check(parts[i].from, parts[i].to, parts[i].name);
    if (found)
        die("checking", "the image", "it points to what moves, as above");
}

/* --- the file */

static void once(void) {}

/* Constructors have run, and their results are in the image: a second time they would find it warm. Those are mimalloc's,
   libgcc's; libc has none. */
static void forget_constructors(char *contents, char *start)
{
    constructor **array = (constructor **)(contents + ((char *)__init_array_start - start));
    for (ptrdiff_t i = 0; i < __init_array_end - __init_array_start; i++)
        array[i] = once;
}

static char *contents_of(char *start, size_t size, const char *linked, size_t linked_size, const struct part *parts)
{
    char *contents = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (contents == MAP_FAILED)
        die("copying", "the image", strerror(errno));
    memcpy(contents, linked, linked_size);      /* libc's own, the GOT, TLS: as they were linked */
    for (int i = 0; i < COUNT_OF_PARTS; i++)
        memcpy(contents + (parts[i].from - start), parts[i].from, parts[i].to - parts[i].from);
    forget_constructors(contents, start);
    return contents;
}

static void write_all(int file, const char *data, size_t size, off_t offset, const char *path)
{
    while (size) {
        ssize_t written = pwrite(file, data, size, offset);
        if (written <= 0)
            die("writing", path, strerror(errno));
        data += written, size -= written, offset += written;
    }
}

void freeze(const char *path)
{
    const struct part parts[COUNT_OF_PARTS] = PARTS;
    take_idents(parts);
    check_pointers(parts);
    struct stat status;
    int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (self < 0 || fstat(self, &status) < 0)
        die("opening", "/proc/self/exe", strerror(errno));
    char *file = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, self, 0);
    if (file == MAP_FAILED)
        die("mapping", "/proc/self/exe", strerror(errno));
    Elf64_Ehdr *header = (Elf64_Ehdr *)file;
    Elf64_Phdr *segments = (Elf64_Phdr *)(file + header->e_phoff), *data = NULL;
    for (int i = 0; i < header->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && segments[i].p_flags & PF_W)
            data = &segments[i];
    if (!data)
        die("reading", "/proc/self/exe", "it has no writable segment");

    char *start = (char *)data->p_vaddr;
    size_t size = (((uintptr_t)image_heap_top + 4095) & ~4095UL) - (uintptr_t)start;
    char *contents = contents_of(start, size, file + data->p_offset, data->p_filesz, parts);
    while (size && !contents[size - 1])
        size--;         /* the kernel has zeros of its own for what memory has and the file has not */
    size_t kept = data->p_offset;       /* what comes after the segment, sections and symbols, is not part of the image */
    size_t page = data->p_align;        /* the largest that the architecture has: 64 KiB on aarch64 */
    size_t offset = ((kept + page - 1) & -page) + (data->p_vaddr & (page - 1));
    data->p_offset = offset, data->p_filesz = size, data->p_memsz = image_heap_end - start;
    for (int i = 0; i < header->e_phnum; i++) {         /* TLS, RELRO: what lies in the segment moves along in the file */
        Elf64_Phdr *other = &segments[i];
        if (other != data && other->p_vaddr >= data->p_vaddr && other->p_vaddr < data->p_vaddr + size)
            other->p_offset = offset + (other->p_vaddr - data->p_vaddr);
    }
    header->e_shoff = header->e_shnum = header->e_shstrndx = 0;

    unlink(path);       /* it may run: ETXTBSY */
    int out = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    if (out < 0)
        die("writing", path, strerror(errno));
    write_all(out, file, kept, 0, path);
    write_all(out, contents, size, offset, path);
    printf("%s: %zu kB, of which the heap is %zu\n", path, (offset + size) >> 10, (size_t)(image_heap_top - image_heap) >> 10);
}
