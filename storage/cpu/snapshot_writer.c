/*
 * The header holds counts that are known at the end only, and the checksum begins with the header:
 * so the hash of the records runs while they are written, and the trailer is the hash of the
 * header followed by that hash. Nothing has the final name before all of it is on the device.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/cpu/snapshot_format.h"

enum { WRITER_MAGIC = 0x736e7772, BUFFER_BYTES = 1024 * 1024, FILE_MODE = 0600 };

struct snapshot_writer {
    uint32_t magic;
    int fd;
    int status; /* the first error, which stays */
    bool named; /* finished */
    struct snapshot_header header;
    XXH3_state_t *hash; /* of the records */
    char path[PATH_MAX];
    char new_path[PATH_MAX]; /* until it is finished */
    uint32_t used;
    uint8_t buffer[BUFFER_BYTES];
};

static bool fails(enum fault_point point)
{
    if (!fault_fires(point)) {
        return false;
    }
    errno = EIO;
    return true;
}

/* ---- names ----------------------------------------------------------------------------------- */

static int new_name(const char *path, char out[PATH_MAX], struct error *error)
{
    int length = snprintf(out, PATH_MAX, "%s.new", path);
    if (length < 0 || length >= PATH_MAX) {
        return error_set(error, ST_INVALID, "snapshot: the path is too long");
    }
    return ST_OK;
}

/* What was done to names in a path's folder is lasting when this returns ST_OK. */
static int sync_folder(const char *path, struct error *error)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - path);
    KVEIK_ASSERT(length < sizeof folder - 1);
    memcpy(folder, path, length);
    folder[length] = '\0';
    const char *name = slash == NULL ? "." : length == 0 ? "/" : folder;
    int fd = fails(FAULT_OPEN) ? -1 : open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "snapshot: cannot open %.100s", name);
    }
    int result = fails(FAULT_FILE) ? -1 : fsync(fd);
    int cause = errno;
    (void)close(fd);
    return result == 0 ? ST_OK
                       : error_errno(error, ST_IO, cause, "snapshot: cannot sync %.100s", name);
}

int snapshot_invalidate(const char *path, struct error *error)
{
    char new_path[PATH_MAX];
    int status = new_name(path, new_path, error);
    if (status != ST_OK) {
        return status;
    }
    if (fails(FAULT_FILE) || (unlink(path) != 0 && errno != ENOENT) ||
        (unlink(new_path) != 0 && errno != ENOENT)) {
        return error_errno(error, ST_IO, errno, "snapshot: cannot remove %.100s", path);
    }
    return sync_folder(path, error);
}

/* ---- writing --------------------------------------------------------------------------------- */

static int write_all(struct snapshot_writer *writer, const uint8_t *bytes, size_t count,
                     off_t offset)
{
    while (count > 0) {
        ssize_t done = -1;
        if (!fails(FAULT_FILE)) {
            done = offset < 0 ? write(writer->fd, bytes, count)
                              : pwrite(writer->fd, bytes, count, offset);
        }
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            int cause = done == 0 ? ENOSPC : errno;
            errno = cause;
            return cause == ENOSPC || cause == EDQUOT || cause == EFBIG ? ST_NO_SPACE : ST_IO;
        }
        bytes += done;
        count -= (size_t)done;
        offset += offset < 0 ? 0 : done;
    }
    return ST_OK;
}

/* Remembers the first error; says it again every time. */
static int fail(struct snapshot_writer *writer, int status, struct error *error)
{
    writer->status = status;
    return error_errno(error, status, errno, "snapshot: cannot write %.100s", writer->new_path);
}

static int flush(struct snapshot_writer *writer, struct error *error)
{
    int status = write_all(writer, writer->buffer, writer->used, -1);
    writer->used = 0;
    return status == ST_OK ? ST_OK : fail(writer, status, error);
}

static int put(struct snapshot_writer *writer, const uint8_t *bytes, uint32_t count,
               struct error *error)
{
    int status = ST_OK;
    while (count > 0 && status == ST_OK) {
        uint32_t part = BUFFER_BYTES - writer->used < count ? BUFFER_BYTES - writer->used : count;
        memcpy(writer->buffer + writer->used, bytes, part);
        writer->used += part;
        bytes += part;
        count -= part;
        if (writer->used == BUFFER_BYTES) {
            status = flush(writer, error);
        }
    }
    return status;
}

