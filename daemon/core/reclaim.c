/*
 * Freeing segments: whole ones, coldest first. A log that is read back by a cleaner (Rosenblum and
 * Ousterhout, "The Design and Implementation of a Log-Structured File System", 1992, section 3),
 * for a cache: what is cold in the victim is dropped, what is pinned, in use or was used lately is
 * moved, beside other survivors, so that hot and cold parts come to lie apart.
 *
 * Lately: not among the coldest quarter of what is on disk, as a sample of it tells. The victim is
 * the segment with the fewest such bytes, as a sample of each tells, and among equals the one whose
 * cold parts are oldest: whole segments then go in the order that an LRU would drop their parts.
 * Moves for being hot are paid from a credit that fresh writes earn, so that the bytes written stay
 * in proportion whatever the pattern, and the credit is spent on the victim's hottest; the other
 * hot parts are dropped, too. (Moving lukewarm ones instead, to spend all of the credit, makes
 * every pattern of bench_disk_policy worse: they take room and are hardly asked for.)
 */
#include "daemon/core/state.h"

enum {
    SAMPLE_PARTS = 128, /* of all on disk, for the tick that divides hot from cold */
    SAMPLE_TRIES = 8 * SAMPLE_PARTS,
    SAMPLE_OF_SEGMENT = 64,
    SEGMENTS_ASKED = 64,
    COLD_SHARE = 4,   /* one part in so many is cold */
    CREDIT_SHARE = 5, /* one moved byte in so many fresh ones */
    WEIGHT_HOT = 32,
    WEIGHT_COLD = 16, /* of the youngest among the cold */
    NEEDED_MAX = 7,   /* eighths of a segment that may have to be moved to free it */
    NEEDED_OF = 8,
    STEP_PARTS = 64, /* of the victim, looked at in one step */
    MOVES_MAX = 16,
    SPARE_MIN = 4, /* two that are open, one kept for survivors, one to come */
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

/* Segments kept free, or not known to be used: open ones count once something was written there. */
static uint32_t spare(const struct disk *disk)
{
    if (disk->segments_max == 0) {
        return 0;
    }
    uint32_t share = disk->segments_max / SPARE_SHARE;
    share = share < SPARE_MIN ? (uint32_t)SPARE_MIN : share;
    share = share > SPARE_MAX ? (uint32_t)SPARE_MAX : share;
    return share < disk->segments_max ? share : disk->segments_max - 1;
}

/* The ticks below which the coldest quarter, and hardly any, of the parts on disk were used last.
 */
static void sample_ticks(struct core *core)
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
    core->disk.hot_tick = count == 0 ? 0 : ticks[count / COLD_SHARE];
    core->disk.old_tick = count == 0 ? 0 : ticks[0];
}

static bool needed(const struct part *part)
{
    return part->refs > 0 || (part->flags & PART_PINNED) != 0;
}

/* What a part counts for: much if it is hot, else little, by its age. */
static uint64_t weight(const struct disk *disk, const struct part *part)
{
    if (needed(part) || part->tick > disk->hot_tick) {
        return WEIGHT_HOT;
    }
    return part->tick <= disk->old_tick
               ? 0
               : (part->tick - disk->old_tick) * WEIGHT_COLD / (disk->hot_tick - disk->old_tick);
}

/* What the segment's bytes count for, from a sample of its parts. UINT64_MAX: nearly all of them
 * are needed, and moving them would go on for ever and gain nothing. */
static uint64_t worth(const struct core *core, const struct segment *segment)
{
    uint32_t asked = 0;
    uint32_t needs = 0;
    uint64_t weights = 0;
    for (uint32_t n = segment->part_first; n != NONE && asked < SAMPLE_OF_SEGMENT;
         n = disk_part_at(core, n)->next) {
        asked++;
        needs += needed(part_at(core, n)) ? 1 : 0;
        weights += weight(&core->disk, part_at(core, n));
    }
    if (asked == 0) {
        return 0;
    }
    uint64_t each = segment->live_bytes / asked;
    bool gains = each * needs <= core->disk.segment_bytes / NEEDED_OF * NEEDED_MAX;
    return gains ? each * weights : UINT64_MAX;
}

/* The first write under way; what begins after it has a larger number. */
static uint64_t first_write(const struct disk *disk)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < disk->stores.high && disk->stores.used > 0; i++) {
        const struct store *store = slots_at(&disk->stores, i);
        first = store->used && store->sequence < first ? store->sequence : first;
    }
    return first;
}

/* Raises the line between hot and cold to what the credit pays for in the segment: it is spent on
 * the hottest. */
static void hot_tick_afford(struct core *core, const struct segment *segment)
{
    struct disk *disk = &core->disk;
    uint64_t ticks[SAMPLE_OF_SEGMENT];
    uint32_t count = 0;
    uint32_t asked = 0;
    for (uint32_t n = segment->part_first; n != NONE && asked < SAMPLE_OF_SEGMENT;
         n = disk_part_at(core, n)->next) {
        const struct part *part = part_at(core, n);
        asked++;
        if (needed(part) || part->tick <= disk->hot_tick) {
            continue;
        }
        uint32_t at = count++; /* kept sorted, the hottest first */
        for (; at > 0 && ticks[at - 1] < part->tick; at--) {
            ticks[at] = ticks[at - 1];
        }
        ticks[at] = part->tick;
    }
    uint64_t each = asked == 0 ? 0 : segment->live_bytes / asked;
    uint64_t pays = each == 0 ? count : disk->move_credit / CREDIT_SHARE / each;
    disk->hot_tick = pays < count ? ticks[pays] : disk->hot_tick;
}

static uint32_t choose(struct core *core)
{
    struct disk *disk = &core->disk;
    uint32_t best = NONE;
    uint64_t best_worth = UINT64_MAX;
    uint32_t from = (uint32_t)(chance_next(disk) >> 16) % disk->limits.segments_max;
    uint64_t writes_from = first_write(disk);
    uint32_t asked = 0;
    for (uint32_t i = 0; i < disk->limits.segments_max && asked < SEGMENTS_ASKED; i++) {
        uint32_t number = (from + i) % disk->limits.segments_max;
        const struct segment *segment = segment_at(core, number);
        if (segment->state != SEGMENT_IN_USE || number == disk->open[0] ||
            number == disk->open[1] || segment->closed >= writes_from) {
            continue;
        }
        asked++;
        uint64_t here = worth(core, segment);
        if (here < best_worth) {
            best = number;
            best_worth = here;
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
        bool short_of = disk->full || disk->segments_used + spare(disk) > disk->segments_max;
        if (!short_of || core->parts.high == 0 || !disk->writable) { /* nothing can be moved */
            return;
        }
        sample_ticks(core);
        disk->victim = choose(core);
        if (disk->victim == NONE) {
            return;
        }
        hot_tick_afford(core, segment_at(core, disk->victim));
        segment_at(core, disk->victim)->state = SEGMENT_RECLAIMING;
        core->counters.reclaimed_segments++;
    }
    empty_victim(core);
    segment_try_free(core, disk->victim);
}
