/*
 * Start: the table of segments from the files that are there, the catalogue obtained, and every
 * entry held against its segment before the owner gets it, oldest segment first. What does not fit
 * is dropped. If the scan meets damage, the catalogue is made again and the scan goes on behind the
 * last entry that was given.
 */
#include "base/bytes.h"
#include "base/heap.h"
#include "storage/disk/disk_internal.h"
#include "storage/disk/rebuild.h"

enum { ATTEMPTS = 2 };

struct scan {
    struct disk *disk;
    struct start *start;
    struct segment **sorted; /* by N: the table is filled in this order */
    uint32_t count;
    uint32_t at;
    uint64_t last_number; /* of the last entry that was given */
    uint32_t last_offset;
};

/* ---- segments -------------------------------------------------------------------------------- */

/* A segment that is not of use goes, and with it its entries. */
static void drop_file(struct disk *disk, uint64_t number, const char *why)
{
    struct error error = {0};
    log_write(disk->options.log, LOG_LEVEL_WARN, "disk", "segment %llu is removed: %s",
              (unsigned long long)number, why);
    if (segment_remove(&disk->files, number, &error) != ST_OK) {
        log_write(disk->options.log, LOG_LEVEL_WARN, "disk", "%s", error.text);
    }
}

static int add_file(struct disk *disk, struct start *start, uint64_t number, struct error *error)
{
    uint64_t bytes = 0;
    struct error why = {0};
    if (number >= disk->number_next) {
        disk->number_next = number + 1;
    }
    int status = segment_check(&disk->files, number, &bytes, &why);
    if (status == ST_OK) {
        struct segment *segment = segment_add(disk, number);
        if (segment == NULL) {
            return error_set(error, ST_NO_MEMORY, "no memory for a table of segments");
        }
        segment->file_bytes = bytes;
        return ST_OK;
    }
    start->damaged_segments++;
    if (status == ST_CORRUPT) {
        drop_file(disk, number, why.text);
    } else {
        log_write(disk->options.log, LOG_LEVEL_ERROR, "disk", "%s", why.text);
    }
    return ST_OK;
}

static int add_files(struct disk *disk, struct start *start, struct error *error)
{
    uint64_t *numbers = NULL;
    uint32_t count = 0;
    int status = segment_list(&disk->files, &numbers, &count, error);
    if (status != ST_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count && status == ST_OK; i++) {
        status = add_file(disk, start, numbers[i], error);
    }
    heap_free(numbers);
    return status;
}

/* ---- entries --------------------------------------------------------------------------------- */

/* Both lists ascend: a walk beside the scan. NULL: there is no such segment. */
static struct segment *find(struct scan *scan, uint64_t number)
{
    while (scan->at < scan->count && scan->sorted[scan->at]->number < number) {
        scan->at++;
    }
    if (scan->at < scan->count && scan->sorted[scan->at]->number == number) {
        return scan->sorted[scan->at];
    }
    return NULL;
}

static int see_kind(void *ctx, const struct catalogue_item *item)
{
    struct scan *scan = ctx;
    struct disk_kind kind;
    uint32_t used = 0;
    if (format_kind_decode(item->value, item->value_bytes, &kind, &used) != ST_OK ||
        item->number == 0) {
        return ST_OK; /* its parts find no kind and are dropped */
    }
    int status = kinds_put(&scan->disk->kinds, item->kind, &kind);
    return status == ST_NO_MEMORY ? status : ST_OK;
}

static void see_number(struct disk *disk, uint64_t number)
{
    /* one past the end would come round to 0: nobody gets there by counting */
    if (number >= disk->number_next && number < UINT64_MAX / 2) {
        disk->number_next = number + 1;
    }
}

static int see_state(void *ctx, const struct catalogue_item *item)
{
    struct scan *scan = ctx;
    struct format_state state;
    struct segment *segment = find(scan, item->number);
    see_number(scan->disk, item->number);
    if (segment == NULL) {
        catalogue_drop_segment(scan->disk->batch, item->number);
    } else if (format_state_decode(item->value, item->value_bytes, &state) == ST_OK &&
               state.used_bytes <= segment->file_bytes && state.used_bytes > segment->used) {
        segment->used = round_up(state.used_bytes, DISK_ALIGN);
    }
    return ST_OK;
}

static bool fits(const struct segment *segment, const struct format_part *part, uint32_t offset)
{
    uint64_t begin = (uint64_t)offset * DISK_UNIT;
    return part->offset == offset && begin >= FORMAT_SEGMENT_BYTES &&
           round_up(begin + part->bytes, DISK_ALIGN) <= segment->file_bytes;
}

static bool give(struct scan *scan, struct segment *segment, const struct catalogue_item *item)
{
    struct format_part part;
    uint32_t used = 0;
    if (format_part_decode(item->value, item->value_bytes, &part, &used) != ST_OK ||
        used != item->value_bytes || !fits(segment, &part, item->offset)) {
        return false;
    }
    struct kind_entry *kind = kinds_get(&scan->disk->kinds, part.part.kind);
    if (kind == NULL) {
        return false;
    }
    struct disk_entry entry = {
        .part = part.part,
        .kind = kind->kind,
        .place = {.segment = segment->index, .offset = part.offset},
        .seal = part.seal,
        .bytes = part.bytes,
        .charged_bytes = part.charged_bytes,
    };
    if (!scan->start->restore(scan->start->ctx, &entry)) {
        return false;
    }
    uint64_t end = round_up((uint64_t)part.offset * DISK_UNIT + part.bytes, DISK_ALIGN);
    segment->used = end > segment->used ? end : segment->used;
    segment->told = true;
    kind->used = true;
    return true;
}

