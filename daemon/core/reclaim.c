/*
 * Freeing segments: whole ones, coldest first. A log that is read back by a cleaner (Rosenblum and
 * Ousterhout, "The Design and Implementation of a Log-Structured File System", 1992, section 3),
 * for a cache: what is cold in the victim is dropped, what is pinned, in use or was used lately is
 * moved, beside other survivors, so that hot and cold parts come to lie apart.
 *
 * Lately: not among the coldest fifth of what is on disk, as a sample of it tells. The victim is
 * the segment with the fewest such bytes, as a sample of each tells. Moves for being hot are paid
 * from a credit that fresh writes earn, so that the bytes written stay in proportion whatever the
 * pattern: beyond it, hot parts are dropped, too.
 */
#include "daemon/core/state.h"

enum {
    SAMPLE_PARTS = 128, /* of all on disk, for the tick that divides hot from cold */
    SAMPLE_TRIES = 8 * SAMPLE_PARTS,
    SAMPLE_OF_SEGMENT = 48,
    SEGMENTS_ASKED = 48,
    COLD_SHARE = 5,   /* one part in so many is cold */
    CREDIT_SHARE = 6, /* one moved byte in so many fresh ones */
    STEP_PARTS = 64,  /* of the victim, looked at in one step */
    MOVES_MAX = 16,
    SPARE_MIN = 2,
    SPARE_SHARE = 32,
    SPARE_MAX = 8,
};

static uint64_t chance_next(struct disk *disk)
{
    uint64_t x = disk->chance;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    disk->chance = x;
    return x;
}

/* Segments kept free: for fresh parts, for survivors, and for a burst. */
static uint32_t spare(const struct disk *disk)
{
    uint32_t share = disk->segments_max / SPARE_SHARE;
    share = share < SPARE_MIN ? (uint32_t)SPARE_MIN : share;
    share = share > SPARE_MAX ? (uint32_t)SPARE_MAX : share;
    return share < disk->segments_max ? share : disk->segments_max - 1;
}

/* The tick below which the coldest fifth of the parts on disk were used last. */
static uint64_t cold_tick(struct core *core)
{
    uint64_t ticks[SAMPLE_PARTS];
    uint32_t count = 0;
    for (uint32_t i = 0; i < SAMPLE_TRIES && count < SAMPLE_PARTS; i++) {
        const struct part *part =
            part_at(core, (uint32_t)(chance_next(&core->disk) >> 16) % core->parts.high);
        if (part->state == PART_ABSENT || !part_on_disk(part)) {
            continue;
        }
        uint32_t at = count++; /* kept sorted */
        for (; at > 0 && ticks[at - 1] > part->tick; at--) {
            ticks[at] = ticks[at - 1];
        }
        ticks[at] = part->tick;
    }
    return count == 0 ? 0 : ticks[count / COLD_SHARE];
}

static bool needed(const struct part *part)
{
    return part->refs > 0 || (part->flags & PART_PINNED) != 0;
}

/* Bytes of the segment that are hot, from a sample of its parts. */
static uint64_t hot_bytes(const struct core *core, const struct segment *segment)
{
    uint32_t asked = 0;
    uint32_t hot = 0;
    for (uint32_t n = segment->part_first; n != NONE && asked < SAMPLE_OF_SEGMENT;
         n = disk_part_at(core, n)->next) {
        const struct part *part = part_at(core, n);
        asked++;
        hot += needed(part) || part->tick > core->disk.hot_tick ? 1 : 0;
    }
    return asked == 0 ? 0 : segment->live_bytes / asked * hot;
}

static uint32_t choose(struct core *core)
{
    struct disk *disk = &core->disk;
    uint32_t best = NONE;
    uint64_t best_hot = UINT64_MAX;
    uint32_t from = (uint32_t)(chance_next(disk) >> 16) % disk->limits.segments_max;
    uint32_t asked = 0;
    for (uint32_t i = 0; i < disk->limits.segments_max && asked < SEGMENTS_ASKED; i++) {
        uint32_t number = (from + i) % disk->limits.segments_max;
        const struct segment *segment = segment_at(core, number);
        if (segment->state != SEGMENT_IN_USE || number == disk->open[0] ||
            number == disk->open[1]) {
            continue;
        }
        asked++;
        uint64_t hot = hot_bytes(core, segment);
        if (hot < best_hot ||
            (hot == best_hot && segment->live_bytes < segment_at(core, best)->live_bytes)) {
            best = number;
            best_hot = hot;
        }
    }
    return best;
}

/* Off the disk: gone if it is only there. */
static void discard(struct core *core, uint32_t number)
{
    if (part_at(core, number)->state == PART_STORED) {
        part_drop(core, number);
        core->counters.reclaimed_parts++;
    } else {
        disk_detach(core, number, false); /* in memory still; it may be written anew */
    }
}

/* True when the part is dealt with for now: gone, moving, or already on its way. False: no store is
 * free, go on later. */
static bool settle_part(struct core *core, uint32_t number)
{
    struct disk *disk = &core->disk;
    struct part *part = part_at(core, number);
    uint64_t bytes = shape_at(core, part->shape)->bytes;
    bool must = needed(part);
    bool hot = part->tick > disk->hot_tick && disk->move_credit >= bytes * CREDIT_SHARE;
    if (!must && !hot) {
        discard(core, number);
        return true;
    }
    bool in_memory = part->state == PART_READY; /* and its bytes are known to be good */
    if (disk->moves >= MOVES_MAX ||
        !store_begin(core, number, in_memory ? NONE : disk->victim, false)) {
        return false;
    }
    if (!must) {
        disk->move_credit -= bytes * CREDIT_SHARE;
    }
    return true;
}

static void empty_victim(struct core *core)
{
    struct disk *disk = &core->disk;
    uint32_t number = segment_at(core, disk->victim)->part_first;
    for (uint32_t i = 0; i < STEP_PARTS && number != NONE; i++) {
        uint32_t next = disk_part_at(core, number)->next;
        bool writing = (part_at(core, number)->flags & PART_WRITING) != 0;
        if (!writing && !settle_part(core, number)) {
            return;
        }
        number = next;
    }
}

void reclaim_pump(struct core *core)
{
    struct disk *disk = &core->disk;
    if (disk->victim == NONE) {
        if (disk->segments_used + spare(disk) <= disk->segments_max || core->parts.high == 0) {
            return;
        }
        disk->hot_tick = cold_tick(core);
        disk->victim = choose(core);
        if (disk->victim == NONE) {
            return;
        }
        segment_at(core, disk->victim)->state = SEGMENT_RECLAIMING;
        core->counters.reclaimed_segments++;
    }
    empty_victim(core);
    segment_try_free(core, disk->victim);
}
