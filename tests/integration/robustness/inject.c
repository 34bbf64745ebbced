/* Make one system call of a program, or of the processes that it starts, fail once. ptrace(2)

   inject LOG PROCESS N ERRNO COMMAND...   PROCESS: 0 is the command, 1 the first process that it made; N: its nth call.
   inject LOG PROCESS N 0 COMMAND...       it does not fail: the process is killed before it.
   inject LOG -1 0 0 COMMAND...            none fails; LOG gets "PROCESS N CALL FIRST-ARGUMENT" for each.

   Counted are the calls of the launcher and of pyrunc, not those of the interpreter's own start and of its handler of
   signals, nor of what a process becomes by execve: that is let go. A close(2) that fails has closed, as the kernel's
   has. The exit status is the command's. */

#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC)
#define MOST 64

static struct tracee { pid_t pid; int number, calls, counts, handling, failing, executed; } tracees[MOST];
static int known;
static FILE *file;
static int process, nth, error;

static struct tracee *find(pid_t pid)
{
    for (int i = 0; i < known; i++)
        if (tracees[i].pid == pid)
            return &tracees[i];
    if (known == MOST)
        abort();
    tracees[known] = (struct tracee){ .pid = pid, .number = known, .counts = 1 };
    return &tracees[known++];
}

static void leave_out(pid_t pid)   /* the call that it is about to make */
{
#if defined(__x86_64__)
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.orig_rax), -1L);
#else
    int none = -1;
    struct iovec vector = { &none, sizeof none };
    ptrace(PTRACE_SETREGSET, pid, NT_ARM_SYSTEM_CALL, &vector);
#endif
}

static void answer(pid_t pid, long value)
{
#if defined(__x86_64__)
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.rax), value);
#else
    struct user_regs_struct registers;
    struct iovec vector = { &registers, sizeof registers };
    ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &vector);
    registers.regs[0] = value;
    ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &vector);
#endif
}

static int opens_our_modules(pid_t pid, unsigned long address)
{
    char path[4096] = "";
    struct iovec here = { path, sizeof path - 1 }, there = { (void *)address, sizeof path - 1 };
    if (process_vm_readv(pid, &here, 1, &there, 1, 0) <= 0) {   /* it ends before a page does */
        here.iov_len = there.iov_len = 4096 - (address & 4095);
        process_vm_readv(pid, &here, 1, &there, 1, 0);
    }
    return strstr(path, "/pyrunc/modules.marshal") != NULL;
}

static int catches(pid_t pid, int sign)
{
    char name[64], line[256];
    unsigned long long caught = 0;
    snprintf(name, sizeof name, "/proc/%d/status", pid);
    FILE *status = fopen(name, "re");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "SigCgt: %llx", &caught);
    if (status)
        fclose(status);
    return caught >> (sign - 1) & 1;
}

static void system_call(struct tracee *tracee)
{
    struct __ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, tracee->pid, sizeof info, &info) < 0)
        return;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        if (!tracee->counts && info.entry.nr == SYS_openat && opens_our_modules(tracee->pid, info.entry.args[1]))
            tracee->counts = 1;
        if (info.entry.nr == SYS_rt_sigreturn) {   /* without it, what was interrupted goes on with the handler's registers */
            tracee->handling = 0;
            return;
        }
        if (!tracee->counts || tracee->handling)
            return;
        tracee->calls++;
        tracee->failing = tracee->number == process && tracee->calls == nth;
        if (process < 0 || tracee->failing)
            fprintf(file, "%d %d %llu %lld\n", tracee->number, tracee->calls, (unsigned long long)info.entry.nr,
                    (long long)info.entry.args[0]);
        if (tracee->failing && !error)
            kill(tracee->pid, SIGKILL);
        else if (tracee->failing && info.entry.nr != SYS_close)
            leave_out(tracee->pid);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && tracee->failing) {
        tracee->failing = 0;
        answer(tracee->pid, -(long)error);
    }
}

int main(int count, char **words)
{
    if (count < 6)
        return 125;
    file = fopen(words[1], "we");
    process = atoi(words[2]), nth = atoi(words[3]), error = atoi(words[4]);
    pid_t first = fork();
    if (first == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        raise(SIGSTOP);
        execvp(words[5], words + 5);
        _exit(127);
    }
    int status, code = 125;
    waitpid(first, &status, WUNTRACED);
    if (ptrace(PTRACE_SEIZE, first, 0, OPTIONS) < 0)
        return 125;
    find(first)->counts = 0;
    kill(first, SIGCONT);
    for (pid_t pid; (pid = waitpid(-1, &status, __WALL)) > 0;) {
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first) {   /* who lives on is let go when we end */
                code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                break;
            }
            continue;
        }
        struct tracee *tracee = find(pid);
        int event = status >> 16, sign = WSTOPSIG(status);
        if (event == PTRACE_EVENT_EXEC) {
            if (pid != first || tracee->executed == 2) {
                ptrace(PTRACE_DETACH, pid, 0, 0);
                continue;
            }
            tracee->counts = tracee->executed++ == 0;   /* the launcher; then the interpreter */
        } else if (event == 0 && sign == (SIGTRAP | 0x80)) {
            system_call(tracee);
        } else if (event == 0) {
            tracee->handling = catches(pid, sign);
            ptrace(PTRACE_SYSCALL, pid, 0, sign);
            continue;
        }
        ptrace(PTRACE_SYSCALL, pid, 0, 0);
    }
    fclose(file);
    return code;
}
