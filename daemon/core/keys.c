#include "daemon/core/keys.h"

#include <string.h>

#include "base/assert.h"
#include "base/status.h"

int keys_init(struct keys *keys, uint64_t keys_max)
{
    *keys = (struct keys){0};
    for (uint32_t i = 0; i < KEY_CLASSES; i++) {
        keys->free_head[i] = NONE;
    }
    int status = vm_array_init(&keys->bytes, KEY_BYTES, keys_max);
    return status != ST_OK ? status : vm_array_init(&keys->owners, sizeof(uint32_t), keys_max);
}

void keys_finish(struct keys *keys)
{
    vm_array_finish(&keys->bytes);
    vm_array_finish(&keys->owners);
}

/* The class of the smallest power of two that holds `count`. */
static uint32_t class_of(uint32_t count)
{
    return count <= 1 ? 0 : 32u - (uint32_t)__builtin_clz(count - 1);
}

static uint32_t run_take(struct keys *keys, uint32_t class)
{
    uint32_t *owners = keys->owners.base;
    uint32_t first = keys->free_head[class];
    if (first != NONE) {
        keys->free_head[class] = owners[first];
        return first;
    }
    uint32_t size = 1u << class;
    uint64_t high = (uint64_t)keys->high + size;
    if (high >= NONE || vm_array_commit(&keys->bytes, high) != ST_OK ||
        vm_array_commit(&keys->owners, high) != ST_OK) {
        return NONE;
    }
    first = keys->high;
    keys->high += size;
    return first;
}

uint32_t keys_take(struct keys *keys, const uint8_t *from, uint32_t count, uint32_t block)
{
    KVEIK_ASSERT(count >= 1 && count <= BLOCK_KEYS_MAX);
    uint32_t first = run_take(keys, class_of(count));
    if (first == NONE) {
        return NONE;
    }
    (void)memcpy((uint8_t *)keys->bytes.base + (size_t)first * KEY_BYTES, from,
                 (size_t)count * KEY_BYTES);
    uint32_t *owners = keys->owners.base;
    for (uint32_t i = 0; i < count; i++) {
        owners[first + i] = block;
    }
    keys->used += count;
    keys->taken += 1u << class_of(count);
    return first;
}

void keys_give(struct keys *keys, uint32_t first, uint32_t count)
{
    KVEIK_ASSERT(first < keys->high && keys->used >= count);
    uint32_t class = class_of(count);
    uint32_t *owners = keys->owners.base;
    owners[first] = keys->free_head[class];
    keys->free_head[class] = first;
    keys->used -= count;
    keys->taken -= 1u << class;
}
