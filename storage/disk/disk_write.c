/* Writes: taken from the owner, gathered, and handed out when they are done. */
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "storage/disk/disk_internal.h"

/* ---- taken ----------------------------------------------------------------------------------- */

static struct write_work *work_make(struct disk_write *write, const struct disk_part *part)
{
    size_t keys = (size_t)part->key_count * DISK_KEY_BYTES;
    size_t bytes = sizeof(struct write_work) + keys + DISK_KEY_BYTES + part->origin_bytes;
    struct write_work *work = heap_calloc(1, bytes);
    if (work == NULL) {
        return NULL;
    }
    uint8_t *at = work->memory;
    queue_init(&work->link);
    work->write = write;
    work->from = write->from;
    work->room_bytes = write->room_bytes;
    work->part.bytes = write->bytes;
    work->part.part = *part;
    work->part.part.keys = at;
    (void)memcpy(at, part->keys, keys);
    at += keys;
    if (part->parent != NULL) {
        work->part.part.parent = at;
        (void)memcpy(at, part->parent, DISK_KEY_BYTES);
    }
    at += DISK_KEY_BYTES;
    work->part.part.origin = at;
    if (part->origin_bytes > 0) {
        (void)memcpy(at, part->origin, part->origin_bytes);
    }
    return work;
}

void work_pend(struct write_work *work)
{
    struct stream *stream = work->stream;
    queue_push_back(&stream->pending, &work->link);
    stream->pending_count++;
    stream->pending_bytes += work->part.bytes;
}

int disk_write(struct disk *disk, struct disk_write *write, const struct disk_part *part)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    KVEIK_ASSERT(write->bytes > 0 && (write->from == NULL || write->room_bytes >= write->bytes));
    KVEIK_ASSERT(part->key_count >= 1 && part->key_count <= DISK_KEYS_MAX);
    KVEIK_ASSERT(part->origin_bytes <= DISK_ORIGIN_MAX);
    KVEIK_ASSERT(kinds_get(&disk->kinds, part->kind) != NULL);
    if (!record_can_hold(disk, write, part)) {
        return ST_LIMIT;
    }
    if (disk->jobs >= disk->options.jobs_max) {
        return ST_BUSY;
    }
    if (!disk->state.writable) {
        return ST_UNAVAILABLE;
    }
    struct write_work *work = work_make(write, part);
    if (work == NULL) {
        return ST_NO_MEMORY;
    }
    kinds_get(&disk->kinds, part->kind)->used = true;
    work->stream = &disk->streams[write->survivor ? STREAM_SURVIVORS : STREAM_FRESH];
    if (write->from == NULL) {
        int status = move_begin(disk, work);
        if (status != ST_OK) {
            heap_free(work);
            return status;
        }
    } else {
        work_pend(work);
    }
    queue_init(&write->link);
    write->work = work;
    write->status = ST_PENDING;
    disk->jobs++;
    reads_pump(disk);
    writes_pump(disk);
    return ST_OK;
}

/* ---- sent ------------------------------------------------------------------------------------ */

static bool worth_sending(const struct disk *disk, const struct stream *stream)
{
    return stream->pending_count >= FORMAT_PARTS_MAX ||
           stream->pending_bytes >= RECORD_PAYLOAD_BYTES ||
           disk->records_in_flight < WRITES_AT_ONCE;
}

static void stream_pump(struct disk *disk, struct stream *stream)
{
    uint32_t slots = disk->slots - disk->slots / 4; /* the rest is the reads' */
    while (!queue_empty(&stream->pending) && worth_sending(disk, stream) &&
           disk->records_in_flight < slots &&
           disk->records_in_flight + disk->reads_in_flight < disk->slots && pace_allows(disk)) {
        int status = record_send(disk, stream);
        if (status == ST_PENDING) {
            break;
        }
        if (status != ST_OK) {
            stream_fail(disk, stream, status);
        }
    }
    stream_look_ahead(disk, stream);
}

void writes_pump(struct disk *disk)
{
    for (int i = 0; i < STREAM_COUNT; i++) {
        stream_pump(disk, &disk->streams[i]);
    }
}

void stream_fail(struct disk *disk, struct stream *stream, int status)
{
    for (struct queue *link = queue_pop_front(&stream->pending); link != NULL;
         link = queue_pop_front(&stream->pending)) {
        work_finish(disk, CONTAINER_OF(link, struct write_work, link), status);
    }
    stream->pending_count = 0;
    stream->pending_bytes = 0;
}

/* ---- handed out ------------------------------------------------------------------------------ */

void work_finish(struct disk *disk, struct write_work *work, int status)
{
    struct disk_write *write = work->write;
    bounce_put(&disk->move_pool, work->moved);
    work->moved = NULL;
    write->status = status;
    if (work->segment != NULL) {
        write->place =
            (struct disk_place){.segment = work->segment->index, .offset = work->part.offset};
        write->seal = work->part.seal;
        write->charged_bytes = work->part.charged_bytes;
    }
    queue_push_back(&disk->written, &write->link);
}

/* With the first part that is of it. */
static void put_kind(struct disk *disk, uint32_t number)
{
    struct kind_entry *kind = kinds_get(&disk->kinds, number);
    if (!kind->stored) {
        uint32_t bytes = format_kind_encode(&kind->kind, disk->scratch);
        catalogue_put_kind(disk->batch, number, disk->scratch, bytes);
        kind->stored = true;
    }
}

static void put_part(struct disk *disk, const struct write_work *work)
{
    uint32_t bytes = format_part_encode(&work->part, disk->scratch);
    catalogue_put_part(disk->batch, work->segment->number, work->part.offset, disk->scratch, bytes);
    commit_touch(disk);
}

static void count(struct disk *disk, const struct write_work *work)
{
    if (work->write->status == ST_CORRUPT) {
        disk->counters.corrupt_parts++;
    } else if (work->write->status == ST_OK && work->write->from == NULL) {
        disk->counters.moved_bytes += work->part.bytes;
    } else if (work->write->status == ST_OK) {
        disk->counters.written_parts++;
        disk->counters.written_bytes += work->part.bytes;
    }
}

struct disk_write *write_hand_out(struct disk *disk)
{
    struct queue *link = queue_pop_front(&disk->written);
    if (link == NULL) {
        return NULL;
    }
    struct disk_write *write = CONTAINER_OF(link, struct disk_write, link);
    struct write_work *work = write->work;
    struct segment *segment = work->segment;
    if (write->status == ST_OK && segment->lost) {
        write->status = ST_IO;
    }
    if (write->status == ST_OK) {
        write->epoch = disk->epoch;
        segment->told = true;
        put_kind(disk, work->part.part.kind);
        put_part(disk, work);
    }
    count(disk, work);
    if (segment != NULL) {
        KVEIK_ASSERT(segment->writes > 0);
        segment->writes--;
        segment_release(disk, segment);
    }
    KVEIK_ASSERT(disk->jobs > 0);
    disk->jobs--;
    write->work = NULL;
    heap_free(work);
    return write;
}

void disk_forget(struct disk *disk, struct disk_place place)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    const struct segment *segment = segment_get(disk, place.segment);
    KVEIK_ASSERT(segment != NULL);
    catalogue_drop_part(disk->batch, segment->number, place.offset);
    commit_touch(disk);
}

int disk_kind_number(struct disk *disk, const struct disk_kind *kind, uint32_t *number_out)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    return kinds_number(&disk->kinds, kind, number_out);
}
