/* core_check(): what is written, read, and lies on disk. */
#include "base/heap.h"
#include "daemon/core/check.h"

static void check_stores(const struct check *check)
{
    const struct core *core = check->core;
    const struct disk *disk = &core->disk;
    uint8_t *writing = check_alloc(core->parts.high, 1);
    uint64_t bytes = 0;
    uint64_t leaving = 0;
    uint64_t fresh = 0;
    uint32_t moves = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < disk->stores.high; i++) {
        const struct store *store = slots_at(&disk->stores, i);
        if (!store->used) {
            continue;
        }
        KVEIK_ASSERT(store->part < core->parts.high && check->parts[store->part]);
        const struct part *part = part_at(core, store->part);
        KVEIK_ASSERT((part->flags & PART_WRITING) != 0 && !writing[store->part]);
        KVEIK_ASSERT(store->source != NONE || part->state == PART_READY);
        KVEIK_ASSERT(store->sequence > 0 && store->sequence <= disk->sequence);
        writing[store->part] = 1;
        check->part_refs[store->part]++;
        bytes += shape_at(core, part->shape)->bytes;
        leaving += store->evict ? part_slot_bytes(core, part) : 0;
        moves += store->move ? 1 : 0;
        fresh += store->move ? 0 : shape_at(core, part->shape)->bytes;
        count++;
    }
    for (uint32_t t = 0; t < core->limits.tenants_max; t++) {
        fresh -= tenant_at(core, t)->writing_bytes;
    }
    KVEIK_ASSERT(fresh == 0);
    KVEIK_ASSERT(leaving == disk->leaving_bytes);
    KVEIK_ASSERT(count == disk->stores.used && bytes == disk->store_bytes && moves == disk->moves);
    for (uint32_t n = 0; n < core->parts.high; n++) {
        bool flag = check->parts[n] && (part_at(core, n)->flags & PART_WRITING) != 0;
        KVEIK_ASSERT(flag == (writing[n] != 0));
    }
    heap_free(writing);
}

static void check_loads(const struct check *check)
{
    const struct core *core = check->core;
    const struct disk *disk = &core->disk;
    uint64_t bytes = 0;
    uint32_t count = 0;
    uint32_t verifies = 0;
    for (uint32_t i = 0; i < disk->loads.high; i++) {
        const struct load *load = slots_at(&disk->loads, i);
        if (!load->used) {
            continue;
        }
        KVEIK_ASSERT(load->part < core->parts.high && check->parts[load->part]);
        const struct part *part = part_at(core, load->part);
        KVEIK_ASSERT(part->state == PART_LOADING && part->lru_next == i);
        KVEIK_ASSERT(part_verifying(part) == (load->segment == NONE));
        check->part_refs[load->part]++;
        bytes += part_verifying(part) ? 0 : shape_at(core, part->shape)->bytes;
        verifies += part_verifying(part) ? 1 : 0;
        count++;
    }
    uint32_t loading = 0;
    uint32_t unverified = 0;
    for (uint32_t n = 0; n < core->parts.high; n++) {
        if (!check->parts[n]) {
            continue;
        }
        const struct part *part = part_at(core, n);
        loading += part->state == PART_LOADING ? 1 : 0;
        KVEIK_ASSERT(!part_verifying(part) || part->state == PART_LOADING);
        unverified += part->state == PART_UNVERIFIED || part_verifying(part) ? 1 : 0;
    }
    KVEIK_ASSERT(count == disk->loads.used && count == loading && bytes == disk->load_bytes);
    KVEIK_ASSERT(verifies == disk->verifies && unverified == core->unverified);
}

/* The segment's list, counts and reads. */
static void check_segment(const struct check *check, uint32_t number)
{
    const struct core *core = check->core;
    const struct segment *segment = segment_at(core, number);
    uint64_t bytes = 0;
    uint32_t count = 0;
    uint32_t before = NONE;
    for (uint32_t n = segment->part_first; n != NONE; n = disk_part_at(core, n)->next) {
        KVEIK_ASSERT(n < core->parts.high && check->parts[n] && part_on_disk(part_at(core, n)));
        KVEIK_ASSERT(disk_segment(disk_part_at(core, n)) == number);
        KVEIK_ASSERT(disk_part_at(core, n)->prev == before);
        bytes += shape_at(core, part_at(core, n)->shape)->bytes;
        count++;
        KVEIK_ASSERT(count <= segment->parts);
        before = n;
    }
    KVEIK_ASSERT(count == segment->parts && bytes == segment->live_bytes);
    uint32_t busy = 0;
    for (uint32_t i = 0; i < core->disk.stores.high; i++) {
        const struct store *store = slots_at(&core->disk.stores, i);
        busy += store->used && store->source == number ? 1 : 0;
    }
    for (uint32_t i = 0; i < core->disk.loads.high; i++) {
        const struct load *load = slots_at(&core->disk.loads, i);
        busy += load->used && load->segment == number ? 1 : 0;
    }
    KVEIK_ASSERT(busy == segment->busy);
    KVEIK_ASSERT(segment->state != SEGMENT_LOST || count == 0);
    /* what is over goes at once */
    KVEIK_ASSERT(segment->state == SEGMENT_IN_USE || count > 0 || busy > 0);
}

