#include "daemon/core/state.h"

void list_init(struct list *list)
{
    *list = (struct list){.first = NONE, .last = NONE};
}

int list_add(struct core *core, struct list *list, uint32_t item)
{
    struct chunk *chunk = list->last == NONE ? NULL : slots_at(&core->chunks, list->last);
    if (chunk == NULL || chunk->count == CHUNK_ITEMS) {
        uint32_t fresh = slots_take(&core->chunks);
        if (fresh == NONE) {
            return ST_NO_MEMORY;
        }
        if (chunk == NULL) {
            list->first = fresh;
        } else {
            chunk->next = fresh;
        }
        list->last = fresh;
        chunk = slots_at(&core->chunks, fresh);
        chunk->next = NONE;
    }
    chunk->items[chunk->count++] = item;
    list->count++;
    return ST_OK;
}

void list_free(struct core *core, struct list *list)
{
    uint32_t next = list->first;
    while (next != NONE) {
        uint32_t after = ((const struct chunk *)slots_at(&core->chunks, next))->next;
        slots_give(&core->chunks, next);
        next = after;
    }
    list_init(list);
}

void list_visit(struct core *core, const struct list *list,
                void (*visit)(struct core *core, uint32_t item))
{
    for (uint32_t n = list->first; n != NONE;) {
        const struct chunk *chunk = slots_at(&core->chunks, n);
        for (uint32_t i = 0; i < chunk->count; i++) {
            visit(core, chunk->items[i]);
        }
        n = chunk->next;
    }
}
