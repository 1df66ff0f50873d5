/*
 * Covers: storage/cpu/box.c
 */
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "base/heap.h"
#include "base/rng.h"
#include "base/status.h"
#include "storage/cpu/scatter.h"
#include "tests/lib/kv_memory.h"

enum { PAGES_MAX = 64 };

enum way { STRIDED, WHOLE_PAGES, HEADS_APART };

static void copy_by_boxes(const struct kv_memory *kv, const struct copy_item *item, bool push,
                          const struct kernel_choice *choice)
{
    for (uint32_t plane = 0; plane < scatter_plane_count(item); plane++) {
        struct scatter scatter;
        struct box box;
        uint64_t bytes = 0;
        struct box_pipe pipe;
        box_pipe_init(&pipe, push, choice);
        scatter_init(&scatter, &kv->memory, item, plane,
                     plane % 2 == 0 ? BOX_ORDER_PART : BOX_ORDER_ENGINE);
        while (scatter_next(&scatter, &box)) {
            bytes += box_bytes(&box);
            if (plane % 3 == 0) {
                box_copy(&box, push, choice);
            } else {
                box_pipe_add(&pipe, &box);
            }
        }
        box_pipe_end(&pipe);
        ck_assert_uint_eq(bytes, scatter_plane_bytes(item, plane));
    }
}

/* Two layouts of the same model that may differ in everything that a layout may differ in. */
struct pair {
    struct kv_memory from;
    struct kv_memory to;
    struct stored_form form;
    char *part;
    char *part_expected;
};

static struct kv_geometry random_geometry(struct rng *rng, enum way way)
{
    static const uint32_t pages_tokens[] = {16, 16, 32, 64, 128, 1, 256};
    static const uint32_t elements[] = {128, 64, 32, 7, 1, 512};
    static const uint32_t element_bytes[] = {2, 2, 1, 4, 8};
    struct kv_geometry g = {.style = (enum kv_style)rng_below(rng, KV_STYLE_COUNT),
                            .opaque = way != STRIDED,
                            .apart = way == HEADS_APART,
                            .page_tokens = pages_tokens[rng_below(rng, 7)],
                            .page_count = 48,
                            .layer_begin = (uint32_t)rng_below(rng, 3),
                            .layer_count = 1 + (uint32_t)rng_below(rng, 2),
                            .head_begin = 4,
                            .head_count = 1 + (uint32_t)rng_below(rng, 5),
                            .kind_count = 1 + (uint32_t)rng_below(rng, 2),
                            .element_bytes = element_bytes[rng_below(rng, 5)]};
    for (uint32_t kind = 0; kind < g.kind_count; kind++) {
        g.elements[kind] = elements[rng_below(rng, 6)];
    }
    if (g.page_tokens >= 128) {
        g.page_count = 6;
    }
    return g;
}

static void pair_init(struct pair *pair, struct rng *rng, enum way way)
{
    bool opaque = way != STRIDED;
    bool whole = way == WHOLE_PAGES;
    struct kv_geometry g = random_geometry(rng, way);
    struct kv_geometry other = random_geometry(rng, way);
    kv_memory_init(&pair->from, &g, rng_next(rng));
    other.layer_begin = g.layer_begin;
    other.layer_count = g.layer_count + 1;
    other.head_begin = g.head_begin - (whole ? 0 : 2);
    other.head_count = g.head_count + (whole ? 0 : 3);
    other.kind_count = g.kind_count;
    other.element_bytes = g.element_bytes;
    (void)memcpy(other.elements, g.elements, sizeof g.elements);
    other.page_tokens = opaque ? g.page_tokens : other.page_tokens;
    other.page_count = opaque ? g.page_count : other.page_count;
    kv_memory_init(&pair->to, &other, rng_next(rng));
    /* 128 tokens a block: smaller than, equal to and larger than a page */
    uint32_t grains = opaque && g.page_tokens > 128 ? g.page_tokens / 16 : 8;
    ck_assert_int_eq(stored_form_of(&pair->from.layout, grains, &pair->form, NULL), ST_OK);
    ck_assert(stored_form_fits(&pair->form, &pair->to.layout));
    pair->part = heap_alloc_aligned(64, pair->form.part_bytes);
    pair->part_expected = heap_alloc_aligned(64, pair->form.part_bytes);
    ck_assert(pair->part != NULL && pair->part_expected != NULL);
    (void)memset(pair->part, 0x5a, pair->form.part_bytes);
    (void)memset(pair->part_expected, 0x5a, pair->form.part_bytes);
}

