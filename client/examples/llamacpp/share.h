/*
 * The Kveik side: a pool of pages, each of which holds one block as a blob (kv_blob.h), exported to
 * the daemon once. The daemon copies payload straight into and out of them.
 *
 * Nothing here makes the engine wait longer than it allowed, and nothing fails a prompt: without a
 * daemon, or with one that does not answer in time, there is simply nothing found. What came too
 * late is taken care of later: its pages are used again only when no copy can touch them any more.
 * One thread.
 *
 *   a page:  FREE -> HELD (by the caller) -> PUSHING -> FREE
 *            FREE -> PULLING -> HELD, or FREE after all when it was late
 *            PUSHING, PULLING -> STUCK (the daemon does not answer) -> QUIESCING -> FREE
 */
#ifndef KVEIK_EXAMPLES_SHARE_H
#define KVEIK_EXAMPLES_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include "kv_blob.h"

enum { SHARE_TEXT_BYTES = 256 };

struct share_options {
    const char *socket_path; /* NULL: the usual place */
    const char *isolation;   /* engines with another text share nothing; NULL: none */
    const uint8_t *model_id; /* 32 bytes: SHA-256 of the weights */
    const uint8_t *rope_id;  /* 32 bytes */
    uint32_t kv_heads;
    uint32_t window_tokens; /* of the blob's second part, if it has one */
    uint32_t tokens_max;    /* of a sequence */
    uint32_t page_count;
    uint32_t step_tokens; /* what is found is a multiple of this, and of the block */
    uint32_t deadline_ms; /* for looking up and pulling; after this, computing is preferred */
};

struct share;

/* NULL: error_out says why; a daemon that is not there is no reason. The blob stays the caller's,
 * for as long as the share lives. */
struct share *share_create(const struct share_options *options, const struct kv_blob *blob,
                           char error_out[SHARE_TEXT_BYTES]);
void share_destroy(struct share *share);

struct share_found {
    uint32_t tokens;             /* held, pulled, and in the pages */
    uint64_t bytes;              /* payload pulled */
    double lookup_ms;            /* with hashing */
    double pull_ms;              /* submit to completion */
    char text[SHARE_TEXT_BYTES]; /* why not more; empty: it is not there */
};

/* Begins a prompt: looks it up and pulls what is held, one block a page. At least the prompt's last
 * token is left to compute. pages_out has room for all of the prompt's blocks, and its pages are
 * the caller's until share_give_back(). */
void share_fetch(struct share *share, const uint32_t *tokens, uint32_t count, uint32_t *pages_out,
                 struct share_found *found_out);

uint8_t *share_page(const struct share *share, uint32_t page);
bool share_take_page(struct share *share, uint32_t *page_out); /* false: all are in use */
void share_give_back(struct share *share, uint32_t page);

/* Hands over a page with the block number `block` of the prompt that was begun. Never waits; what
 * cannot be pushed now is not pushed. */
void share_push(struct share *share, uint32_t page, const uint32_t *tokens, uint32_t block);
bool share_pushes(struct share *share); /* whether it is worth exporting a block at all */

/* Does what is due; never blocks. */
void share_poll(struct share *share);

/* Until nothing is in flight. False: not within the time. */
bool share_flush(struct share *share, uint32_t timeout_ms);

struct share_counts {
    uint64_t pulled_blocks;
    uint64_t pushed_blocks;
    uint64_t held_blocks; /* pushed by somebody before */
    uint64_t failed_blocks;
    uint64_t skipped_blocks; /* not pushed: no daemon, no page */
    uint64_t late_requests;  /* that did not answer within the deadline */
    uint64_t reconnects;
};
void share_count(struct share *share, struct share_counts *counts_out);

#endif
