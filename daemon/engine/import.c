#include "daemon/engine/import.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static int check_file(int fd, uint64_t file_offset, uint64_t bytes, struct stat *info,
                      struct error *error)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) {
        return error_set(error, ST_PERMISSION, "the descriptor is no memfd that can be sealed");
    }
    if ((seals & F_SEAL_SHRINK) == 0) {
        return error_set(error, ST_PERMISSION,
                         "the memfd is not sealed against shrinking: add F_SEAL_SHRINK");
    }
    if (fstat(fd, info) != 0) {
        return error_errno(error, ST_IO, errno, "fstat of the memfd");
    }
    if (bytes == 0 || file_offset > (uint64_t)info->st_size ||
        bytes > (uint64_t)info->st_size - file_offset) {
        return error_set(error, ST_INVALID,
                         "the region [%llu, +%llu) lies outside the memfd of %llu bytes",
                         (unsigned long long)file_offset, (unsigned long long)bytes,
                         (unsigned long long)info->st_size);
    }
    return ST_OK;
}

/* Holes in the region would be filled by our faults and charged to us. */
static int check_dense(int fd, uint64_t file_offset, uint64_t bytes, struct error *error)
{
    off_t hole = lseek(fd, (off_t)file_offset, SEEK_HOLE);
    if (hole < 0 || (uint64_t)hole < file_offset + bytes) {
        return error_set(error, ST_MEMORY,
                         "the memfd has a hole at %lld: write to all of it before exporting "
                         "(fallocate alone is not enough)",
                         (long long)hole);
    }
    return ST_OK;
}

int import_memfd(int fd, uint64_t file_offset, uint64_t bytes, struct import *import_out,
                 struct error *error)
{
    struct stat info;
    int status = check_file(fd, file_offset, bytes, &info, error);
    status = status != ST_OK ? status : check_dense(fd, file_offset, bytes, error);
    if (status != ST_OK) {
        (void)close(fd);
        return status;
    }
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t before = file_offset % page;
    uint64_t mapping_bytes = before + bytes;
    char *mapping = fault_fires(FAULT_MMAP) ? MAP_FAILED
                                            : mmap(NULL, mapping_bytes, PROT_READ | PROT_WRITE,
                                                   MAP_SHARED, fd, (off_t)(file_offset - before));
    if (mapping == MAP_FAILED) {
        status = error_errno(error, ST_MEMORY, errno, "map %llu bytes of the memfd",
                             (unsigned long long)bytes);
        (void)close(fd);
        return status;
    }
    (void)madvise(mapping, mapping_bytes, MADV_DONTDUMP);
    (void)madvise(mapping, mapping_bytes, MADV_DONTFORK);
    *import_out = (struct import){.fd = fd,
                                  .base = mapping + before,
                                  .bytes = bytes,
                                  .mapping = mapping,
                                  .mapping_bytes = mapping_bytes,
                                  .device = (uint64_t)info.st_dev,
                                  .inode = (uint64_t)info.st_ino,
                                  .blocks = (uint64_t)info.st_blocks,
                                  .file_blocks = (uint64_t)info.st_blocks};
    return ST_OK;
}

int import_populate(const struct import *import, struct error *error)
{
    if (madvise(import->mapping, import->mapping_bytes, MADV_POPULATE_WRITE) != 0 &&
        errno != EINVAL) { /* EINVAL: before Linux 5.14; faults then come with the first copies */
        return error_errno(error, ST_MEMORY, errno, "populate %llu bytes of the memfd",
                           (unsigned long long)import->bytes);
    }
    return ST_OK;
}

bool import_same_file(const struct import *a, const struct import *b)
{
    return a->mapping != NULL && b->mapping != NULL && a->device == b->device &&
           a->inode == b->inode;
}

void import_share(struct import *keeper, struct import *other)
{
    KVEIK_ASSERT(import_same_file(keeper, other) && keeper != other);
    if (keeper->fd < 0) {
        keeper->fd = other->fd;
        keeper->file_blocks = keeper->blocks;
    } else if (other->fd >= 0) {
        (void)close(other->fd);
    }
    other->fd = -1;
    if (other->blocks > keeper->file_blocks) {
        keeper->file_blocks = other->blocks;
    }
}

bool import_punched(const struct import *import)
{
    struct stat info;
    return import->mapping != NULL && import->fd >= 0 &&
           (fstat(import->fd, &info) != 0 || (uint64_t)info.st_blocks < import->file_blocks);
}

void import_finish(struct import *import)
{
    if (import->mapping != NULL) {
        (void)munmap(import->mapping, import->mapping_bytes);
        if (import->fd >= 0) {
            (void)close(import->fd);
        }
        *import = (struct import){0};
    }
}
