/*
 * Writing back: which parts go to disk, and when. Never in an engine's way: what waits is a bounded
 * ring of numbers, what is written holds its part as a lease does, and a part that has to leave the
 * CPU tier before its turn is dropped and counted.
 */
#include "daemon/core/state.h"

enum {
    AHEAD_PERCENT = 90, /* above this share of the pool, admission on eviction writes ahead */
    AHEAD_STEP_MAX = 32,
    SEGMENTS_SHORT = 2, /* free ones: one for survivors, one that writes under way may begin */
    SEAL_SHIFT = 16,
};

static uint32_t admission_of(const struct core *core, const struct part *part)
{
    return space_at(core, shape_at(core, part->shape)->space)->admission;
}

static struct tenant *tenant_of(const struct core *core, const struct shape *shape)
{
    return tenant_at(core, space_at(core, shape->space)->tenant);
}

bool store_queue(struct core *core, uint32_t number)
{
    struct disk *disk = &core->disk;
    struct part *part = part_at(core, number);
    if (!disk->on || (part->flags & (PART_ON_DISK | PART_WRITING | PART_QUEUED)) != 0) {
        return disk->on;
    }
    if (part->state == PART_UNVERIFIED && !verify_begin(core, number)) {
        return false;
    }
    if (part_verifying(part)) { /* nothing is written before it is verified: it is queued then */
        part->flags |= PART_QUEUE_LATER;
        return true;
    }
    if (disk->queue_count == disk->limits.queue_max) {
        core->counters.store_dropped++;
        return false;
    }
    uint32_t at = (disk->queue_first + disk->queue_count++) % disk->limits.queue_max;
    ((uint32_t *)disk->queue.base)[at] = number;
    part->flags |= PART_QUEUED;
    return true;
}

void store_pushed(struct core *core, uint32_t number)
{
    if (core->disk.on && admission_of(core, part_at(core, number)) == CORE_ADMIT_AT_ONCE) {
        (void)store_queue(core, number);
    }
}

void store_used(struct core *core, uint32_t number)
{
    const struct part *part = part_at(core, number);
    if (!core->disk.on || part->state != PART_READY) {
        return;
    }
    /* at once, too: the queue was full, the write failed, or its segment was reclaimed */
    uint32_t admission = admission_of(core, part);
    if (admission == CORE_ADMIT_SECOND_USE || admission == CORE_ADMIT_AT_ONCE) {
        (void)store_queue(core, number);
    }
}

/* ---- beginning ------------------------------------------------------------------------------- */

static void describe(struct core *core, const struct part *part, struct core_action *action)
{
    const struct block *block = block_at(core, part->block);
    const struct origin *origin = origin_at(core, part->origin);
    KVEIK_ASSERT(core->disk.described_count < core->disk.limits.stores_max);
    struct core_stored *stored =
        (struct core_stored *)core->disk.described.base + core->disk.described_count++;
    *stored = (struct core_stored){.keys = keys_at(&core->keys, block->keys),
                                   .key_count = block->keys_less_one + 1u,
                                   .grains = block->grains_less_one + 1u,
                                   .tail_tokens = block->tail_tokens,
                                   .parent = (const uint8_t *)core->disk.parents.base +
                                             (size_t)part->block * CORE_KEY_BYTES,
                                   .origin = origin->id,
                                   .origin_bytes = origin->id_bytes};
    action->stored = stored;
}

static bool room_for(const struct core *core, uint64_t bytes)
{
    const struct disk *disk = &core->disk;
    return disk->writable && disk->stores.used < disk->limits.stores_max &&
           disk->described_count < disk->limits.stores_max &&
           (disk->store_bytes == 0 || disk->store_bytes + bytes <= disk->limits.store_bytes_max);
}

