/*
 * Records: several writes as one I/O job.
 *
 *   | header | packed payloads | payload | payload | …
 *
 * Header and packed payloads lie in one bounce buffer; payloads that are aligned follow straight
 * from where their owner has them. An I/O thread copies what is packed, seals every payload and
 * encodes the header last.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/heap.h"
#include "storage/disk/disk_internal.h"
#include "storage/disk/seal.h"

_Static_assert(FORMAT_PARTS_MAX + 1 <= DISK_IO_VECTORS, "a vector for each payload");

enum { PADDING_FRACTION = 8 }; /* straight writes may waste at most so much of a payload */

/* Which writes of a stream's front become one record, and what they take. */
struct plan {
    uint32_t count;
    uint32_t kind_count;
    uint32_t kinds[FORMAT_PARTS_MAX];
    uint64_t header_used;
    uint64_t packed_bytes;
    uint64_t straight_bytes;
    uint64_t payload_bytes;
};

static bool is_straight(const struct write_work *work)
{
    uint64_t bytes = work->part.bytes;
    uint64_t padded = round_up(bytes, DISK_ALIGN);
    return (uintptr_t)work->from % DISK_ALIGN == 0 && padded <= work->room_bytes &&
           (padded - bytes) * PADDING_FRACTION <= bytes;
}

static uint32_t kind_place(const struct plan *plan, uint32_t kind)
{
    uint32_t i = 0;
    while (i < plan->kind_count && plan->kinds[i] != kind) {
        i++;
    }
    return i;
}

static uint64_t plan_header(const struct plan *plan)
{
    return round_up(plan->header_used, DISK_ALIGN);
}

static uint64_t plan_bytes(const struct plan *plan)
{
    return plan_header(plan) + round_up(plan->packed_bytes, DISK_ALIGN) + plan->straight_bytes;
}

static void plan_add(const struct disk *disk, struct plan *plan, const struct write_work *work)
{
    uint32_t kind = work->part.part.kind;
    if (kind_place(plan, kind) == plan->kind_count) {
        plan->kinds[plan->kind_count++] = kind;
        plan->header_used += format_kind_bytes(&kinds_get(&disk->kinds, kind)->kind);
    }
    plan->header_used += format_part_bytes(&work->part.part);
    plan->payload_bytes += work->part.bytes;
    if (is_straight(work)) {
        plan->straight_bytes += round_up(work->part.bytes, DISK_ALIGN);
    } else {
        plan->packed_bytes += round_up(work->part.bytes, DISK_UNIT);
    }
    plan->count++;
}

/* At least the first of the stream, then what fits. */
static void plan_make(const struct disk *disk, const struct stream *stream, struct plan *plan_out)
{
    struct plan plan = {.header_used = FORMAT_RECORD_FIXED_BYTES};
    queue_foreach (item, &stream->pending) {
        struct plan more = plan;
        plan_add(disk, &more, CONTAINER_OF(item, struct write_work, link));
        bool fits = more.header_used <= FORMAT_RECORD_HEADER_MAX &&
                    more.payload_bytes <= RECORD_PAYLOAD_BYTES &&
                    plan_bytes(&more) <= disk->options.segment_bytes - FORMAT_SEGMENT_BYTES;
        if (plan.count > 0 && !fits) {
            break;
        }
        plan = more;
        if (plan.count == FORMAT_PARTS_MAX || plan.payload_bytes >= RECORD_PAYLOAD_BYTES) {
            break;
        }
    }
    *plan_out = plan;
}

bool record_can_hold(const struct disk *disk, const struct disk_write *write,
                     const struct disk_part *part)
{
    uint64_t header = FORMAT_RECORD_FIXED_BYTES + FORMAT_KIND_BYTES_MAX + format_part_bytes(part);
    uint64_t room = disk->options.segment_bytes - FORMAT_SEGMENT_BYTES;
    return write->bytes <= room &&
           round_up(header, DISK_ALIGN) + round_up(write->bytes, DISK_ALIGN) <= room;
}

/* ---- on an I/O thread ------------------------------------------------------------------------ */

int record_before(struct disk_io_job *job)
{
    struct record *record = job->owner;
    struct format_record *head = &record->head;
    uint64_t packed_end = head->header_bytes;
    for (uint32_t i = 0; i < head->part_count; i++) {
        const struct write_work *work = record->works[i];
        struct format_part *part = &head->parts[i];
        const char *payload = work->from;
        if (!is_straight(work)) {
            uint64_t at = (uint64_t)part->offset * DISK_UNIT - head->offset;
            KVEIK_ASSERT(at + part->bytes <= record->bounce->capacity);
            (void)memcpy(record->bounce->bytes + at, work->from, part->bytes);
            payload = record->bounce->bytes + at;
            packed_end = round_up(at + part->bytes, DISK_UNIT);
            (void)memset(record->bounce->bytes + at + part->bytes, 0,
                         packed_end - at - part->bytes);
        }
        part->seal = seal_of(payload, part->bytes);
        if (work->moved != NULL && part->seal != work->write->source_seal) {
            return ST_CORRUPT;
        }
    }
    (void)memset(record->bounce->bytes + packed_end, 0, record->front_bytes - packed_end);
    format_record_encode(head, record->disk->files.store.secret, (uint8_t *)record->bounce->bytes);
    return ST_OK;
}

/* ---- on the owner's -------------------------------------------------------------------------- */

static void add_vector(struct disk_io_job *job, const char *from, uint64_t bytes)
{
    union {
        const char *read_only;
        void *any;
    } base = {.read_only = from}; /* a write only reads it */
    job->vectors[job->vector_count].iov_base = base.any;
    job->vectors[job->vector_count].iov_len = bytes;
    job->vector_count++;
}

