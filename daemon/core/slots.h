/*
 * A numbered pool of equal items in reserved memory. Items are addressed by number and never move;
 * a free item's first four bytes link the free list. `high` is one above the highest number ever
 * used.
 */
#ifndef KVEIK_CORE_SLOTS_H
#define KVEIK_CORE_SLOTS_H

#include <stdint.h>

#include "base/vm.h"

#define NONE UINT32_MAX

struct slots {
    struct vm_array array;
    uint32_t high;
    uint32_t free_head;
    uint32_t used;
};

int slots_init(struct slots *slots, size_t item_bytes, uint32_t items_max);
void slots_finish(struct slots *slots);

/* A zeroed item's number, or NONE when the limit or the memory is reached. */
uint32_t slots_take(struct slots *slots);

/* The item of this number, zeroed; it is not in use. Those below it that were never used are free
 * from then on. ST_OK, ST_LIMIT, ST_NO_MEMORY. Quick when numbers are taken in ascending order. */
int slots_take_at(struct slots *slots, uint32_t number);

void slots_give(struct slots *slots, uint32_t number);

static inline void *slots_at(const struct slots *slots, uint32_t number)
{
    return (char *)slots->array.base + (size_t)number * slots->array.item_bytes;
}

#endif
