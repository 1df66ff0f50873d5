#include "storage/disk/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/log.h"
#include "base/size.h"

enum { NAME_BYTES = 32 };

static void name_of(uint64_t number, char name[NAME_BYTES])
{
    (void)snprintf(name, NAME_BYTES, "%llu.kv", (unsigned long long)number);
}

static int open_file(const struct segment_files *files, uint64_t number, int flags)
{
    char name[NAME_BYTES];
    name_of(number, name);
    if (fault_fires(FAULT_OPEN)) {
        errno = EIO;
        return -1;
    }
    return openat(files->directory_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
}

/* With direct I/O if it can be had: some file systems refuse it. */
static int open_direct(struct segment_files *files, uint64_t number, int flags)
{
    int fd = open_file(files, number, flags | O_DIRECT);
    if (fd < 0 && errno == EINVAL) {
        /* a file system may have made the file before it refused the flag */
        fd = open_file(files, number, flags & ~O_EXCL);
        if (fd >= 0 && !atomic_exchange(&files->said_buffered, true)) {
            log_write(files->log, LOG_LEVEL_WARN, "disk",
                      "no direct I/O on this file system: segments go through the page cache");
        }
    }
    return fd;
}

static int io_status(int errnum)
{
    return errnum == ENOSPC || errnum == EDQUOT ? ST_NO_SPACE : ST_IO;
}

static int reserve(int fd, uint64_t bytes)
{
    if (fault_fires(FAULT_FILE)) {
        errno = ENOSPC;
        return -1;
    }
    if (fallocate(fd, 0, 0, (off_t)bytes) == 0) {
        return 0;
    }
    return errno == EOPNOTSUPP ? ftruncate(fd, (off_t)bytes) : -1;
}

static int sync_fd(int fd)
{
    if (fault_fires(FAULT_SYNC)) {
        errno = EIO;
        return -1;
    }
    return fsync(fd);
}

static int write_header(const struct segment_files *files, uint64_t number, int fd)
{
    uint8_t *page = heap_alloc_aligned(DISK_ALIGN, FORMAT_SEGMENT_BYTES);
    if (page == NULL) {
        errno = ENOMEM;
        return -1;
    }
    struct format_segment header = {.store = files->store,
                                    .number = number,
                                    .made_s = (uint64_t)time(NULL),
                                    .segment_bytes = files->segment_bytes};
    format_segment_encode(&header, page);
    ssize_t wrote = -1;
    errno = EIO;
    if (!fault_fires(FAULT_FILE)) {
        wrote = pwrite(fd, page, FORMAT_SEGMENT_BYTES, 0);
    }
    heap_free(page);
    return wrote == FORMAT_SEGMENT_BYTES ? 0 : -1;
}

int segment_create(struct segment_files *files, uint64_t number, int *fd_out, struct error *error)
{
    int fd = open_direct(files, number, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0) {
        return error_errno(error, io_status(errno), errno, "segment %llu cannot be made",
                           (unsigned long long)number);
    }
    if (reserve(fd, files->segment_bytes) != 0 || write_header(files, number, fd) != 0 ||
        sync_fd(fd) != 0 || sync_fd(files->directory_fd) != 0) {
        int status = error_errno(error, io_status(errno), errno, "segment %llu cannot be made",
                                 (unsigned long long)number);
        (void)close(fd);
        (void)segment_remove(files, number, NULL);
        return status;
    }
    *fd_out = fd;
    return ST_OK;
}

int segment_open(struct segment_files *files, uint64_t number, int *fd_out, struct error *error)
{
    int fd = open_direct(files, number, O_RDWR);
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "segment %llu cannot be opened",
                           (unsigned long long)number);
    }
    *fd_out = fd;
    return ST_OK;
}

int segment_open_buffered(const struct segment_files *files, uint64_t number, int *fd_out,
                          struct error *error)
{
    int fd = open_file(files, number, O_RDONLY);
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "segment %llu cannot be opened",
                           (unsigned long long)number);
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    *fd_out = fd;
    return ST_OK;
}

