#include "daemon/core/slots.h"

#include <string.h>

#include "base/assert.h"
#include "base/status.h"

int slots_init(struct slots *slots, size_t item_bytes, uint32_t items_max)
{
    *slots = (struct slots){.free_head = NONE};
    return vm_array_init(&slots->array, item_bytes, items_max);
}

void slots_finish(struct slots *slots)
{
    vm_array_finish(&slots->array);
}

uint32_t slots_take(struct slots *slots)
{
    uint32_t number = slots->free_head;
    if (number != NONE) {
        (void)memcpy(&slots->free_head, slots_at(slots, number), sizeof slots->free_head);
    } else {
        if (vm_array_commit(&slots->array, (uint64_t)slots->high + 1) != ST_OK) {
            return NONE;
        }
        number = slots->high++;
    }
    (void)memset(slots_at(slots, number), 0, slots->array.item_bytes);
    slots->used++;
    return number;
}

/* Out of the free list. */
static void unlink_free(struct slots *slots, uint32_t number)
{
    uint32_t *link = &slots->free_head;
    while (*link != number) {
        KVEIK_ASSERT(*link < slots->high);
        link = slots_at(slots, *link);
    }
    *link = *(const uint32_t *)slots_at(slots, number);
}

int slots_take_at(struct slots *slots, uint32_t number)
{
    if (number < slots->high) {
        unlink_free(slots, number);
    } else {
        int status = vm_array_commit(&slots->array, (uint64_t)number + 1);
        if (status != ST_OK) {
            return status;
        }
        for (uint32_t i = slots->high; i < number; i++) {
            (void)memcpy(slots_at(slots, i), &slots->free_head, sizeof slots->free_head);
            slots->free_head = i;
        }
        slots->high = number + 1;
    }
    (void)memset(slots_at(slots, number), 0, slots->array.item_bytes);
    slots->used++;
    return ST_OK;
}

void slots_give(struct slots *slots, uint32_t number)
{
    KVEIK_ASSERT(number < slots->high && slots->used > 0);
    (void)memcpy(slots_at(slots, number), &slots->free_head, sizeof slots->free_head);
    slots->free_head = number;
    slots->used--;
}
