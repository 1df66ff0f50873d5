/* Finding the records of a segment again, from its file alone. */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/fault.h"
#include "base/heap.h"
#include "storage/disk/segment.h"

enum { WINDOW_BYTES = 1024 * 1024 };
_Static_assert((int)WINDOW_BYTES >= (int)FORMAT_RECORD_HEADER_MAX, "a header fits the window");

/* A window on the file. */
struct window {
    const struct segment_files *files;
    uint64_t number;
    int fd;
    uint64_t file_bytes;
    uint64_t begin; /* of the window in the file */
    uint64_t count;
    uint8_t *bytes;
    struct format_record record;
};

/* Has `need` bytes from `at` in the window, or as many as the file has. */
static int window_move(struct window *window, uint64_t at, uint64_t need)
{
    if (at >= window->begin && at + need <= window->begin + window->count) {
        return ST_OK;
    }
    uint64_t want = need > DISK_ALIGN ? need : 16u * DISK_ALIGN; /* few of a jump are payload */
    uint64_t left = at < window->file_bytes ? window->file_bytes - at : 0;
    want = want < left ? want : left;
    window->begin = at;
    window->count = 0;
    while (window->count < want) {
        ssize_t got = -1;
        errno = EIO;
        if (!fault_fires(FAULT_FILE)) {
            got = pread(window->fd, window->bytes + window->count, want - window->count,
                        (off_t)(at + window->count));
        }
        if (got == 0) {
            break;
        }
        if (got < 0 && errno != EINTR) {
            return ST_IO;
        }
        window->count += got > 0 ? (uint64_t)got : 0;
    }
    return ST_OK;
}

static const uint8_t *window_at(const struct window *window, uint64_t at, uint64_t *left_out)
{
    KVEIK_ASSERT(at >= window->begin);
    uint64_t skip = at - window->begin;
    *left_out = skip < window->count ? window->count - skip : 0;
    return window->bytes + skip;
}

/* A sound record of this segment at `at`: ST_OK; ST_MISS: none; ST_IO. */
static int record_at(struct window *window, uint64_t at)
{
    uint64_t left = 0;
    uint32_t header_bytes = 0;
    int status = window_move(window, at, DISK_ALIGN);
    if (status != ST_OK) {
        return status;
    }
    const uint8_t *bytes = window_at(window, at, &left);
    if (format_record_peek(bytes, left, &header_bytes) != ST_OK) {
        return ST_MISS;
    }
    status = window_move(window, at, header_bytes);
    if (status != ST_OK) {
        return status;
    }
    bytes = window_at(window, at, &left);
    struct format_record *record = &window->record;
    if (format_record_decode(bytes, left, window->files->store.secret, record) != ST_OK ||
        record->segment != window->number || record->offset != at ||
        at + record->record_bytes > window->file_bytes) {
        return ST_MISS;
    }
    return ST_OK;
}

/* The next page after `at` that begins as records do; the file's end when there is none. */
static int skip_damage(struct window *window, uint64_t *at)
{
    for (*at += DISK_ALIGN; *at < window->file_bytes; *at += DISK_ALIGN) {
        uint64_t left = 0;
        if (*at + DISK_ALIGN > window->begin + window->count || *at < window->begin) {
            int status = window_move(window, *at, WINDOW_BYTES);
            if (status != ST_OK) {
                return status;
            }
        }
        const uint8_t *bytes = window_at(window, *at, &left);
        if (left == 0 || format_record_begins(bytes, left)) {
            break;
        }
    }
    return ST_OK;
}

static int scan(struct window *window, segment_record_cb each, void *ctx)
{
    uint64_t at = FORMAT_SEGMENT_BYTES;
    while (at < window->file_bytes) {
        int status = record_at(window, at);
        if (status == ST_OK) {
            status = each(ctx, &window->record);
            at += window->record.record_bytes;
        } else if (status == ST_MISS) {
            status = skip_damage(window, &at);
        }
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

int segment_scan(const struct segment_files *files, uint64_t number, segment_record_cb each,
                 void *ctx, struct error *error)
{
    struct stat about;
    struct window *window = heap_calloc(1, sizeof *window);
    uint8_t *bytes = heap_alloc(WINDOW_BYTES);
    int status = ST_NO_MEMORY;
    if (window == NULL || bytes == NULL) {
        (void)error_set(error, status, "no memory to read segment %llu",
                        (unsigned long long)number);
        goto out;
    }
    window->files = files;
    window->number = number;
    window->bytes = bytes;
    window->fd = -1;
    status = segment_open_buffered(files, number, &window->fd, error);
    if (status != ST_OK) {
        goto out;
    }
    if (fstat(window->fd, &about) != 0) {
        status = ST_IO;
    } else {
        window->file_bytes = (uint64_t)about.st_size & ~(uint64_t)(DISK_ALIGN - 1);
        status = scan(window, each, ctx);
    }
    if (status != ST_OK) {
        (void)error_set(error, status, "segment %llu cannot be read: %s",
                        (unsigned long long)number, status_text(status));
    }
    (void)close(window->fd);
out:
    heap_free(bytes);
    heap_free(window);
    return status;
}
