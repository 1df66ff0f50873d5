#include "daemon/core/keys.h"

#include <string.h>

#include "base/assert.h"
#include "base/status.h"

/* What the bytes of a free run's first key hold. */
struct free_run {
    uint32_t prev;
    uint32_t next;
};

int keys_init(struct keys *keys, uint64_t keys_max)
{
    *keys = (struct keys){.keys_max =
                              (keys_max + BLOCK_KEYS_MAX - 1) / BLOCK_KEYS_MAX * BLOCK_KEYS_MAX};
    for (uint32_t i = 0; i < KEY_CLASSES; i++) {
        keys->free_head[i] = NONE;
    }
    if (keys_max == 0 || keys->keys_max >= KEY_FREE) {
        return ST_INVALID;
    }
    int status = vm_array_init(&keys->bytes, KEY_BYTES, keys->keys_max);
    return status != ST_OK ? status
                           : vm_array_init(&keys->owners, sizeof(uint32_t), keys->keys_max);
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

static struct free_run *free_at(const struct keys *keys, uint32_t first)
{
    return (struct free_run *)keys->bytes.base +
           (size_t)first * (KEY_BYTES / sizeof(struct free_run));
}

static void free_add(struct keys *keys, uint32_t first, uint32_t class)
{
    uint32_t *owners = keys->owners.base;
    uint32_t next = keys->free_head[class];
    *free_at(keys, first) = (struct free_run){.prev = NONE, .next = next};
    if (next != NONE) {
        free_at(keys, next)->prev = first;
    }
    keys->free_head[class] = first;
    owners[first] = KEY_FREE + class;
}

static void free_remove(struct keys *keys, uint32_t first, uint32_t class)
{
    uint32_t *owners = keys->owners.base;
    KVEIK_ASSERT(owners[first] == KEY_FREE + class);
    struct free_run run = *free_at(keys, first);
    if (run.prev != NONE) {
        free_at(keys, run.prev)->next = run.next;
    } else {
        keys->free_head[class] = run.next;
    }
    if (run.next != NONE) {
        free_at(keys, run.next)->prev = run.prev;
    }
    owners[first] = NONE;
}

bool keys_room(const struct keys *keys, uint32_t count)
{
    for (uint32_t class = class_of(count); class < KEY_CLASSES; class ++) {
        if (keys->free_head[class] != NONE) {
            return true;
        }
    }
    return (uint64_t)keys->high + BLOCK_KEYS_MAX <= keys->keys_max;
}

static uint32_t run_take(struct keys *keys, uint32_t class)
{
    uint32_t from = class;
    while (from < KEY_CLASSES && keys->free_head[from] == NONE) {
        from++;
    }
    uint32_t first = NONE;
    if (from < KEY_CLASSES) {
        first = keys->free_head[from];
        free_remove(keys, first, from);
    } else {
        uint64_t high = (uint64_t)keys->high + BLOCK_KEYS_MAX;
        if (high > keys->keys_max || vm_array_commit(&keys->bytes, high) != ST_OK ||
            vm_array_commit(&keys->owners, high) != ST_OK) {
            return NONE;
        }
        first = keys->high;
        keys->high += BLOCK_KEYS_MAX;
        from = KEY_CLASSES - 1;
    }
    while (from > class) {
        from--;
        free_add(keys, first + (1u << from), from); /* the upper half */
    }
    return first;
}

uint32_t keys_take(struct keys *keys, const uint8_t *from, uint32_t count, uint32_t block)
{
    KVEIK_ASSERT(count >= 1 && count <= BLOCK_KEYS_MAX && block < KEY_FREE);
    uint32_t class = class_of(count);
    uint32_t first = run_take(keys, class);
    if (first == NONE) {
        return NONE;
    }
    (void)memcpy((uint8_t *)keys->bytes.base + (size_t)first * KEY_BYTES, from,
                 (size_t)count * KEY_BYTES);
    uint32_t *owners = keys->owners.base;
    for (uint32_t i = 0; i < 1u << class; i++) {
        owners[first + i] = i < count ? block : NONE;
    }
    keys->used += count;
    keys->taken += 1u << class;
    return first;
}

void keys_give(struct keys *keys, uint32_t first, uint32_t count)
{
    uint32_t class = class_of(count);
    const uint32_t *owners = keys->owners.base;
    KVEIK_ASSERT(first < keys->high && keys->used >= count && owners[first] < KEY_FREE);
    keys->used -= count;
    keys->taken -= 1u << class;
    while (class + 1 < KEY_CLASSES) {
        uint32_t buddy = first ^ (1u << class);
        if (owners[buddy] != KEY_FREE + class) {
            break;
        }
        free_remove(keys, buddy, class);
        first &= ~(1u << class);
        class ++;
    }
    free_add(keys, first, class);
}
