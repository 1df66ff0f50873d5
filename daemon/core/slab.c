#include "daemon/core/slab.h"

#include "base/assert.h"
#include "base/status.h"

enum {
    SMALL_BYTES = 16 * 1024,
    SMALL_ALIGN = 512,
    LARGE_ALIGN = 4096, /* direct I/O and page-wise copies want it */
    SLAB_SLOTS_MAX = 65536,
    WASTE_SHARE = 16, /* a slab wastes at most 1/16 of its bytes behind the last slot */
    SLAB_GRANULES_MAX = 64,
};

int slabs_init(struct slabs *slabs, uint64_t budget_bytes, uint64_t granule_bytes)
{
    if (granule_bytes < LARGE_ALIGN || granule_bytes % LARGE_ALIGN != 0 ||
        budget_bytes < granule_bytes || budget_bytes > UINT64_MAX / 2 / CORE_CLASSES_MAX ||
        budget_bytes % granule_bytes != 0) {
        return ST_INVALID;
    }
    *slabs = (struct slabs){.budget_bytes = budget_bytes, .granule_bytes = granule_bytes};
    slabs->class_reserve_bytes =
        slabs_reserve_bytes(budget_bytes, granule_bytes) / CORE_CLASSES_MAX;
    return ST_OK;
}

uint64_t slabs_reserve_bytes(uint64_t budget_bytes, uint64_t granule_bytes)
{
    return (budget_bytes + granule_bytes) * CORE_CLASSES_MAX;
}

void slabs_finish(struct slabs *slabs)
{
    for (uint32_t i = 0; i < CORE_CLASSES_MAX; i++) {
        slots_finish(&slabs->classes[i].slabs);
        vm_array_finish(&slabs->classes[i].parts);
    }
}

uint64_t slab_slot_bytes(uint64_t part_bytes)
{
    uint64_t align = part_bytes <= SMALL_BYTES ? SMALL_ALIGN : LARGE_ALIGN;
    return (part_bytes + align - 1) / align * align;
}

/* As few granules as keep the waste small. */
static void class_geometry(struct slab_class *class, uint64_t slot_bytes, uint64_t granule_bytes)
{
    uint64_t granules = (slot_bytes + granule_bytes - 1) / granule_bytes;
    uint64_t best = granules;
    for (uint64_t n = granules; n <= granules + SLAB_GRANULES_MAX; n++) {
        uint64_t waste = n * granule_bytes % slot_bytes;
        best = n;
        if (waste * WASTE_SHARE <= n * granule_bytes) {
            break;
        }
    }
    class->slot_bytes = slot_bytes;
    class->slab_bytes = best * granule_bytes;
    uint64_t slots = class->slab_bytes / slot_bytes;
    class->slab_slots = (uint32_t)(slots > SLAB_SLOTS_MAX ? SLAB_SLOTS_MAX : slots);
}

int slab_class_init(struct slabs *slabs, struct slab_class *class, uint64_t slot_bytes)
{
    class_geometry(class, slot_bytes, slabs->granule_bytes);
    if (class->slab_bytes > slabs->budget_bytes) {
        /* a slab for one slot is the smallest there is */
        class->slab_bytes =
            (slot_bytes + slabs->granule_bytes - 1) / slabs->granule_bytes * slabs->granule_bytes;
        class->slab_slots = (uint32_t)(class->slab_bytes / slot_bytes);
    }
    uint64_t slabs_max = slabs->class_reserve_bytes / class->slab_bytes;
    if (class->slab_bytes > slabs->budget_bytes || slabs_max * class->slab_slots >= NONE) {
        return ST_LIMIT;
    }
    class->slabs_max = (uint32_t)slabs_max;
    class->open_head = NONE;
    class->empty_head = NONE;
    class->shape_first = NONE;
    int status = slots_init(&class->slabs, sizeof(struct slab), class->slabs_max);
    return status != ST_OK ? status
                           : vm_array_init(&class->parts, sizeof(uint32_t),
                                           (uint64_t) class->slabs_max * class->slab_slots);
}

void slab_class_finish(struct slab_class *class)
{
    slots_finish(&class->slabs);
    vm_array_finish(&class->parts);
    *class = (struct slab_class){0};
}

