#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "base/error.h"
#include "base/layout.h"
#include "base/rng.h"
#include "base/status.h"
#include "tests/lib/kv_memory.h"

static struct kv_geometry geometry(enum kv_style style)
{
    return (struct kv_geometry){.style = style,
                                .page_tokens = 16,
                                .page_count = 5,
                                .layer_begin = 3,
                                .layer_count = 2,
                                .head_begin = 1,
                                .head_count = 4,
                                .kind_count = 2,
                                .element_bytes = 2,
                                .elements = {8, 6}};
}

static int check(const struct kv_memory *kv, struct error *error)
{
    return layout_check(&kv->layout, kv->region_bytes, kv->region_count, error);
}

static void expect_passes(const struct kv_geometry *g)
{
    struct kv_memory kv;
    struct error error = {0};
    kv_memory_init(&kv, g, 1);
    ck_assert_msg(check(&kv, &error) == ST_OK, "style %d: %s", g->style, error.text);
    ck_assert_msg(layout_check_disjoint(&kv.layout, &error) == ST_OK, "style %d: %s", g->style,
                  error.text);
    /* the regions have exactly the size that is needed */
    for (uint32_t i = 0; i < kv.region_count; i++) {
        kv.region_bytes[i]--;
        ck_assert_int_eq(check(&kv, &error), ST_INVALID);
        kv.region_bytes[i]++;
    }
    kv_memory_finish(&kv);
}

START_TEST(real_layouts_pass)
    {
        for (int style = 0; style < KV_STYLE_COUNT; style++) {
            struct kv_geometry g = geometry((enum kv_style)style);
            expect_passes(&g);
            g.opaque = true;
            expect_passes(&g);
            g.apart = true;
            expect_passes(&g);
            g.head_count = 1;
            expect_passes(&g);
        }
    }
END_TEST

/* Opaque pages with heads apart: what must not be, each with its words. */
START_TEST(apart_heads_are_checked)
    {
        struct kv_geometry g = geometry(KV_HEAD_MAJOR);
        struct kv_memory kv;
        struct error error = {0};
        g.opaque = true;
        g.apart = true;
        kv_memory_init(&kv, &g, 1);
        struct layout_plane *plane = &kv.layout.planes[3];
        ck_assert(layout_heads_apart(&kv.layout));
        ck_assert_uint_eq(layout_head_units(&kv.layout), 4);

        plane->head_stride++; /* the last head of the last page reaches out */
        ck_assert_int_eq(check(&kv, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "layer 1 kind 1 ends at"));
        plane->head_stride = UINT64_MAX / 2;
        ck_assert_int_eq(check(&kv, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "overflow"));
        plane->head_stride = 0; /* a whole page among others */
        ck_assert_int_eq(check(&kv, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "or none"));
        plane->head_stride = 6;
        for (int i = 0; i < 3; i++) { /* and the reverse */
            kv.layout.planes[i].head_stride = 0;
        }
        ck_assert(!layout_heads_apart(&kv.layout));
        ck_assert_uint_eq(layout_head_units(&kv.layout), 1);
        ck_assert_int_eq(check(&kv, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "layer 1 kind 1: head_stride is 6"));
        kv_memory_finish(&kv);

        kv_memory_init(&kv, &g, 1);
        kv.layout.planes[1].token_stride = 1;
        ck_assert_int_eq(check(&kv, &error), ST_INVALID);
        kv.layout.planes[1].token_stride = 0;
        kv.layout.planes[1].element_stride = 2;
        ck_assert_int_eq(check(&kv, &error), ST_INVALID);
        kv.layout.planes[1].element_stride = 1;
        kv.layout.planes[1].head_stride = 5; /* of 6 bytes each */
        ck_assert_int_eq(check(&kv, &error), ST_OK);
        ck_assert_int_eq(layout_check_disjoint(&kv.layout, &error), ST_MISMATCH);
        ck_assert_ptr_nonnull(strstr(error.text, "layer 0 kind 1: elements overlap"));
        kv.layout.planes[1].head_stride = kv.layout.planes[1].page_stride;
        ck_assert_int_eq(layout_check_disjoint(&kv.layout, &error), ST_MISMATCH);
        kv_memory_finish(&kv);
    }
END_TEST

/* Heads that lie in each other are a client's to give, and cost it no memory; their sum must not
 * wrap around in the size of a part. */