static int see_part(void *ctx, const struct catalogue_item *item)
{
    struct scan *scan = ctx;
    struct disk *disk = scan->disk;
    if (item->number < scan->last_number ||
        (item->number == scan->last_number && item->offset <= scan->last_offset)) {
        return ST_OK; /* given before the damage was met */
    }
    scan->last_number = item->number;
    scan->last_offset = item->offset;
    see_number(disk, item->number);
    struct segment *segment = find(scan, item->number);
    if (segment != NULL && give(scan, segment, item)) {
        disk->counters.restored_parts++;
        return ST_OK;
    }
    disk->counters.dropped_entries++;
    scan->start->stale_entries += segment == NULL;
    catalogue_drop_part(disk->batch, item->number, item->offset);
    return ST_OK;
}

static int scan_all(struct scan *scan, struct error *error)
{
    struct catalogue *catalogue = scan->disk->catalogue;
    int status = catalogue_scan(catalogue, CATALOGUE_KINDS, see_kind, scan, error);
    if (status == ST_OK) {
        scan->at = 0;
        status = catalogue_scan(catalogue, CATALOGUE_SEGMENTS, see_state, scan, error);
    }
    if (status == ST_OK) {
        scan->at = 0;
        status = catalogue_scan(catalogue, CATALOGUE_PARTS, see_part, scan, error);
    }
    return status;
}

/* ---- in all ---------------------------------------------------------------------------------- */

static int obtain(struct disk *disk, struct start *start, struct error *error)
{
    bool empty = false;
    int status = catalogue_obtain(disk, &empty, error);
    if (status == ST_OK && empty) {
        status = rebuild_catalogue(disk, error);
        start->rebuilt = start->rebuilt || disk->counters.rebuilt_parts > 0;
    }
    return status;
}

/* A mark cannot be trusted any more once a scan has met damage. */
static int obtain_again(struct disk *disk, struct start *start, struct error *error)
{
    log_write(disk->options.log, LOG_LEVEL_ERROR, "disk",
              "the catalogue is damaged and made again from the segments: %s", error->text);
    catalogue_close(disk->catalogue);
    disk->catalogue = NULL;
    int status = catalogue_move_aside(disk, error);
    return status == ST_OK ? obtain(disk, start, error) : status;
}

static int scan_until_sound(struct scan *scan, struct error *error)
{
    int status = obtain(scan->disk, scan->start, error);
    for (int i = 0; status == ST_OK && i < ATTEMPTS; i++) {
        catalogue_batch_clear(scan->disk->batch);
        status = scan_all(scan, error);
        if (status != ST_CORRUPT) {
            return status;
        }
        if (i + 1 < ATTEMPTS) {
            status = obtain_again(scan->disk, scan->start, error);
        }
    }
    return status == ST_CORRUPT ? ST_IO : status;
}

/* Kinds that no part is of, and segments that no part lies in, go; the others are cut to what is
 * used, for nothing is written behind it any more. */
static void tidy(struct disk *disk)
{
    for (uint32_t i = 0; i < disk->kinds.count; i++) {
        const struct kind_entry *kind = kinds_get(&disk->kinds, i);
        if (kind != NULL && !kind->used) {
            catalogue_drop_kind(disk->batch, i);
            kinds_drop(&disk->kinds, i);
        }
    }
    for (uint32_t i = 0; i < DISK_SEGMENTS_MAX; i++) {
        struct segment *segment = disk->segments[i];
        struct error error = {0};
        if (segment == NULL) {
            continue;
        }
        if (!segment->told) {
            catalogue_drop_segment(disk->batch, segment->number);
            drop_file(disk, segment->number, "no part lies in it");
            segment_forget(disk, segment);
        } else if (segment->used < segment->file_bytes &&
                   segment_trim(&disk->files, segment->number, segment->used, &error) != ST_OK) {
            log_write(disk->options.log, LOG_LEVEL_WARN, "disk", "%s", error.text);
        }
    }
}

static void open_files(struct disk *disk)
{
    for (uint32_t i = 0; i < DISK_SEGMENTS_MAX; i++) {
        struct segment *segment = disk->segments[i];
        if (segment != NULL && disk->open_file_count < disk->open_files_max) {
            (void)segment_ready(disk, segment); /* if not now, then when it is needed */
        }
    }
}

int disk_start(struct disk *disk, struct start *start, struct error *error)
{
    struct scan scan = {.disk = disk, .start = start};
    int status = add_files(disk, start, error);
    if (status != ST_OK) {
        return status;
    }
    scan.sorted = disk->segments; /* filled from the front, ascending */
    scan.count = disk->segment_count;
    status = scan_until_sound(&scan, error);
    if (status != ST_OK) {
        return status;
    }
    tidy(disk);
    if (catalogue_batch_count(disk->batch) > 0) {
        status = catalogue_write(disk->catalogue, disk->batch, error);
        catalogue_batch_clear(disk->batch);
    }
    disk->catalogue_bytes = catalogue_bytes(disk->catalogue);
    open_files(disk);
    return status;
}
