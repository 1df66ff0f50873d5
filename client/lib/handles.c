#include <stddef.h>

#include "base/assert.h"
#include "base/heap.h"
#include "client/lib/client.h"

enum {
    SLOT_BITS = 13,
    SLOT_MASK = (1 << SLOT_BITS) - 1,
    GENERATION_MAX = (1 << (32 - SLOT_BITS)) - 1,
    FIRST_CAPACITY = 16,
};

void handles_init(struct handles *table, uint32_t capacity_max)
{
    KVEIK_ASSERT(capacity_max > 0 && capacity_max < SLOT_MASK);
    *table = (struct handles){.capacity_max = capacity_max};
}

void handles_finish(struct handles *table)
{
    heap_free(table->items);
    heap_free(table->generations);
    *table = (struct handles){0};
}

uint32_t handles_slot(uint32_t handle)
{
    return (handle & SLOT_MASK) - 1;
}

static int grow(struct handles *table)
{
    uint32_t capacity = table->capacity == 0 ? FIRST_CAPACITY : 2 * table->capacity;
    capacity = capacity < table->capacity_max ? capacity : table->capacity_max;
    if (capacity == table->capacity) {
        return ST_LIMIT;
    }
    void **items = heap_realloc(table->items, capacity * sizeof *items);
    if (items == NULL) {
        return ST_NO_MEMORY;
    }
    table->items = items;
    uint32_t *generations = heap_realloc(table->generations, capacity * sizeof *generations);
    if (generations == NULL) {
        return ST_NO_MEMORY;
    }
    table->generations = generations;
    for (uint32_t i = table->capacity; i < capacity; i++) {
        items[i] = NULL;
        generations[i] = 0;
    }
    table->capacity = capacity;
    return ST_OK;
}

uint32_t handles_add(struct handles *table, void *item, int *status_out)
{
    KVEIK_ASSERT(item != NULL);
    uint32_t slot = 0;
    while (slot < table->capacity && table->items[slot] != NULL) {
        slot++;
    }
    if (slot == table->capacity) {
        *status_out = grow(table);
        if (*status_out != ST_OK) {
            return 0;
        }
    }
    *status_out = ST_OK;
    table->items[slot] = item;
    return table->generations[slot] << SLOT_BITS | (slot + 1);
}

void *handles_get(const struct handles *table, uint32_t handle)
{
    uint32_t slot = handles_slot(handle);
    if (handle == 0 || slot >= table->capacity || table->generations[slot] != handle >> SLOT_BITS) {
        return NULL;
    }
    return table->items[slot];
}

void handles_remove(struct handles *table, uint32_t handle)
{
    KVEIK_ASSERT(handles_get(table, handle) != NULL);
    uint32_t slot = handles_slot(handle);
    table->items[slot] = NULL;
    table->generations[slot] = (table->generations[slot] + 1) & GENERATION_MAX;
}

void *handles_at(const struct handles *table, uint32_t slot)
{
    return slot < table->capacity ? table->items[slot] : NULL;
}
