/* In an image, in the place of the dynamic loader: what a container's first program would be if it were
   /proc/self/exe, the runtime's own file (CVE-2019-5736). Its exit status is the error of opening that for writing. */

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

void _start(void)
{
    long file = call(2 /* open */, (long)"/proc/self/exe", 1 /* O_WRONLY */, 0);
    call(60 /* exit */, file < 0 ? -file : 99, 0, 0);
    for (;;)
        ;
}
