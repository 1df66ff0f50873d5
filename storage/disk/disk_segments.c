/* The table of segments, and which ones the two streams write to. */
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/heap.h"
#include "storage/disk/disk_internal.h"

enum { KEEP_MIN = 3 /* with more segments than this, one is kept for survivors */ };

/* ---- the table ------------------------------------------------------------------------------- */

struct segment *segment_add(struct disk *disk, uint64_t number)
{
    uint32_t index = 0;
    while (index < DISK_SEGMENTS_MAX && disk->segments[index] != NULL) {
        index++;
    }
    struct segment *segment = index < DISK_SEGMENTS_MAX ? heap_calloc(1, sizeof *segment) : NULL;
    if (segment == NULL) {
        return NULL;
    }
    segment->index = index;
    segment->number = number;
    segment->fd = -1;
    segment->used = FORMAT_SEGMENT_BYTES;
    queue_init(&segment->fd_link);
    queue_init(&segment->dirty_link);
    queue_init(&segment->link);
    disk->segments[index] = segment;
    disk->segment_count++;
    return segment;
}

void segment_close(struct disk *disk, struct segment *segment)
{
    KVEIK_ASSERT(segment->pins == 0);
    if (segment->fd >= 0) {
        (void)close(segment->fd);
        segment->fd = -1;
        queue_remove(&segment->fd_link);
        disk->open_file_count--;
    }
}

void segment_forget(struct disk *disk, struct segment *segment)
{
    KVEIK_ASSERT(disk->segments[segment->index] == segment);
    KVEIK_ASSERT(segment->writes == 0 && !segment->attached);
    segment_close(disk, segment);
    queue_remove(&segment->link);
    if (segment->dirty) {
        queue_remove(&segment->dirty_link);
        disk->dirty_count--;
    }
    disk->segments[segment->index] = NULL;
    disk->segment_count--;
    heap_free(segment);
}

struct segment *segment_get(const struct disk *disk, uint32_t index)
{
    return index < DISK_SEGMENTS_MAX ? disk->segments[index] : NULL;
}

/* Closes the longest unused file that nobody needs now. */
static void make_room(struct disk *disk)
{
    queue_foreach (item, &disk->open_files) {
        struct segment *segment = CONTAINER_OF(item, struct segment, fd_link);
        if (segment->pins == 0 && segment->writes == 0 && !segment->attached && !segment->dirty) {
            segment_close(disk, segment);
            return;
        }
    }
}

static void adopt_file(struct disk *disk, struct segment *segment, int fd)
{
    segment->fd = fd;
    queue_push_back(&disk->open_files, &segment->fd_link);
    disk->open_file_count++;
}

int segment_ready(struct disk *disk, struct segment *segment)
{
    if (segment->fd >= 0) {
        queue_remove(&segment->fd_link);
        queue_push_back(&disk->open_files, &segment->fd_link);
        return ST_OK;
    }
    if (disk->open_file_count >= disk->open_files_max) {
        make_room(disk);
    }
    int fd = -1;
    struct error error = {0};
    int status = segment_open(&disk->files, segment->number, &fd, &error);
    if (status != ST_OK) {
        disk_failed(disk, error.text, 0);
        return status;
    }
    adopt_file(disk, segment, fd);
    return ST_OK;
}

void segment_dirty(struct disk *disk, struct segment *segment)
{
    if (!segment->dirty) {
        segment->dirty = true;
        queue_push_back(&disk->dirty, &segment->dirty_link);
        disk->dirty_count++;
    }
}

void segment_detach(struct disk *disk, struct segment *segment)
{
    for (int i = 0; i < STREAM_COUNT; i++) {
        struct stream *stream = &disk->streams[i];
        stream->open = stream->open == segment ? NULL : stream->open;
        stream->next = stream->next == segment ? NULL : stream->next;
    }
    if (segment->attached) {
        segment->attached = false;
        segment->trim = segment->used < disk->options.segment_bytes;
        segment_dirty(disk, segment);
    }
}

void segment_release(struct disk *disk, struct segment *segment)
{
    if (segment->attached || segment->told || segment->writes > 0 || segment->removing) {
        return;
    }
    segment->removing = true;
    catalogue_drop_segment(disk->batch, segment->number);
    queue_push_back(&disk->removing, &segment->link);
    commit_touch(disk);
}

