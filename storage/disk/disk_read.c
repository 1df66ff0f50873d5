/* Reads: whole pages around the payload, verified on an I/O thread before anyone sees them. The
 * first half of a move is a read into a buffer of our own. */
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/heap.h"
#include "storage/disk/disk_internal.h"
#include "storage/disk/seal.h"

static uint64_t pages_begin(const struct read_work *work)
{
    return work->offset & ~(uint64_t)(DISK_ALIGN - 1);
}

static uint64_t pages_bytes(const struct read_work *work)
{
    return round_up(work->offset + work->bytes, DISK_ALIGN) - pages_begin(work);
}

/* On an I/O thread. */
static int read_after(struct disk_io_job *job)
{
    struct read_work *work = job->owner;
    const char *payload = work->to;
    if (work->bounce != NULL) {
        payload = work->bounce->bytes + (work->offset - pages_begin(work));
    }
    if (seal_of(payload, work->bytes) != work->seal) {
        return ST_CORRUPT;
    }
    if (work->bounce != NULL && work->to != NULL) {
        (void)memcpy(work->to, payload, work->bytes);
    }
    return ST_OK;
}

/* NULL: no memory. The place must lie in the segment. */
static struct read_work *work_make(struct disk *disk, struct segment *segment, uint64_t offset,
                                   uint64_t bytes, uint64_t seal)
{
    struct read_work *work = heap_calloc(1, sizeof *work);
    if (work == NULL) {
        return NULL;
    }
    queue_init(&work->link);
    work->disk = disk;
    work->segment = segment;
    work->offset = offset;
    work->bytes = bytes;
    work->seal = seal;
    work->job.owner = work;
    work->job.after = read_after;
    segment->pins++;
    queue_push_back(&disk->reads, &work->link);
    return work;
}

static bool lies_in(const struct segment *segment, struct disk_place place, uint64_t bytes)
{
    uint64_t offset = (uint64_t)place.offset * DISK_UNIT;
    return segment != NULL && bytes > 0 && offset >= FORMAT_SEGMENT_BYTES &&
           bytes <= segment->used && offset <= segment->used - bytes;
}

int disk_read(struct disk *disk, struct disk_read *read)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    KVEIK_ASSERT(read->to != NULL && read->room_bytes >= read->bytes);
    struct segment *segment = segment_get(disk, read->place.segment);
    if (!lies_in(segment, read->place, read->bytes)) {
        return ST_INVALID;
    }
    if (disk->jobs >= disk->options.jobs_max) {
        return ST_BUSY;
    }
    if (!disk->state.readable) {
        return ST_UNAVAILABLE;
    }
    struct read_work *work =
        work_make(disk, segment, (uint64_t)read->place.offset * DISK_UNIT, read->bytes, read->seal);
    if (work == NULL) {
        return ST_NO_MEMORY;
    }
    work->read = read;
    work->to = read->to;
    queue_init(&read->link);
    read->work = work;
    read->status = ST_PENDING;
    disk->jobs++;
    reads_pump(disk);
    return ST_OK;
}

int move_begin(struct disk *disk, struct write_work *write)
{
    const struct disk_write *wanted = write->write;
    struct segment *segment = segment_get(disk, wanted->source.segment);
    if (!lies_in(segment, wanted->source, wanted->bytes)) {
        return ST_INVALID;
    }
    struct read_work *work = work_make(disk, segment, (uint64_t)wanted->source.offset * DISK_UNIT,
                                       wanted->bytes, wanted->source_seal);
    if (work == NULL) {
        return ST_NO_MEMORY;
    }
    work->move = write;
    return ST_OK;
}

/* ---- to the device --------------------------------------------------------------------------- */

static bool is_straight(const struct read_work *work)
{
    return work->read != NULL && (uintptr_t)work->to % DISK_ALIGN == 0 &&
           work->offset % DISK_ALIGN == 0 && pages_bytes(work) <= work->read->room_bytes;
}