START_TEST(parts_of_many_large_heads_do_not_overflow)
    {
        uint64_t bytes = (uint64_t)1 << 59;
        struct error error = {0};
        struct layout_plane planes[2] = {{.page_stride = 1, .head_stride = 1, .element_stride = 1},
                                         {.page_stride = 1, .head_stride = 1, .element_stride = 1}};
        struct layout layout = {.page_tokens = 1,
                                .page_count = 4096,
                                .layer_count = 2,
                                .head_count = LAYOUT_HEADS_MAX,
                                .kind_count = 1,
                                .element_bytes = 1,
                                .opaque = true,
                                .kind_elements = {(uint32_t)1 << 20},
                                .planes = planes};
        ck_assert_int_eq(layout_check(&layout, &bytes, 1, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "a page of 4096 heads has 4294967296 bytes"));
        layout.kind_elements[0]--;
        ck_assert_int_eq(layout_check(&layout, &bytes, 1, &error), ST_OK);
        struct stored_form form;
        ck_assert_int_eq(stored_form_of(&layout, BLOCK_GRAINS_MAX, &form, &error), ST_OK);
        ck_assert_uint_eq(form.part_bytes, 2ull * 4096 * 4096 * ((1u << 20) - 1));
    }
END_TEST

/* Sets one field of a good layout to a bad value. */
static void spoil(struct kv_memory *kv, int how)
{
    struct layout *l = &kv->layout;
    uint32_t *const fields[] = {&l->page_tokens,     &l->page_count, &l->layer_count,
                                &l->head_count,      &l->kind_count, &l->element_bytes,
                                &l->kind_elements[1]};
    switch (how) {
    case 7:
        l->page_tokens = LAYOUT_PAGE_TOKENS_MAX + 1;
        break;
    case 8:
        l->layer_count = LAYOUT_LAYERS_MAX + 1;
        break;
    case 9:
        l->head_count = UINT32_MAX;
        break;
    case 10:
        l->kind_count = LAYOUT_KINDS_MAX + 1;
        break;
    case 11:
        l->element_bytes = 3;
        break;
    case 12:
        l->kind_elements[0] = LAYOUT_ELEMENTS_MAX + 1;
        break;
    case 13:
        l->layer_begin = UINT32_MAX - 1;
        break;
    case 14:
        l->head_begin = UINT32_MAX - 1;
        break;
    case 15:
        l->planes[3].region = kv->region_count;
        break;
    case 16:
        l->planes[3].offset = UINT64_MAX;
        break;
    case 17:
        l->planes[2].page_stride = UINT64_MAX / 2;
        break;
    case 18:
        l->planes[1].token_stride = UINT64_MAX;
        break;
    case 19:
        l->planes[0].head_stride = (uint64_t)1 << 62;
        break;
    case 20:
        l->planes[0].element_stride = (uint64_t)1 << 63;
        break;
    case 21:
        l->page_count = UINT32_MAX;
        break;
    case 22:
        l->opaque = true; /* of two bytes an element, and with strides of tokens */
        break;
    case 23:
        l->opaque = true;
        l->element_bytes = 1;
        break;
    default:
        *fields[how] = 0;
        break;
    }
}

START_TEST(hostile_fields_are_refused)
    {
        struct kv_geometry g = geometry(KV_TOKEN_MAJOR);
        for (int how = 0; how <= 23; how++) {
            struct kv_memory kv;
            struct error error = {0};
            kv_memory_init(&kv, &g, 1);
            spoil(&kv, how);
            ck_assert_msg(check(&kv, &error) == ST_INVALID, "spoilt in way %d", how);
            ck_assert_str_ne(error.text, "");
            kv_memory_finish(&kv);
        }
        struct kv_memory kv;
        kv_memory_init(&kv, &g, 1);
        struct layout_plane *planes = kv.layout.planes;
        kv.layout.planes = NULL;
        ck_assert_int_eq(check(&kv, NULL), ST_INVALID);
        kv.layout.planes = planes;
        ck_assert_int_eq(layout_check(&kv.layout, kv.region_bytes, LAYOUT_REGIONS_MAX + 1, NULL),
                         ST_INVALID);
        ck_assert_int_eq(layout_check(&kv.layout, NULL, 0, NULL), ST_INVALID);
        kv_memory_finish(&kv);
    }
END_TEST

