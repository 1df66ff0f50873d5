/*
 * What a planned restart needs to know: slabs, and the parts in them, oldest first. Idle parts are
 * in one LRU list a shape: a heap of these lists' heads merges them by the time of their last use.
 */
#include "base/heap.h"
#include "daemon/core/state.h"

struct head {
    uint64_t tick;
    uint32_t part;
};

struct heads {
    uint32_t count;
    struct head items[];
};

static void sink(struct heads *heads, uint32_t at)
{
    for (;;) {
        uint32_t least = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2; child++) {
            if (child < heads->count && heads->items[child].tick < heads->items[least].tick) {
                least = child;
            }
        }
        if (least == at) {
            return;
        }
        struct head swapped = heads->items[at];
        heads->items[at] = heads->items[least];
        heads->items[least] = swapped;
        at = least;
    }
}

static struct core_kept_part describe(const struct core *core, uint32_t number)
{
    const struct part *part = part_at(core, number);
    const struct block *block = block_at(core, part->block);
    const struct shape *shape = shape_at(core, part->shape);
    const struct origin *origin = origin_at(core, part->origin);
    struct core_kept_part kept = {.shape = part->shape,
                                  .space = shape->space,
                                  .keys = keys_at(&core->keys, block->keys),
                                  .key_count = block->keys_less_one + 1u,
                                  .grains = block->grains_less_one + 1u,
                                  .tail_tokens = block->tail_tokens,
                                  .origin = origin->id,
                                  .origin_bytes = origin->id_bytes,
                                  .offset = slabs_offset(&core->slabs, shape->class, part->slot),
                                  .bytes = shape->bytes};
    if (core->disk.on) {
        kept.parent =
            (const uint8_t *)core->disk.parents.base + (size_t)part->block * CORE_KEY_BYTES;
    }
    if (part->state == PART_UNVERIFIED) { /* what its bytes must be, not what they are */
        kept.sealed = true;
        kept.seal = ((const uint64_t *)core->seals.base)[number];
    } else if (part_on_disk(part)) {
        kept.sealed = true;
        kept.seal = disk_seal(disk_part_at(core, number));
    }
    return kept;
}

/* In no list: pinned, or still referred to. */
static bool each_busy(const struct core *core, core_part_cb visit, void *ctx)
{
    for (uint32_t n = 0; n < core->parts.high; n++) {
        const struct part *part = part_at(core, n);
        if (part_resident(part) && (part->flags & PART_IN_LRU) == 0) {
            struct core_kept_part kept = describe(core, n);
            if (!visit(ctx, &kept)) {
                return false;
            }
        }
    }
    return true;
}

int core_each_part(const struct core *core, core_part_cb visit, void *ctx)
{
    KVEIK_CHECK_OBJ(core, CORE_MAGIC);
    struct heads *heads =
        heap_alloc(sizeof *heads + (size_t)core->shapes.high * sizeof heads->items[0]);
    if (heads == NULL) {
        return ST_NO_MEMORY;
    }
    heads->count = 0;
    for (uint32_t s = 0; s < core->shapes.high; s++) {
        uint32_t part = shape_at(core, s)->used ? shape_at(core, s)->lru_old : (uint32_t)NONE;
        if (part != NONE) {
            heads->items[heads->count++] =
                (struct head){.tick = part_at(core, part)->tick, .part = part};
        }
    }
    for (uint32_t i = heads->count / 2; i-- > 0;) {
        sink(heads, i);
    }
    bool wanted = true;
    while (heads->count > 0 && wanted) {
        uint32_t part = heads->items[0].part;
        struct core_kept_part kept = describe(core, part);
        wanted = visit(ctx, &kept);
        part = part_at(core, part)->lru_next;
        heads->items[0] = part != NONE
                              ? (struct head){.tick = part_at(core, part)->tick, .part = part}
                              : heads->items[--heads->count];
        sink(heads, 0);
    }
    heap_free(heads);
    return wanted && each_busy(core, visit, ctx) ? ST_OK : ST_CANCELLED;
}

int core_each_slab(const struct core *core, core_slab_cb visit, void *ctx)
{
    KVEIK_CHECK_OBJ(core, CORE_MAGIC);
    for (uint32_t c = 0; c < CORE_CLASSES_MAX; c++) {
        const struct slab_class *class = &core->slabs.classes[c];
        uint32_t high = class->slot_bytes != 0 ? class->slabs.high : 0;
        for (uint32_t s = 0; s < high; s++) {
            const struct slab *slab = slab_at(class, s);
            struct core_kept_slab kept = {.slot_bytes = class->slot_bytes,
                                          .offset =
                                              slabs_offset(&core->slabs, c, s * class->slab_slots),
                                          .bytes = class->slab_bytes};
            if (slab->committed && !slab->broken && slab->used > 0 && !visit(ctx, &kept)) {
                return ST_CANCELLED;
            }
        }
    }
    return ST_OK;
}
