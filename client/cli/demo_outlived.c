#include "client/cli/demo_outlived.h"

#include <kveik/kveik.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"

enum { KEYS_FIRST = 1024, KEYS_MAX = 1 << 23 };

static bool grow(struct demo_keys *list)
{
    uint32_t capacity = list->capacity == 0 ? KEYS_FIRST : 2 * list->capacity;
    uint64_t *keys =
        capacity <= KEYS_MAX ? heap_realloc(list->keys, (size_t)capacity * sizeof *keys) : NULL;
    if (keys == NULL) {
        return false;
    }
    list->keys = keys;
    list->capacity = capacity;
    return true;
}

static void append(struct demo_keys *list, const uint8_t *keys, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list->incomplete || (list->count == list->capacity && !grow(list))) {
            list->incomplete = true;
            return;
        }
        (void)memcpy(&list->keys[list->count++], keys + (size_t)i * KVEIK_KEY_BYTES,
                     sizeof list->keys[0]);
    }
}

static int compare(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one;
    uint64_t b = *(const uint64_t *)other;
    return (a > b) - (a < b);
}

static void sort(struct demo_keys *list)
{
    if (list->count > 0) {
        qsort(list->keys, list->count, sizeof list->keys[0], compare);
    }
}

static bool has(const struct demo_keys *list, uint64_t key)
{
    return list->count > 0 &&
           bsearch(&key, list->keys, list->count, sizeof list->keys[0], compare) != NULL;
}

void demo_outlived_pushed(struct demo_outlived *outlived, const uint8_t *keys, uint32_t count)
{
    append(outlived->restarted ? &outlived->again : &outlived->before, keys, count);
}

void demo_outlived_found(struct demo_outlived *outlived, const uint8_t *keys, uint32_t count)
{
    append(outlived->restarted ? &outlived->found : &outlived->before, keys, count);
}

void demo_outlived_restart(struct demo_outlived *outlived)
{
    outlived->restarted = true;
}

uint64_t demo_outlived_count(struct demo_outlived *outlived)
{
    if (outlived->again.incomplete) {
        return 0; /* any of them could have been pushed anew */
    }
    sort(&outlived->before);
    sort(&outlived->again);
    uint64_t count = 0;
    for (uint32_t i = 0; i < outlived->found.count; i++) {
        uint64_t key = outlived->found.keys[i];
        count += has(&outlived->before, key) && !has(&outlived->again, key) ? 1 : 0;
    }
    return count;
}

void demo_outlived_finish(struct demo_outlived *outlived)
{
    heap_free(outlived->before.keys);
    heap_free(outlived->found.keys);
    heap_free(outlived->again.keys);
    *outlived = (struct demo_outlived){0};
}