static void pair_finish(struct pair *pair)
{
    kv_memory_finish(&pair->from);
    kv_memory_finish(&pair->to);
    heap_free(pair->part);
    heap_free(pair->part_expected);
}

/* A run of tokens of the block, anywhere in the pages, over some of the layers and heads. */
static struct copy_item random_item(struct rng *rng, const struct kv_memory *kv,
                                    const struct stored_form *form, uint32_t *pages)
{
    const struct layout *layout = &kv->layout;
    uint32_t page = layout->page_tokens;
    uint32_t room = page * layout->page_count;
    struct copy_item item = {.layout = layout, .form = form, .pages = pages};
    uint32_t most = form->block_tokens < room / 2 ? form->block_tokens : room / 2;
    uint32_t unit = form->opaque ? page : 1;
    item.tokens = (1 + (uint32_t)rng_below(rng, most / unit)) * unit;
    item.part_token =
        (uint32_t)rng_below(rng, (form->block_tokens - item.tokens) / unit + 1) * unit;
    item.page_token = form->opaque ? 0 : (uint32_t)rng_below(rng, page);
    if (rng_below(rng, 3) == 0) { /* whole, aligned blocks are the common case */
        item.tokens = most / unit * unit;
        item.part_token = 0;
        item.page_token = 0;
    }
    item.layer_begin = form->layer_begin + (uint32_t)rng_below(rng, form->layer_count);
    item.layer_count =
        1 + (uint32_t)rng_below(rng, form->layer_begin + form->layer_count - item.layer_begin);
    bool whole = form->opaque && !stored_form_heads_apart(form);
    uint32_t skipped = whole ? 0 : (uint32_t)rng_below(rng, form->head_count);
    item.head_begin = form->head_begin + skipped;
    item.head_count =
        whole ? form->head_count : 1 + (uint32_t)rng_below(rng, form->head_count - skipped);
    uint32_t page_count = (item.page_token + item.tokens + page - 1) / page;
    kv_random_pages(rng, pages, page_count, layout->page_count);
    if (rng_below(rng, 2) == 0) { /* pages that follow each other merge into longer runs */
        for (uint32_t i = 0; i < page_count; i++) {
            pages[i] = i;
        }
    }
    return item;
}

static void round_trip(uint64_t seed, enum way way, const struct kernel_choice *choice)
{
    struct rng rng = {seed};
    struct pair pair;
    uint32_t pages[PAGES_MAX];
    pair_init(&pair, &rng, way);
    for (int i = 0; i < 4; i++) {
        struct copy_item item = random_item(&rng, &pair.from, &pair.form, pages);
        item.part = pair.part_expected;
        kv_reference_copy(&pair.from, &item, true);
        item.part = pair.part;
        copy_by_boxes(&pair.from, &item, true, choice);
        ck_assert_msg(memcmp(pair.part, pair.part_expected, pair.form.part_bytes) == 0,
                      "push of seed %llu", (unsigned long long)seed);
    }
    struct kv_memory expected;
    kv_memory_clone(&expected, &pair.to);
    for (int i = 0; i < 4; i++) {
        struct copy_item item = random_item(&rng, &pair.to, &pair.form, pages);
        item.part = pair.part;
        kv_reference_copy(&expected, &item, false);
        copy_by_boxes(&pair.to, &item, false, choice);
        ck_assert_msg(kv_memory_equal(&pair.to, &expected), "pull of seed %llu",
                      (unsigned long long)seed);
    }
    kv_memory_finish(&expected);
    pair_finish(&pair);
}