static int begin(struct snapshot_writer *writer, const char *path, struct error *error)
{
    int status = new_name(path, writer->new_path, error);
    if (status != ST_OK) {
        return status;
    }
    (void)snprintf(writer->path, sizeof writer->path, "%s", path);
    (void)unlink(writer->new_path); /* an interrupted writer's */
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    writer->fd = fails(FAULT_OPEN) ? -1 : open(writer->new_path, flags, FILE_MODE);
    if (writer->fd < 0) {
        bool denied = errno == EACCES || errno == EPERM || errno == EROFS;
        return error_errno(error, denied ? ST_PERMISSION : ST_IO, errno,
                           "snapshot: cannot create %.100s", writer->new_path);
    }
    static const uint8_t room[SNAPSHOT_HEADER_BYTES]; /* no magic: half an index is none */
    return put(writer, room, sizeof room, error);
}

int snapshot_writer_create(const char *path, const struct snapshot_home *home, const char *version,
                           struct snapshot_writer **writer_out, struct error *error)
{
    KVEIK_ASSERT(path != NULL && home != NULL && version != NULL && home->boot_id[0] != '\0');
    struct snapshot_writer *writer = heap_calloc(1, sizeof *writer);
    if (writer == NULL) {
        return error_set(error, ST_NO_MEMORY, "snapshot: no memory");
    }
    writer->magic = WRITER_MAGIC;
    writer->fd = -1;
    writer->header.home = *home;
    writer->header.created_s = (uint64_t)time(NULL);
    (void)snprintf(writer->header.version, sizeof writer->header.version, "%s", version);
    writer->hash = XXH3_createState();
    int status = writer->hash == NULL || XXH3_64bits_reset(writer->hash) != XXH_OK
                     ? error_set(error, ST_NO_MEMORY, "snapshot: no memory")
                     : begin(writer, path, error);
    if (status != ST_OK) {
        snapshot_writer_destroy(writer);
        return status;
    }
    *writer_out = writer;
    return ST_OK;
}

int snapshot_writer_append(struct snapshot_writer *writer, const void *record, uint32_t bytes,
                           struct error *error)
{
    KVEIK_CHECK_OBJ(writer, WRITER_MAGIC);
    KVEIK_ASSERT(bytes > 0 && bytes <= SNAPSHOT_RECORD_BYTES_MAX && !writer->named);
    if (writer->status != ST_OK) {
        return error_set(error, writer->status, "snapshot: it failed before");
    }
    uint8_t length[4];
    put_u32(length, bytes);
    (void)XXH3_64bits_update(writer->hash, length, sizeof length);
    (void)XXH3_64bits_update(writer->hash, record, bytes);
    int status = put(writer, length, sizeof length, error);
    if (status == ST_OK) {
        status = put(writer, record, bytes, error);
    }
    if (status == ST_OK) {
        writer->header.record_count++;
        writer->header.payload_bytes += sizeof length + bytes;
    }
    return status;
}

static int write_ends(struct snapshot_writer *writer, struct error *error)
{
    uint8_t header[SNAPSHOT_HEADER_BYTES];
    uint8_t trailer[SNAPSHOT_TRAILER_BYTES];
    snapshot_header_encode(&writer->header, header);
    put_u64(trailer, XXH3_64bits_withSeed(header, sizeof header, XXH3_64bits_digest(writer->hash)));
    int status = put(writer, trailer, sizeof trailer, error);
    if (status == ST_OK) {
        status = flush(writer, error);
    }
    if (status == ST_OK) {
        status = write_all(writer, header, sizeof header, 0);
        status = status == ST_OK ? ST_OK : fail(writer, status, error);
    }
    return status;
}

int snapshot_writer_finish(struct snapshot_writer *writer, struct error *error)
{
    KVEIK_CHECK_OBJ(writer, WRITER_MAGIC);
    KVEIK_ASSERT(!writer->named);
    if (writer->status != ST_OK) {
        return error_set(error, writer->status, "snapshot: it failed before");
    }
    int status = write_ends(writer, error);
    if (status == ST_OK && (fails(FAULT_FILE) || fsync(writer->fd) != 0)) {
        status = fail(writer, ST_IO, error);
    }
    if (status == ST_OK && (fails(FAULT_FILE) || rename(writer->new_path, writer->path) != 0)) {
        status = fail(writer, ST_IO, error);
    }
    if (status != ST_OK) {
        return status;
    }
    writer->named = true;
    status = sync_folder(writer->path, error);
    if (status != ST_OK) { /* perhaps there after a crash, perhaps not: better not */
        (void)unlink(writer->path);
        writer->status = status;
    }
    return status;
}

void snapshot_writer_destroy(struct snapshot_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(writer, WRITER_MAGIC);
    if (writer->fd >= 0) {
        if (!writer->named) {
            (void)unlink(writer->new_path);
        }
        (void)close(writer->fd);
    }
    if (writer->hash != NULL) {
        (void)XXH3_freeState(writer->hash);
    }
    writer->magic = 0;
    heap_free(writer);
}
