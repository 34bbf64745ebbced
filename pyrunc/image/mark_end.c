/* Last of what is written out, in link order: see image.h. The heap is after it, at the end of .bss, so that only the
   part in use needs a place in the file. */
#include "image.h"
char image_data_end[16] = { 1 };
char image_bss_end[16];
char image_heap[HEAP_SIZE] __attribute__((aligned(4096), section(".sbss.image_heap")));
