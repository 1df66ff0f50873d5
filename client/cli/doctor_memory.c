/* Huge pages, sealed memory, and how much memory there is. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/size.h"
#include "client/cli/doctor.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define THP "/sys/kernel/mm/transparent_hugepage/"

enum { HUGE_BYTES = 2 << 20, TRIED_BYTES = 4 * HUGE_BYTES, LINE_BYTES = 256 };

/* The word in brackets of "always [madvise] never". */
static bool chosen(const char *path, char *out, size_t out_bytes)
{
    char line[LINE_BYTES];
    if (!doctor_read_line(path, line, sizeof line)) {
        return false;
    }
    const char *open = strchr(line, '[');
    const char *close = open != NULL ? strchr(open, ']') : NULL;
    if (close == NULL) {
        return false;
    }
    (void)snprintf(out, out_bytes, "%.*s", (int)(close - open - 1), open + 1);
    return true;
}

static void check_thp(struct doctor *doctor)
{
    char word[32];
    if (!chosen(THP "enabled", word, sizeof word)) {
        doctor_say(doctor, DOCTOR_WARNING, "huge pages", "use a kernel with transparent huge pages",
                   "this kernel has no transparent huge pages: copies are a few percent slower");
    } else if (strcmp(word, "never") == 0) {
        doctor_say(doctor, DOCTOR_WARNING, "huge pages", "echo madvise > " THP "enabled",
                   "turned off (enabled: never)");
    } else {
        doctor_say(doctor, DOCTOR_OK, "huge pages", NULL, "enabled: %s", word);
    }
    if (chosen(THP "shmem_enabled", word, sizeof word)) {
        bool off = strcmp(word, "never") == 0 || strcmp(word, "deny") == 0;
        doctor_say(doctor, off ? DOCTOR_NOTE : DOCTOR_OK, "huge shared pages",
                   off ? "echo advise > " THP "shmem_enabled, for engines whose memory is shared"
                       : NULL,
                   "shmem_enabled: %s", word);
    }
}

/* Bytes of the mapping at `address` that lie in huge pages. */
static uint64_t huge_bytes_at(const void *address)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    if (file == NULL) {
        return 0;
    }
    char line[LINE_BYTES];
    char wanted[32];
    (void)snprintf(wanted, sizeof wanted, "%lx-", (unsigned long)address);
    bool inside = false;
    uint64_t bytes = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long long begin = 0;
        unsigned long long end = 0;
        unsigned long long kib = 0;
        /* NOLINTNEXTLINE(cert-err34-c): the kernel's own numbers */
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2) {
            inside = begin <= (uintptr_t)address && (uintptr_t)address < end;
            /* NOLINTNEXTLINE(cert-err34-c) */
        } else if (inside && (sscanf(line, "AnonHugePages: %llu kB", &kib) == 1 ||
                              sscanf(line, "ShmemPmdMapped: %llu kB", &kib) == 1)) {
            bytes += kib * 1024;
        }
    }
    (void)fclose(file);
    return bytes;
}

/* Touches an aligned stretch of a mapping in small pages, then asks for huge ones. 0 or errno. */
static int collapse(char *memory, uint64_t *huge_out)
{
    char *aligned = (char *)(((uintptr_t)memory + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    size_t bytes = TRIED_BYTES - HUGE_BYTES;
    /* first without, so that what is found comes from the collapse */
    (void)madvise(memory, TRIED_BYTES, MADV_NOHUGEPAGE);
    (void)memset(aligned, 1, bytes);
    (void)madvise(memory, TRIED_BYTES, MADV_HUGEPAGE);
    int errnum = madvise(aligned, bytes, MADV_COLLAPSE) == 0 ? 0 : errno;
    *huge_out = huge_bytes_at(aligned);
    return errnum;
}

static void say_collapse(struct doctor *doctor, const char *check, int errnum, uint64_t huge)
{
    char got[SIZE_TEXT_BYTES];
    char asked[SIZE_TEXT_BYTES];
    size_format_short(huge, got);
    size_format_short(TRIED_BYTES - HUGE_BYTES, asked);
    if (errnum == 0 && huge > 0) {
        doctor_say(doctor, DOCTOR_OK, check, NULL, "MADV_COLLAPSE gives %s of %s", got, asked);
    } else if (errnum == EINVAL) {
        doctor_say(doctor, DOCTOR_NOTE, check,
                   "Linux 6.1 has MADV_COLLAPSE; shared memory also wants shmem_enabled",
                   "MADV_COLLAPSE gives nothing for this memory: small pages are used");
    } else {
        doctor_say(doctor, DOCTOR_NOTE, check,
                   "free memory may be in pieces: echo 1 > /proc/sys/vm/compact_memory",
                   "MADV_COLLAPSE gives %s of %s: %s", got, asked,
                   errnum != 0 ? strerror(errnum) : "no error");
    }
}

static void check_collapse(struct doctor *doctor)
{
    uint64_t huge = 0;
    void *memory =
        mmap(NULL, TRIED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) {
        int errnum = collapse(memory, &huge);
        say_collapse(doctor, "huge private pages", errnum, huge);
        (void)munmap(memory, TRIED_BYTES);
    }
}

/* A sealed memfd, as engines hand it over: it must refuse to shrink under the daemon's feet. */
static void check_memfd(struct doctor *doctor)
{
    static const char advice[] =
        "allow memfd_create with sealing (sysctl vm.memfd_noexec, container profile)";
    int fd = memfd_create("kveik-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, TRIED_BYTES) != 0) {
        doctor_say(doctor, DOCTOR_PROBLEM, "sealed memory", advice, "memfd: %s", strerror(errno));
        if (fd >= 0) {
            (void)close(fd);
        }
        return;
    }
    bool sealed = fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
    bool holds = sealed && ftruncate(fd, 0) != 0 && errno == EPERM;
    if (holds) {
        doctor_say(doctor, DOCTOR_OK, "sealed memory", NULL, "a memfd can be sealed, and it holds");
    } else {
        doctor_say(doctor, DOCTOR_PROBLEM, "sealed memory", advice, "a memfd %s",
                   sealed ? "shrinks in spite of its seals" : "cannot be sealed");
    }
    void *memory = mmap(NULL, TRIED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory != MAP_FAILED) {
        uint64_t huge = 0;
        int errnum = collapse(memory, &huge);
        say_collapse(doctor, "huge sealed pages", errnum, huge);
        (void)munmap(memory, TRIED_BYTES);
    }
    (void)close(fd);
}

static void check_available(struct doctor *doctor)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[LINE_BYTES];
    unsigned long long kib = 0;
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        /* NOLINTNEXTLINE(cert-err34-c): the kernel's own number */
        found = sscanf(line, "MemAvailable: %llu kB", &kib) == 1;
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    struct rlimit limit = {0};
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    char available[SIZE_TEXT_BYTES];
    char lockable[SIZE_TEXT_BYTES] = "all";
    size_format_short(kib * 1024, available);
    if (limit.rlim_cur != RLIM_INFINITY) {
        size_format_short(limit.rlim_cur, lockable);
    }
    if (found) {
        doctor_say(doctor, DOCTOR_OK, "memory", NULL,
                   "%s available on the machine; this user may lock %s", available, lockable);
    }
}

void doctor_check_memory(struct doctor *doctor)
{
    check_available(doctor);
    check_thp(doctor);
    check_collapse(doctor);
    check_memfd(doctor);
}