void segment_lose(struct disk *disk, struct segment *segment)
{
    if (segment->lost) {
        return;
    }
    segment_detach(disk, segment);
    segment->lost = true;
    disk->counters.segments_lost++;
    catalogue_drop_segment(disk->batch, segment->number);
    commit_touch(disk);
    log_write(disk->options.log, LOG_LEVEL_ERROR, "disk",
              "segment %llu is given up: its parts could not be brought to stable storage",
              (unsigned long long)segment->number);
    if (segment->told) {
        disk->lost_untold++;
    } else {
        segment->lost_told = true; /* the owner knows nothing of it */
    }
    segment_release(disk, segment);
}

void disk_free_segment(struct disk *disk, uint32_t index)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    struct segment *segment = segment_get(disk, index);
    KVEIK_ASSERT(segment != NULL && segment->told);
    if (segment->lost && !segment->lost_told) {
        segment->lost_told = true;
        disk->lost_untold--;
    }
    segment_detach(disk, segment);
    segment->told = false;
    /* what is on its way into it now is handed out later: then it goes on with that */
    catalogue_drop_segment(disk->batch, segment->number);
    commit_touch(disk);
    segment_release(disk, segment);
}

/* ---- streams --------------------------------------------------------------------------------- */

static void make_run(struct task *task)
{
    struct make_task *make = CONTAINER_OF(task, struct make_task, task);
    make->status =
        segment_create(&make->disk->files, make->segment->number, &make->fd, &make->error);
}

/* False: there is no room for one more segment. */
static bool stream_make(struct disk *disk, struct stream *stream)
{
    KVEIK_ASSERT(!stream->making);
    /* the last one is for survivors: what has to move must not be in the way of what is new */
    bool fresh = stream == &disk->streams[STREAM_FRESH];
    uint32_t kept = fresh && disk->state.segments_max > KEEP_MIN ? 1 : 0;
    if (disk->segment_count + kept >= disk->state.segments_max) {
        return false;
    }
    struct segment *segment = segment_add(disk, disk->number_next);
    if (segment == NULL) {
        return false;
    }
    disk->number_next++;
    segment->attached = true;
    segment->file_bytes = disk->options.segment_bytes;
    stream->making = true;
    stream->make = (struct make_task){.disk = disk, .segment = segment, .fd = -1};
    stream->make.task.run = make_run;
    worker_submit(disk->filer, &stream->make.task);
    return true;
}

void stream_made(struct disk *disk, struct make_task *make)
{
    struct stream *stream = CONTAINER_OF(make, struct stream, make);
    struct segment *segment = make->segment;
    stream->making = false;
    if (make->status == ST_OK) {
        adopt_file(disk, segment, make->fd);
        stream->next = segment;
        disk->counters.segments_made++;
        return;
    }
    segment->attached = false;
    segment_forget(disk, segment);
    disk_failed(disk, make->error.text, 0);
    if (make->status == ST_NO_SPACE) {
        space_exhausted(disk);
    } else {
        health_bad(&disk->write_health, clock_ms());
    }
    stream_fail(disk, stream, make->status);
}

/* The next segment, its own or, for survivors and where there is no room for one more, the other
 * stream's. */
static struct segment *take_next(struct disk *disk, struct stream *stream)
{
    struct segment *segment = stream->next;
    stream->next = NULL;
    bool survivors = stream == &disk->streams[STREAM_SURVIVORS];
    for (int i = 0; survivors && segment == NULL && !stream->making && i < STREAM_COUNT; i++) {
        struct stream *other = &disk->streams[i];
        if (disk->segment_count >= disk->state.segments_max) {
            segment = other->next;
            other->next = NULL;
        }
    }
    return segment;
}

int stream_segment(struct disk *disk, struct stream *stream, uint64_t bytes,
                   struct segment **segment_out)
{
    if (stream->open != NULL && stream->open->used + bytes > disk->options.segment_bytes) {
        struct segment *full = stream->open;
        segment_detach(disk, full);
        segment_release(disk, full);
    }
    if (stream->open == NULL) {
        stream->open = take_next(disk, stream);
    }
    if (stream->open != NULL) {
        *segment_out = stream->open;
        return ST_OK;
    }
    if (stream->making || stream_make(disk, stream)) {
        return ST_PENDING;
    }
    /* freed ones come back with the next commit */
    bool coming = !queue_empty(&disk->removing) ||
                  (disk->commit.running && !queue_empty(&disk->commit.removals));
    if (coming && !disk->commit.failed) {
        disk->sync_wanted = true;
        return ST_PENDING;
    }
    return ST_NO_SPACE;
}

void stream_look_ahead(struct disk *disk, struct stream *stream)
{
    const struct segment *open = stream->open;
    if (open != NULL && stream->next == NULL && !stream->making &&
        open->used > disk->options.segment_bytes / 4 * 3) {
        (void)stream_make(disk, stream);
    }
}
