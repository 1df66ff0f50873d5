/* A row's bits depend on nothing but the tokens up to it: neither cuts, threads, pages, nor what
 * else lies in the KV memory. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "base/heap.h"
#include "base/rng.h"
#include "client/refmodel/refmodel.h"

enum {
    TOKENS = 150, /* more than two blocks of keys, more than one chunk of rows */
    PAGES = 40,
    VOCAB = 90, /* sizes that fill no panel */
    LAYERS = 3,
    VARIANTS = 32,
};

struct rig {
    struct refmodel_config config;
    struct refmodel *model;
    uint8_t *kv;
    size_t kv_bytes;
    uint32_t page_table[PAGES];
};

static uint32_t tokens[TOKENS];

static struct refmodel_config variant_config(unsigned variant)
{
    struct refmodel_config config;
    refmodel_config_init(&config);
    config.layers = LAYERS;
    config.hidden = 44;
    config.query_heads = 6;
    config.kv_heads = 2;
    config.head_dim = 20;
    config.ffn = 70;
    config.vocab = VOCAB;
    config.page_count = PAGES;
    config.page_tokens = (variant & 16u) != 0 ? 16 : 5;
    config.kv_dtype = (variant & 1u) != 0 ? REFMODEL_BF16 : REFMODEL_FP32;
    config.pairing = (variant & 2u) != 0 ? REFMODEL_INTERLEAVED : REFMODEL_HALF_SPLIT;
    config.kv_layout = (variant & 4u) != 0 ? REFMODEL_HEAD_MAJOR : REFMODEL_TOKEN_MAJOR;
    config.rotary_dim = (variant & 8u) != 0 ? 6 : 20;
    return config;
}

/* Pages in an order drawn from `shuffle` (0: as they are), the memory filled with `fill`. */
static void rig_init(struct rig *rig, const struct refmodel_config *config, uint64_t shuffle,
                     int fill)
{
    struct error error;
    rig->config = *config;
    rig->kv_bytes = refmodel_kv_bytes(config);
    rig->kv = heap_alloc_aligned(64, rig->kv_bytes);
    ck_assert_ptr_nonnull(rig->kv);
    (void)memset(rig->kv, fill, rig->kv_bytes);
    rig->config.kv_memory = rig->kv;
    rig->config.kv_bytes = rig->kv_bytes;
    ck_assert_msg(refmodel_create(&rig->config, &rig->model, &error) == ST_OK, "%s", error.text);
    struct rng rng = {shuffle};
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t at = shuffle == 0 ? i : (uint32_t)rng_below(&rng, i + 1);
        rig->page_table[i] = rig->page_table[at];
        rig->page_table[at] = i;
    }
    struct rng source = {7};
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (uint32_t)rng_below(&source, VOCAB);
    }
}

static void rig_finish(struct rig *rig)
{
    refmodel_destroy(rig->model);
    heap_free(rig->kv);
}

static void prefill(struct rig *rig, uint32_t first, uint32_t count, float *logits_all)
{
    struct refmodel_batch batch = {
        .tokens = tokens + first,
        .token_count = count,
        .first_position = first,
        .page_table = rig->page_table,
        .page_table_count = PAGES,
    };
    struct error error;
    ck_assert_msg(refmodel_prefill_all(rig->model, &batch, logits_all, &error) == ST_OK, "%s",
                  error.text);
}

/* One head of one token in the KV memory, found by the published strides. */
static uint8_t *kv_at(const struct rig *rig, uint32_t layer, uint32_t kind, uint32_t position,
                      uint32_t head)
{
    struct refmodel_plane plane;
    ck_assert_int_eq(refmodel_plane(rig->model, layer, (enum refmodel_kind)kind, &plane), ST_OK);
    uint64_t page = rig->page_table[position / rig->config.page_tokens];
    return rig->kv + plane.offset + page * plane.page_stride +
           position % rig->config.page_tokens * plane.token_stride + head * plane.head_stride;
}

static size_t head_bytes(const struct rig *rig)
{
    return rig->config.head_dim * (rig->config.kv_dtype == REFMODEL_BF16 ? 2u : 4u);
}