/* Random bytes as a layout: whatever passes must stay inside its regions. */
START_TEST(random_fields_never_reach_outside)
    {
        struct rng rng = {7};
        uint32_t passed = 0;
        uint32_t apart = 0;
        for (int n = 0; n < 200000; n++) {
            struct layout_plane plane;
            uint64_t *const fields[] = {&plane.offset, &plane.page_stride, &plane.token_stride,
                                        &plane.head_stride, &plane.element_stride};
            plane.region = 0;
            for (int i = 0; i < 5; i++) {
                *fields[i] = rng_next(&rng) >> rng_below(&rng, 64);
            }
            struct layout layout = {.page_tokens = 1 + (uint32_t)rng_below(&rng, 100),
                                    .page_count = (uint32_t)(rng_next(&rng) >> rng_below(&rng, 64)),
                                    .layer_count = 1,
                                    .head_count = 1 + (uint32_t)rng_below(&rng, 10),
                                    .kind_count = 1,
                                    .element_bytes = 2,
                                    .kind_elements = {1 + (uint32_t)rng_below(&rng, 100)},
                                    .planes = &plane};
            if (rng_below(&rng, 3) == 0) {
                layout.opaque = true;
                layout.element_bytes = 1;
                plane.token_stride = 0;
                plane.element_stride = 1;
            }
            uint64_t bytes = rng_next(&rng) >> rng_below(&rng, 64);
            if (layout_check(&layout, &bytes, 1, NULL) != ST_OK) {
                continue;
            }
            __extension__ typedef unsigned __int128 wide;
            wide end = plane.offset + (wide)(layout.page_count - 1) * plane.page_stride +
                       (wide)(layout.page_tokens - 1) * plane.token_stride +
                       (wide)(layout.head_count - 1) * plane.head_stride +
                       (wide)(layout.kind_elements[0] - 1) * plane.element_stride +
                       layout.element_bytes;
            ck_assert(end <= bytes);
            apart += layout_heads_apart(&layout) && layout.head_count > 1 ? 1 : 0;
            (void)layout_check_disjoint(&layout, NULL); /* and this must end, whatever it says */
            passed++;
        }
        ck_assert_uint_gt(passed, 100);
        ck_assert_uint_gt(apart, 100);
    }
END_TEST

START_TEST(stored_forms_are_dense)
    {
        struct stored_form form;
        struct kv_memory kv;
        struct kv_geometry g = geometry(KV_HEAD_MAJOR);
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 4, &form, NULL), ST_OK);
        ck_assert_uint_eq(form.block_tokens, 64);
        ck_assert_uint_eq(form.cell_tokens, 16);
        ck_assert_uint_eq(form.layer_begin, 3);
        ck_assert_uint_eq(form.head_begin, 1);
        ck_assert_uint_eq(form.kinds[0].element_stride, 2);
        ck_assert_uint_eq(form.kinds[0].token_stride, 16);
        ck_assert_uint_eq(form.kinds[0].head_stride, 256);
        ck_assert_uint_eq(form.kinds[0].cell_stride, 1024);
        ck_assert_uint_eq(form.kinds[0].bytes, 4096);
        ck_assert_uint_eq(form.kinds[1].offset, 4096);
        ck_assert_uint_eq(form.kinds[1].token_stride, 12);
        ck_assert_uint_eq(form.layer_bytes, 4096 + 3072);
        ck_assert_uint_eq(form.part_bytes, 2 * form.layer_bytes);
        ck_assert(stored_form_fits(&form, &kv.layout));
        kv.layout.kind_elements[1] = 7;
        ck_assert(!stored_form_fits(&form, &kv.layout));
        kv_memory_finish(&kv);

        g = geometry(KV_INTERLEAVED); /* gaps vanish, the order stays */
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 1, &form, NULL), ST_OK);
        ck_assert_uint_eq(form.kinds[1].element_stride, 2);
        ck_assert_uint_eq(form.kinds[1].head_stride, 12);
        ck_assert_uint_eq(form.kinds[1].token_stride, 48);
        kv_memory_finish(&kv);

        g = geometry(KV_TRANSPOSED);
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 1, &form, NULL), ST_OK);
        ck_assert_uint_eq(form.kinds[0].token_stride, 2);
        ck_assert_uint_eq(form.kinds[0].element_stride, 32);
        ck_assert_uint_eq(form.kinds[0].head_stride, 256);
        kv_memory_finish(&kv);
    }
END_TEST

