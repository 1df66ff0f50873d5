/*
 * kveik replay, the parts:
 *
 *   replay.c          checks, the trace; starts the engines and waits
 *   replay_options.c  the table of options, with the help
 *   replay_plan.c     from options to geometry, quota, and the memory that parent and engines share
 *   replay_memory.c   the replay's space, its pages of KV, and their bytes
 *   replay_engine.c   one engine process: connects, registers, takes its requests in turn
 *   replay_request.c  one request: lookup -> pull -> push
 *   replay_report.c   the result, as tables and as JSON
 *
 * Parent and engines share one memfd: the plan, the trace, and each engine's numbers, which the
 * engine writes and the parent reads when it has ended (progress: at any time).
 */
#ifndef KVEIK_CLI_REPLAY_H
#define KVEIK_CLI_REPLAY_H

#include <kveik/kveik.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "client/cli/cli.h"
#include "client/cli/hist.h"
#include "client/cli/trace.h"

enum {
    REPLAY_ENGINES_MAX = 64,
    REPLAY_IN_FLIGHT_MAX = 64,
    REPLAY_STATUS_MAX = 32, /* negative status codes, counted by -status */
    REPLAY_ISOLATION_BYTES = 16,
    REPLAY_PATH_BYTES = 128,
    REPLAY_TEXT_BYTES = 256,
};

/* What all engines do, settled before they start. */
struct replay_plan {
    char socket_path[REPLAY_PATH_BYTES];
    uint8_t isolation[REPLAY_ISOLATION_BYTES]; /* random: a space of this replay's own */
    uint32_t engine_count;
    uint32_t in_flight; /* requests at once, of one engine */
    uint32_t speed;     /* times the trace's clock; 0: no waiting */
    bool verify;
    uint32_t block_tokens;
    uint32_t block_bytes; /* payload of a block in all planes */
    uint32_t layers;
    uint32_t kinds;
    uint32_t heads;
    uint32_t elements;     /* bytes a head and token of one plane */
    uint64_t slot_bytes;   /* what a block takes in the daemon */
    uint64_t quota_bytes;  /* of the space; 0: none */
    uint32_t chunk_blocks; /* blocks of one push or pull; pages of one request */
    uint32_t request_blocks_max;
    uint32_t deadline_ms;
    bool plain_lru;       /* blocks one at a time, in the prompt's order, without leases */
    uint32_t memory_mode; /* enum kveik_memory_mode: how engines share their memory */
};

enum replay_state { REPLAY_STARTING, REPLAY_READY, REPLAY_DONE, REPLAY_FAILED };

/* One engine's numbers. */
struct replay_numbers {
    atomic_uint_fast32_t state; /* enum replay_state */
    atomic_uint_fast64_t progress;
    uint64_t requests;
    uint64_t references; /* blocks looked up */
    uint64_t hits;       /* of them over the leading run */
    uint64_t pulled_blocks;
    uint64_t missed_blocks; /* under a lease, gone at the pull: never right */
    uint64_t stored_blocks;
    uint64_t held_blocks;
    uint64_t refused_blocks;
    uint64_t wrong_blocks;
    uint64_t wrong_bytes;
    uint64_t pulled_bytes;
    uint64_t pushed_bytes;
    uint64_t hash_ns;     /* token ids to keys */
    uint64_t fill_ns;     /* making and checking bytes, with --verify */
    uint64_t late_us_max; /* behind the trace's clock, with --speed */
    uint64_t ended_ns;    /* CLOCK_MONOTONIC, the same for all processes */
    uint64_t errors[REPLAY_STATUS_MAX];
    struct hist lookup_us;
    struct hist pull_us; /* of all chunks of a request together */
    struct hist push_us;
    char mode[16];                /* how the KV memory is shared */
    char text[REPLAY_TEXT_BYTES]; /* why it failed */
};

struct replay_shared {
    uint64_t bytes; /* of the whole file: parent and engine are the same program */
    struct replay_plan plan;
    atomic_uint_fast32_t go;
    uint64_t requests_offset; /* struct trace_request */
    uint64_t ids_offset;
    uint32_t request_count;
    uint32_t id_tokens;
    uint64_t id_count;
    struct replay_numbers numbers[]; /* plan.engine_count */
};

/* ---- replay_plan.c ----------------------------------------------------------------------------
 */

/* The options of `kveik replay`. */
struct replay_settings {
    struct cli_common common;
    uint32_t format;
    uint32_t id_tokens;
    uint32_t requests;
    uint32_t engines;
    uint32_t in_flight;
    uint32_t speed;
    bool verify;
    uint32_t block_tokens;
    uint64_t block_bytes;
    uint32_t layers;
    uint32_t kinds;
    uint32_t heads;
    uint64_t cache_blocks;
    uint64_t cache_bytes;
    uint64_t deadline_ms;
    uint32_t memory;
    bool plain_lru;
};

