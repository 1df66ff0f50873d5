/* The model as a whole: against a naive double-precision forward pass, its configuration, hooks,
 * and what happens when memory is short.
 *
 * Covers: client/refmodel/attention.c
 * Covers: client/refmodel/kernel_avx2.c
 * Covers: client/refmodel/kernel_avx512.c
 * Covers: client/refmodel/kernel_portable.c
 * Covers: client/refmodel/kv.c
 * Covers: client/refmodel/team.c
 * Covers: client/refmodel/weights.c
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "client/refmodel/refmodel.h"

enum {
    TOKENS = 80,
    VOCAB = 50,
    LAYERS = 2,
    HIDDEN = 24,
    HEADS = 4,
    KV_HEADS = 2,
    DIM = 12,
    FFN = 36,
    QKV = (HEADS + 2 * KV_HEADS) * DIM,
    PAGES = 10,
};

static uint32_t tokens[TOKENS];
static uint32_t page_table[PAGES];

static struct refmodel_config small_config(void)
{
    struct refmodel_config config;
    refmodel_config_init(&config);
    config.layers = LAYERS;
    config.hidden = HIDDEN;
    config.query_heads = HEADS;
    config.kv_heads = KV_HEADS;
    config.head_dim = DIM;
    config.rotary_dim = DIM;
    config.ffn = FFN;
    config.vocab = VOCAB;
    config.page_count = PAGES;
    config.kv_dtype = REFMODEL_FP32;
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (i * 37 + i * i) % VOCAB;
    }
    for (uint32_t i = 0; i < PAGES; i++) {
        page_table[i] = PAGES - 1 - i;
    }
    return config;
}

static bool same_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

static struct refmodel_batch whole_batch(void)
{
    return (struct refmodel_batch){
        .tokens = tokens,
        .token_count = TOKENS,
        .page_table = page_table,
        .page_table_count = PAGES,
    };
}

/* ---- the naive forward pass: no blocks, no pages, no vectors, all in double ------------------ */

struct naive {
    const struct refmodel *model;
    const struct refmodel_config *config;
    const struct refmodel_rope *ropes;
    double hidden[TOKENS][HIDDEN];
    double qkv[TOKENS][QKV];
};

static void naive_norm(const struct naive *n, enum refmodel_tensor tensor, uint32_t layer,
                       const double *in, double *out)
{
    double squares = 0.0;
    for (uint32_t i = 0; i < HIDDEN; i++) {
        squares += in[i] * in[i];
    }
    double scale = 1.0 / sqrt(squares / HIDDEN + (double)n->config->rms_eps);
    for (uint32_t i = 0; i < HIDDEN; i++) {
        out[i] = in[i] * scale * (double)refmodel_weight(n->model, tensor, layer, 0, i);
    }
}

static double naive_dot(const struct naive *n, enum refmodel_tensor tensor, uint32_t layer,
                        const double *in, const uint32_t inputs_output[2])
{
    double sum = 0.0;
    for (uint32_t i = 0; i < inputs_output[0]; i++) {
        sum += in[i] * (double)refmodel_weight(n->model, tensor, layer, i, inputs_output[1]);
    }
    return sum;
}

static void naive_rope(const struct naive *n, uint32_t layer, uint32_t position, double *head)
{
    const struct refmodel_rope *rope = &n->ropes[layer];
    uint32_t pairs = n->config->rotary_dim / 2;
    bool half = n->config->pairing == REFMODEL_HALF_SPLIT;
    for (uint32_t i = 0; i < pairs; i++) {
        double *x = &head[half ? i : 2 * i];
        double *y = half ? x + pairs : x + 1;
        double c = cos(position * rope->inv_freq[i]) * rope->attention_factor;
        double s = sin(position * rope->inv_freq[i]) * rope->attention_factor;
        double old_x = *x;
        *x = *x * c - *y * s;
        *y = *y * c + old_x * s;
    }
}

