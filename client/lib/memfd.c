#include "client/lib/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fault.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { HUGE_BYTES = 2 * 1024 * 1024 };

static uint64_t round_up(uint64_t bytes, uint64_t step)
{
    return (bytes + step - 1) / step * step;
}

/* Writes to every page, so that the file has no holes; older kernels know no madvise for it. */
static int populate(char *address, uint64_t bytes, struct error *error)
{
    if (madvise(address, bytes, MADV_POPULATE_WRITE) == 0) {
        return ST_OK;
    }
    if (errno != EINVAL) {
        return error_errno(error, ST_NO_MEMORY, errno, "populate %llu bytes",
                           (unsigned long long)bytes);
    }
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t at = 0; at < bytes; at += page) {
        ((volatile char *)address)[at] = 0;
    }
    return ST_OK;
}

/* A mapping whose address is a multiple of 2 MiB: huge pages need it. */
static char *map_aligned(int fd, uint64_t bytes)
{
    uint64_t reserved = bytes + HUGE_BYTES;
    char *space = fault_fires(FAULT_MMAP)
                      ? MAP_FAILED
                      : mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED) {
        return MAP_FAILED;
    }
    uint64_t skip = (HUGE_BYTES - (uintptr_t)space % HUGE_BYTES) % HUGE_BYTES;
    char *address =
        mmap(space + skip, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (address == MAP_FAILED) {
        (void)munmap(space, reserved);
        return MAP_FAILED;
    }
    if (skip > 0) {
        (void)munmap(space, skip);
    }
    (void)munmap(address + bytes, reserved - skip - bytes);
    return address;
}

static int memfd_fill(int fd, uint64_t bytes, struct memfd_mapping *mapping, struct error *error)
{
    if (ftruncate(fd, (off_t)bytes) != 0) {
        return error_errno(error, ST_NO_MEMORY, errno, "size the memfd to %llu bytes",
                           (unsigned long long)bytes);
    }
    char *address = map_aligned(fd, bytes);
    if (address == MAP_FAILED) {
        return error_errno(error, ST_NO_MEMORY, errno, "map %llu bytes", (unsigned long long)bytes);
    }
    (void)madvise(address, bytes, MADV_HUGEPAGE);
    int status = populate(address, bytes, error);
    if (status == ST_OK && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        status = error_errno(error, ST_IO, errno, "seal the memfd");
    }
    if (status != ST_OK) {
        (void)munmap(address, bytes);
        return status;
    }
    *mapping = (struct memfd_mapping){.address = address, .bytes = bytes, .fd = fd};
    return ST_OK;
}

int memfd_allocate(uint64_t bytes, struct memfd_mapping *mapping_out, struct error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    int fd = fault_fires(FAULT_OPEN) ? -1 : memfd_create("kveik", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "memfd_create");
    }
    int status = memfd_fill(fd, round_up(bytes, page), mapping_out, error);
    if (status != ST_OK) {
        (void)close(fd);
    }
    return status;
}
