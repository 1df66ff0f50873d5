/*
 * Ranks of engines for tests of the whole system: each a client of a daemon, with pages of its own
 * in one of the ways that engines have. What an element is depends only on its place in the model
 * and the prompt, so that any rank can check what any other pushed.
 */
#ifndef KVEIK_TESTS_LIB_RANK_H
#define KVEIK_TESTS_LIB_RANK_H

#include <kveik/kveik.h>
#include <stdio.h>
#include <string.h>

#include <check.h>

#include "base/heap.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/kv_memory.h"

enum {
    LAYERS = 4,
    HEADS = 4,
    KINDS = 2,
    ELEMENTS = 24,
    ELEMENT_BYTES = 2,
    OPAQUE_BYTES = 100, /* a page, or one head's share of it */
    TOKENS_MAX = 512,   /* tokens that each engine has pages for */
    REGIONS_MAX = 64,
    RANKS_MAX = 8,
};

enum way { STRIDED, WHOLE_PAGES, HEADS_APART };

/* One rank of an engine. */
struct rank {
    kveik_client *client;
    struct kv_memory kv;
    uint32_t handles[REGIONS_MAX]; /* of the regions */
    uint32_t space;
    uint32_t layout;
};

/* What the element e of a token is, whoever holds it: pages and ranks do not enter. Opaque: what
 * the byte e is, of the page that begins with the token. */
struct place {
    uint64_t seed;
    uint32_t layer;
    uint32_t kind;
    uint32_t token;
    uint32_t head;
    uint32_t element;
};

static inline uint16_t value_of(const struct place *at)
{
    struct rng rng = {.state = at->seed * 1000003u + at->token};
    rng.state = rng_next(&rng) + at->layer * 7919u + at->kind * 104729u;
    rng.state = rng_next(&rng) + at->head * 1299709u + at->element;
    return (uint16_t)rng_next(&rng);
}

static inline char *element_at(const struct rank *rank, const uint32_t *pages,
                               const struct place *at)
{
    const struct layout *layout = &rank->kv.layout;
    uint32_t number = (at->layer - layout->layer_begin) * layout->kind_count + at->kind;
    const struct layout_plane *plane = &layout->planes[number];
    return rank->kv.regions[plane->region].base + plane->offset +
           pages[at->token / layout->page_tokens] * plane->page_stride +
           at->token % layout->page_tokens * plane->token_stride +
           (at->head - layout->head_begin) * plane->head_stride +
           at->element * plane->element_stride;
}

static inline void one_element(const struct rank *rank, const uint32_t *pages,
                               const struct place *at, bool check)
{
    uint16_t value = value_of(at);
    char *place = element_at(rank, pages, at);
    size_t bytes = rank->kv.layout.element_bytes;
    if (!check) {
        (void)memcpy(place, &value, bytes);
    } else if (memcmp(place, &value, bytes) != 0) {
        ck_abort_msg("layer %u kind %u token %u head %u element %u is wrong", at->layer, at->kind,
                     at->token, at->head, at->element);
    }
}

/* Fills or checks `tokens` tokens in the rank's pages. */
static inline void walk(const struct rank *rank, const uint32_t *pages, uint32_t tokens,
                        uint64_t seed, bool check)
{
    const struct layout *layout = &rank->kv.layout;
    struct place at = {.seed = seed};
    uint32_t step = layout->opaque ? layout->page_tokens : 1;
    uint32_t elements = layout->kind_elements[0]; /* of both kinds */
    for (uint32_t l = 0; l < layout->layer_count * KINDS; l++) {
        at.layer = layout->layer_begin + l / KINDS;
        at.kind = l % KINDS;
        for (at.token = 0; at.token < tokens; at.token += step) {
            for (uint32_t i = 0; i < layout_head_units(layout) * elements; i++) {
                at.head = layout->head_begin + i / elements;
                at.element = i % elements;
                one_element(rank, pages, &at, check);
            }
        }
    }
}

static inline void rank_export(struct rank *rank, uint32_t mode)
{
    struct kveik_error error = {0};
    for (uint32_t r = 0; r < rank->kv.region_count; r++) {
        struct kveik_memory_options options = KVEIK_MEMORY_OPTIONS_INIT;
        options.mode = mode;
        int status =
            kveik_memory_export(rank->client, rank->kv.regions[r].base, rank->kv.region_bytes[r],
                                &options, &rank->handles[r], NULL, &error);
        ck_assert_msg(status == KVEIK_OK, "export of region %u: %s", r, error.text);
    }
}

