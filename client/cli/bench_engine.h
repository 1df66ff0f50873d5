/*
 * An engine without a model: KV memory of a given shape, exported, registered, and passes over it
 * with a given number of requests in flight, one block a request. A block is one page.
 */
#ifndef KVEIK_CLI_BENCH_ENGINE_H
#define KVEIK_CLI_BENCH_ENGINE_H

#include <kveik/kveik.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { BENCH_LAYERS_MAX = 64, BENCH_KINDS_MAX = 2 };

struct bench_shape {
    const char *name; /* in the names of metrics */
    uint32_t layers;
    uint32_t kinds;
    uint32_t heads;
    uint32_t elements; /* bf16, a head and token */
    uint32_t page_tokens;
};

uint64_t bench_plane_bytes(const struct bench_shape *shape);
uint64_t bench_block_bytes(const struct bench_shape *shape);

struct bench_engine_options {
    const char *socket_path; /* NULL: the default */
    const struct bench_shape *shape;
    uint32_t pages;
    uint32_t memory_mode; /* enum kveik_memory_mode; 0: kveik_memory_allocate() */
    bool head_major;      /* pages as [head][token][element] */
};

struct bench_engine {
    const struct bench_shape *shape;
    kveik_client *client;
    char *memory;
    uint64_t bytes;
    uint32_t pages;
    uint32_t *order; /* a fixed shuffle of the pages: engines' pages lie anywhere */
    uint32_t space;
    uint32_t layout;
    bool mapped; /* memory is our own mapping */
};

/* ST_OK or a failure in words; finished by the caller in any case. */
int bench_engine_init(struct bench_engine *engine, const struct bench_engine_options *options,
                      struct error *error);

/* Accepts a zeroed engine. */
void bench_engine_finish(struct bench_engine *engine);

/* The key of a block by number. */
void bench_key(uint64_t number, uint8_t key_out[KVEIK_KEY_BYTES]);

struct bench_pass {
    bool push; /* else pull */
    uint64_t key_first;
    uint32_t blocks;
    uint32_t depth;            /* requests in flight */
    const uint32_t *key_order; /* the order of the keys; NULL: as they come */
    double seconds;            /* out */
};

/* Moves blocks key_first, key_first + 1, ... from or to pages in their order. Every block must be
 * moved: a miss or a block that was held before is a failure. */
int bench_engine_pass(struct bench_engine *engine, struct bench_pass *pass, struct error *error);

/* One block, waited for. microseconds_out may be NULL. */
int bench_engine_one(struct bench_engine *engine, bool push, uint64_t key, uint32_t page,
                     double *microseconds_out, struct error *error);

/* `count` numbers from 0 in a fixed random order; freed with heap_free(). */
uint32_t *bench_shuffle(uint32_t count);

#endif
