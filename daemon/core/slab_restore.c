/*
 * Slabs after a planned restart: at the offsets that they had, since their bytes are still there.
 * An offset names class and slab by arithmetic alone, so classes get the numbers that they had.
 */
#include "base/assert.h"
#include "base/status.h"
#include "daemon/core/slab.h"

/* The class that owns the offset, made if it is unused; NULL with *status_out. */
static struct slab_class *class_at(struct slabs *slabs, uint64_t number, uint64_t slot_bytes,
                                   int *status_out)
{
    *status_out = ST_MISMATCH;
    if (number >= CORE_CLASSES_MAX || slot_bytes == 0 || slot_bytes > slabs->budget_bytes ||
        slab_slot_bytes(slot_bytes) != slot_bytes) {
        return NULL;
    }
    struct slab_class *class = &slabs->classes[number];
    if (class->slot_bytes == slot_bytes) {
        return class;
    }
    if (class->slot_bytes != 0) {
        return NULL;
    }
    for (uint32_t i = 0; i < CORE_CLASSES_MAX; i++) { /* a size has one class */
        if (slabs->classes[i].slot_bytes == slot_bytes) {
            return NULL;
        }
    }
    *status_out = slab_class_init(slabs, class, slot_bytes);
    if (*status_out != ST_OK) {
        slab_class_finish(class);
        return NULL;
    }
    return class;
}

/* Takes the slab's number and the memory for its slots. */
static int slab_take(struct slab_class *class, uint64_t where)
{
    if (where >= class->slabs_max ||
        (where < class->slabs.high && slab_at(class, (uint32_t)where)->committed)) {
        return ST_MISMATCH;
    }
    int status = vm_array_commit(&class->parts, (where + 1) * class->slab_slots);
    return status != ST_OK ? status : slots_take_at(&class->slabs, (uint32_t)where);
}

int slabs_restore(struct slabs *slabs, uint64_t slot_bytes, uint64_t offset)
{
    int status = ST_OK;
    uint64_t number = offset / slabs->class_reserve_bytes;
    struct slab_class *class = class_at(slabs, number, slot_bytes, &status);
    if (class == NULL) {
        return status;
    }
    uint64_t inside = offset % slabs->class_reserve_bytes;
    uint64_t where = inside / class->slab_bytes;
    status = ST_OK;
    if (inside % class->slab_bytes != 0) {
        status = ST_MISMATCH;
    } else if (!slabs_fits(slabs, (uint32_t)number)) {
        status = ST_LIMIT;
    }
    status = status != ST_OK ? status : slab_take(class, where);
    if (status != ST_OK) {
        if (class->shapes == 0 && class->slabs.used == 0) {
            slab_class_finish(class);
        }
        return status;
    }
    struct slab *slab = slab_at(class, (uint32_t)where);
    *slab = (struct slab){.free_head = NONE, .committed = true, .restoring = true};
    uint32_t *parts = (uint32_t *)class->parts.base + where * class->slab_slots;
    for (uint32_t i = 0; i < class->slab_slots; i++) {
        parts[i] = NONE;
    }
    slabs->committed_bytes += class->slab_bytes;
    return ST_OK;
}

uint32_t slabs_claim(struct slabs *slabs, uint32_t number, uint64_t offset)
{
    struct slab_class *class = &slabs->classes[number];
    if (offset / slabs->class_reserve_bytes != number) {
        return NONE;
    }
    uint64_t inside = offset % slabs->class_reserve_bytes;
    uint64_t where = inside / class->slab_bytes;
    uint64_t index = inside % class->slab_bytes / class->slot_bytes;
    if (where >= class->slabs.high || index >= class->slab_slots ||
        inside % class->slab_bytes % class->slot_bytes != 0) {
        return NONE;
    }
    struct slab *slab = slab_at(class, (uint32_t)where);
    uint32_t slot = (uint32_t)(where * class->slab_slots + index);
    if (!slab->committed || !slab->restoring || slab->broken || slab_part(class, slot) != NONE) {
        return NONE;
    }
    slab->used++;
    class->used_slots++;
    return slot;
}

bool slabs_restored(struct slabs *slabs, uint32_t number, uint32_t where)
{
    struct slab_class *class = &slabs->classes[number];
    struct slab *slab = slab_at(class, where);
    KVEIK_ASSERT(slab->committed && slab->restoring);
    uint32_t *parts = class->parts.base;
    uint32_t first = where * class->slab_slots;
    uint32_t used = 0;
    for (uint32_t i = class->slab_slots; i-- > 0;) { /* the lowest slot is taken first */
        if (parts[first + i] != NONE) {
            used++;
            continue;
        }
        parts[first + i] = slab->free_head;
        slab->free_head = first + i;
    }
    KVEIK_ASSERT(used == slab->used);
    slab->restoring = false;
    slab_enlist(slabs, class, where);
    return slab->used == 0;
}
