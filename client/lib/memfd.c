/*
 * Sealed memory files: what the daemon accepts. A file of fixed size cannot pull the memory away
 * under its reader (SIGBUS), and memory that is populated here is not charged to the daemon.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "client/lib/client.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int memfd_make(const char *name, uint64_t bytes, struct error *error)
{
    errno = EMFILE;
    int fd = fault_fires(FAULT_FILE) ? -1 : memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        (void)error_errno(error, ST_IO, errno, "memfd_create");
        return -1;
    }
    if (ftruncate(fd, (off_t)bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        (void)error_errno(error, ST_IO, errno, "a sealed memory file of %llu bytes",
                          (unsigned long long)bytes);
        (void)close(fd);
        return -1;
    }
    return fd;
}

void *memfd_map(int memfd, uint64_t offset, size_t bytes, bool small_pages, struct error *error)
{
    KVEIK_ASSERT(bytes > 0);
    size_t reserved = bytes + HUGE_PAGE_BYTES;
    errno = ENOMEM;
    uint8_t *range =
        fault_fires(FAULT_MMAP)
            ? MAP_FAILED
            : mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) {
        (void)error_errno(error, ST_NO_MEMORY, errno, "reserve %zu bytes of addresses", reserved);
        return NULL;
    }
    size_t before = (size_t)(offset - (uintptr_t)range) % HUGE_PAGE_BYTES;
    uint8_t *address = range + before;
    if (mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd,
             (off_t)offset) == MAP_FAILED) {
        (void)error_errno(error, ST_NO_MEMORY, errno, "map %zu bytes", bytes);
        (void)munmap(range, reserved);
        return NULL;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped_end = (before + bytes + page - 1) / page * page;
    if (before > 0) {
        (void)munmap(range, before);
    }
    if (mapped_end < reserved) {
        (void)munmap(range + mapped_end, reserved - mapped_end);
    }
    if (!small_pages) {
        (void)madvise(address, bytes, MADV_HUGEPAGE); /* a wish; the system's setting decides */
    }
    return address;
}

int memfd_populate(void *address, size_t bytes, struct error *error)
{
    errno = ENOMEM;
    if (!fault_fires(FAULT_MMAP) && madvise(address, bytes, MADV_POPULATE_WRITE) == 0) {
        return ST_OK;
    }
    if (errno != EINVAL) {
        return error_errno(error, ST_NO_MEMORY, errno, "populate %zu bytes", bytes);
    }
    /* before Linux 5.14: touch each page; writing what is there changes nothing */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    volatile uint8_t *at = address;
    for (size_t i = 0; i < bytes; i += page) {
        at[i] = at[i];
    }
    return ST_OK;
}
