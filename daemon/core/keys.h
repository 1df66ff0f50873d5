/*
 * Where grain keys lie: runs of consecutive keys, one run a block, in sizes of powers of two, with
 * the owning block beside each key. A key's number is its place in the table's entries.
 *
 * Runs are cut from chunks of 256 keys and joined again when both halves are free (buddies), so
 * that blocks of other sizes can have the place of those that went.
 */
#ifndef KVEIK_CORE_KEYS_H
#define KVEIK_CORE_KEYS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/vm.h"
#include "daemon/core/slots.h"

enum { KEY_BYTES = 32, KEY_CLASSES = 9 /* 1, 2, 4 … 256 keys */, BLOCK_KEYS_MAX = 256 };

/* Owners of this and above are no blocks: the first key of a free run of class owner - KEY_FREE. */
#define KEY_FREE 0xffffff00u

struct keys {
    struct vm_array bytes;  /* KEY_BYTES each; a free run's first links the free list */
    struct vm_array owners; /* uint32_t block each */
    uint64_t keys_max;      /* a multiple of 256 */
    uint32_t high;
    uint32_t free_head[KEY_CLASSES];
    uint64_t used;  /* keys in use */
    uint64_t taken; /* with the rounding to powers of two */
};

int keys_init(struct keys *keys, uint64_t keys_max);
void keys_finish(struct keys *keys);

/* Whether keys_take() of so many keys will find room, if memory can be had. */
bool keys_room(const struct keys *keys, uint32_t count);

/* The number of the first of `count` keys (1 .. 256), copied in and owned by `block`; NONE when the
 * limit or the memory is reached. */
uint32_t keys_take(struct keys *keys, const uint8_t *from, uint32_t count, uint32_t block);
void keys_give(struct keys *keys, uint32_t first, uint32_t count);

static inline const uint8_t *keys_at(const struct keys *keys, uint32_t number)
{
    return (const uint8_t *)keys->bytes.base + (size_t)number * KEY_BYTES;
}

static inline uint64_t keys_word(const uint8_t *key, uint32_t word)
{
    uint64_t value;
    (void)memcpy(&value, key + (size_t)8 * word, sizeof value);
    return value;
}

/* memcmp() is a call, and this is asked for every key of a lookup. */
static inline bool keys_equal(const uint8_t *a, const uint8_t *b)
{
    return ((keys_word(a, 0) ^ keys_word(b, 0)) | (keys_word(a, 1) ^ keys_word(b, 1)) |
            (keys_word(a, 2) ^ keys_word(b, 2)) | (keys_word(a, 3) ^ keys_word(b, 3))) == 0;
}

static inline uint32_t keys_owner(const struct keys *keys, uint32_t number)
{
    return ((const uint32_t *)keys->owners.base)[number];
}

#endif