START_TEST(random_layouts_match_the_reference)
    {
        struct kernel_choice streaming;
        struct kernel_choice plain;
        kernel_choice_default(&streaming);
        kernel_choice_plain(&plain);
        for (uint64_t seed = 0; seed < 300; seed++) {
            round_trip(seed, seed % 8 == 7 ? WHOLE_PAGES : STRIDED,
                       seed % 3 == 0 ? &plain : &streaming);
        }
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

START_TEST(random_heads_apart_match_the_reference)
    {
        struct kernel_choice streaming;
        struct kernel_choice plain;
        kernel_choice_default(&streaming);
        kernel_choice_plain(&plain);
        for (uint64_t seed = 1000; seed < 1100; seed++) {
            round_trip(seed, HEADS_APART, seed % 3 == 0 ? &plain : &streaming);
        }
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

/* Planes of many tiles, in every pair of orders. */
START_TEST(large_planes_are_tiled)
    {
        struct kernel_choice choice;
        kernel_choice_default(&choice);
        for (int styles = 0; styles < KV_STYLE_COUNT * KV_STYLE_COUNT; styles++) {
            struct kv_geometry g = {.style = (enum kv_style)(styles / KV_STYLE_COUNT),
                                    .page_tokens = 1024,
                                    .page_count = 2,
                                    .layer_count = 1,
                                    .head_count = 3,
                                    .kind_count = 2,
                                    .element_bytes = 2,
                                    .elements = {128, 96}};
            struct kv_memory from;
            struct kv_memory to;
            struct kv_memory expected;
            struct stored_form form;
            kv_memory_init(&from, &g, 1);
            g.style = (enum kv_style)(styles % KV_STYLE_COUNT);
            kv_memory_init(&to, &g, 2);
            kv_memory_clone(&expected, &to);
            ck_assert_int_eq(stored_form_of(&from.layout, 64, &form, NULL), ST_OK);
            uint32_t page = 1;
            struct copy_item item = {.layout = &from.layout,
                                     .form = &form,
                                     .pages = &page,
                                     .part = heap_calloc(form.part_bytes, 1),
                                     .tokens = 1024,
                                     .layer_count = 1,
                                     .head_count = 3};
            copy_by_boxes(&from, &item, true, &choice);
            item.layout = &to.layout;
            copy_by_boxes(&to, &item, false, &choice);
            kv_reference_copy(&from, &item, true);
            kv_reference_copy(&expected, &item, false);
            ck_assert_msg(kv_memory_equal(&to, &expected), "styles %d", styles);
            heap_free(item.part);
            kv_memory_finish(&from);
            kv_memory_finish(&to);
            kv_memory_finish(&expected);
        }
    }
END_TEST

static uint32_t count_boxes(const struct kv_memory *kv, const struct copy_item *item,
                            struct box *last_out)
{
    struct scatter scatter;
    uint32_t count = 0;
    scatter_init(&scatter, &kv->memory, item, 0, BOX_ORDER_PART);
    while (scatter_next(&scatter, last_out)) {
        count++;
    }
    return count;
}

START_TEST(equal_layouts_give_whole_planes)
    {
        struct kv_geometry g = {.style = KV_HEAD_MAJOR,
                                .page_tokens = 16,
                                .page_count = 8,
                                .layer_count = 1,
                                .head_count = 8,
                                .kind_count = 1,
                                .element_bytes = 2,
                                .elements = {128}};
        struct kv_memory kv;
        struct stored_form form;
        struct box box;
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 4, &form, NULL), ST_OK);
        uint32_t apart[] = {5, 3, 7, 1};
        struct copy_item item = {.layout = &kv.layout,
                                 .form = &form,
                                 .pages = apart,
                                 .part = kv.regions[0].base,
                                 .tokens = 64,
                                 .layer_count = 1,
                                 .head_count = 8};
        ck_assert_uint_eq(count_boxes(&kv, &item, &box), 4);
        ck_assert_uint_eq(box.dim_count, 0);
        ck_assert_uint_eq(box.run_bytes, 32768);
        uint32_t following[] = {2, 3, 4, 5};
        item.pages = following;
        ck_assert_uint_eq(count_boxes(&kv, &item, &box), 1);
        ck_assert_uint_eq(box.run_bytes, 4 * 32768);
        kv_memory_finish(&kv);
    }
END_TEST