static void naive_project(struct naive *n, uint32_t layer)
{
    for (uint32_t t = 0; t < TOKENS; t++) {
        double x[HIDDEN];
        naive_norm(n, REFMODEL_NORM_ATTN, layer, n->hidden[t], x);
        for (uint32_t i = 0; i < QKV; i++) {
            n->qkv[t][i] = naive_dot(n, REFMODEL_QKV, layer, x, (uint32_t[]){HIDDEN, i});
        }
        for (uint32_t h = 0; h < HEADS + KV_HEADS; h++) {
            naive_rope(n, layer, t, &n->qkv[t][h * DIM]);
        }
    }
}

static void naive_attend(const struct naive *n, uint32_t t, uint32_t head, double *out)
{
    const double *q = &n->qkv[t][head * DIM];
    uint32_t k_at = (HEADS + head / (HEADS / KV_HEADS)) * DIM;
    double total = 0.0;
    for (uint32_t i = 0; i < DIM; i++) {
        out[i] = 0.0;
    }
    for (uint32_t j = 0; j <= t; j++) {
        double score = 0.0;
        for (uint32_t i = 0; i < DIM; i++) {
            score += q[i] * n->qkv[j][k_at + i];
        }
        double weight = exp(score / sqrt((double)DIM));
        total += weight;
        for (uint32_t i = 0; i < DIM; i++) {
            out[i] += weight * n->qkv[j][k_at + KV_HEADS * DIM + i];
        }
    }
    for (uint32_t i = 0; i < DIM; i++) {
        out[i] /= total;
    }
}

static void naive_complete(struct naive *n, uint32_t layer, uint32_t t)
{
    double attended[HEADS * DIM];
    double x[HIDDEN];
    double act[FFN];
    for (uint32_t h = 0; h < HEADS; h++) {
        naive_attend(n, t, h, attended + (size_t)h * DIM);
    }
    for (uint32_t i = 0; i < HIDDEN; i++) {
        n->hidden[t][i] +=
            naive_dot(n, REFMODEL_OUT, layer, attended, (uint32_t[]){HEADS * DIM, i});
    }
    naive_norm(n, REFMODEL_NORM_FFN, layer, n->hidden[t], x);
    for (uint32_t i = 0; i < FFN; i++) {
        double gate = naive_dot(n, REFMODEL_GATE, layer, x, (uint32_t[]){HIDDEN, i});
        double up = naive_dot(n, REFMODEL_UP, layer, x, (uint32_t[]){HIDDEN, i});
        act[i] = gate / (1.0 + exp(-gate)) * up;
    }
    for (uint32_t i = 0; i < HIDDEN; i++) {
        n->hidden[t][i] += naive_dot(n, REFMODEL_DOWN, layer, act, (uint32_t[]){FFN, i});
    }
}

static double naive_difference(struct naive *n, const float *logits)
{
    double worst = 0.0;
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t i = 0; i < HIDDEN; i++) {
            n->hidden[t][i] =
                (double)refmodel_weight(n->model, REFMODEL_EMBEDDING, 0, tokens[t], i);
        }
    }
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        naive_project(n, layer);
        for (uint32_t t = 0; t < TOKENS; t++) {
            naive_complete(n, layer, t);
        }
    }
    for (uint32_t t = 0; t < TOKENS; t++) {
        double x[HIDDEN];
        naive_norm(n, REFMODEL_NORM_FINAL, 0, n->hidden[t], x);
        for (uint32_t i = 0; i < VOCAB; i++) {
            double logit = naive_dot(n, REFMODEL_HEAD, 0, x, (uint32_t[]){HIDDEN, i});
            worst = fmax(worst, fabs(logit - (double)logits[(size_t)t * VOCAB + i]));
        }
    }
    return worst;
}

/* Layer 0 with Llama-3 scaling, layer 1 with YaRN; bit 0: pairing, bit 1: partial, bit 2: bf16,
 * from bit 3: instruction set. */
