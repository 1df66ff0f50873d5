/* What share.c and share_setup.c have in common. */
#ifndef KVEIK_EXAMPLES_SHARE_STATE_H
#define KVEIK_EXAMPLES_SHARE_STATE_H

#include <kveik/kveik.h>

#include "share.h"

enum page_state { PAGE_FREE, PAGE_HELD, PAGE_PUSHING, PAGE_PULLING, PAGE_STUCK, PAGE_QUIESCING };

/* One part of the blob as Kveik sees it. */
struct share_group {
    const struct share *share;
    uint32_t part;
    uint32_t layout; /* 0: not registered yet */
    bool window;
};

struct share {
    struct share_options options;
    uint8_t model_id[32]; /* copies: the space may be described long after the share was created */
    uint8_t rope_id[32];
    const struct kv_blob *blob;
    bool opaque; /* of a packed type: blocks are shared whole */
    kveik_client *client;

    uint8_t *pages; /* exported; page p begins at p * page_stride */
    size_t page_stride;
    enum page_state *states;
    uint32_t next_page; /* where the search for a free one goes on */

    uint32_t space; /* 0: not registered yet */
    uint32_t region;
    uint32_t group_count;
    struct share_group groups[KV_BLOB_PARTS_MAX];

    uint8_t *keys; /* of the prompt's grains, hashed up to hashed_tokens */
    uint32_t hashed_tokens;
    uint8_t *block_keys; /* opaque: one a block, for a request */

    uint32_t late;      /* lookups and pulls that nobody waits for any more */
    double ask_again;   /* not before this: the last request was late, and nothing came since */
    uint32_t quiescing; /* requests */
    bool quiesced;      /* none of them has failed */
    struct share_counts counts;
};

/* Tells the daemon what the KV means, where it is, how it lies there; goes on where it stopped. */
int share_describe(struct share *share, struct kveik_error *error);

#endif
