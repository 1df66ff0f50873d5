#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/layout.h"
#include "base/rng.h"
#include "base/status.h"
#include "tests/lib/check_main.h"
#include "tests/lib/kv_memory.h"

/* Marks every byte of every element; true when none was marked before. */
static bool marks_once(const struct layout *l, uint64_t region_bytes)
{
    char *marks = heap_calloc(region_bytes, 1);
    ck_assert_ptr_nonnull(marks);
    bool once = true;
    for (uint32_t i = 0; i < l->layer_count * l->kind_count; i++) {
        const struct layout_plane *p = &l->planes[i];
        uint64_t per_head = l->kind_elements[i % l->kind_count];
        uint64_t per_token = per_head * l->head_count;
        uint64_t per_page = per_token * l->page_tokens;
        for (uint64_t n = 0; n < l->page_count * per_page; n++) {
            uint64_t at = p->offset + n / per_page * p->page_stride +
                          n % per_page / per_token * p->token_stride +
                          n % per_token / per_head * p->head_stride +
                          n % per_head * p->element_stride;
            for (uint32_t byte = 0; byte < l->element_bytes; byte++) {
                once = once && marks[at + byte] == 0;
                marks[at + byte] = 1;
            }
        }
    }
    heap_free(marks);
    return once;
}

/* Nested strides, each a little more than what lies inside, in a random order. */
static void random_plane(struct rng *rng, const struct layout *l, struct layout_plane *plane)
{
    const uint64_t counts[] = {l->kind_elements[0], l->head_count, l->page_tokens, l->page_count};
    uint64_t *const strides[] = {&plane->element_stride, &plane->head_stride, &plane->token_stride,
                                 &plane->page_stride};
    int order[] = {0, 1, 2, 3};
    uint64_t span = l->element_bytes;
    for (int i = 0; i < 4; i++) {
        bool first = l->opaque && i == 0; /* the bytes of a page have no gaps */
        int swap = first ? 0 : i + (int)rng_below(rng, (uint64_t)(4 - i));
        int picked = order[swap];
        order[swap] = order[i];
        uint64_t slack = !first && rng_below(rng, 3) == 0 ? rng_below(rng, 3 * span) : 0;
        *strides[picked] = span + slack;
        span = span + (counts[picked] - 1) * *strides[picked];
    }
    if (l->opaque) {
        plane->token_stride = 0;
        plane->head_stride -= plane->head_stride > 1 && rng_below(rng, 5) == 0 ? 1 : 0;
    }
    plane->region = 0;
    plane->offset = rng_below(rng, 3) == 0 ? rng_below(rng, 300) : rng_below(rng, 3) * span;
}

START_TEST(disjoint_agrees_with_counting)
    {
        struct rng rng = {11};
        uint32_t agreed[2] = {0, 0};
        uint32_t apart[2] = {0, 0};
        for (int n = 0; n < 4000; n++) {
            struct layout_plane planes[3];
            struct layout layout = {.page_tokens = 1 + (uint32_t)rng_below(&rng, 4),
                                    .page_count = 1 + (uint32_t)rng_below(&rng, 4),
                                    .layer_count = 3,
                                    .head_count = 1 + (uint32_t)rng_below(&rng, 3),
                                    .kind_count = 1,
                                    .element_bytes = 1 + (uint32_t)rng_below(&rng, 2),
                                    .kind_elements = {1 + (uint32_t)rng_below(&rng, 4)},
                                    .planes = planes};
            if (rng_below(&rng, 3) == 0) { /* pages of heads apart */
                layout.opaque = true;
                layout.page_tokens = 1;
                layout.element_bytes = 1;
            }
            random_plane(&rng, &layout, &planes[0]);
            for (int i = 1; i < 3; i++) { /* like the first, or of its own */
                planes[i] = planes[0];
                planes[i].offset += rng_below(&rng, 200);
                if (rng_below(&rng, 4) == 0) {
                    random_plane(&rng, &layout, &planes[i]);
                }
            }
            uint64_t bytes = 1 << 20;
            if (layout_check(&layout, &bytes, 1, NULL) != ST_OK) {
                continue;
            }
            bool once = marks_once(&layout, bytes);
            ck_assert_int_eq(layout_check_disjoint(&layout, NULL), once ? ST_OK : ST_MISMATCH);
            agreed[once ? 1 : 0]++;
            apart[once ? 1 : 0] += layout.opaque ? 1 : 0;
        }
        ck_assert_uint_gt(apart[0], 200);
        ck_assert_uint_gt(apart[1], 200);
        ck_assert_uint_gt(agreed[0], 500);
        ck_assert_uint_gt(agreed[1], 500);
    }
END_TEST

START_TEST(overlap_is_told)
    {
        struct kv_geometry g = {.style = KV_FUSED,
                                .page_tokens = 16,
                                .page_count = 5,
                                .layer_count = 2,
                                .head_count = 4,
                                .kind_count = 2,
                                .element_bytes = 2,
                                .elements = {8, 6}};
        struct kv_memory kv;
        struct error error = {0};
        kv_memory_init(&kv, &g, 1);
        kv.layout.planes[1].offset -= 2;
        ck_assert_int_eq(layout_check_disjoint(&kv.layout, &error), ST_MISMATCH);
        ck_assert_ptr_nonnull(strstr(error.text, "share memory"));
        kv.layout.planes[1].offset += 2;
        kv.layout.planes[0].head_stride = 0;
        ck_assert_int_eq(layout_check_disjoint(&kv.layout, &error), ST_MISMATCH);
        fault_set(FAULT_HEAP, 0, 1);
        ck_assert_int_eq(layout_check_disjoint(&kv.layout, &error), ST_NO_MEMORY);
        fault_clear();
        kv_memory_finish(&kv);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {disjoint_agrees_with_counting, overlap_is_told};
    return check_main("layout_disjoint", tests, ARRAY_COUNT(tests));
}
