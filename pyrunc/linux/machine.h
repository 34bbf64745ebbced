/* The machines that this code is right for, and the system calls that the oldest headers which we build against (Linux
   5.10) may not have.

   What has to be looked at before another machine is let in: the numbers below, which alpha and mips shift; those of
   ioctl(2) for terminals, in Python too, which mips, powerpc and sparc have their own of; the order of clone(2)'s
   arguments, of which s390 takes the second first; and bytes that Python writes as the kernel's structures in
   little-endian order. */

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "pyrunc is written for x86_64 and aarch64; see pyrunc/linux/machine.h for what another machine needs"
#endif
#if __SIZEOF_LONG__ != 8 || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "pyrunc is written for 64 bits in little-endian order"
#endif

#include <sys/syscall.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
#ifndef SYS_fsopen
#define SYS_fsopen 430
#endif
#ifndef SYS_fsconfig
#define SYS_fsconfig 431
#endif
#ifndef SYS_fsmount
#define SYS_fsmount 432
#endif
#ifndef SYS_fspick
#define SYS_fspick 433
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif
#ifndef SYS_landlock_add_rule
#define SYS_landlock_add_rule 445
#endif
#ifndef SYS_landlock_restrict_self
#define SYS_landlock_restrict_self 446
#endif