/* Equal pages are one run, whether their heads are apart or not; some of the heads are one, too. */
START_TEST(opaque_pages_of_equal_layout_are_single_runs)
    {
        struct kv_geometry g = {.opaque = true,
                                .page_tokens = 16,
                                .page_count = 8,
                                .layer_count = 1,
                                .head_count = 8,
                                .kind_count = 1,
                                .elements = {8192}};
        for (uint32_t heads = 1; heads <= 8; heads += 7) { /* units: one of the page, or eight */
            struct kv_memory kv;
            struct stored_form form;
            struct box box;
            g.apart = heads == 8;
            kv_memory_init(&kv, &g, 1);
            ck_assert_int_eq(stored_form_of(&kv.layout, 4, &form, NULL), ST_OK);
            uint32_t pages[] = {5, 3, 7, 1};
            struct copy_item item = {.layout = &kv.layout,
                                     .form = &form,
                                     .pages = pages,
                                     .part = kv.regions[0].base,
                                     .tokens = 64,
                                     .layer_count = 1,
                                     .head_count = 8};
            ck_assert_uint_eq(count_boxes(&kv, &item, &box), 4);
            ck_assert_uint_eq(box.dim_count, 0);
            ck_assert_uint_eq(box.run_bytes, heads * 8192);
            for (uint32_t i = 0; i < 4; i++) {
                pages[i] = 2 + i;
            }
            ck_assert_uint_eq(count_boxes(&kv, &item, &box), 1);
            ck_assert_uint_eq(box.dim_count, 0);
            ck_assert_uint_eq(box.run_bytes, 4 * heads * 8192);
            ck_assert_uint_eq(scatter_item_bytes(&item), 4 * heads * 8192);
            item.head_begin = 2;
            item.head_count = 3;
            if (g.apart) {
                ck_assert_uint_eq(count_boxes(&kv, &item, &box), 4);
                ck_assert_uint_eq(box.dim_count, 0);
                ck_assert_uint_eq(box.run_bytes, 3 * 8192);
                ck_assert_uint_eq(scatter_item_bytes(&item), 4 * 3 * 8192);
            }
            kv_memory_finish(&kv);
        }
    }
END_TEST

START_TEST(heads_outside_pages_are_runs_of_their_own)
    {
        struct kv_geometry g = {.style = KV_TRANSPOSED, /* [head][page] */
                                .opaque = true,
                                .apart = true,
                                .page_tokens = 16,
                                .page_count = 8,
                                .layer_count = 1,
                                .head_count = 8,
                                .kind_count = 1,
                                .elements = {8192}};
        struct kv_memory kv;
        struct stored_form form;
        struct box box;
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 1, &form, NULL), ST_OK);
        uint32_t page = 5;
        struct copy_item item = {.layout = &kv.layout,
                                 .form = &form,
                                 .pages = &page,
                                 .part = kv.regions[0].base,
                                 .tokens = 16,
                                 .layer_count = 1,
                                 .head_count = 8};
        ck_assert_uint_eq(count_boxes(&kv, &item, &box), 1);
        ck_assert_uint_eq(box.run_bytes, 8192);
        ck_assert_uint_eq(box.dim_count, 1);
        ck_assert_uint_eq(box.dims[0].count, 8);
        ck_assert_uint_eq(box.dims[0].engine_stride, 8 * 8192);
        ck_assert_uint_eq(box.dims[0].part_stride, 8192);
        kv_memory_finish(&kv);
    }
END_TEST

START_TEST(conversion_moves_a_head_at_a_time)
    {
        struct kv_geometry g = {.style = KV_TOKEN_MAJOR,
                                .page_tokens = 16,
                                .page_count = 8,
                                .layer_count = 1,
                                .head_count = 8,
                                .kind_count = 1,
                                .element_bytes = 2,
                                .elements = {128}};
        struct kv_memory kv;
        struct kv_memory other;
        struct stored_form form;
        struct box box;
        kv_memory_init(&kv, &g, 1);
        g.style = KV_HEAD_MAJOR;
        kv_memory_init(&other, &g, 1);
        ck_assert_int_eq(stored_form_of(&other.layout, 1, &form, NULL), ST_OK);
        uint32_t page = 5;
        struct copy_item item = {.layout = &kv.layout,
                                 .form = &form,
                                 .pages = &page,
                                 .part = other.regions[0].base,
                                 .tokens = 16,
                                 .layer_count = 1,
                                 .head_count = 8};
        ck_assert_uint_eq(count_boxes(&kv, &item, &box), 1);
        ck_assert_uint_eq(box.dim_count, 2);
        ck_assert_uint_eq(box.run_bytes, 256);
        ck_assert_uint_eq(box.dims[0].count, 8); /* heads outermost, as the part is written */
        ck_assert_uint_eq(box.dims[1].count, 16);
        kv_memory_finish(&kv);
        kv_memory_finish(&other);
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("scatter");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, random_layouts_match_the_reference);
    tcase_add_test(tcase, random_heads_apart_match_the_reference);
    tcase_add_test(tcase, large_planes_are_tiled);
    tcase_add_test(tcase, equal_layouts_give_whole_planes);
    tcase_add_test(tcase, opaque_pages_of_equal_layout_are_single_runs);
    tcase_add_test(tcase, heads_outside_pages_are_runs_of_their_own);
    tcase_add_test(tcase, conversion_moves_a_head_at_a_time);
    Suite *suite = suite_create("scatter");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
