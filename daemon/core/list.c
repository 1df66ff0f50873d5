/* Lists of numbers, in chunks of 128 bytes from one pool. */
#include "daemon/core/state.h"

_Static_assert(sizeof(struct chunk) == 128, "a chunk is two cache lines");

static struct chunk *chunk_at(const struct core *core, uint32_t number)
{
    return slots_at(&core->chunks, number);
}

void list_init(struct list *list)
{
    *list = (struct list){.last = NONE};
}

int list_add(struct core *core, struct list *list, uint32_t item)
{
    struct chunk *chunk = list->last == NONE ? NULL : chunk_at(core, list->last);
    if (chunk == NULL || chunk->count == CHUNK_ITEMS) {
        uint32_t fresh = slots_take(&core->chunks);
        if (fresh == NONE) {
            return ST_NO_MEMORY;
        }
        chunk = chunk_at(core, fresh);
        chunk->before = list->last;
        list->last = fresh;
    }
    chunk->items[chunk->count++] = item;
    list->count++;
    return ST_OK;
}

void list_free(struct core *core, struct list *list)
{
    uint32_t number = list->last;
    while (number != NONE) {
        uint32_t before = chunk_at(core, number)->before;
        slots_give(&core->chunks, number);
        number = before;
    }
    list_init(list);
}

/* Where `item` lies; NULL: it is not in the list. */
static uint32_t *list_find(const struct core *core, const struct list *list, uint32_t item)
{
    for (uint32_t n = list->last; n != NONE; n = chunk_at(core, n)->before) {
        struct chunk *chunk = chunk_at(core, n);
        for (uint32_t i = 0; i < chunk->count; i++) {
            if (chunk->items[i] == item) {
                return &chunk->items[i];
            }
        }
    }
    return NULL;
}

uint32_t list_last(const struct core *core, const struct list *list)
{
    const struct chunk *chunk = chunk_at(core, list->last);
    return chunk->items[chunk->count - 1];
}

bool list_has(const struct core *core, const struct list *list, uint32_t item)
{
    return list_find(core, list, item) != NULL;
}

bool list_remove(struct core *core, struct list *list, uint32_t item)
{
    uint32_t *found = list_find(core, list, item);
    if (found == NULL) {
        return false;
    }
    struct chunk *chunk = chunk_at(core, list->last);
    KVEIK_ASSERT(chunk->count > 0 && list->count > 0);
    *found = chunk->items[--chunk->count];
    list->count--;
    if (chunk->count == 0) {
        uint32_t empty = list->last;
        list->last = chunk->before;
        slots_give(&core->chunks, empty);
    }
    return true;
}

void list_visit(struct core *core, const struct list *list,
                void (*visit)(struct core *core, uint32_t item))
{
    for (uint32_t n = list->last; n != NONE; n = chunk_at(core, n)->before) {
        for (uint32_t i = chunk_at(core, n)->count; i-- > 0;) {
            visit(core, chunk_at(core, n)->items[i]);
        }
    }
}
