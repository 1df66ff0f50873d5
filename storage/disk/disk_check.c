/* kveikd --check-store: a start whose owner wants only what it has read and found sound. */
#include <unistd.h>

#include "storage/disk/disk_internal.h"
#include "storage/disk/seal.h"

struct check {
    struct disk *disk;
    struct disk_check_report report;
    void (*progress)(void *ctx, uint64_t done, uint64_t all);
    void *ctx;
    uint64_t all_bytes;
    uint32_t index; /* of the segment whose file is open */
    int fd;
};

static int open_segment(struct check *check, uint32_t index)
{
    struct error error = {0};
    if (check->fd >= 0 && check->index == index) {
        return ST_OK;
    }
    if (check->fd >= 0) {
        (void)close(check->fd);
        check->fd = -1;
    }
    const struct segment *segment = segment_get(check->disk, index);
    int status = segment_open_buffered(&check->disk->files, segment->number, &check->fd, &error);
    if (status != ST_OK) {
        check->fd = -1;
        log_write(check->disk->options.log, LOG_LEVEL_ERROR, "disk", "%s", error.text);
    }
    check->index = index;
    return status;
}

/* An upper bound: of the files that were found. */
static uint64_t file_bytes(const struct disk *disk)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < DISK_SEGMENTS_MAX; i++) {
        sum += disk->segments[i] != NULL ? disk->segments[i]->file_bytes : 0;
    }
    return sum;
}

static bool verify(void *ctx, const struct disk_entry *entry)
{
    struct check *check = ctx;
    uint64_t seal = 0;
    uint64_t offset = (uint64_t)entry->place.offset * DISK_UNIT;
    int status = open_segment(check, entry->place.segment);
    if (status == ST_OK) {
        status = seal_of_file(check->fd, offset, entry->bytes, &seal);
    }
    if (status == ST_NO_MEMORY) {
        return true; /* says nothing about the part */
    }
    check->report.parts++;
    check->report.bytes += entry->bytes;
    if (check->all_bytes == 0) {
        check->all_bytes = file_bytes(check->disk);
    }
    if (check->progress != NULL) {
        check->progress(check->ctx, check->report.bytes, check->all_bytes);
    }
    if (status == ST_OK && seal == entry->seal) {
        return true;
    }
    check->report.damaged_parts++;
    return false;
}

int disk_check(const struct disk_options *options, void (*progress)(void *, uint64_t, uint64_t),
               void *ctx, struct disk_check_report *report_out, struct error *error)
{
    struct check check = {.progress = progress, .ctx = ctx, .fd = -1};
    struct start start = {.restore = verify, .ctx = &check};
    int status = disk_make(options, &check.disk, error);
    if (status != ST_OK) {
        return status;
    }
    status = disk_start(check.disk, &start, error);
    if (check.fd >= 0) {
        (void)close(check.fd);
    }
    if (status == ST_OK && progress != NULL) {
        progress(ctx, check.all_bytes, check.all_bytes);
    }
    if (status == ST_OK) {
        check.report.segments = check.disk->segment_count;
        check.report.damaged_segments = start.damaged_segments;
        check.report.stale_entries = start.stale_entries;
        check.report.rebuilt = start.rebuilt;
        *report_out = check.report;
    } else {
        (void)error_wrap(error, "disk: %s", options->directory);
    }
    disk_unmake(check.disk);
    return status;
}
