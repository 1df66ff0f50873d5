/*
 * `kveik demo`: what its processes say to each other. The parent starts the engines (itself, with
 * DEMO_ENGINE_WORD as first argument) with a SOCK_SEQPACKET socket as descriptor DEMO_ENGINE_FD.
 *
 *   parent                      engine
 *   demo_setup  ------------->
 *               <-------------  demo_result (index DEMO_READY: it is up, or why not)
 *   demo_job + tokens  ------>
 *               <-------------  demo_result
 *   (closes)                    ends
 *
 * All are one build's structs, so they travel as they are. One packet a message.
 */
#ifndef KVEIK_CLI_DEMO_H
#define KVEIK_CLI_DEMO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define DEMO_ENGINE_WORD "engine-process"

enum {
    DEMO_ENGINE_FD = 3,
    DEMO_ENGINES = 2,
    DEMO_NAME_BYTES = 64,
    DEMO_TOKENS_MAX = 8192, /* of one prompt; a job is one packet */
    DEMO_PAGE_TOKENS = 16,
    DEMO_BLOCK_TOKENS = 32, /* of one block in the cache */
    DEMO_READY = INT32_MAX,
    DEMO_BOOT_ID_BYTES = 33, /* 16 bytes in hexadecimal, and a NUL */
};

/* Sizes of the engine's model. */
struct demo_model {
    const char *name;
    uint32_t layers;
    uint32_t hidden;
    uint32_t query_heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t ffn;
    uint32_t vocabulary;
};

enum { DEMO_MODELS = 3 };
extern const struct demo_model demo_models[DEMO_MODELS];

struct demo_setup {
    char socket_path[108]; /* empty: the default */
    char instance[DEMO_NAME_BYTES];
    uint32_t model; /* in demo_models */
    uint32_t tokens_max;
    uint64_t seed;         /* of the weights */
    uint64_t isolation[2]; /* this run's share of the cache; zero: shared with other runs */
};

struct demo_job {
    uint32_t index;
    uint32_t token_count;
    bool fresh_first;                 /* measure the full prefill before the cached one */
    char boot_id[DEMO_BOOT_ID_BYTES]; /* wait to be connected to this daemon first; empty: to any */
    uint32_t tokens[DEMO_TOKENS_MAX];
};

struct demo_result {
    uint32_t index;
    int32_t status;       /* ST_OK, or why the request failed */
    int32_t cache_status; /* ST_OK, or why the cache could not be used (the request is good) */
    uint32_t prompt_tokens;
    uint32_t hit_tokens;   /* found by the lookup */
    uint32_t own_tokens;   /* of these, pushed by this engine */
    uint32_t other_tokens; /* and by others */
    uint32_t used_tokens;  /* pulled in time and used */
    bool logits_same;      /* cached against fresh, bit for bit */
    bool kv_same;          /* and the KV of the whole prompt */
    uint64_t cached_ns;    /* time to first token with the cache: hash, lookup, pull, the rest */
    uint64_t fresh_ns;     /* the same prompt prefilled in fresh pages */
    uint64_t lookup_ns;
    uint64_t pull_ns;
    uint64_t push_ns; /* behind the first token */
    uint64_t pulled_bytes;
    uint64_t pushed_bytes;
    char text[ERROR_TEXT_BYTES];
};

/* The engine process: serves until the parent closes. Returns an exit code. */
int demo_engine_main(void);

#endif