bool store_begin(struct core *core, uint32_t number, uint32_t source, bool evict_after)
{
    struct disk *disk = &core->disk;
    struct part *part = part_at(core, number);
    const struct shape *shape = shape_at(core, part->shape);
    uint32_t slot = room_for(core, shape->bytes) ? slots_take(&disk->stores) : NONE;
    if (slot == NONE) {
        return false;
    }
    KVEIK_ASSERT(source != NONE || part->state == PART_READY);
    struct store *store = slots_at(&disk->stores, slot);
    *store = (struct store){.sequence = ++disk->sequence,
                            .part = number,
                            .source = source,
                            .evict = evict_after,
                            .used = true};
    struct core_action *action = action_add(core, ACTION_STORE);
    action->job = slot;
    action->handle = part->shape;
    action->bytes = shape->bytes;
    describe(core, part, action);
    if (source != NONE) {
        const struct disk_part *at = disk_part_at(core, number);
        action->place = (struct core_place){.segment = disk_segment(at), .offset = at->offset};
        action->seal = at->seal_segment >> SEAL_SHIFT;
        segment_at(core, source)->busy++;
    } else {
        action->offset = slabs_offset(&core->slabs, shape->class, part->slot);
    }
    ((struct core_stored *)disk->described.base)[disk->described_count - 1].move = source != NONE;
    ((struct core_stored *)disk->described.base)[disk->described_count - 1].survivor =
        part_on_disk(part);
    store->move = part_on_disk(part);
    disk->moves += store->move ? 1 : 0;
    tenant_of(core, shape)->writing_bytes += store->move ? 0 : shape->bytes;
    disk->store_bytes += shape->bytes;
    disk->leaving_bytes += evict_after ? part_slot_bytes(core, part) : 0;
    part_ref(core, number);
    part->flags = (uint8_t)((part->flags | PART_WRITING) & ~PART_QUEUED);
    return true;
}

static bool quota_left(const struct core *core, const struct part *part)
{
    const struct shape *shape = shape_at(core, part->shape);
    const struct tenant *tenant = tenant_of(core, shape);
    return tenant->disk_quota_bytes == 0 ||
           tenant->disk_bytes + tenant->writing_bytes + shape->bytes <= tenant->disk_quota_bytes;
}

/* Room for fresh parts, or none that will come: what waits had better wait than be refused. */
static bool segments_left(const struct disk *disk)
{
    return disk->victim == NONE || disk->segments_used + SEGMENTS_SHORT <= disk->segments_max;
}

/* The oldest parts leave ahead of need: on disk already, or written for it. */
static void write_ahead(struct core *core)
{
    uint64_t budget = core->slabs.budget_bytes;
    for (uint32_t i = 0; i < AHEAD_STEP_MAX && core->disk.writable && segments_left(&core->disk) &&
                         core->slot_bytes - core->disk.leaving_bytes > budget / 100 * AHEAD_PERCENT;
         i++) {
        uint32_t victim = lru_oldest(core);
        if (victim == NONE) {
            return;
        }
        struct part *part = part_at(core, victim);
        if (part->state == PART_UNVERIFIED && !part_on_disk(part)) {
            if (!verify_begin(core, victim)) {
                return;
            }
            continue; /* it comes back to its place, and can be written then */
        }
        if (part_on_disk(part) || admission_of(core, part) != CORE_ADMIT_EVICTION ||
            !quota_left(core, part)) {
            evict(core, victim, &core->counters.evicted_watermark);
        } else if (!store_begin(core, victim, NONE, true)) {
            return;
        }
    }
}

