/*
 * The reference: an exact LRU of blocks by name. A request's leading resident blocks are its hits;
 * they are used in order, and the rest is put in. One thread; memory that cannot be had ends the
 * program.
 */
#ifndef KVEIK_TESTS_BENCH_EXACT_LRU_H
#define KVEIK_TESTS_BENCH_EXACT_LRU_H

#include <stdint.h>

struct exact_lru;

struct exact_lru *exact_lru_create(uint32_t blocks);
void exact_lru_destroy(struct exact_lru *lru);

/* Leading blocks that were there. */
uint32_t exact_lru_use(struct exact_lru *lru, const uint64_t *names, uint32_t count);

#endif