START_TEST(agrees_with_double_precision)
    {
        static struct naive naive;
        static float logits[TOKENS * VOCAB];
        double inv_freq[LAYERS][DIM / 2];
        struct refmodel_config config = small_config();
        config.pairing = (_i & 1) != 0 ? REFMODEL_INTERLEAVED : REFMODEL_HALF_SPLIT;
        config.rotary_dim = (_i & 2) != 0 ? 8 : DIM;
        config.kv_dtype = (_i & 4) != 0 ? REFMODEL_BF16 : REFMODEL_FP32;
        config.isa = (enum refmodel_isa)(_i >> 3);
        const struct refmodel_rope_llama3 llama3 = {10000.0, 8.0, 1.0, 4.0, 64.0};
        const struct refmodel_rope_yarn yarn = {10000.0, 4.0, 4.0, 1.0, 64.0};
        struct refmodel_rope ropes[LAYERS] = {{inv_freq[0], 1.0}, {inv_freq[1], 1.0}};
        refmodel_rope_llama3(&llama3, config.rotary_dim, inv_freq[0]);
        ropes[1].attention_factor = refmodel_rope_yarn(&yarn, config.rotary_dim, inv_freq[1]);
        config.ropes = ropes;
        struct refmodel *model = NULL;
        struct error error;
        int status = refmodel_create(&config, &model, &error);
        if (status != ST_UNSUPPORTED) {
            struct refmodel_batch batch = whole_batch();
            ck_assert_msg(status == ST_OK, "%s", error.text);
            ck_assert_int_eq(refmodel_prefill_all(model, &batch, logits, &error), ST_OK);
            naive.model = model;
            naive.config = &config;
            naive.ropes = ropes;
            double difference = naive_difference(&naive, logits);
            ck_assert_double_lt(difference, config.kv_dtype == REFMODEL_BF16 ? 0.2 : 2e-4);
            refmodel_destroy(model);
        }
    }
END_TEST

/* ---- configuration ------------------------------------------------------------------------- */

START_TEST(planes_tile_the_memory)
    {
        struct refmodel_config config = small_config();
        for (int layout = 0; layout < 2; layout++) {
            config.kv_layout = (enum refmodel_kv_layout)layout;
            struct refmodel *model = NULL;
            ck_assert_int_eq(refmodel_create(&config, &model, NULL), ST_OK);
            size_t bytes = refmodel_kv_bytes(&config);
            ck_assert_uint_eq(bytes, 2 * LAYERS * PAGES * 16 * KV_HEADS * DIM * 4);
            uint64_t expected = 0;
            for (uint32_t i = 0; i < 2 * LAYERS; i++) {
                struct refmodel_plane plane;
                ck_assert_int_eq(refmodel_plane(model, i / 2, (enum refmodel_kind)(i % 2), &plane),
                                 ST_OK);
                ck_assert_uint_eq(plane.offset, expected);
                ck_assert_uint_eq(plane.element_bytes, 4);
                ck_assert_uint_eq(plane.page_stride, 16 * KV_HEADS * DIM * 4);
                ck_assert_uint_eq(plane.token_stride, layout == 0 ? KV_HEADS * DIM * 4 : DIM * 4);
                ck_assert_uint_eq(plane.head_stride, layout == 0 ? DIM * 4 : 16 * DIM * 4);
                expected += PAGES * plane.page_stride;
            }
            ck_assert_uint_eq(expected, bytes);
            struct refmodel_plane plane;
            ck_assert_int_eq(refmodel_plane(model, LAYERS, REFMODEL_K, &plane), ST_INVALID);
            refmodel_destroy(model);
        }
    }
END_TEST