/* Compares the KV of positions [0, count), or copies it from `a` to `b`. */
static void kv_each(const struct rig *a, const struct rig *b, uint32_t count, bool copy)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (uint32_t i = 0; i < count * 2 * a->config.kv_heads; i++) {
            uint32_t head = i % a->config.kv_heads;
            uint32_t kind = i / a->config.kv_heads % 2;
            uint32_t position = i / a->config.kv_heads / 2;
            uint8_t *from = kv_at(a, layer, kind, position, head);
            uint8_t *to = kv_at(b, layer, kind, position, head);
            if (copy) {
                (void)memcpy(to, from, head_bytes(a));
            } else {
                ck_assert_msg(memcmp(to, from, head_bytes(a)) == 0,
                              "layer %u kind %u position %u head %u", layer, kind, position, head);
            }
        }
    }
}

static bool same_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

static void assert_rows_equal(const float *a, const float *b, uint32_t rows)
{
    ck_assert(same_bits(a, b, (size_t)rows * VOCAB * sizeof(float)));
}

/* Prefills with cuts drawn from `seed` (0: token by token) and compares with the reference. */
static void check_cuts(const struct rig *reference, const float *expected, struct rig *rig,
                       uint64_t seed)
{
    static float logits[TOKENS * VOCAB];
    struct rng rng = {seed};
    uint32_t done = 0;
    while (done < TOKENS) {
        uint32_t count = seed == 0 ? 1 : 1 + (uint32_t)rng_below(&rng, TOKENS - done);
        prefill(rig, done, count, logits + (size_t)done * VOCAB);
        done += count;
    }
    assert_rows_equal(expected, logits, TOKENS);
    kv_each(reference, rig, TOKENS, false);
}

START_TEST(cuts_threads_and_pages_do_not_matter)
    {
        static float expected[TOKENS * VOCAB];
        unsigned variant = (unsigned)_i;
        struct refmodel_config config = variant_config(variant);
        struct rig reference;
        rig_init(&reference, &config, 0, 0);
        prefill(&reference, 0, TOKENS, expected);
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct rig rig;
            config.threads = 1 + (uint32_t)((seed + variant) % 3);
            rig_init(&rig, &config, 100 + seed, 0xff); /* what was not written reads as NaN */
            check_cuts(&reference, expected, &rig, seed);
            rig_finish(&rig);
        }
        struct rig rig;
        config.threads = 3;
        rig_init(&rig, &config, 9, 0x55);
        float last[VOCAB];
        struct refmodel_batch batch = {.tokens = tokens,
                                       .token_count = TOKENS,
                                       .page_table = rig.page_table,
                                       .page_table_count = PAGES};
        ck_assert_int_eq(refmodel_prefill(rig.model, &batch, last, NULL), ST_OK);
        assert_rows_equal(expected + (size_t)(TOKENS - 1) * VOCAB, last, 1);
        kv_each(&reference, &rig, TOKENS, false);
        rig_finish(&rig);
        rig_finish(&reference);
    }
END_TEST

START_TEST(each_instruction_set_keeps_the_promise)
    {
        static float expected[TOKENS * VOCAB];
        for (int isa = REFMODEL_ISA_PORTABLE; isa <= REFMODEL_ISA_AVX512; isa++) {
            struct refmodel_config config = variant_config((unsigned)_i);
            config.isa = (enum refmodel_isa)isa;
            struct refmodel *probe = NULL;
            int status = refmodel_create(&config, &probe, NULL);
            refmodel_destroy(probe);
            if (status == ST_UNSUPPORTED) {
                continue;
            }
            struct rig reference;
            rig_init(&reference, &config, 0, 0);
            prefill(&reference, 0, TOKENS, expected);
            struct rig rig;
            rig_init(&rig, &config, 5, 0xff);
            check_cuts(&reference, expected, &rig, 11);
            rig_finish(&rig);
            rig_init(&rig, &config, 6, 0xff);
            check_cuts(&reference, expected, &rig, 0);
            rig_finish(&rig);
            rig_finish(&reference);
        }
    }