START_TEST(pages_and_blocks_fit_or_not)
    {
        struct stored_form form;
        struct kv_memory kv;
        struct error error = {0};
        struct kv_geometry g = geometry(KV_TOKEN_MAJOR);
        g.page_tokens = 128;
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 2, &form, &error), ST_OK);
        ck_assert_uint_eq(form.cell_tokens, 32); /* the page is larger: the block is one cell */
        ck_assert_int_eq(stored_form_of(&kv.layout, 16, &form, &error), ST_OK);
        ck_assert_uint_eq(form.cell_tokens, 128);
        ck_assert_int_eq(stored_form_of(&kv.layout, 3, &form, &error), ST_INVALID);
        ck_assert_int_eq(stored_form_of(&kv.layout, 0, &form, &error), ST_INVALID);
        ck_assert_int_eq(stored_form_of(&kv.layout, BLOCK_GRAINS_MAX + 1, &form, &error),
                         ST_INVALID);
        kv_memory_finish(&kv);

        g.opaque = true;
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 2, &form, &error), ST_INVALID);
        ck_assert_int_eq(stored_form_of(&kv.layout, 16, &form, &error), ST_OK);
        ck_assert_uint_eq(form.kinds[0].cell_stride, 8);
        ck_assert_uint_eq(form.kinds[0].bytes, 64);
        ck_assert(stored_form_fits(&form, &kv.layout));
        kv.layout.head_count++; /* bytes of a page are not cut */
        ck_assert(!stored_form_fits(&form, &kv.layout));
        kv.layout.head_count--;
        kv.layout.page_tokens = 64;
        ck_assert(!stored_form_fits(&form, &kv.layout));
        kv.layout.opaque = false;
        ck_assert(!stored_form_fits(&form, &kv.layout));
        kv_memory_finish(&kv);
    }
END_TEST

START_TEST(apart_heads_fit_any_range)
    {
        struct stored_form whole;
        struct stored_form form;
        struct kv_memory kv;
        struct kv_geometry g =
            geometry(KV_TRANSPOSED); /* heads outermost: the form has them inside */
        g.opaque = true;
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 4, &whole, NULL), ST_OK);
        ck_assert(!stored_form_heads_apart(&whole));
        ck_assert_uint_eq(whole.kinds[0].head_stride, 0);
        kv_memory_finish(&kv);

        g.apart = true;
        kv_memory_init(&kv, &g, 1);
        ck_assert_int_eq(stored_form_of(&kv.layout, 2, &form, NULL), ST_OK);
        ck_assert(stored_form_heads_apart(&form));
        ck_assert_uint_eq(form.kinds[0].head_stride, 8);
        ck_assert_uint_eq(form.kinds[0].cell_stride, 4 * 8);
        ck_assert_uint_eq(form.kinds[0].bytes, 64);
        ck_assert_uint_eq(form.kinds[1].head_stride, 6);
        ck_assert_uint_eq(form.kinds[1].cell_stride, 4 * 6);
        ck_assert_uint_eq(form.part_bytes, 2 * (64 + 64));
        ck_assert(stored_form_fits(&form, &kv.layout));
        ck_assert(!stored_form_fits(&whole, &kv.layout)); /* with the same bytes a unit */
        struct layout *l = &kv.layout;
        l->head_count = 1;
        ck_assert(stored_form_fits(&form, l));
        l->head_begin = 0;
        l->head_count = 3;
        ck_assert(stored_form_fits(&form, l));
        ck_assert_int_eq(stored_form_of(l, 1, &form, NULL), ST_OK);
        l->head_begin = 2;
        l->head_count = 9;
        ck_assert(stored_form_fits(&form, l));
        l->page_tokens = 8;
        ck_assert(!stored_form_fits(&form, l));
        l->page_tokens = 16;
        l->kind_elements[0] = 4;
        ck_assert(!stored_form_fits(&form, l));
        l->kind_elements[0] = 8;
        for (int i = 0; i < 4; i++) {
            l->planes[i].head_stride = 0;
        }
        ck_assert(!stored_form_fits(&form, l));
        kv_memory_finish(&kv);
    }
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("layout");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, real_layouts_pass);
    tcase_add_test(tcase, apart_heads_are_checked);
    tcase_add_test(tcase, parts_of_many_large_heads_do_not_overflow);
    tcase_add_test(tcase, hostile_fields_are_refused);
    tcase_add_test(tcase, random_fields_never_reach_outside);
    tcase_add_test(tcase, stored_forms_are_dense);
    tcase_add_test(tcase, pages_and_blocks_fit_or_not);
    tcase_add_test(tcase, apart_heads_fit_any_range);
    Suite *suite = suite_create("layout");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
