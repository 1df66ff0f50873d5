/*
 * Epochs. What was handed out goes into a batch; a commit takes the batch, and the next one gathers
 * meanwhile. On the committer's thread, in this order:
 *
 *   fdatasync of every segment that was written to
 *   the batch, synced
 *   files of segments that were freed, removed
 *
 * A sync that fails is not tried again: the kernel may have dropped the pages and would call the
 * next one good. Everything in that segment is given up, in the same batch. A catalogue that cannot
 * be written is opened anew and tried again, later and later, with no writes taken meanwhile. If
 * the file system is full, freed segments go before the batch is written, to make room for it.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "storage/disk/disk_internal.h"

/* ---- on the committer's thread --------------------------------------------------------------- */

static int sync_one(const struct commit_sync *sync)
{
    errno = EIO;
    if (fault_fires(FAULT_SYNC)) {
        return -1;
    }
    if (sync->trim && ftruncate(sync->fd, (off_t)sync->used) != 0) {
        return -1;
    }
    return fdatasync(sync->fd);
}

static void sync_all(struct commit *commit)
{
    for (uint32_t i = 0; i < commit->sync_count; i++) {
        struct commit_sync *sync = &commit->syncs[i];
        uint8_t value[FORMAT_STATE_BYTES];
        struct format_state state = {.used_bytes = sync->used, .committed_s = (uint64_t)time(NULL)};
        sync->failed = sync_one(sync) != 0;
        if (sync->failed) {
            catalogue_drop_segment(commit->batch, sync->number);
        } else {
            format_state_encode(&state, value);
            catalogue_put_segment(commit->batch, sync->number, value, sizeof value);
        }
    }
    commit->synced = true;
}

static void remove_files(struct commit *commit)
{
    queue_foreach (item, &commit->removals) {
        struct segment *segment = CONTAINER_OF(item, struct segment, link);
        struct error error = {0};
        if (segment_remove(&commit->disk->files, segment->number, &error) != ST_OK) {
            /* without entries: the next start removes it */
            log_write(commit->disk->options.log, LOG_LEVEL_WARN, "disk", "%s", error.text);
        }
    }
}

static void commit_run(struct task *task)
{
    struct commit *commit = CONTAINER_OF(task, struct commit, task);
    struct catalogue *catalogue = commit->disk->catalogue;
    if (!commit->synced) {
        sync_all(commit);
    }
    commit->status = catalogue_write(catalogue, commit->batch, &commit->error);
    if (commit->status != ST_OK) {
        struct error ignored = {0};
        if (catalogue_reopen(catalogue, &ignored) == ST_OK) {
            commit->status = catalogue_write(catalogue, commit->batch, &commit->error);
        }
    }
    /* the other order would leave a full file system full: entries without a file do no harm, the
     * next start drops them */
    if (commit->status == ST_OK || commit->status == ST_NO_SPACE) {
        remove_files(commit);
    }
    if (commit->status == ST_OK) {
        commit->catalogue_bytes = catalogue_bytes(catalogue);
    }
}

/* ---- on the owner's -------------------------------------------------------------------------- */

void commit_init(struct disk *disk)
{
    disk->epoch = 1;
    queue_init(&disk->dirty);
    queue_init(&disk->removing);
    queue_init(&disk->commit.removals);
    disk->commit.disk = disk;
    disk->commit.task.run = commit_run;
}

void commit_touch(struct disk *disk)
{
    if (disk->batch_began_ms == 0) {
        disk->batch_began_ms = clock_ms();
    }
}

bool commit_wanted(const struct disk *disk)
{
    return catalogue_batch_count(disk->batch) > 0 || !queue_empty(&disk->removing);
}

static void add_sync(struct commit *commit, struct segment *segment)
{
    commit->syncs[commit->sync_count++] = (struct commit_sync){.segment = segment,
                                                               .fd = segment->fd,
                                                               .number = segment->number,
                                                               .used = segment->used,
                                                               .trim = segment->trim};
    segment->pins++;
    segment->trim = false;
}

/* A segment stays dirty while writes are on their way into it. */
static void take_dirty(struct disk *disk, struct commit *commit)
{
    queue_foreach_safe (item, &disk->dirty) {
        struct segment *segment = CONTAINER_OF(item, struct segment, dirty_link);
        KVEIK_ASSERT(segment->fd >= 0); /* files with writes in them are not closed */
        if (!segment->removing && !segment->lost) {
            add_sync(commit, segment);
        }
        if (segment->writes == 0) {
            queue_remove(&segment->dirty_link);
            segment->dirty = false;
            disk->dirty_count--;
        }
    }
}

