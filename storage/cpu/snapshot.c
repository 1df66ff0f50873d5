/*
 * Reading an index: once through all of it for the checksum, before anything is believed; then
 * record by record, with every length checked again, and the checksum a second time behind the
 * last.
 */
#include "storage/cpu/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/cpu/snapshot_format.h"

enum {
    SNAPSHOT_MAGIC = 0x736e6170,
    LENGTH_BYTES = 4,
    BUFFER_BYTES = SNAPSHOT_RECORD_BYTES_MAX + 64 * 1024, /* a whole record fits */
};

struct snapshot {
    uint32_t magic;
    int fd;
    uint8_t header_bytes[SNAPSHOT_HEADER_BYTES];
    struct snapshot_header header;
    uint64_t checksum;     /* as the trailer says */
    XXH3_state_t *hash;    /* of the records read */
    uint64_t file_at;      /* of the next byte to be read into the buffer */
    uint64_t payload_left; /* not handed out yet */
    uint64_t records_left;
    uint32_t begin; /* bytes [begin, end) of the buffer are read and not handed out */
    uint32_t end;
    uint8_t buffer[BUFFER_BYTES];
};

static int read_all(int fd, uint8_t *bytes, size_t count, uint64_t offset, struct error *error)
{
    while (count > 0) {
        errno = EIO;
        ssize_t done = fault_fires(FAULT_FILE) ? -1 : pread(fd, bytes, count, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return error_errno(error, ST_IO, errno, "the index cannot be read");
        }
        if (done == 0) {
            return error_set(error, ST_CORRUPT, "the index is cut off");
        }
        bytes += done;
        count -= (size_t)done;
        offset += (uint64_t)done;
    }
    return ST_OK;
}

static int check_file(int fd, uint64_t *bytes_out, struct error *error)
{
    struct stat info;
    errno = EIO;
    if (fault_fires(FAULT_FILE) || fstat(fd, &info) != 0) {
        return error_errno(error, ST_IO, errno, "the index cannot be read");
    }
    if (!S_ISREG(info.st_mode)) {
        return error_set(error, ST_CORRUPT, "the index is not a regular file");
    }
    if (info.st_uid != geteuid() || ((info.st_mode & 022) != 0 && info.st_nlink > 0)) {
        return error_set(error, ST_PERMISSION,
                         "the index can be written by others (user %u, mode %03o)",
                         (unsigned)info.st_uid, (unsigned)(info.st_mode & 0777));
    }
    if (info.st_size < SNAPSHOT_HEADER_BYTES + SNAPSHOT_TRAILER_BYTES) {
        return error_set(error, ST_CORRUPT, "the index is cut off: %lld bytes",
                         (long long)info.st_size);
    }
    *bytes_out = (uint64_t)info.st_size;
    return ST_OK;
}

/* ---- verifying ------------------------------------------------------------------------------- */

/* True when the hash of all records gives the trailer. */
static bool checksum_right(const struct snapshot *snapshot)
{
    return XXH3_64bits_withSeed(snapshot->header_bytes, SNAPSHOT_HEADER_BYTES,
                                XXH3_64bits_digest(snapshot->hash)) == snapshot->checksum;
}

static int check_sum(struct snapshot *snapshot, struct error *error)
{
    uint64_t left = snapshot->header.payload_bytes;
    uint64_t at = SNAPSHOT_HEADER_BYTES;
    while (left > 0) {
        size_t part = left < BUFFER_BYTES ? (size_t)left : BUFFER_BYTES;
        int status = read_all(snapshot->fd, snapshot->buffer, part, at, error);
        if (status != ST_OK) {
            return status;
        }
        (void)XXH3_64bits_update(snapshot->hash, snapshot->buffer, part);
        at += part;
        left -= part;
    }
    if (!checksum_right(snapshot)) {
        return error_set(error, ST_CORRUPT, "the index is damaged: its checksum is wrong");
    }
    (void)XXH3_64bits_reset(snapshot->hash);
    return ST_OK;
}

static int verify(struct snapshot *snapshot, const struct snapshot_home *home, struct error *error)
{
    uint64_t file_bytes = 0;
    int status = check_file(snapshot->fd, &file_bytes, error);
    if (status == ST_OK) {
        status = read_all(snapshot->fd, snapshot->header_bytes, SNAPSHOT_HEADER_BYTES, 0, error);
    }
    if (status == ST_OK) {
        status = snapshot_header_decode(snapshot->header_bytes, &snapshot->header, error);
    }
    if (status != ST_OK) {
        return status;
    }
    uint64_t payload_bytes = file_bytes - SNAPSHOT_HEADER_BYTES - SNAPSHOT_TRAILER_BYTES;
    if (snapshot->header.payload_bytes != payload_bytes) {
        return error_set(error, ST_CORRUPT, "the index is damaged: %llu bytes of records, not %llu",
                         (unsigned long long)payload_bytes,
                         (unsigned long long)snapshot->header.payload_bytes);
    }
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    status = read_all(snapshot->fd, trailer, sizeof trailer, file_bytes - sizeof trailer, error);
    if (status != ST_OK) {
        return status;
    }
    snapshot->checksum = get_u64(trailer);
    status = check_sum(snapshot, error); /* first: then what it says else was really written */
    if (status == ST_OK) {
        status = snapshot_home_check(&snapshot->header.home, home, error);
    }
    snapshot->file_at = SNAPSHOT_HEADER_BYTES;
    snapshot->payload_left = payload_bytes;
    snapshot->records_left = snapshot->header.record_count;
    return status;
}

