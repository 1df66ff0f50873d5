/* How much room there is, whether the device is well, and how fast it may be written to. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/fault.h"
#include "storage/disk/disk_internal.h"

enum {
    SEGMENTS_MIN = 2,
    PERCENT = 100,
    PACE_BURST_MS = 200,
    MS_PER_S = 1000,
    NS_PER_MS = 1000000,
};

void disk_failed(struct disk *disk, const char *what, int errnum)
{
    char text[64] = "";
    if (errnum != 0) {
        (void)snprintf(text, sizeof text, ": %s", strerrordesc_np(errnum));
    }
    (void)snprintf(disk->last_error, sizeof disk->last_error, "%s%s", what, text);
    log_limited(disk->options.log, &disk->log_limit, LOG_LEVEL_WARN, "disk", "%s",
                disk->last_error);
}

/* ---- room ------------------------------------------------------------------------------------ */

static void space_run(struct task *task)
{
    struct space_task *space = CONTAINER_OF(task, struct space_task, task);
    struct statvfs about;
    space->status = ST_IO;
    if (!fault_fires(FAULT_FILE) && fstatvfs(space->disk->directory_fd, &about) == 0) {
        space->free_bytes = (uint64_t)about.f_bavail * about.f_frsize;
        space->all_bytes = (uint64_t)about.f_blocks * about.f_frsize;
        space->status = ST_OK;
    }
}

static uint32_t bounded(uint64_t segments)
{
    if (segments < SEGMENTS_MIN) {
        return SEGMENTS_MIN;
    }
    return segments < DISK_SEGMENTS_MAX ? (uint32_t)segments : DISK_SEGMENTS_MAX;
}

/* Segment files are made at their full length: what is free is on top of those that are there. */
static uint64_t fitting(const struct disk *disk)
{
    uint64_t size = disk->options.segment_bytes;
    uint64_t kept = disk->space.all_bytes / PERCENT * disk->options.keep_free_percent;
    if (disk->space.free_bytes >= kept) {
        return disk->segment_count + (disk->space.free_bytes - kept) / size;
    }
    uint64_t less = (kept - disk->space.free_bytes + size - 1) / size;
    return disk->segment_count > less ? disk->segment_count - less : 0;
}

static void limit_segments(struct disk *disk)
{
    uint64_t most = disk->options.bytes_max / disk->options.segment_bytes;
    uint64_t fits = fitting(disk);
    most = fits < most ? fits : most;
    if (clock_ms() < disk->space_cap_until_ms && disk->space_cap < most) {
        most = disk->space_cap;
    }
    disk->state.segments_max = bounded(most);
}

void space_done(struct disk *disk)
{
    disk->space.running = false;
    disk->space_due_ms = clock_ms() + SPACE_INTERVAL_MS;
    if (disk->space.status == ST_OK) {
        disk->free_bytes = disk->space.free_bytes;
        limit_segments(disk);
    }
}

void space_pump(struct disk *disk)
{
    if (!disk->space.running && clock_ms() >= disk->space_due_ms) {
        disk->space.running = true;
        worker_submit(disk->filer, &disk->space.task);
    }
}

int space_look(struct disk *disk)
{
    space_run(&disk->space.task);
    space_done(disk);
    return disk->space.status;
}

/* The file system said that it is full, whatever its figures are (a quota, say). */
void space_exhausted(struct disk *disk)
{
    disk->space_cap = disk->segment_count > 0 ? disk->segment_count - 1 : 0;
    disk->space_cap_until_ms = clock_ms() + SPACE_HOLD_MS;
    if (bounded(disk->space_cap) < disk->state.segments_max) {
        disk->state.segments_max = bounded(disk->space_cap);
    }
}

/* ---- health ---------------------------------------------------------------------------------- */

void state_init(struct disk *disk)
{
    disk->state =
        (struct disk_state){.segments_max = SEGMENTS_MIN, .readable = true, .writable = true};
    disk->space.disk = disk;
    disk->space.task.run = space_run;
    disk->pace_ns = clock_ns();
}

void state_update(struct disk *disk)
{
    uint64_t now = clock_ms();
    uint64_t oldest_ns = disk_io_oldest_ns(disk->io);
    bool slow = disk->options.slow_ms != 0 && oldest_ns != 0 &&
                now > oldest_ns / NS_PER_MS + disk->options.slow_ms;
    disk->state.readable = !slow && health_up(&disk->read_health, now);
    bool behind = catalogue_batch_count(disk->batch) >= COMMIT_ENTRIES_MAX;
    disk->state.writable = !slow && !behind && health_up(&disk->write_health, now) &&
                           !disk->commit.failed && health_up(&disk->commit_health, now);
}

/* ---- pace ------------------------------------------------------------------------------------ */

bool pace_allows(struct disk *disk)
{
    uint64_t rate = disk->options.write_bytes_per_s;
    if (rate == 0) {
        return true;
    }
    uint64_t now = clock_ns();
    uint64_t passed_ms = (now - disk->pace_ns) / NS_PER_MS;
    if (passed_ms > 0) {
        uint64_t burst = rate / MS_PER_S * PACE_BURST_MS + 1;
        uint64_t gained = passed_ms < MS_PER_S ? rate / MS_PER_S * passed_ms : rate;
        disk->pace_tokens += (int64_t)gained;
        disk->pace_tokens = disk->pace_tokens < (int64_t)burst ? disk->pace_tokens : (int64_t)burst;
        disk->pace_ns += passed_ms * NS_PER_MS;
    }
    return disk->pace_tokens >= 0;
}

void pace_take(struct disk *disk, uint64_t bytes)
{
    if (disk->options.write_bytes_per_s != 0) {
        disk->pace_tokens -= (int64_t)bytes;
    }
}