END_TEST

START_TEST(pulled_kv_serves_as_computed_kv)
    {
        static float expected[TOKENS * VOCAB];
        static float logits[TOKENS * VOCAB];
        struct refmodel_config config = variant_config((unsigned)_i);
        struct rig from;
        rig_init(&from, &config, 0, 0);
        prefill(&from, 0, TOKENS, expected);
        for (uint32_t cached = 1; cached < TOKENS; cached += 37) {
            struct rig to;
            rig_init(&to, &config, 3, 0xff);
            kv_each(&from, &to, cached, true);
            prefill(&to, cached, TOKENS - cached, logits);
            assert_rows_equal(expected + (size_t)cached * VOCAB, logits, TOKENS - cached);
            kv_each(&from, &to, TOKENS, false);
            rig_finish(&to);
        }
        rig_finish(&from);
    }
END_TEST

START_TEST(a_selection_of_rows_can_be_recomputed)
    {
        static float expected[TOKENS * VOCAB];
        static float logits[TOKENS * VOCAB];
        struct refmodel_config config = variant_config((unsigned)_i);
        struct rig full;
        struct rig rig;
        rig_init(&full, &config, 0, 0);
        rig_init(&rig, &config, 3, 0xff);
        prefill(&full, 0, TOKENS, expected);
        kv_each(&full, &rig, TOKENS, true);
        uint32_t chosen[TOKENS];
        uint32_t chosen_tokens[TOKENS];
        uint32_t count = 0;
        struct rng rng = {4};
        for (uint32_t i = 0; i < TOKENS; i++) {
            if (rng_below(&rng, 3) == 0) {
                (void)memset(kv_at(&rig, LAYERS - 1, REFMODEL_V, i, 0), 0xff, head_bytes(&rig));
                chosen[count] = i;
                chosen_tokens[count++] = tokens[i];
            }
        }
        struct refmodel_batch batch = {
            .tokens = chosen_tokens,
            .token_count = count,
            .positions = chosen,
            .page_table = rig.page_table,
            .page_table_count = PAGES,
        };
        ck_assert_int_eq(refmodel_prefill_all(rig.model, &batch, logits, NULL), ST_OK);
        for (uint32_t i = 0; i < count; i++) {
            assert_rows_equal(expected + (size_t)chosen[i] * VOCAB, logits + (size_t)i * VOCAB, 1);
        }
        kv_each(&full, &rig, TOKENS, false);
        rig_finish(&rig);
        rig_finish(&full);
    }
END_TEST

struct choice {
    uint32_t layer;
    uint32_t begin; /* rows of positions before it end after this layer */
    uint32_t seen;  /* rows at the last layer */
};

static int select_rows(void *ctx, uint32_t layer, const struct refmodel_selection *selection)
{
    struct choice *choice = ctx;
    choice->seen = selection->count;
    for (uint32_t i = 0; i < selection->count && layer == choice->layer; i++) {
        ck_assert_uint_eq(selection->positions[i], i);
        selection->keep[i] = i == TOKENS - 1 || (i >= choice->begin && i % 3 == 0);
    }
    return ST_OK;
}

/* Rows end after `layer`, and exact KV lies in the pages for them: nothing may change. */
START_TEST(selected_rows_go_on_alone)
    {
        static float expected[TOKENS * VOCAB];
        float logits[VOCAB];
        struct refmodel_config config = variant_config((unsigned)_i);
        struct rig full;
        rig_init(&full, &config, 0, 0);
        prefill(&full, 0, TOKENS, expected);
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            struct rig rig;
            config.threads = 2;
            rig_init(&rig, &config, 3, 0xff);
            kv_each(&full, &rig, TOKENS, true);
            struct choice choice = {layer, 50 * layer, 0};
            struct refmodel_hooks hooks = {NULL, NULL, select_rows, &choice};
            struct refmodel_batch batch = {
                .tokens = tokens,
                .token_count = TOKENS,
                .page_table = rig.page_table,
                .page_table_count = PAGES,
                .hooks = &hooks,
            };
            ck_assert_int_eq(refmodel_prefill_all(rig.model, &batch, NULL, NULL), ST_INVALID);
            ck_assert_int_eq(refmodel_prefill(rig.model, &batch, logits, NULL), ST_OK);
            assert_rows_equal(expected + (size_t)(TOKENS - 1) * VOCAB, logits, 1);
            kv_each(&full, &rig, TOKENS, false);
            ck_assert(layer == LAYERS - 1 ? choice.seen == TOKENS : choice.seen < TOKENS / 2);
            rig_finish(&rig);
        }
        rig_finish(&full);
    }