extern const struct options_table replay_options; /* replay_options.c */

/* Fills the plan from settings and trace; the error says what would be right. */
int replay_plan_make(const struct replay_settings *settings, const struct trace *trace,
                     const struct trace_counts *counts, struct replay_plan *plan_out,
                     struct error *error);

/* A memfd with plan, trace and room for the numbers, mapped. */
int replay_shared_create(const struct replay_plan *plan, const struct trace *trace,
                         struct replay_shared **shared_out, int *fd_out, struct error *error);

/* An engine's view of it. */
int replay_shared_open(int fd, struct replay_shared **shared_out);
void replay_shared_close(struct replay_shared *shared);

/* The trace in it; nothing to free. */
void replay_shared_trace(struct replay_shared *shared, struct trace *trace_out);

/* ---- replay_memory.c --------------------------------------------------------------------------
 */

/* The replay's space; with its quota, or with another one. */
int replay_space_register(kveik_client *client, const struct replay_plan *plan,
                          uint64_t quota_bytes, uint32_t *space_out, struct kveik_error *error);

/* Memory, exported and laid out for `pages` pages of one block each. */
struct replay_memory {
    char *base;
    size_t bytes;
    bool mapped; /* by us, not by the library */
    uint32_t pages;
    uint32_t region;
    uint32_t layout;
    uint32_t mode; /* enum kveik_memory_mode: the way that was taken */
};
int replay_memory_create(kveik_client *client, const struct replay_plan *plan, uint32_t space,
                         uint32_t pages, struct replay_memory *memory_out,
                         struct kveik_error *error);
void replay_memory_destroy(kveik_client *client, struct replay_memory *memory);

/* Makes the daemon forget what a replay pushed, all but one block. It may fail: the cache forgets
 * by itself in time. */
void replay_forget(kveik_client *client, const struct replay_plan *plan);

/* A block's bytes are a function of its key. `check` returns the number of wrong bytes. */
void replay_page_fill(const struct replay_plan *plan, const struct replay_memory *memory,
                      uint32_t page, const uint8_t *key);
void replay_page_poison(const struct replay_plan *plan, const struct replay_memory *memory,
                        uint32_t page);
uint64_t replay_page_check(const struct replay_plan *plan, const struct replay_memory *memory,
                           uint32_t page, const uint8_t *key);

/* ---- replay_request.c -------------------------------------------------------------------------
 */

enum replay_step { STEP_IDLE, STEP_LOOKUP, STEP_PULL, STEP_PUSH };

/* One request under way; owns pages [first_page, first_page + plan.chunk_blocks). */
struct replay_request {
    enum replay_step step;
    const struct trace_request *request;
    uint32_t first_page;
    uint32_t *pages; /* their numbers; owned */
    uint8_t *keys;   /* of every block; owned */
    uint32_t blocks;
    uint32_t hits;
    uint32_t next;  /* first block of the chunk under way */
    uint32_t count; /* blocks of it */
    uint64_t lease;
    uint64_t pull_us;
    uint64_t push_us;
};

struct replay_engine {
    const struct replay_plan *plan;
    struct replay_numbers *numbers;
    struct trace trace;
    kveik_client *client;
    uint32_t space;
    struct replay_memory memory;
    kveik_hasher *hasher;
    uint32_t *tokens;    /* of the largest prompt */
    uint8_t *grain_keys; /* likewise */
    struct replay_request *slots;
    uint32_t busy; /* slots not idle */
};

/* Begins a request in an idle slot. KVEIK_OK, or a status that ends the engine. */
int replay_request_begin(struct replay_engine *engine, struct replay_request *slot,
                         const struct trace_request *request, struct kveik_error *error);

/* Takes a completion of the slot's operation and goes on. */
int replay_request_step(struct replay_engine *engine, struct replay_request *slot,
                        const struct kveik_completion *completion, struct kveik_error *error);

/* ---- replay_report.c --------------------------------------------------------------------------
 */

struct replay_result {
    const struct replay_plan *plan;
    const struct trace *trace;
    const struct trace_counts *counts;
    const char *path;
    struct replay_numbers *sum; /* of all engines */
    uint64_t wall_ns;
};

int replay_report(const struct cli *cli, const struct replay_result *result);

/* Adds `from` to `into`. */
void replay_numbers_add(struct replay_numbers *into, const struct replay_numbers *from);

/* Whether anything in the numbers means that bytes were wrong or lost. */
bool replay_numbers_bad(const struct replay_numbers *numbers);

#endif