/* ST_OK; ST_PENDING: no buffer now; ST_IO: the file cannot be opened. */
static int send(struct disk *disk, struct read_work *work)
{
    int status = segment_ready(disk, work->segment);
    if (status != ST_OK) {
        return status;
    }
    char *into = work->to;
    if (!is_straight(work)) {
        struct bounce_pool *pool = work->move != NULL ? &disk->move_pool : &disk->read_pool;
        work->bounce = bounce_get(pool, pages_bytes(work));
        if (work->bounce == NULL) {
            return ST_PENDING;
        }
        into = work->bounce->bytes;
    }
    work->job.fd = work->segment->fd;
    work->job.offset = pages_begin(work);
    work->job.vectors[0].iov_base = into;
    work->job.vectors[0].iov_len = pages_bytes(work);
    work->job.vector_count = 1;
    status = disk_io_submit(disk->io, &work->job);
    KVEIK_ASSERT(status == ST_OK); /* slots are counted */
    disk->reads_in_flight++;
    return ST_OK;
}

static bool writes_wait(const struct disk *disk)
{
    return !queue_empty(&disk->streams[STREAM_FRESH].pending) ||
           !queue_empty(&disk->streams[STREAM_SURVIVORS].pending);
}

static void finish(struct disk *disk, struct read_work *work, int status);

void reads_pump(struct disk *disk)
{
    uint32_t kept = writes_wait(disk) ? (disk->slots + 3) / 4 : 0; /* for writes */
    queue_foreach_safe (item, &disk->reads) {
        struct read_work *work = CONTAINER_OF(item, struct read_work, link);
        if (disk->reads_in_flight + kept >= disk->slots ||
            disk->reads_in_flight + disk->records_in_flight >= disk->slots) {
            break;
        }
        int status = send(disk, work);
        if (status == ST_PENDING) {
            continue; /* another may do with less, or with the other pool */
        }
        queue_remove(&work->link);
        if (status != ST_OK) {
            disk->counters.read_errors++;
            finish(disk, work, status);
        }
    }
}

/* ---- back ------------------------------------------------------------------------------------ */

static void finish_move(struct disk *disk, struct read_work *work, int status)
{
    struct write_work *write = work->move;
    if (status != ST_OK) {
        bounce_put(&disk->move_pool, work->bounce);
        work_finish(disk, write, status);
        return;
    }
    uint64_t skip = work->offset - pages_begin(work);
    write->moved = work->bounce;
    write->from = work->bounce->bytes + skip;
    write->room_bytes = work->bounce->capacity - skip;
    work_pend(write);
}

static void finish(struct disk *disk, struct read_work *work, int status)
{
    KVEIK_ASSERT(work->segment->pins > 0);
    work->segment->pins--;
    if (work->move != NULL) {
        finish_move(disk, work, status);
    } else {
        bounce_put(&disk->read_pool, work->bounce);
        work->read->status = status;
        work->read->work = NULL;
        queue_push_back(&disk->read_done, &work->read->link);
    }
    heap_free(work);
}

void read_finished(struct disk *disk, struct read_work *work)
{
    int status = work->job.status;
    KVEIK_ASSERT(disk->reads_in_flight > 0);
    disk->reads_in_flight--;
    if (status == ST_OK || status == ST_CORRUPT) {
        health_good(&disk->read_health);
    } else {
        disk->counters.read_errors++;
        health_bad(&disk->read_health, clock_ms());
        disk_failed(disk, "a segment file cannot be read", work->job.error);
    }
    if (status == ST_CORRUPT) {
        log_limited(disk->options.log, &disk->log_limit, LOG_LEVEL_ERROR, "disk",
                    "segment %llu is damaged at byte %llu: a part does not fit its checksum",
                    (unsigned long long)work->segment->number, (unsigned long long)work->offset);
    }
    finish(disk, work, status);
}

struct disk_read *read_hand_out(struct disk *disk)
{
    struct queue *link = queue_pop_front(&disk->read_done);
    if (link == NULL) {
        return NULL;
    }
    struct disk_read *read = CONTAINER_OF(link, struct disk_read, link);
    KVEIK_ASSERT(disk->jobs > 0);
    disk->jobs--;
    if (read->status == ST_OK) {
        disk->counters.read_parts++;
        disk->counters.read_bytes += read->bytes;
    } else if (read->status == ST_CORRUPT) {
        disk->counters.corrupt_parts++;
    }
    return read;
}
