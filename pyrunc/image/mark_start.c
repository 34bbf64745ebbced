/* First in link order: see image.h. */
char image_data_start[16] __attribute__((aligned(64))) = { 1 };
char image_bss_start[16] __attribute__((aligned(64)));

/* GCC's start-up code registers the tables for C++'s exceptions, and libgcc since GCC 13 reads all of them at each
   start: 1.7 M instructions. Nothing here throws. */
void __register_frame_info(const void *begin, void *object) { (void)begin, (void)object; }
void *__deregister_frame_info(const void *begin) { return (void)begin, (void *)0; }