uint32_t slabs_class_take(struct slabs *slabs, uint64_t part_bytes)
{
    if (part_bytes == 0 || part_bytes > slabs->budget_bytes) {
        return NONE; /* also keeps the roundings below from wrapping */
    }
    uint64_t slot_bytes = slab_slot_bytes(part_bytes);
    uint32_t unused = NONE;
    for (uint32_t i = 0; i < CORE_CLASSES_MAX; i++) {
        if (slabs->classes[i].slot_bytes == slot_bytes) {
            slabs->classes[i].shapes++;
            return i;
        }
        if (slabs->classes[i].slot_bytes == 0 && unused == NONE) {
            unused = i;
        }
    }
    if (unused == NONE) {
        return NONE;
    }
    struct slab_class *class = &slabs->classes[unused];
    if (slab_class_init(slabs, class, slot_bytes) != ST_OK) {
        slab_class_finish(class);
        return NONE;
    }
    class->shapes = 1;
    return unused;
}

void slabs_class_give(struct slabs *slabs, uint32_t number)
{
    struct slab_class *class = &slabs->classes[number];
    KVEIK_ASSERT(class->shapes > 0);
    if (--class->shapes == 0 && class->slabs.used == 0) {
        slab_class_finish(class);
    }
}

/* The list that a slab belongs in; NULL: in none, it is full, broken or being restored. */
static uint32_t *list_of(struct slab_class *class, const struct slab *slab)
{
    if (slab->broken || slab->restoring || slab->free_head == NONE) {
        return NULL;
    }
    return slab->used == 0 ? &class->empty_head : &class->open_head;
}

static void slab_link(struct slabs *slabs, struct slab_class *class, uint32_t number,
                      uint32_t *head)
{
    if (head == NULL) {
        return;
    }
    slabs->empty_slabs += head == &class->empty_head ? 1 : 0;
    struct slab *slab = slab_at(class, number);
    slab->prev = NONE;
    slab->next = *head;
    if (*head != NONE) {
        slab_at(class, *head)->prev = number;
    }
    *head = number;
}

static void slab_unlink(struct slabs *slabs, struct slab_class *class, uint32_t number,
                        uint32_t *head)
{
    if (head == NULL) {
        return;
    }
    slabs->empty_slabs -= head == &class->empty_head ? 1 : 0;
    const struct slab *slab = slab_at(class, number);
    if (slab->prev != NONE) {
        slab_at(class, slab->prev)->next = slab->next;
    } else {
        *head = slab->next;
    }
    if (slab->next != NONE) {
        slab_at(class, slab->next)->prev = slab->prev;
    }
}

void slab_enlist(struct slabs *slabs, struct slab_class *class, uint32_t number)
{
    slab_link(slabs, class, number, list_of(class, slab_at(class, number)));
}

/* After a change of `free_head` or `used`; `from` is the list that it was in. */
static void slab_relink(struct slabs *slabs, struct slab_class *class, uint32_t number,
                        uint32_t *from)
{
    uint32_t *to = list_of(class, slab_at(class, number));
    if (from != to) {
        slab_unlink(slabs, class, number, from);
        slab_link(slabs, class, number, to);
    }
}

uint32_t slabs_slot_take(struct slabs *slabs, uint32_t number)
{
    struct slab_class *class = &slabs->classes[number];
    uint32_t open = class->open_head != NONE ? class->open_head : class->empty_head;
    if (open == NONE) {
        return NONE;
    }
    struct slab *slab = slab_at(class, open);
    uint32_t *from = list_of(class, slab);
    uint32_t *parts = class->parts.base;
    uint32_t slot = slab->free_head;
    KVEIK_ASSERT(slot != NONE && slab->committed && !slab->broken);
    slab->free_head = parts[slot];
    parts[slot] = NONE;
    slab->used++;
    class->used_slots++;
    slab_relink(slabs, class, open, from);
    return slot;
}

void slabs_slot_fill(struct slabs *slabs, uint32_t number, uint32_t slot, uint32_t part)
{
    ((uint32_t *)slabs->classes[number].parts.base)[slot] = part;
}