static void take_removals(struct disk *disk, struct commit *commit)
{
    queue_foreach_safe (item, &disk->removing) {
        struct segment *segment = CONTAINER_OF(item, struct segment, link);
        if (segment->pins == 0) {
            queue_remove(&segment->link);
            queue_push_back(&commit->removals, &segment->link);
        }
    }
}

bool commit_begin(struct disk *disk)
{
    struct commit *commit = &disk->commit;
    KVEIK_ASSERT(!commit->running && !commit->failed);
    commit->syncs = heap_calloc(disk->dirty_count + 1, sizeof *commit->syncs);
    if (commit->syncs == NULL) {
        return false;
    }
    struct catalogue_batch *empty = commit->batch;
    commit->batch = disk->batch;
    disk->batch = empty;
    commit->sync_count = 0;
    commit->synced = false;
    commit->epoch = disk->epoch++;
    take_removals(disk, commit);
    take_dirty(disk, commit);
    disk->batch_began_ms = queue_empty(&disk->removing) ? 0 : clock_ms();
    disk->sync_wanted = false;
    commit->running = true;
    worker_submit(disk->committer, &commit->task);
    return true;
}

void commit_again(struct disk *disk)
{
    if (disk->commit.status == ST_NO_SPACE) {
        take_removals(disk, &disk->commit);
    }
    disk->commit.failed = false;
    disk->commit.running = true;
    worker_submit(disk->committer, &disk->commit.task);
}

void commit_pump(struct disk *disk)
{
    uint64_t now = clock_ms();
    if (disk->commit.running || !health_up(&disk->commit_health, now)) {
        return;
    }
    if (disk->commit.failed) {
        commit_again(disk);
        return;
    }
    bool due = disk->sync_wanted || catalogue_batch_count(disk->batch) >= COMMIT_ENTRIES ||
               (disk->batch_began_ms != 0 && now >= disk->batch_began_ms + disk->options.sync_ms);
    if (!due) {
        return;
    }
    if (commit_wanted(disk)) {
        (void)commit_begin(disk);
    } else {
        disk->sync_wanted = false;
        disk->batch_began_ms = 0;
    }
}

static void finish_syncs(struct disk *disk, struct commit *commit)
{
    for (uint32_t i = 0; i < commit->sync_count; i++) {
        struct commit_sync *sync = &commit->syncs[i];
        KVEIK_ASSERT(sync->segment->pins > 0);
        sync->segment->pins--;
        if (sync->failed) {
            health_bad(&disk->write_health, clock_ms());
            segment_lose(disk, sync->segment);
        }
    }
    commit->sync_count = 0;
    heap_free(commit->syncs);
    commit->syncs = NULL;
}

/* A file takes room until it is closed as well as removed. */
static void make_room(struct disk *disk, struct commit *commit)
{
    space_exhausted(disk);
    queue_foreach (item, &commit->removals) {
        segment_close(disk, CONTAINER_OF(item, struct segment, link));
    }
}

void commit_done(struct disk *disk)
{
    struct commit *commit = &disk->commit;
    commit->running = false;
    finish_syncs(disk, commit); /* whatever became of the batch: lost is lost */
    if (commit->status != ST_OK) {
        commit->failed = true;
        disk->counters.commit_errors++;
        health_down(&disk->commit_health, clock_ms());
        disk_failed(disk, commit->error.text, 0);
        if (commit->status == ST_NO_SPACE) {
            make_room(disk, commit);
        }
        return;
    }
    health_good(&disk->commit_health);
    disk->counters.commits++;
    disk->catalogue_bytes = commit->catalogue_bytes;
    disk->committed_epoch = commit->epoch;
    catalogue_batch_clear(commit->batch);
    for (struct queue *link = queue_pop_front(&commit->removals); link != NULL;
         link = queue_pop_front(&commit->removals)) {
        struct segment *segment = CONTAINER_OF(link, struct segment, link);
        disk->counters.segments_freed++;
        segment_forget(disk, segment);
    }
}

void disk_sync(struct disk *disk)
{
    KVEIK_CHECK_OBJ(disk, DISK_MAGIC);
    disk->sync_wanted = true;
    commit_pump(disk);
}