static void check_places(const struct check *check)
{
    const struct core *core = check->core;
    const struct disk *disk = &core->disk;
    uint32_t parts = 0;
    uint32_t stored = 0;
    uint64_t bytes = 0;
    for (uint32_t n = 0; n < core->parts.high; n++) {
        const struct part *part = part_at(core, n);
        if (!check->parts[n]) {
            continue;
        }
        KVEIK_ASSERT(part->state != PART_STORED || part_on_disk(part));
        KVEIK_ASSERT(part->state != PART_FAILED || (part->refs > 0 && !part_on_disk(part)));
        stored += part->state == PART_STORED ? 1 : 0;
        parts += part_on_disk(part) ? 1 : 0;
        bytes += part_on_disk(part) ? shape_at(core, part->shape)->bytes : 0;
    }
    KVEIK_ASSERT(parts == disk->parts && stored == disk->stored && bytes == disk->bytes);
    uint32_t listed = 0;
    uint32_t used = 0;
    for (uint32_t i = 0; i < disk->limits.segments_max; i++) {
        if (segment_at(core, i)->state != SEGMENT_FREE) {
            check_segment(check, i);
            listed += segment_at(core, i)->parts;
            used++;
        }
    }
    KVEIK_ASSERT(listed == parts && used == disk->segments_used);
    KVEIK_ASSERT(disk->victim == NONE ||
                 segment_at(core, disk->victim)->state == SEGMENT_RECLAIMING ||
                 segment_at(core, disk->victim)->state == SEGMENT_LOST);
    for (uint32_t t = 0; t < core->limits.tenants_max; t++) {
        bytes -= tenant_at(core, t)->disk_bytes;
    }
    KVEIK_ASSERT(bytes == 0);
}

/* Every part that is said to wait has a place in the ring, which may name others, too. */
static void check_queue(const struct check *check)
{
    const struct core *core = check->core;
    const struct disk *disk = &core->disk;
    uint8_t *queued = check_alloc(core->parts.high, 1);
    KVEIK_ASSERT(disk->queue_count <= disk->limits.queue_max);
    for (uint32_t i = 0; i < disk->queue_count; i++) {
        uint32_t at = (disk->queue_first + i) % disk->limits.queue_max;
        uint32_t number = ((const uint32_t *)disk->queue.base)[at];
        KVEIK_ASSERT(number < core->parts.high);
        queued[number] = 1;
    }
    for (uint32_t n = 0; n < core->parts.high; n++) {
        const struct part *part = part_at(core, n);
        bool flag = check->parts[n] && (part->flags & PART_QUEUED) != 0;
        KVEIK_ASSERT(!flag || (queued[n] != 0 && part->state == PART_READY));
        KVEIK_ASSERT(!flag || (part->flags & (PART_WRITING | PART_ON_DISK)) == 0);
    }
    heap_free(queued);
}

void check_disk(const struct check *check)
{
    const struct core *core = check->core;
    check_loads(check);
    if (!core->disk.on) {
        KVEIK_ASSERT(core->disk.parts == 0 && core->disk.stored == 0);
        return;
    }
    check_stores(check);
    check_places(check);
    check_queue(check);
    uint32_t before = NONE;
    for (uint32_t r = core->disk.persisting; r != NONE; r = request_at(core, r)->persist_next) {
        KVEIK_ASSERT(request_at(core, r)->state == REQUEST_PERSISTING);
        KVEIK_ASSERT(request_at(core, r)->persist_prev == before);
        before = r;
    }
    uint32_t eviction_spaces = 0;
    for (uint32_t s = 0; s < core->spaces.high; s++) {
        eviction_spaces +=
            check->spaces[s] && space_at(core, s)->admission == CORE_ADMIT_EVICTION ? 1 : 0;
    }
    KVEIK_ASSERT(eviction_spaces == core->disk.eviction_spaces);
}