START_TEST(refuses_bad_configurations)
    {
        const struct refmodel_config good = small_config();
        struct refmodel_config bad[12];
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            bad[i] = good;
        }
        bad[0].size--;
        bad[1].layers = 0;
        bad[2].hidden = REFMODEL_HIDDEN_MAX + 1;
        bad[3].query_heads = 5;
        bad[4].head_dim = 13;
        bad[5].rotary_dim = 5;
        bad[6].rotary_dim = DIM + 2;
        bad[7].threads = 0;
        bad[8].kv_memory = tokens;
        bad[8].kv_bytes = refmodel_kv_bytes(&good) - 1;
        bad[9].kv_memory = (uint8_t *)tokens + 1;
        bad[9].kv_bytes = refmodel_kv_bytes(&good);
        bad[10].query_heads = REFMODEL_HIDDEN_MAX;
        bad[11].kv_dtype = (enum refmodel_dtype)7;
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            struct refmodel *model = NULL;
            struct error error = {0};
            ck_assert_msg(refmodel_create(&bad[i], &model, &error) == ST_INVALID, "%zu", i);
            ck_assert_ptr_null(model);
            ck_assert_int_ne(error.text[0], 0);
        }
        refmodel_destroy(NULL);
    }
END_TEST

START_TEST(refuses_bad_batches)
    {
        struct refmodel_config config = small_config();
        struct refmodel *model = NULL;
        const uint32_t bad_page[PAGES] = {0, 1, PAGES};
        const uint32_t bad_token[2] = {0, VOCAB};
        const uint32_t falling[2] = {4, 4};
        struct refmodel_batch bad[6];
        ck_assert_int_eq(refmodel_create(&config, &model, NULL), ST_OK);
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            bad[i] = whole_batch();
        }
        bad[0].token_count = 0;
        bad[1].page_table_count = TOKENS / 16 - 1;
        bad[2].page_table = bad_page;
        bad[3].tokens = bad_token;
        bad[3].token_count = 2;
        bad[4].positions = falling;
        bad[4].token_count = 2;
        bad[5].first_position = UINT32_MAX;
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            float logits[VOCAB] = {0.0f};
            struct error error = {0};
            ck_assert_msg(refmodel_prefill(model, &bad[i], logits, &error) == ST_INVALID, "%zu", i);
            ck_assert_int_ne(error.text[0], 0);
        }
        refmodel_destroy(model);
    }
END_TEST

START_TEST(seeds_make_models)
    {
        float logits[3][VOCAB];
        for (int i = 0; i < 3; i++) {
            struct refmodel_config config = small_config();
            struct refmodel *model = NULL;
            config.seed = i == 2 ? 5 : 4;
            ck_assert_int_eq(refmodel_create(&config, &model, NULL), ST_OK);
            struct refmodel_batch batch = whole_batch();
            ck_assert_int_eq(refmodel_prefill(model, &batch, logits[i], NULL), ST_OK);
            uint32_t best = refmodel_greedy(logits[i], VOCAB);
            for (uint32_t t = 0; t < VOCAB; t++) {
                ck_assert(logits[i][t] <= logits[i][best]);
            }
            refmodel_destroy(model);
        }
        ck_assert(same_bits(logits[0], logits[1], sizeof(logits[0])));
        ck_assert(!same_bits(logits[0], logits[2], sizeof(logits[0])));
    }
END_TEST

/* ---- hooks --------------------------------------------------------------------------------- */

struct trace {
    const struct refmodel *model;
    char text[64];
    size_t length;
    uint32_t stop_layer; /* after whose KV to stop */
};

/* True when the layer's K of the last token has been written; all was zero before. */
static bool written(const struct trace *trace, uint32_t layer)
{
    struct refmodel_plane plane;
    const uint8_t zero[DIM * 4] = {0};
    ck_assert_int_eq(refmodel_plane(trace->model, layer, REFMODEL_K, &plane), ST_OK);
    const uint8_t *kv = refmodel_kv_memory(trace->model);
    kv += plane.offset + page_table[(TOKENS - 1) / 16] * plane.page_stride +
          (TOKENS - 1) % 16 * plane.token_stride;
    return !same_bits(kv, zero, sizeof(zero));
}

