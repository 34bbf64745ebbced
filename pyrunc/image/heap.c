/* malloc, in libc's place: its memory is one array at a fixed address, so that it can be written out with what it holds.

   Size classes of 16 bytes up to a kilobyte, then four for each power of two. A block has a head of 16 bytes; what is
   freed goes to the list of its class. Large blocks of a running image are mappings of their own and are given back. */

#include "image.h"
#include <internal/pycore_interp.h>
#include <internal/pycore_obmalloc.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CLASSES = 128, SMALL = 1024, LARGE = 256 << 10 };
enum { USED = 0x1ace05ed, FREE = 0x1acef4ee, ALIGNED = 0x1acea119, MAPPED = 0x1ace3a9d };

struct head { uint32_t class, state; uint64_t size; };

char *image_heap_start = image_heap;     /* what lies before it libc has taken before main: the builder's own */
char *image_heap_top = image_heap;
char *image_heap_end = image_heap + HEAP_SIZE;
static struct head *free_lists[CLASSES];
static int lock;

static void take(void) { while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) ; }
static void release(void) { __atomic_store_n(&lock, 0, __ATOMIC_RELEASE); }

static unsigned class_of(size_t size)
{
    if (size <= SMALL)
        return size ? (size + 15) / 16 - 1 : 0;
    unsigned octave = 63 - __builtin_clzl(size - 1) - 10;
    return 64 + octave * 4 + ((size - 1 - ((size_t)SMALL << octave)) >> (8 + octave));
}

static size_t size_of(unsigned class)
{
    if (class < 64)
        return 16 * (class + 1);
    unsigned octave = (class - 64) / 4, quarter = (class - 64) % 4;
    return ((size_t)SMALL << octave) + ((size_t)SMALL / 4 << octave) * (quarter + 1);
}

/* The array first; a process that needs more than that goes on in mappings. */
static void *bump(size_t size)
{
    if (!image.warm && size > (size_t)(image_heap_end - image_heap_top))
        die("building", "the image", "its heap is too small: HEAP_SIZE in image.h");
    if (size > (size_t)(image_heap_end - image_heap_top)) {
        size_t more = size > 1 << 20 ? (size + 4095) & ~4095UL : 1 << 20;
        char *piece = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (piece == MAP_FAILED)
            return NULL;
        image_heap_top = piece, image_heap_end = piece + more;
    }
    char *block = image_heap_top;
    image_heap_top += size;
    return block;
}

static struct head *map_large(size_t size)
{
    size_t whole = (size + sizeof(struct head) + 4095) & ~4095UL;
    struct head *head = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (head == MAP_FAILED)
        return NULL;
    head->state = MAPPED, head->size = whole - sizeof *head;
    return head;
}

/* The three that follow are the builder's, which frees much that is large: bytecode that it has read, tables that have
   grown. Every hole that is left is written to the file. A process of the image would only write to more pages. */

static void put_back(struct head *head, size_t size)
{
    head->state = FREE, head->size = size;
    head->class = 0;
    if (size < 16)
        return;     /* a head alone: it waits for its neighbour to be free */
    head->class = class_of(size + 1) - 1;       /* the largest class that is not larger: what is over stays with it */
    *(struct head **)(head + 1) = free_lists[head->class];
    free_lists[head->class] = head;
}

static struct head *from_larger(unsigned class)
{
    size_t wanted = sizeof(struct head) + size_of(class);
    for (unsigned larger = class_of(size_of(class) + wanted); larger < CLASSES; larger++) {
        struct head *head = free_lists[larger];
        if (!head)
            continue;
        free_lists[larger] = *(struct head **)(head + 1);
        put_back((struct head *)((char *)head + wanted), head->size - wanted);
        head->size = size_of(class);
        return head;
    }
    return NULL;
}

/* Free neighbours become one, and what is free at the end is none of the heap. */
static void merge(void)
{
    memset(free_lists, 0, sizeof free_lists);
    for (char *at = image_heap_start, *next; at < image_heap_top; at = next) {
        struct head *head = (struct head *)at;
        next = at + sizeof *head + head->size;
        if (head->state != FREE)
            continue;
        while (next < image_heap_top && ((struct head *)next)->state == FREE)
            next += sizeof *head + ((struct head *)next)->size;
        if (next == image_heap_top) {
            memset(at, 0, next - at);
            image_heap_top = at;
            return;
        }
        put_back(head, next - at - sizeof *head);
    }
}

static struct head *from_class(unsigned class, int *fresh)
{
    take();
    struct head *head = free_lists[class];
    if (head)
        free_lists[class] = *(struct head **)(head + 1);
    else if (!image.warm && !(head = from_larger(class))) {
        merge();
        head = from_larger(class);
    }
    *fresh = !head;
    if (!head && (head = bump(sizeof *head + size_of(class))))
        head->size = size_of(class);
    release();
    if (head)
        head->class = class, head->state = USED;
    return head;
}

static void *get(size_t size, int *fresh)
{
    struct head *head = NULL;
    *fresh = 1;
    if (size < PTRDIFF_MAX - 8192)
        head = image.warm && size >= LARGE ? map_large(size) : from_class(class_of(size), fresh);
    if (!head)
        errno = ENOMEM;
    return head ? head + 1 : NULL;
}

/* The builder's is empty: what lies behind a text is written out too. */
void *malloc(size_t size)
{
    int fresh;
    void *block = get(size, &fresh);
    if (block && !fresh && !image.warm)
        memset(block, 0, ((struct head *)block - 1)->size);
    return block;
}

