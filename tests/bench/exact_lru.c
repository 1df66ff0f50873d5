#include "tests/bench/exact_lru.h"

#include <stdbool.h>

#include "base/assert.h"
#include "base/heap.h"

enum { EMPTY = 0 }; /* no block's number: they begin at 1; block 0 is the list's end */

struct block {
    uint64_t name;
    uint32_t older;
    uint32_t newer;
    uint32_t next; /* of the bucket */
};

struct exact_lru {
    struct block *blocks;
    uint32_t *buckets;
    uint32_t mask;
    uint32_t count;
    uint32_t blocks_max;
};

struct exact_lru *exact_lru_create(uint32_t blocks)
{
    struct exact_lru *lru = heap_calloc(1, sizeof *lru);
    KVEIK_ASSERT(lru != NULL);
    lru->blocks_max = blocks;
    lru->mask = 1;
    while (lru->mask < blocks) {
        lru->mask = 2 * lru->mask + 1;
    }
    lru->blocks = heap_calloc(blocks + (size_t)1, sizeof lru->blocks[0]);
    lru->buckets = heap_calloc(lru->mask + (size_t)1, sizeof lru->buckets[0]);
    KVEIK_ASSERT(lru->blocks != NULL && lru->buckets != NULL);
    return lru;
}

void exact_lru_destroy(struct exact_lru *lru)
{
    heap_free(lru->blocks);
    heap_free(lru->buckets);
    heap_free(lru);
}

static uint32_t *bucket_of(const struct exact_lru *lru, uint64_t name)
{
    return &lru->buckets[(name * 0x9e3779b97f4a7c15u >> 32) & lru->mask];
}

static uint32_t find(const struct exact_lru *lru, uint64_t name)
{
    uint32_t n = *bucket_of(lru, name);
    while (n != EMPTY && lru->blocks[n].name != name) {
        n = lru->blocks[n].next;
    }
    return n;
}

static void list_out(struct exact_lru *lru, uint32_t n)
{
    lru->blocks[lru->blocks[n].older].newer = lru->blocks[n].newer;
    lru->blocks[lru->blocks[n].newer].older = lru->blocks[n].older;
}

static void list_in(struct exact_lru *lru, uint32_t n)
{
    struct block *ends = &lru->blocks[0]; /* older: the newest; newer: the oldest */
    lru->blocks[n].older = ends->older;
    lru->blocks[n].newer = 0;
    lru->blocks[ends->older].newer = n;
    ends->older = n;
}

static uint32_t oldest_out(struct exact_lru *lru)
{
    uint32_t n = lru->blocks[0].newer;
    uint32_t *link = bucket_of(lru, lru->blocks[n].name);
    while (*link != n) {
        link = &lru->blocks[*link].next;
    }
    *link = lru->blocks[n].next;
    list_out(lru, n);
    return n;
}

uint32_t exact_lru_use(struct exact_lru *lru, const uint64_t *names, uint32_t count)
{
    uint32_t hit = 0;
    bool leading = true;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n = find(lru, names[i]);
        leading = leading && n != EMPTY;
        hit += leading ? 1 : 0;
        if (n != EMPTY) {
            list_out(lru, n);
            list_in(lru, n);
            continue;
        }
        n = lru->count < lru->blocks_max ? ++lru->count : oldest_out(lru);
        uint32_t *bucket = bucket_of(lru, names[i]);
        lru->blocks[n].name = names[i];
        lru->blocks[n].next = *bucket;
        *bucket = n;
        list_in(lru, n);
    }
    return hit;
}
