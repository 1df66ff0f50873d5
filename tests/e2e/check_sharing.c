/*
 * Engines with different layouts, page sizes, block sizes, ranks and ways of memory share blocks:
 * what one pushed another pulls, and every element is where its own indexing expects it.
 */
#include <string.h>

#include <check.h>

#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/rank.h"

enum { ROUNDS = 60 };

static struct daemon kveikd;

static void setup(void)
{
    static const char *const arguments[] = {"--cpu-bytes", "64MiB", "--log-level", "warn", NULL};
    daemon_init(&kveikd);
    ck_assert(daemon_start(&kveikd, arguments));
}

static void teardown(void)
{
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
    daemon_finish(&kveikd);
}

/* One engine pushes `tokens` tokens, all ranks of the other pull and find every element. */
static void share(struct rng *rng, const struct cut *from, const struct cut *to, uint32_t tokens)
{
    struct rank pushers[RANKS_MAX];
    struct rank pullers[RANKS_MAX];
    uint64_t seed = rng_next(rng);
    uint32_t pushing = engine_open(pushers, kveikd.socket, from, "pusher");
    uint32_t pulling = engine_open(pullers, kveikd.socket, to, "puller");
    uint8_t keys[TOKENS_MAX / 16 * KVEIK_KEY_BYTES];
    random_prompt(rng, tokens, keys);
    uint32_t pages[TOKENS_MAX];
    for (uint32_t r = 0; r < pushing; r++) {
        kv_random_pages(rng, pages, pages_of(&pushers[r], tokens), pushers[r].kv.layout.page_count);
        walk(&pushers[r], pages, tokens, seed, false);
        ck_assert_uint_eq(lookup(&pullers[0], keys, tokens), 0); /* not before all ranks pushed */
        push(&pushers[r], pages, keys, tokens, from->block_tokens);
    }
    ck_assert_uint_eq(lookup(&pullers[0], keys, tokens), tokens);
    for (uint32_t r = 0; r < pulling; r++) {
        kv_random_pages(rng, pages, pages_of(&pullers[r], tokens), pullers[r].kv.layout.page_count);
        pull(&pullers[r], pages, keys, tokens, KVEIK_OK);
        walk(&pullers[r], pages, tokens, seed, true);
    }
    engine_close(pushers, pushing);
    engine_close(pullers, pulling);
}

START_TEST(any_layout_to_any_layout)
    {
        struct rng rng = {.state = 2026};
        uint64_t rounds = check_scaled(ROUNDS);
        for (uint64_t i = 0; i < rounds; i++) {
            struct cut from = random_cut(&rng);
            struct cut to = random_cut(&rng);
            share(&rng, &from, &to, 1 + (uint32_t)rng_below(&rng, 400));
        }
    }
END_TEST

/* Opaque engines of one packing: the same page, blocks of whole pages. */
static struct cut opaque_cut(struct rng *rng, enum way way, uint32_t heads, uint32_t layers)
{
    struct cut cut = random_cut(rng);
    cut.way = way;
    cut.ranks_heads = heads;
    cut.ranks_layers = layers;
    cut.page_tokens = 32;
    cut.block_tokens = rng_below(rng, 2) == 0 ? 32 : 128;
    return cut;
}

/* Opaque pages are moved whole, but the last grain may be partial. */
static uint32_t opaque_tokens(struct rng *rng)
{
    return 32 * (1 + (uint32_t)rng_below(rng, 12)) - (uint32_t)rng_below(rng, 16);
}

/* Every degree of tensor parallelism to every other, over every cut of the layers. */
START_TEST(opaque_heads_apart_between_all_degrees)
    {
        struct rng rng = {.state = 77};
        for (uint32_t i = 0; i < 36; i++) {
            struct cut from = opaque_cut(&rng, HEADS_APART, 1u << i % 3, 1u << i / 9 % 2);
            struct cut to = opaque_cut(&rng, HEADS_APART, 1u << i / 3 % 3, 1u << i / 18);
            share(&rng, &from, &to, opaque_tokens(&rng));
        }
    }
END_TEST

START_TEST(opaque_whole_pages_between_equal_ranks)
    {
        struct rng rng = {.state = 78};
        for (uint32_t i = 0; i < 12; i++) {
            struct cut from = opaque_cut(&rng, WHOLE_PAGES, 1u << i % 3, 1u << i / 3 % 2);
            struct cut to = opaque_cut(&rng, WHOLE_PAGES, 1u << i % 3, 1u << i / 6);
            share(&rng, &from, &to, opaque_tokens(&rng));
        }
    }
END_TEST