END_TEST

START_TEST(later_tokens_do_not_reach_back)
    {
        static float logits[2][TOKENS * VOCAB];
        const uint32_t changed = 97;
        struct refmodel_config config = variant_config((unsigned)_i);
        struct rig a;
        struct rig b;
        rig_init(&a, &config, 0, 0);
        rig_init(&b, &config, 0, 0);
        prefill(&a, 0, TOKENS, logits[0]);
        tokens[changed] = (tokens[changed] + 1) % VOCAB;
        prefill(&b, 0, TOKENS, logits[1]);
        kv_each(&a, &b, changed, false);
        assert_rows_equal(logits[0], logits[1], changed);
        for (size_t row = changed; row < TOKENS; row++) {
            ck_assert(!same_bits(logits[0] + row * VOCAB, logits[1] + row * VOCAB,
                                 VOCAB * sizeof(float)));
        }
        rig_finish(&a);
        rig_finish(&b);
    }
END_TEST

/* Every byte of a head in turn, at places that cover layers, kinds, positions and heads. Not the
 * lower half of a float: what 16 bits do not hold can be lost when a score is rounded. */
START_TEST(every_byte_of_kv_reaches_the_logits)
    {
        static float all[TOKENS * VOCAB];
        float logits[VOCAB];
        const float *expected = all + (size_t)(TOKENS - 1) * VOCAB;
        struct refmodel_config config = variant_config((unsigned)_i);
        struct rig rig;
        rig_init(&rig, &config, 8, 0xff);
        prefill(&rig, 0, TOKENS, all);
        struct rng rng = {13};
        for (uint32_t i = 0; i < 8 * head_bytes(&rig); i++) {
            if (config.kv_dtype == REFMODEL_FP32 && i % 4 < 2) {
                continue;
            }
            uint32_t layer = (uint32_t)rng_below(&rng, LAYERS);
            uint32_t kind = (uint32_t)rng_below(&rng, 2);
            uint32_t position = (uint32_t)rng_below(&rng, TOKENS - 1);
            uint32_t head = (uint32_t)rng_below(&rng, config.kv_heads);
            uint8_t *byte = kv_at(&rig, layer, kind, position, head) + i % head_bytes(&rig);
            *byte ^= 0xff;
            prefill(&rig, TOKENS - 1, 1, logits);
            ck_assert_msg(!same_bits(expected, logits, sizeof(logits)),
                          "layer %u kind %u position %u head %u byte %zu", layer, kind, position,
                          head, i % head_bytes(&rig));
            *byte ^= 0xff;
        }
        prefill(&rig, TOKENS - 1, 1, logits);
        assert_rows_equal(expected, logits, 1);
        rig_finish(&rig);
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("forward");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, cuts_threads_and_pages_do_not_matter, 0, VARIANTS);
    tcase_add_loop_test(tcase, each_instruction_set_keeps_the_promise, 0, 2);
    tcase_add_loop_test(tcase, pulled_kv_serves_as_computed_kv, 0, VARIANTS);
    tcase_add_loop_test(tcase, a_selection_of_rows_can_be_recomputed, 0, VARIANTS);
    tcase_add_loop_test(tcase, selected_rows_go_on_alone, 0, VARIANTS);
    tcase_add_loop_test(tcase, later_tokens_do_not_reach_back, 0, VARIANTS);
    tcase_add_loop_test(tcase, every_byte_of_kv_reaches_the_logits, 0, VARIANTS);
    Suite *suite = suite_create("refmodel_forward");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
