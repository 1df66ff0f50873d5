/*
 * Slabs: pure arithmetic over the pool's offsets; nothing here touches memory.
 *
 * Parts of one size live in slots of one class. A class takes slabs (whole granules) from the
 * common budget and gives empty ones back, each class in an address range of its own: slabs are
 * contiguous whatever other classes came and went, so spaces with different sizes cannot
 * fragment the pool; the only waste is inside slabs, bounded by the class's rounding.
 */
#ifndef KVEIK_CORE_SLAB_H
#define KVEIK_CORE_SLAB_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/core/core.h"
#include "daemon/core/slots.h"

struct slab {
    uint32_t free_head; /* first free slot in it, counted in the class; NONE */
    uint32_t used;      /* slots in use */
    uint32_t prev;      /* list of slabs that are partly free, or empty */
    uint32_t next;
    bool committed;
    bool broken;    /* its memory could not be had: nothing is put there any more */
    bool restoring; /* in no list; free slots are not linked yet, but hold NONE as their part */
};

struct slab_class {
    uint64_t slot_bytes; /* 0: unused class */
    uint64_t slab_bytes;
    uint32_t slab_slots; /* slots a slab */
    uint32_t slabs_max;
    struct slots slabs;    /* struct slab */
    struct vm_array parts; /* uint32_t a slot: the part in it, or the next free slot */
    uint32_t open_head;    /* slabs with used and free slots */
    uint32_t empty_head;   /* slabs with free slots only */
    uint32_t shapes;       /* shapes of this size: the class goes with the last one */
    uint32_t shape_first;  /* list of these, kept by the caller */
    uint64_t used_slots;
};

struct slabs {
    uint64_t budget_bytes;
    uint64_t granule_bytes;
    uint64_t class_reserve_bytes; /* address range of a class */
    uint64_t committed_bytes;
    uint32_t empty_slabs; /* in the lists of all classes */
    struct slab_class classes[CORE_CLASSES_MAX];
};

struct slab_place {
    uint32_t class;
    uint32_t slab;
};

int slabs_init(struct slabs *slabs, uint64_t budget_bytes, uint64_t granule_bytes);
void slabs_finish(struct slabs *slabs);
uint64_t slabs_reserve_bytes(uint64_t budget_bytes, uint64_t granule_bytes);

/* What a part of so many bytes takes. */
uint64_t slab_slot_bytes(uint64_t part_bytes);

/* The class for parts of so many bytes, made if need be; NONE: too many sizes, too large, or no
 * memory. Counts one shape. */
uint32_t slabs_class_take(struct slabs *slabs, uint64_t part_bytes);

/* Here and below, `number` is a class; `slot`, `where` count slots and slabs in it. */
void slabs_class_give(struct slabs *slabs, uint32_t number);

/* A slot in a slab of the class, one partly used if possible; NONE when all are full. */
uint32_t slabs_slot_take(struct slabs *slabs, uint32_t number);

/* Notes which part is in a slot. */
void slabs_slot_fill(struct slabs *slabs, uint32_t number, uint32_t slot, uint32_t part);

/* Frees a slot; true when its slab is now empty (the caller may give it back or keep it). */
bool slabs_slot_give(struct slabs *slabs, uint32_t number, uint32_t slot);

/* A new slab from the budget. False: over the budget or out of memory. */
bool slabs_grow(struct slabs *slabs, uint32_t number, uint64_t *offset_out);

/* Gives an empty slab back to the budget. */
void slabs_shrink(struct slabs *slabs, uint32_t number, uint32_t where, uint64_t *offset_out);

/* An empty slab of any class but `except`, to take its memory; false: none. */
bool slabs_find_empty(const struct slabs *slabs, uint32_t except, struct slab_place *place_out);

bool slabs_fits(const struct slabs *slabs, uint32_t class); /* budget left for one more slab */

/* Marks the slab at `offset` broken: nothing more is put there. True with its place when it is
 * empty and can be given back at once; false when parts are in it, or no such slab is committed. */
bool slabs_break(struct slabs *slabs, uint64_t offset, struct slab_place *place_out);

/* ---- after a restart: slabs as they were, each of their parts claimed, then the end -----------
 */

/* A slab of slots of so many bytes at `offset`, as slabs_grow() once said. ST_OK; ST_MISMATCH: no
 * such slab can be there, or one is; ST_LIMIT: over the budget; ST_NO_MEMORY. */
int slabs_restore(struct slabs *slabs, uint64_t slot_bytes, uint64_t offset);

/* The slot at an offset in a slab that is being restored, for a part of this class; it is used from
 * now on. NONE: no such slot, or it is taken. */
uint32_t slabs_claim(struct slabs *slabs, uint32_t number, uint64_t offset);

/* The restored slab's free slots can be taken from now on. True when all are: it may be given back.
 */
bool slabs_restored(struct slabs *slabs, uint32_t number, uint32_t where);

uint64_t slabs_offset(const struct slabs *slabs, uint32_t number, uint32_t slot);

/* ---- for slab_restore.c ------------------------------------------------------------------------
 */

int slab_class_init(struct slabs *slabs, struct slab_class *class, uint64_t slot_bytes);
void slab_class_finish(struct slab_class *class);

/* Puts a slab that is in no list into the one where it belongs. */
void slab_enlist(struct slabs *slabs, struct slab_class *class, uint32_t number);

/* ---- accessors --------------------------------------------------------------------------------
 */

static inline uint32_t slab_of(const struct slab_class *class, uint32_t slot)
{
    return slot / class->slab_slots;
}

static inline struct slab *slab_at(const struct slab_class *class, uint32_t slab)
{
    return slots_at(&class->slabs, slab);
}

/* The part in a slot in use. */
static inline uint32_t slab_part(const struct slab_class *class, uint32_t slot)
{
    return ((const uint32_t *)class->parts.base)[slot];
}

#endif