/* What was packed in another way is a miss for every rank, and leaves its memory as it was. */
static void share_nothing(struct rng *rng, const struct cut *from, const struct cut *to)
{
    struct rank pushers[RANKS_MAX];
    struct rank pullers[RANKS_MAX];
    uint32_t pushing = engine_open(pushers, kveikd.socket, from, "pusher");
    uint32_t pulling = engine_open(pullers, kveikd.socket, to, "puller");
    uint32_t tokens = opaque_tokens(rng);
    uint8_t keys[TOKENS_MAX / 16 * KVEIK_KEY_BYTES];
    random_prompt(rng, tokens, keys);
    uint32_t pages[TOKENS_MAX];
    for (uint32_t r = 0; r < pushing; r++) {
        kv_random_pages(rng, pages, pages_of(&pushers[r], tokens), pushers[r].kv.layout.page_count);
        push(&pushers[r], pages, keys, tokens, from->block_tokens);
    }
    for (uint32_t r = 0; r < pulling; r++) {
        struct kv_memory before;
        kv_memory_clone(&before, &pullers[r].kv);
        pull(&pullers[r], pages, keys, tokens, KVEIK_MISS);
        ck_assert(kv_memory_equal(&before, &pullers[r].kv));
        kv_memory_finish(&before);
    }
    engine_close(pushers, pushing);
    engine_close(pullers, pulling);
}

START_TEST(whole_pages_never_serve_some_of_their_heads)
    {
        struct rng rng = {.state = 79};
        for (uint32_t from = 1; from <= 4; from *= 2) {
            for (uint32_t to = 1; to <= 4; to *= 2) {
                struct cut whole_from = opaque_cut(&rng, WHOLE_PAGES, from, 2);
                struct cut whole_to = opaque_cut(&rng, WHOLE_PAGES, to, 1);
                struct cut apart_from = opaque_cut(&rng, HEADS_APART, from, 1);
                struct cut apart_to = opaque_cut(&rng, HEADS_APART, to, 2);
                if (from != to) {
                    share_nothing(&rng, &whole_from, &whole_to);
                }
                share_nothing(&rng, &whole_from, &apart_to);
                share_nothing(&rng, &apart_from, &whole_to);
            }
        }
    }
END_TEST

/* ---- the self-test, through the daemon ------------------------------------------------------ */

/* An engine whose pages are [page][head][byte], whatever it declared. */
static char *share_at(const struct rank *rank, uint32_t layer, uint32_t kind, uint32_t page,
                      uint32_t head)
{
    return rank->kv.regions[layer * KINDS + kind].base + (size_t)page * HEADS * OPAQUE_BYTES +
           (size_t)head * OPAQUE_BYTES;
}

/* NOLINTNEXTLINE(readability-function-size): the interface's callback has these parameters */
static void fill_share(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                       uint32_t head, const void *data, size_t bytes)
{
    (void)token;
    (void)memcpy(share_at(arg, layer, kind, page, head), data, bytes);
}

/* NOLINTNEXTLINE(readability-function-size): the interface's callback has these parameters */
static int check_share(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                       uint32_t head, const void *data, size_t bytes)
{
    (void)token;
    return memcmp(share_at(arg, layer, kind, page, head), data, bytes);
}

START_TEST(heads_of_opaque_pages_prove_themselves)
    {
        struct rng rng = {.state = 80};
        struct kveik_error error = {0};
        struct rank rank;
        struct cut cut = opaque_cut(&rng, HEADS_APART, 1, 1);
        cut.style = KV_HEAD_MAJOR;
        ck_assert_uint_eq(engine_open(&rank, kveikd.socket, &cut, "engine"), 1);
        int status = rank_register(&rank, fill_share, check_share, &error);
        ck_assert_msg(status == KVEIK_OK, "%s", error.text);
        struct layout_plane *plane = &rank.kv.layout.planes[5];
        struct layout_plane right = *plane;
        plane->head_stride = (uint64_t)rank.kv.layout.page_count * OPAQUE_BYTES; /* [head][page] */
        plane->page_stride = OPAQUE_BYTES;
        status = rank_register(&rank, fill_share, check_share, &error);
        ck_assert_int_eq(status, KVEIK_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(error.text, "layer 2 kind 1 page 0 token 0 head 1"));
        *plane = right;
        plane->head_stride++;
        status = rank_register(&rank, NULL, NULL, &error);
        ck_assert_int_eq(status, KVEIK_E_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "layer 2 kind 1 ends at"));
        engine_close(&rank, 1);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {any_layout_to_any_layout, opaque_heads_apart_between_all_degrees,
                                  opaque_whole_pages_between_equal_ranks,
                                  whole_pages_never_serve_some_of_their_heads,
                                  heads_of_opaque_pages_prove_themselves};
    struct check_suite suite = {.name = "sharing",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