/* ---- the way in and out ---------------------------------------------------------------------- */

int snapshot_open_fd(int fd, const struct snapshot_home *home, struct snapshot **snapshot_out,
                     struct error *error)
{
    KVEIK_ASSERT(fd >= 0 && home != NULL && snapshot_out != NULL);
    struct snapshot *snapshot = heap_alloc(sizeof *snapshot);
    if (snapshot == NULL) {
        (void)close(fd);
        return error_set(error, ST_NO_MEMORY, "snapshot: no memory");
    }
    memset(snapshot, 0, offsetof(struct snapshot, buffer));
    snapshot->magic = SNAPSHOT_MAGIC;
    snapshot->fd = fd;
    snapshot->hash = XXH3_createState();
    int status = snapshot->hash == NULL || XXH3_64bits_reset(snapshot->hash) != XXH_OK
                     ? error_set(error, ST_NO_MEMORY, "snapshot: no memory")
                     : verify(snapshot, home, error);
    if (status != ST_OK) {
        snapshot_close(snapshot);
        return status;
    }
    *snapshot_out = snapshot;
    return ST_OK;
}

int snapshot_open(const char *path, const struct snapshot_home *home,
                  struct snapshot **snapshot_out, struct error *error)
{
    errno = EIO;
    int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    int fd = fault_fires(FAULT_OPEN) ? -1 : open(path, flags);
    if (fd >= 0) {
        int status = snapshot_open_fd(fd, home, snapshot_out, error);
        if (status != ST_OK && error != NULL) {
            (void)error_wrap(error, "%.100s", path);
        }
        return status;
    }
    if (errno == ENOENT) {
        return error_set(error, ST_MISS, "%.100s: there is no index", path);
    }
    bool denied = errno == EACCES || errno == EPERM || errno == ELOOP;
    return error_errno(error, denied ? ST_PERMISSION : ST_IO, errno, "%.100s", path);
}

void snapshot_info(const struct snapshot *snapshot, struct snapshot_info *info_out)
{
    KVEIK_CHECK_OBJ(snapshot, SNAPSHOT_MAGIC);
    const struct snapshot_header *header = &snapshot->header;
    *info_out = (struct snapshot_info){.created_s = header->created_s,
                                       .record_count = header->record_count,
                                       .file_bytes = header->payload_bytes + SNAPSHOT_HEADER_BYTES +
                                                     SNAPSHOT_TRAILER_BYTES};
    memcpy(info_out->version, header->version, sizeof info_out->version);
}

void snapshot_close(struct snapshot *snapshot)
{
    if (snapshot == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(snapshot, SNAPSHOT_MAGIC);
    (void)close(snapshot->fd);
    if (snapshot->hash != NULL) {
        (void)XXH3_freeState(snapshot->hash);
    }
    snapshot->magic = 0;
    heap_free(snapshot);
}

/* ---- records --------------------------------------------------------------------------------- */

/* At least `bytes` in the buffer. */
static int need(struct snapshot *snapshot, uint32_t bytes, struct error *error)
{
    KVEIK_ASSERT(bytes <= BUFFER_BYTES && bytes <= snapshot->payload_left);
    uint32_t there = snapshot->end - snapshot->begin;
    if (there >= bytes) {
        return ST_OK;
    }
    memmove(snapshot->buffer, snapshot->buffer + snapshot->begin, there);
    snapshot->begin = 0;
    snapshot->end = there;
    uint64_t rest = snapshot->payload_left - there;
    uint32_t part = rest < BUFFER_BYTES - there ? (uint32_t)rest : BUFFER_BYTES - there;
    int status = read_all(snapshot->fd, snapshot->buffer + there, part, snapshot->file_at, error);
    if (status == ST_OK) {
        snapshot->file_at += part;
        snapshot->end += part;
    }
    return status;
}

static const uint8_t *take(struct snapshot *snapshot, uint32_t bytes)
{
    const uint8_t *taken = snapshot->buffer + snapshot->begin;
    snapshot->begin += bytes;
    snapshot->payload_left -= bytes;
    (void)XXH3_64bits_update(snapshot->hash, taken, bytes);
    return taken;
}

int snapshot_next(struct snapshot *snapshot, const void **record_out, uint32_t *bytes_out,
                  struct error *error)
{
    KVEIK_CHECK_OBJ(snapshot, SNAPSHOT_MAGIC);
    if (snapshot->payload_left == 0 && snapshot->records_left == 0) {
        return checksum_right(snapshot)
                   ? ST_MISS
                   : error_set(error, ST_CORRUPT, "the index changed while it was read");
    }
    if (snapshot->payload_left <= LENGTH_BYTES || snapshot->records_left == 0) {
        return error_set(error, ST_CORRUPT, "the index is damaged: its records do not add up");
    }
    int status = need(snapshot, LENGTH_BYTES, error);
    if (status != ST_OK) {
        return status;
    }
    uint32_t bytes = get_u32(snapshot->buffer + snapshot->begin);
    if (bytes == 0 || bytes > SNAPSHOT_RECORD_BYTES_MAX ||
        bytes > snapshot->payload_left - LENGTH_BYTES) {
        return error_set(error, ST_CORRUPT, "the index is damaged: a record of %u bytes", bytes);
    }
    status = need(snapshot, LENGTH_BYTES + bytes, error);
    if (status != ST_OK) {
        return status;
    }
    (void)take(snapshot, LENGTH_BYTES);
    *record_out = take(snapshot, bytes);
    *bytes_out = bytes;
    snapshot->records_left--;
    return ST_OK;
}
