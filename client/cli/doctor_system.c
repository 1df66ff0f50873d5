/* This machine and this process, without memory and without the daemon. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/cli/doctor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { CLOCK_READINGS = 2000, CLOCK_SLOW_NS = 300, FILES_WANTED = 4096 };

static void check_kernel(struct doctor *doctor)
{
    struct utsname name;
    if (uname(&name) == 0) {
        doctor_say(doctor, DOCTOR_OK, "machine", NULL, "%s %s %s, %ld processors, kveik %s",
                   name.sysname, name.release, name.machine, sysconf(_SC_NPROCESSORS_ONLN),
                   KVEIK_VERSION);
    }
}

static void check_clock(struct doctor *doctor)
{
    char source[64] = "unknown";
    (void)doctor_read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                           source, sizeof source);
    uint64_t began_ns = clock_ns();
    uint64_t last_ns = began_ns;
    bool back = false;
    for (uint32_t i = 0; i < CLOCK_READINGS; i++) {
        uint64_t now_ns = clock_ns();
        back = back || now_ns < last_ns;
        last_ns = now_ns;
    }
    uint64_t each_ns = (last_ns - began_ns) / CLOCK_READINGS;
    if (back) {
        doctor_say(doctor, DOCTOR_PROBLEM, "clock",
                   "boot with another clock source (clocksource=hpet)",
                   "the monotonic clock of %s went back", source);
    } else if (each_ns > CLOCK_SLOW_NS) {
        doctor_say(doctor, DOCTOR_WARNING, "clock",
                   "boot with a clock source that needs no system call (clocksource=tsc)",
                   "%s: %llu ns a reading", source, (unsigned long long)each_ns);
    } else {
        doctor_say(doctor, DOCTOR_OK, "clock", NULL, "%s: %llu ns a reading", source,
                   (unsigned long long)each_ns);
    }
}

#if defined(__x86_64__)

static bool has_sha(void)
{
    enum { LEAF_FEATURES = 7, SHA_BIT = 29 };
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid_count(LEAF_FEATURES, 0, &a, &b, &c, &d) != 0 && (b >> SHA_BIT & 1u) != 0;
}

static void check_processor(struct doctor *doctor)
{
    bool avx512 = __builtin_cpu_supports("avx512f") != 0;
    bool avx2 = __builtin_cpu_supports("avx2") != 0;
    const char *kernels = avx512 ? "avx512, avx2 and portable" : avx2 ? "avx2 and portable" : NULL;
    if (kernels == NULL) {
        doctor_say(doctor, DOCTOR_WARNING, "copy kernels",
                   "use a processor, or a virtual machine type, with AVX2",
                   "portable ones only: the processor has neither AVX-512 nor AVX2");
    } else {
        doctor_say(doctor, DOCTOR_OK, "copy kernels", NULL,
                   "%s; the daemon measures them at start and takes the fastest", kernels);
    }
    if (has_sha()) {
        doctor_say(doctor, DOCTOR_OK, "hashing", NULL, "SHA-256 instructions");
    } else {
        doctor_say(doctor, DOCTOR_NOTE, "hashing", NULL,
                   "no SHA-256 instructions: making keys takes a few times as long");
    }
}

#else

static void check_processor(struct doctor *doctor)
{
    doctor_say(doctor, DOCTOR_NOTE, "copy kernels", NULL,
               "portable ones: there are no others for this architecture");
}

#endif

static void check_files(struct doctor *doctor)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    unsigned long long soft = limit.rlim_cur;
    if (soft < FILES_WANTED) {
        doctor_say(doctor, DOCTOR_NOTE, "file descriptors",
                   "a daemon for many engines wants more: `ulimit -n 65536', or LimitNOFILE= in "
                   "its unit",
                   "at most %llu in this process: a session of the daemon takes two or three",
                   soft);
    } else {
        doctor_say(doctor, DOCTOR_OK, "file descriptors", NULL, "at most %llu in this process",
                   soft);
    }
}

static void check_pidfd(struct doctor *doctor)
{
    long fd = syscall(SYS_pidfd_open, getpid(), 0);
    if (fd < 0) {
        doctor_say(doctor, DOCTOR_WARNING, "pidfd",
                   "use Linux 5.3 or later, and a container profile that allows pidfd_open",
                   "pidfd_open: %s: dead engines are noticed by their socket alone",
                   strerror(errno));
        return;
    }
    struct pollfd poll_fd = {.fd = (int)fd, .events = POLLIN};
    bool alive = poll(&poll_fd, 1, 0) == 0;
    (void)close((int)fd);
    if (alive) {
        doctor_say(doctor, DOCTOR_OK, "pidfd", NULL,
                   "works: the daemon notices a dead engine at once");
    } else {
        doctor_say(doctor, DOCTOR_WARNING, "pidfd", NULL, "says that a running process ended");
    }
}

/* What a child of ours may do to us is what the daemon may: neither is our ancestor. 0 or errno. */
static int read_from_child(void)
{
    static char memory[64] = "kveik";
    pid_t parent = getpid();
    (void)fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        return errno;
    }
    if (child == 0) {
        char copy[sizeof memory];
        struct iovec local = {.iov_base = copy, .iov_len = sizeof copy};
        struct iovec remote = {.iov_base = memory, .iov_len = sizeof memory};
        bool read = process_vm_readv(parent, &local, 1, &remote, 1, 0) == (ssize_t)sizeof copy;
        _exit(read ? 0 : errno & 0x7f);
    }
    int how = 0;
    while (waitpid(child, &how, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(how) ? WEXITSTATUS(how) : EIO;
}

static void check_cross(struct doctor *doctor)
{
    char scope[16] = "none";
    bool yama = doctor_read_line("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof scope);
    bool dumpable = prctl(PR_GET_DUMPABLE) == 1;
    int errnum = read_from_child();
    if (errnum == 0) {
        doctor_say(doctor, DOCTOR_OK, "cross-memory copy", NULL,
                   "works (yama ptrace_scope %s, process %sdumpable)", scope,
                   dumpable ? "" : "not ");
        return;
    }
    const char *advice = "allow process_vm_readv: seccomp or a container profile forbids it";
    if (!dumpable) {
        advice = "do not make the engine undumpable (setuid, file capabilities, PR_SET_DUMPABLE)";
    } else if (yama && scope[0] != '0') {
        advice = "sysctl kernel.yama.ptrace_scope=0, or give the daemon CAP_SYS_PTRACE; not needed "
                 "where memory is shared or adopted";
    }
    doctor_say(doctor, DOCTOR_WARNING, "cross-memory copy", advice,
               "%s (yama ptrace_scope %s, process %sdumpable)", strerror(errnum), scope,
               dumpable ? "" : "not ");
}

void doctor_check_system(struct doctor *doctor)
{
    check_kernel(doctor);
    check_clock(doctor);
    check_processor(doctor);
    check_files(doctor);
    check_pidfd(doctor);
    check_cross(doctor);
}