static void place(struct record *record, struct write_work *work, uint64_t at, uint64_t charged)
{
    struct format_record *head = &record->head;
    uint32_t i = head->part_count++;
    record->works[i] = work;
    work->segment = record->segment;
    work->part.offset = (uint32_t)(at / DISK_UNIT);
    work->part.charged_bytes = charged;
    head->parts[i] = work->part;
    record->segment->writes++;
}

/* Takes the planned writes off the stream and gives them their places. */
static void fill(struct record *record, struct stream *stream, const struct plan *plan)
{
    struct format_record *head = &record->head;
    uint64_t packed_at = head->offset + head->header_bytes;
    uint64_t straight_at = packed_at + round_up(plan->packed_bytes, DISK_ALIGN);
    KVEIK_ASSERT(plan->count > 0);
    uint64_t share = head->header_bytes / plan->count;
    uint64_t charged_left = head->record_bytes;
    record->front_bytes = straight_at - head->offset;
    add_vector(&record->job, record->bounce->bytes, record->front_bytes);
    for (uint32_t i = 0; i < plan->count; i++) {
        struct write_work *work = CONTAINER_OF(stream->pending.next, struct write_work, link);
        queue_remove(&work->link);
        bool straight = is_straight(work);
        uint64_t takes = round_up(work->part.bytes, straight ? DISK_ALIGN : DISK_UNIT);
        bool last = i + 1 == plan->count; /* takes what rounding left */
        place(record, work, straight ? straight_at : packed_at,
              last ? charged_left : share + takes);
        uint32_t kind = kind_place(plan, work->part.part.kind);
        head->parts[i].part.kind = kind;
        charged_left -= share + takes < charged_left ? share + takes : charged_left;
        if (straight) {
            add_vector(&record->job, work->from, takes);
            straight_at += takes;
        } else {
            packed_at += takes;
        }
        stream->pending_count--;
        stream->pending_bytes -= work->part.bytes;
    }
    KVEIK_ASSERT(straight_at == head->offset + head->record_bytes);
}

static void describe(struct disk *disk, struct record *record, const struct plan *plan)
{
    struct format_record *head = &record->head;
    head->segment = record->segment->number;
    head->sequence = ++disk->sequence;
    head->offset = record->segment->used;
    head->record_bytes = plan_bytes(plan);
    head->header_bytes = (uint32_t)plan_header(plan);
    head->written_s = (uint64_t)time(NULL);
    head->kind_count = plan->kind_count;
    for (uint32_t i = 0; i < plan->kind_count; i++) {
        head->kinds[i] = kinds_get(&disk->kinds, plan->kinds[i])->kind;
    }
}

int record_send(struct disk *disk, struct stream *stream)
{
    struct plan plan;
    struct segment *segment = NULL;
    plan_make(disk, stream, &plan);
    int status = stream_segment(disk, stream, plan_bytes(&plan), &segment);
    if (status != ST_OK) {
        return status;
    }
    struct record *record = heap_calloc(1, sizeof *record);
    struct bounce *bounce =
        record == NULL
            ? NULL
            : bounce_get(&disk->record_pool, plan_header(&plan) + plan.packed_bytes + DISK_ALIGN);
    if (bounce == NULL) {
        heap_free(record);
        return ST_PENDING;
    }
    record->disk = disk;
    record->segment = segment;
    record->bounce = bounce;
    record->job.owner = record;
    record->job.fd = segment->fd;
    record->job.write = true;
    record->job.offset = segment->used;
    record->job.before = record_before;
    describe(disk, record, &plan);
    fill(record, stream, &plan);
    segment->used += record->head.record_bytes;
    segment->pins++;
    segment_dirty(disk, segment);
    disk->records_in_flight++;
    disk->counters.device_bytes += record->head.record_bytes;
    pace_take(disk, record->head.record_bytes);
    status = disk_io_submit(disk->io, &record->job);
    KVEIK_ASSERT(status == ST_OK); /* slots are counted */
    return ST_OK;
}

/* A record that failed leaves a hole; what comes after goes elsewhere. */
static void record_failed(struct disk *disk, struct record *record)
{
    struct segment *segment = record->segment;
    disk->counters.write_errors++;
    if (record->job.status == ST_NO_SPACE) {
        space_exhausted(disk);
    } else if (record->job.status == ST_IO) {
        health_bad(&disk->write_health, clock_ms());
    }
    disk_failed(disk, "a segment file cannot be written", record->job.error);
    if (record->job.status != ST_CORRUPT) {
        segment_detach(disk, segment);
    }
}

void record_done(struct disk *disk, struct record *record)
{
    struct segment *segment = record->segment;
    int status = record->job.status;
    KVEIK_ASSERT(segment->pins > 0 && disk->records_in_flight > 0);
    segment->pins--;
    disk->records_in_flight--;
    if (status == ST_OK) {
        health_good(&disk->write_health);
        segment_dirty(disk, segment);
    } else {
        record_failed(disk, record);
    }
    for (uint32_t i = 0; i < record->head.part_count; i++) {
        struct write_work *work = record->works[i];
        work->part.seal = record->head.parts[i].seal;
        /* of a record with a damaged move in it, the others are as good as not written */
        bool innocent = status == ST_CORRUPT && work->moved == NULL;
        work_finish(disk, work, innocent ? ST_IO : status);
    }
    bounce_put(&disk->record_pool, record->bounce);
    heap_free(record);
}