void *calloc(size_t count, size_t size)
{
    size_t all;
    int fresh;
    if (__builtin_mul_overflow(count, size, &all))
        return errno = ENOMEM, NULL;
    void *block = get(all, &fresh);
    if (block && !fresh)
        memset(block, 0, all);
    return block;
}

void free(void *block)
{
    if (!block)
        return;
    struct head *head = (struct head *)block - 1;
    switch (head->state) {
    case USED:
        take();
        head->state = FREE;
        *(struct head **)block = free_lists[head->class];
        free_lists[head->class] = head;
        release();
        return;
    case MAPPED:
        munmap(head, head->size + sizeof *head);
        return;
    case ALIGNED:   /* of Python's arenas, which are kept, and of libc's threads, of which there are none */
        return;
    }
    static const char words[] = "pyrunc: the heap is damaged\n";
    if (write(2, words, sizeof words - 1) < 0) { }
    abort();
}

void *realloc(void *block, size_t size)
{
    if (!block)
        return malloc(size);
    size_t old = ((struct head *)block - 1)->size;
    if (size <= old && size * 2 >= old)
        return block;
    void *other = malloc(size);
    if (other) {
        memcpy(other, block, old < size ? old : size);
        free(block);
    }
    return other;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    if (alignment <= 16)
        return malloc(size);
    struct head *whole = NULL;
    size_t most = (size + alignment + sizeof *whole + 15) & ~15UL;
    if (size < PTRDIFF_MAX / 2 && alignment < PTRDIFF_MAX / 2) {
        take();
        whole = bump(most);
        release();
    }
    if (!whole)
        return errno = ENOMEM, NULL;
    whole->state = ALIGNED, whole->size = most - sizeof *whole;         /* for merge(); free() looks at the second */
    char *block = (char *)(((uintptr_t)(whole + 1) + alignment - 1) & ~(alignment - 1));
    struct head *head = (struct head *)block - 1;
    if (head != whole)
        head->state = ALIGNED, head->size = size;
    return block;
}

void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
void *valloc(size_t size) { return aligned_alloc(4096, size); }
void *pvalloc(size_t size) { return aligned_alloc(4096, (size + 4095) & ~4095UL); }
int posix_memalign(void **block, size_t alignment, size_t size)
{ return (*block = aligned_alloc(alignment, size)) ? 0 : ENOMEM; }
size_t malloc_usable_size(void *block) { return block ? ((struct head *)block - 1)->size : 0; }

/* What is free stays free for ever, and empty: a block of the image that is handed out again would be a page of the file
   that becomes the process's own. New blocks lie together, from a page's beginning on. How it was divided depends on
   what the builder has read of its host, and is forgotten: two builds are equal. */
void heap_seal(void)
{
    merge();
    for (unsigned class = 0; class < CLASSES; class++)
        while (free_lists[class]) {
            struct head *head = free_lists[class];
            free_lists[class] = *(struct head **)(head + 1);
            memset(head + 1, 0, head->size);
        }
    image_heap_top = (char *)(((uintptr_t)image_heap_top + 4095) & ~4095UL);
    image_heap_end = image_heap_top + SPARE;
}

/* --- Python's small objects: arenas of ours; those of a running image are given back */

static char *oldest_of_fill = (char *)-1;
static int filling;

static void *arena_get(void *unused, size_t size)
{
    (void)unused;
    if (image.warm) {
        char *arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return arena == MAP_FAILED ? NULL : arena;
    }
    char *arena = aligned_alloc(4096, size);
    if (filling && arena && arena < oldest_of_fill)
        oldest_of_fill = arena;
    return arena;
}

static void arena_free(void *unused, void *arena, size_t size)
{
    (void)unused;
    if ((char *)arena < image_heap || (char *)arena >= image_heap + HEAP_SIZE)
        munmap(arena, size);
}

void arenas_of_python(void)
{
    PyObjectArenaAllocator ours = { NULL, arena_get, arena_free };
    PyObject_SetArenaAllocator(&ours);
}

/* For the same reason the holes between Python's objects are filled, with zeros, until every size class has begun a new
   arena. */
void fill_holes(void)
{
    merge();
    filling = 1;
    for (size_t size = 16; size <= 512; size += 16)
        for (;;) {
            char *block = PyObject_Malloc(size);
            if (!block)
                die("filling", "the image's holes", "out of memory");
            if (block >= oldest_of_fill) {
                PyObject_Free(block);
                break;
            }
            memset(block, 0, size);
        }
    filling = 0;
}

/* A full pool is in no list, but keeps its place in the last one, which depends on the order of what was freed. */
void forget_links_of_pools(PyInterpreterState *interpreter)
{
    struct _obmalloc_mgmt *all = &interpreter->obmalloc->mgmt;
    for (unsigned i = 0; i < all->maxarenas; i++) {
        struct arena_object *arena = &all->arenas[i];
        uintptr_t first = (arena->address + POOL_SIZE - 1) & ~(uintptr_t)POOL_SIZE_MASK;
        for (uintptr_t at = first; arena->address && at < (uintptr_t)arena->pool_address; at += POOL_SIZE) {
            struct pool_header *pool = (struct pool_header *)at;
            if (pool->ref.count && !pool->freeblock && pool->nextoffset > pool->maxnextoffset)
                pool->nextpool = pool->prevpool = NULL;
        }
    }
}