int segment_trim(const struct segment_files *files, uint64_t number, uint64_t bytes,
                 struct error *error)
{
    int fd = open_file(files, number, O_WRONLY);
    int failed = fd >= 0 ? ftruncate(fd, (off_t)bytes) : -1;
    if (failed != 0) {
        (void)error_errno(error, ST_IO, errno, "segment %llu cannot be cut",
                          (unsigned long long)number);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return failed == 0 ? ST_OK : ST_IO;
}

int segment_remove(const struct segment_files *files, uint64_t number, struct error *error)
{
    char name[NAME_BYTES];
    name_of(number, name);
    errno = EIO;
    if (fault_fires(FAULT_FILE) ||
        (unlinkat(files->directory_fd, name, 0) != 0 && errno != ENOENT)) {
        return error_errno(error, ST_IO, errno, "segment %llu cannot be removed",
                           (unsigned long long)number);
    }
    return ST_OK;
}

/* ---- headers --------------------------------------------------------------------------------- */

static int read_header(const struct segment_files *files, uint64_t number,
                       struct format_segment *header_out, uint64_t *file_bytes_out,
                       struct error *error)
{
    uint8_t page[FORMAT_SEGMENT_BYTES];
    struct stat about = {0};
    int fd = -1;
    int status = segment_open_buffered(files, number, &fd, error);
    if (status != ST_OK) {
        return status;
    }
    ssize_t got = -1;
    errno = EIO;
    if (!fault_fires(FAULT_FILE) && fstat(fd, &about) == 0) {
        got = pread(fd, page, sizeof page, 0);
    }
    if (got < 0) {
        status = error_errno(error, ST_IO, errno, "the header of segment %llu cannot be read",
                             (unsigned long long)number);
    } else {
        status = format_segment_decode(page, (uint64_t)got, header_out);
    }
    if (status == ST_OK) {
        *file_bytes_out = (uint64_t)about.st_size;
    }
    (void)close(fd);
    return status;
}

int segment_check(const struct segment_files *files, uint64_t number, uint64_t *file_bytes_out,
                  struct error *error)
{
    struct format_segment header = {0};
    int status = read_header(files, number, &header, file_bytes_out, error);
    if (status == ST_OK &&
        (header.number != number ||
         memcmp(header.store.id, files->store.id, FORMAT_ID_BYTES) != 0 ||
         memcmp(header.store.secret, files->store.secret, DISK_SECRET_BYTES) != 0)) {
        return error_set(error, ST_CORRUPT, "segment %llu is not of this store",
                         (unsigned long long)number);
    }
    if (status == ST_CORRUPT || status == ST_VERSION) {
        return error_set(error, status, "the header of segment %llu: %s",
                         (unsigned long long)number,
                         status == ST_VERSION ? "another format version" : "damaged");
    }
    return status;
}

int segment_find_store(const struct segment_files *files, struct format_store *store_out,
                       struct error *error)
{
    uint64_t *numbers = NULL;
    uint32_t count = 0;
    int status = segment_list(files, &numbers, &count, error);
    if (status != ST_OK) {
        return status;
    }
    KVEIK_ASSERT(numbers != NULL);
    int found = count == 0 ? ST_MISS : ST_CORRUPT;
    for (uint32_t i = 0; i < count && found != ST_OK; i++) {
        struct format_segment header = {0};
        uint64_t file_bytes = 0;
        status = read_header(files, numbers[i], &header, &file_bytes, error);
        if (status == ST_OK && header.number == numbers[i]) {
            *store_out = header.store;
            found = ST_OK;
        } else if (status == ST_VERSION || (status == ST_IO && found == ST_CORRUPT)) {
            found = status;
        }
    }
    heap_free(numbers);
    return found;
}

/* ---- the list -------------------------------------------------------------------------------- */

/* N of "N.kv"; 0: another name. */
static uint64_t number_of(const char *name)
{
    uint64_t number = 0;
    char again[NAME_BYTES];
    if (number_prefix(name, 10, &number) == NULL) {
        return 0;
    }
    name_of(number, again);
    return strcmp(name, again) == 0 ? number : 0;
}

static int compare_numbers(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static int list_folder(DIR *folder, uint64_t *numbers, uint32_t *count_out)
{
    uint32_t count = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(folder); /* NOLINT(concurrency-mt-unsafe): our own */
        if (entry == NULL) {
            break;
        }
        uint64_t number = number_of(entry->d_name);
        if (number != 0 && count == DISK_SEGMENTS_MAX) {
            return ST_LIMIT;
        }
        if (number != 0) {
            numbers[count++] = number;
        }
    }
    *count_out = count;
    return errno == 0 ? ST_OK : ST_IO;
}

int segment_list(const struct segment_files *files, uint64_t **numbers_out, uint32_t *count_out,
                 struct error *error)
{
    uint64_t *numbers = heap_alloc(DISK_SEGMENTS_MAX * sizeof *numbers);
    if (numbers == NULL) {
        return error_set(error, ST_NO_MEMORY, "segments: no memory for a list");
    }
    int fd = -1;
    errno = EIO;
    if (!fault_fires(FAULT_OPEN)) {
        fd = openat(files->directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (folder == NULL) {
        int failed = error_errno(error, ST_IO, errno, "segments cannot be listed");
        if (fd >= 0) {
            (void)close(fd);
        }
        heap_free(numbers);
        return failed;
    }
    int status = list_folder(folder, numbers, count_out);
    (void)closedir(folder);
    if (status != ST_OK) {
        heap_free(numbers);
        return status == ST_LIMIT
                   ? error_set(error, status, "more than %d segments", DISK_SEGMENTS_MAX)
                   : error_errno(error, status, errno, "segments cannot be listed");
    }
    qsort(numbers, *count_out, sizeof *numbers, compare_numbers);
    *numbers_out = numbers;
    return ST_OK;
}
