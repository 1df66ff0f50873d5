/*
 * The copy engine of the CPU tier: gathers engine pages into stored parts and scatters them back,
 * converting between strided layouts in the same pass, on worker threads of its own.
 *
 * A job is a struct that the caller embeds. Its life: filled by the owner -> copy_submit() (now the
 * engine's, the owner touches nothing but copy_cancel()) -> copy_reap() hands it back. Work is cut
 * into chunks of about COPY_CHUNK_BYTES that idle workers take; between chunks a worker looks at
 * the cancel flag, the deadline and, for cross-memory jobs, at the peer's pidfd. A job is handed
 * back only when no thread will touch any of its memory again: this is the fence that frees rest
 * on.
 *
 * Engine memory that vanishes under a copy (a punched hole, a truncated file) raises SIGBUS in the
 * worker; the worker survives, the job ends with ST_MEMORY.
 */
#ifndef KVEIK_STORAGE_CPU_COPY_H
#define KVEIK_STORAGE_CPU_COPY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/layout.h"
#include "base/queue.h"

enum { COPY_CHUNK_BYTES = 512 * 1024, COPY_WORKERS_MAX = 64 };

/* How the daemon reaches one region of an engine. */
struct copy_region {
    char *base; /* mapped here (sealed memfd), or the address in the engine's process */
    uint64_t bytes;
};

/* All regions of one session. Immutable while a job refers to it. */
struct copy_memory {
    const struct copy_region *regions; /* indexed by layout_plane.region */
    int32_t pid;                       /* > 0: regions are reached by process_vm_readv/writev */
    int pidfd;                         /* readable once that process is gone; -1 if none */
};

/* One run of tokens between engine pages and one stored part. Ranges were checked by the caller:
 * layers and heads lie inside both the layout and the form, tokens inside pages and block, and
 * opaque runs begin and end at whole pages. */
struct copy_item {
    const struct layout *layout;
    const struct stored_form *form;
    char *part;            /* the part's first byte in the pool */
    const uint32_t *pages; /* page numbers of the run; token i of the list is
                              pages[i / page_tokens], token i % page_tokens in it */
    uint32_t page_token;   /* first token in the page list */
    uint32_t part_token;   /* first token in the part */
    uint32_t tokens;
    uint32_t layer_begin; /* layers and heads of the model to copy */
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
};

struct copy_job;
typedef void (*copy_done_cb)(struct copy_job *job);

struct copy_job {
    /* set by the owner before copy_submit() */
    const struct copy_memory *memory;
    const struct copy_item *items;
    void *owner;
    uint64_t deadline_ms; /* clock_ms() after which no further chunk is begun; 0 = none */
    uint32_t item_count;
    bool push; /* true: engine pages -> parts; false: parts -> engine pages */

    /* set by the engine, valid once reaped */
    uint64_t bytes; /* payload bytes copied */
    int status;     /* ST_OK, ST_MEMORY, ST_CANCELLED, ST_DEADLINE, ST_LOST */

    /* the engine's own */
    uint32_t item_next;  /* the next plane to begin: of this item, */
    uint32_t plane_next; /* this one */
    uint32_t workers_inside;
    struct queue link;
    atomic_uint_fast64_t copied_bytes;
    atomic_int failure;
    atomic_bool cancelled;
};

struct copy_engine;

struct copy_options {
    uint32_t workers;        /* 1 .. COPY_WORKERS_MAX */
    uint32_t jobs_max;       /* jobs queued or running; beyond, copy_submit() says ST_BUSY */
    uint64_t inline_bytes;   /* jobs of at most so many bytes run inside copy_submit() */
    void (*wake)(void *arg); /* called from a worker when copy_reap() has something; coalesced */
    void *wake_arg;
};

/* Starts the workers and calibrates the kernels (see kernels.h). ST_OK, ST_NO_MEMORY, ST_IO. */
int copy_engine_create(const struct copy_options *options, struct copy_engine **engine_out,
                       struct error *error);

/* Waits for running chunks; queued jobs must have been reaped. Accepts NULL. */
void copy_engine_destroy(struct copy_engine *engine);

/* ST_OK: the job is the engine's until reaped. ST_PENDING: not needed to wait, the job ran inline
 * and is done; it will NOT appear in copy_reap(). ST_BUSY: jobs_max reached, nothing happened. */
int copy_submit(struct copy_engine *engine, struct copy_job *job);

/* Asks that no further chunk of the job be begun. The job still comes back through copy_reap().
 * Any thread. */
void copy_cancel(struct copy_job *job);

/* The next finished job, or NULL. One thread (the loop). */
struct copy_job *copy_reap(struct copy_engine *engine);

/* Jobs submitted and not reaped. */
uint32_t copy_in_flight(const struct copy_engine *engine);

/* Runs a job on the calling thread; returns job->status. For benchmarks and tests. */
int copy_run(struct copy_engine *engine, struct copy_job *job);

#endif