static void note(struct trace *trace, char event, uint32_t layer)
{
    ck_assert_uint_lt(trace->length + 3, sizeof(trace->text));
    trace->text[trace->length++] = event;
    trace->text[trace->length++] = (char)('0' + layer);
    trace->text[trace->length++] = ' ';
}

static int before_layer(void *ctx, uint32_t layer)
{
    struct trace *trace = ctx;
    ck_assert(!written(trace, layer));
    note(trace, 'b', layer);
    return ST_OK;
}

static int after_layer_kv(void *ctx, uint32_t layer)
{
    struct trace *trace = ctx;
    ck_assert(written(trace, layer));
    note(trace, 'a', layer);
    return layer == trace->stop_layer ? ST_CANCELLED : ST_OK;
}

START_TEST(hooks_stand_around_each_layers_kv)
    {
        for (uint32_t stop = 0; stop < 3; stop++) {
            const char *const expected[] = {"b0 a0 ", "b0 a0 b1 a1 ", "b0 a0 b1 a1 "};
            struct refmodel_config config = small_config();
            struct refmodel *model = NULL;
            ck_assert_int_eq(refmodel_create(&config, &model, NULL), ST_OK);
            struct trace trace = {.model = model, .stop_layer = stop};
            struct refmodel_hooks hooks = {before_layer, after_layer_kv, NULL, &trace};
            struct refmodel_batch batch = whole_batch();
            batch.hooks = &hooks;
            float logits[VOCAB];
            struct error error;
            ck_assert_int_eq(refmodel_prefill(model, &batch, logits, &error),
                             stop < LAYERS ? ST_CANCELLED : ST_OK);
            ck_assert_str_eq(trace.text, expected[stop]);
            batch.hooks = NULL;
            ck_assert_int_eq(refmodel_prefill(model, &batch, logits, &error), ST_OK);
            refmodel_destroy(model);
        }
    }
END_TEST

/* ---- shortage ------------------------------------------------------------------------------ */

static int create_and_run(void)
{
    struct refmodel_config config = small_config();
    struct refmodel *model = NULL;
    struct refmodel_batch batch = whole_batch();
    float logits[VOCAB];
    config.threads = 3;
    int status = refmodel_create(&config, &model, NULL);
    if (status != ST_OK) {
        return status;
    }
    batch.token_count = 3;
    status = refmodel_prefill(model, &batch, logits, NULL);
    batch.token_count = TOKENS;
    int second = refmodel_prefill(model, &batch, logits, NULL);
    refmodel_destroy(model);
    return status != ST_OK ? status : second;
}

static void fail_each(enum fault_point point, int64_t at_least)
{
    int64_t outstanding = heap_outstanding();
    for (int64_t n = 0;; n++) {
        fault_set(point, n, 1);
        int status = create_and_run();
        bool fired = fault_fired(point) > 0;
        fault_clear();
        ck_assert_int_eq(status, fired ? ST_NO_MEMORY : ST_OK);
        ck_assert_int_eq(heap_outstanding(), outstanding);
        if (!fired) {
            ck_assert_int_ge(n, at_least);
            return;
        }
    }
}

START_TEST(survives_every_shortage)
    {
        fail_each(FAULT_HEAP, 40);
        fail_each(FAULT_THREAD, 2);
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("refmodel");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, agrees_with_double_precision, 0, 32);
    tcase_add_test(tcase, planes_tile_the_memory);
    tcase_add_test(tcase, refuses_bad_configurations);
    tcase_add_test(tcase, refuses_bad_batches);
    tcase_add_test(tcase, seeds_make_models);
    tcase_add_test(tcase, hooks_stand_around_each_layers_kv);
    tcase_add_test(tcase, survives_every_shortage);
    Suite *suite = suite_create("refmodel");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