bool slabs_slot_give(struct slabs *slabs, uint32_t number, uint32_t slot)
{
    struct slab_class *class = &slabs->classes[number];
    uint32_t where = slab_of(class, slot);
    struct slab *slab = slab_at(class, where);
    uint32_t *parts = class->parts.base;
    KVEIK_ASSERT(slab->used > 0 && class->used_slots > 0);
    uint32_t *from = list_of(class, slab);
    slab->used--;
    class->used_slots--;
    if (slab->restoring) {
        parts[slot] = NONE;
        return false;
    }
    parts[slot] = slab->free_head;
    slab->free_head = slot;
    slab_relink(slabs, class, where, from);
    return slab->used == 0;
}

bool slabs_fits(const struct slabs *slabs, uint32_t class)
{
    return slabs->committed_bytes + slabs->classes[class].slab_bytes <= slabs->budget_bytes;
}

bool slabs_grow(struct slabs *slabs, uint32_t number, uint64_t *offset_out)
{
    struct slab_class *class = &slabs->classes[number];
    if (!slabs_fits(slabs, number)) {
        return false;
    }
    uint32_t fresh = slots_take(&class->slabs);
    if (fresh == NONE) {
        return false;
    }
    uint64_t first = (uint64_t)fresh * class->slab_slots;
    if (vm_array_commit(&class->parts, first + class->slab_slots) != ST_OK) {
        slots_give(&class->slabs, fresh);
        return false;
    }
    struct slab *slab = slab_at(class, fresh);
    uint32_t *parts = class->parts.base;
    for (uint32_t i = 0; i + 1 < class->slab_slots; i++) {
        parts[first + i] = (uint32_t)first + i + 1;
    }
    parts[first + class->slab_slots - 1] = NONE;
    slab->free_head = (uint32_t)first;
    slab->committed = true;
    slab_link(slabs, class, fresh, list_of(class, slab));
    slabs->committed_bytes += class->slab_bytes;
    *offset_out = slabs_offset(slabs, number, (uint32_t)first);
    return true;
}

void slabs_shrink(struct slabs *slabs, uint32_t number, uint32_t where, uint64_t *offset_out)
{
    struct slab_class *class = &slabs->classes[number];
    struct slab *slab = slab_at(class, where);
    KVEIK_ASSERT(slab->committed && slab->used == 0);
    slab_unlink(slabs, class, where, list_of(class, slab));
    *offset_out = slabs_offset(slabs, number, where * class->slab_slots);
    slab->committed = false;
    slots_give(&class->slabs, where);
    slabs->committed_bytes -= class->slab_bytes;
    if (class->shapes == 0 && class->slabs.used == 0) {
        slab_class_finish(class);
    }
}

bool slabs_find_empty(const struct slabs *slabs, uint32_t except, struct slab_place *place_out)
{
    for (uint32_t i = 0; slabs->empty_slabs > 0 && i < CORE_CLASSES_MAX; i++) {
        const struct slab_class *class = &slabs->classes[i];
        if (class->slot_bytes != 0 && i != except && class->empty_head != NONE) {
            *place_out = (struct slab_place){.class = i, .slab = class->empty_head};
            return true;
        }
    }
    return false;
}

bool slabs_break(struct slabs *slabs, uint64_t offset, struct slab_place *place_out)
{
    uint64_t number = offset / slabs->class_reserve_bytes;
    if (number >= CORE_CLASSES_MAX || slabs->classes[number].slot_bytes == 0) {
        return false;
    }
    struct slab_class *class = &slabs->classes[number];
    uint64_t where = offset % slabs->class_reserve_bytes / class->slab_bytes;
    if (where >= class->slabs.high || !slab_at(class, (uint32_t)where)->committed) {
        return false;
    }
    struct slab *slab = slab_at(class, (uint32_t)where);
    slab_unlink(slabs, class, (uint32_t)where, list_of(class, slab));
    slab->broken = true;
    *place_out = (struct slab_place){.class = (uint32_t)number, .slab = (uint32_t)where};
    return slab->used == 0;
}

uint64_t slabs_offset(const struct slabs *slabs, uint32_t number, uint32_t slot)
{
    const struct slab_class *class = &slabs->classes[number];
    return slabs->class_reserve_bytes * number +
           (uint64_t)(slot / class->slab_slots) * class->slab_bytes +
           (uint64_t)(slot % class->slab_slots) * class->slot_bytes;
}