void store_pump(struct core *core)
{
    struct disk *disk = &core->disk;
    if (!disk->on) {
        return;
    }
    bool refused = false;
    reclaim_pump(core);
    while (disk->queue_count > 0 && !disk->full && room_for(core, 0) && segments_left(disk)) {
        uint32_t number = ((const uint32_t *)disk->queue.base)[disk->queue_first];
        struct part *part = number < core->parts.high ? part_at(core, number) : NULL;
        bool wanted = part != NULL && part->state == PART_READY &&
                      (part->flags & (PART_QUEUED | PART_ON_DISK | PART_WRITING)) == PART_QUEUED;
        if (wanted && !quota_left(core, part)) {
            core->counters.store_quota++;
            part->flags &= (uint8_t)~PART_QUEUED;
            wanted = false;
            refused = true;
        }
        if (wanted && !store_begin(core, number, NONE, false)) {
            break;
        }
        disk->queue_first = (disk->queue_first + 1) % disk->limits.queue_max;
        disk->queue_count--;
    }
    if (disk->eviction_spaces > 0 && !disk->full) {
        write_ahead(core);
    }
    if (refused && disk->persisting != NONE) {
        persist_check(core); /* it waits in vain */
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

/* The part's bytes are at `place` now, and nowhere else on disk. */
static void stored_at(struct core *core, uint32_t number, const struct core_event *event)
{
    struct part *part = part_at(core, number);
    if (part_on_disk(part)) {
        disk_detach(core, number, true);
    }
    if (part->state == PART_FAILED) { /* its segment was lost while it was moved: found again */
        part->state = PART_STORED;
        core->disk.stored++;
    }
    disk_attach(core, number, event->u.store_done.place, event->u.store_done.seal,
                event->u.store_done.epoch);
}

/* Whether what was written still counts: its segment may be lost meanwhile. */
static bool landed(const struct core *core, const struct core_event *event)
{
    if (event->u.store_done.status != ST_OK) {
        return false;
    }
    uint8_t state = segment_at(core, event->u.store_done.place.segment)->state;
    return state == SEGMENT_FREE || state == SEGMENT_IN_USE;
}

/* The owner fills one segment after the other, and what it was asked for last goes to the newest.
 * What was asked for so far may still be on its way to the segment written to, or to the one that
 * was open before: neither may be freed until that has ended. */
static void note_open(struct core *core, const struct store *store, uint32_t segment)
{
    struct disk *disk = &core->disk;
    uint32_t lane = store->move ? 1 : 0;
    segment_at(core, segment)->closed = disk->sequence;
    if (store->sequence < disk->open_sequence[lane]) {
        return; /* late: a newer one is open */
    }
    if (disk->open[lane] != NONE) {
        segment_at(core, disk->open[lane])->closed = disk->sequence;
    }
    disk->open[lane] = segment;
    disk->open_sequence[lane] = store->sequence;
}

/* Lets go of the part; being written, or moved, was no use of it. */
static void release(struct core *core, const struct store *store)
{
    struct part *part = part_at(core, store->part);
    uint64_t tick = part->tick;
    bool last = part->refs == 1;
    bool pinned = (part->flags & PART_PINNED) != 0;
    bool gone = last && part->state == PART_FAILED;
    bool leaves =
        store->evict && last && !pinned && part->state == PART_READY && part_on_disk(part);
    part_unref(core, store->part);
    if (leaves) {
        uint64_t unused = 0;
        evict(core, store->part, &unused);
    }
    if (last && !gone && part->state == PART_STORED) {
        part->tick = tick;
    }
}

void step_store_done(struct core *core, const struct core_event *event)
{
    struct disk *disk = &core->disk;
    uint32_t slot = event->u.store_done.store;
    KVEIK_ASSERT(slot < disk->stores.high);
    struct store store = *(struct store *)slots_at(&disk->stores, slot);
    KVEIK_ASSERT(store.used);
    ((struct store *)slots_at(&disk->stores, slot))->used = false;
    slots_give(&disk->stores, slot);
    struct part *part = part_at(core, store.part);
    uint64_t bytes = shape_at(core, part->shape)->bytes;
    KVEIK_ASSERT((part->flags & PART_WRITING) != 0 && disk->store_bytes >= bytes);
    disk->store_bytes -= bytes;
    disk->leaving_bytes -= store.evict ? part_slot_bytes(core, part) : 0;
    part->flags &= (uint8_t)~PART_WRITING;
    disk->moves -= store.move ? 1 : 0;
    struct tenant *tenant = tenant_of(core, shape_at(core, part->shape));
    KVEIK_ASSERT(store.move || tenant->writing_bytes >= bytes);
    tenant->writing_bytes -= store.move ? 0 : bytes;
    if (landed(core, event)) {
        stored_at(core, store.part, event);
        note_open(core, &store, event->u.store_done.place.segment);
        core->counters.moved += store.move ? 1 : 0;
        core->counters.stored += store.move ? 0 : 1;
        disk->move_credit += store.move ? 0 : bytes;
    } else if (event->u.store_done.status == ST_NO_SPACE && !store.move && !store.evict) {
        disk->full = true; /* reclaiming is on its way, or the file system is full: try again */
        (void)store_queue(core, store.part);
    } else {
        core->counters.store_failed++;
        if (part_on_disk(part) && store.move) {
            disk_part_lost(core, store.part); /* its segment goes, and it could not be moved */
        }
    }
    release(core, &store);
    if (store.source != NONE) {
        KVEIK_ASSERT(segment_at(core, store.source)->busy > 0);
        segment_at(core, store.source)->busy--;
        segment_try_free(core, store.source);
    }
    persist_check(core);
}