static inline void rank_space(struct rank *rank)
{
    struct kveik_error error = {0};
    bool opaque = rank->kv.layout.opaque;
    struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                .layer_count = LAYERS,
                                .head_count = HEADS,
                                .kind_count = KINDS,
                                .opaque = opaque};
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        group.kind_elements[kind] = opaque ? 0 : ELEMENTS;
    }
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = "shared";
    space.dtype = KVEIK_F16;
    space.group_count = 1;
    space.groups = &group;
    space.fingerprint = opaque ? "packed" : NULL; /* the same for both ways: they must not mix */
    space.fingerprint_bytes = opaque ? 6 : 0;
    int status = kveik_space_register(rank->client, &space, &rank->space, &error);
    ck_assert_msg(status == KVEIK_OK, "%s", error.text);
}

/* With a self-test if there are callbacks. */
static inline int rank_register(struct rank *rank, kveik_fill_cb fill, kveik_check_cb check,
                                struct kveik_error *error)
{
    struct kveik_plane planes[LAYERS * KINDS];
    const struct layout *own = &rank->kv.layout;
    for (uint32_t p = 0; p < own->layer_count * KINDS; p++) {
        planes[p] = (struct kveik_plane){.region = rank->handles[own->planes[p].region],
                                         .offset = own->planes[p].offset,
                                         .page_stride = own->planes[p].page_stride,
                                         .token_stride = own->planes[p].token_stride,
                                         .head_stride = own->planes[p].head_stride,
                                         .element_stride = own->planes[p].element_stride};
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = rank->space;
    layout.page_tokens = own->page_tokens;
    layout.page_count = own->page_count;
    layout.layer_begin = own->layer_begin;
    layout.layer_count = own->layer_count;
    layout.head_begin = own->head_begin;
    layout.head_count = own->head_count;
    layout.planes = planes;
    layout.page_bytes = own->opaque ? OPAQUE_BYTES : 0;
    layout.fill = fill;
    layout.check = check;
    layout.callback_arg = rank;
    return kveik_layout_register(rank->client, &layout, &rank->layout, error);
}

static inline void rank_open(struct rank *rank, const char *socket,
                             const struct kv_geometry *geometry, const char *instance,
                             uint32_t mode)
{
    struct kveik_error error = {0};
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = socket;
    options.instance = instance;
    ck_assert_msg(kveik_connect(&options, &rank->client, &error) == KVEIK_OK, "%s", error.text);
    kv_memory_init(&rank->kv, geometry, 1);
    rank_space(rank);
    ck_assert_uint_le(rank->kv.region_count, REGIONS_MAX);
    rank_export(rank, mode);
    ck_assert_msg(rank_register(rank, NULL, NULL, &error) == KVEIK_OK, "%s", error.text);
}

/* How one engine cuts the model. */
struct cut {
    enum way way;
    uint32_t ranks_heads;
    uint32_t ranks_layers;
    uint32_t page_tokens;
    uint32_t block_tokens;
    enum kv_style style;
    uint32_t mode;
};

static inline struct cut random_cut(struct rng *rng)
{
    static const uint32_t pages[] = {16, 32, 64, 128};
    static const uint32_t blocks[] = {16, 32, 128};
    return (struct cut){.ranks_heads = 1u << rng_below(rng, 3),
                        .ranks_layers = 1u << rng_below(rng, 2),
                        .page_tokens = pages[rng_below(rng, ARRAY_COUNT(pages))],
                        .block_tokens = blocks[rng_below(rng, ARRAY_COUNT(blocks))],
                        .style = (enum kv_style)rng_below(rng, KV_STYLE_COUNT),
                        .mode = rng_below(rng, 3) == 0 ? KVEIK_MEMORY_CROSS : KVEIK_MEMORY_AUTO};
}

static inline uint32_t engine_open(struct rank *ranks, const char *socket, const struct cut *cut,
                                   const char *instance)
{
    uint32_t count = 0;
    bool opaque = cut->way != STRIDED;
    uint32_t elements = opaque ? OPAQUE_BYTES : ELEMENTS;
    for (uint32_t l = 0; l < cut->ranks_layers; l++) {
        for (uint32_t h = 0; h < cut->ranks_heads; h++) {
            struct kv_geometry geometry = {.style = cut->style,
                                           .opaque = opaque,
                                           .apart = cut->way == HEADS_APART,
                                           .page_tokens = cut->page_tokens,
                                           .page_count = TOKENS_MAX / cut->page_tokens,
                                           .layer_begin = l * (LAYERS / cut->ranks_layers),
                                           .layer_count = LAYERS / cut->ranks_layers,
                                           .head_begin = h * (HEADS / cut->ranks_heads),
                                           .head_count = HEADS / cut->ranks_heads,
                                           .kind_count = KINDS,
                                           .element_bytes = ELEMENT_BYTES,
                                           .elements = {elements, elements},
                                           .own_pages = true};
            rank_open(&ranks[count++], socket, &geometry, instance, cut->mode);
        }
    }
    return count;
}

static inline void engine_close(struct rank *ranks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        kveik_close(ranks[i].client);
        kv_memory_finish(&ranks[i].kv);
    }
}

