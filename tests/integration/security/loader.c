/* In an image, in the place of the dynamic loader: what a container's first program would be if it were
   /proc/self/exe, the runtime's own file (CVE-2019-5736). Its exit status is the error of opening that for writing. */

#include <fcntl.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c)
{
#ifdef __aarch64__
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
#endif
}

void _start(void)
{
    long file = call(SYS_openat, AT_FDCWD, (long)"/proc/self/exe", O_WRONLY);
    call(SYS_exit, file < 0 ? -file : 99, 0, 0);
    for (;;)
        ;
}