static inline uint32_t pages_of(const struct rank *rank, uint32_t tokens)
{
    return (tokens + rank->kv.layout.page_tokens - 1) / rank->kv.layout.page_tokens;
}

static inline void push(struct rank *rank, const uint32_t *pages, const uint8_t *keys,
                        uint32_t tokens, uint32_t block_tokens)
{
    struct kveik_push_run run = {.layout = rank->layout,
                                 .block_count = (tokens + block_tokens - 1) / block_tokens,
                                 .block_tokens = block_tokens,
                                 .tail_tokens = tokens % block_tokens,
                                 .keys = keys,
                                 .key_count = (tokens + 15) / 16,
                                 .pages = pages,
                                 .page_count = pages_of(rank, tokens)};
    struct kveik_push request = KVEIK_PUSH_INIT;
    request.runs = &run;
    request.run_count = 1;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_push(rank->client, &request, &done);
    ck_assert_msg(status == KVEIK_OK, "push: %s", done.text);
    for (uint32_t i = 0; i < done.status_count; i++) {
        ck_assert_int_eq(done.statuses[i], KVEIK_OK);
    }
    kveik_completion_finish(&done);
}

/* Opaque pages are asked for by the keys of their last grains; `tokens` end in the last page's. */
static inline void pull(struct rank *rank, const uint32_t *pages, const uint8_t *keys,
                        uint32_t tokens, int expected)
{
    uint8_t page_keys[TOKENS_MAX / 16 * KVEIK_KEY_BYTES];
    uint32_t key_tokens = rank->kv.layout.opaque ? rank->kv.layout.page_tokens : 16;
    uint32_t key_count = (tokens + key_tokens - 1) / key_tokens;
    for (uint32_t i = 0; i < key_count; i++) {
        (void)memcpy(page_keys + (size_t)i * KVEIK_KEY_BYTES,
                     keys + ((size_t)(i + 1) * key_tokens / 16 - 1) * KVEIK_KEY_BYTES,
                     KVEIK_KEY_BYTES);
    }
    struct kveik_pull_run run = {.layout = rank->layout,
                                 .keys = page_keys,
                                 .key_count = key_count,
                                 .key_tokens = key_tokens,
                                 .tail_tokens = tokens % 16,
                                 .pages = pages,
                                 .page_count = pages_of(rank, tokens)};
    struct kveik_pull request = KVEIK_PULL_INIT;
    request.runs = &run;
    request.run_count = 1;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_pull(rank->client, &request, &done);
    ck_assert_msg(status == KVEIK_OK, "pull: %s", done.text);
    for (uint32_t i = 0; i < done.status_count; i++) {
        ck_assert_msg(done.statuses[i] == expected, "key %u: %d", i, done.statuses[i]);
    }
    kveik_completion_finish(&done);
}

static inline uint32_t lookup(struct rank *rank, const uint8_t *keys, uint32_t tokens)
{
    struct kveik_lookup request = KVEIK_LOOKUP_INIT;
    request.space = rank->space;
    request.keys = keys;
    request.key_count = (tokens + 15) / 16;
    request.tail_tokens = tokens % 16;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_lookup(rank->client, &request, &done);
    ck_assert_msg(status == KVEIK_OK, "lookup: %s", done.text);
    uint32_t hit = done.hit_tokens;
    kveik_completion_finish(&done);
    return hit;
}

/* Keys of a new prompt. */
static inline void random_prompt(struct rng *rng, uint32_t tokens, uint8_t *keys)
{
    uint32_t ids[TOKENS_MAX];
    for (uint32_t i = 0; i < tokens; i++) {
        ids[i] = (uint32_t)rng_below(rng, 50000);
    }
    ck_assert_int_eq(kveik_hash_tokens(NULL, ids, tokens, NULL, 0, keys), KVEIK_OK);
}

#endif
