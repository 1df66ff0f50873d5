#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "daemon/server/state.h"
#include "tests/lib/check_main.h"

static struct kind_space some_space(struct rng *rng)
{
    struct kind_space space = {.tenant = (uint32_t)rng_below(rng, 9),
                               .admission = (uint32_t)rng_below(rng, 5),
                               .quota_bytes = rng_next(rng),
                               .group_count = 1 + (uint32_t)rng_below(rng, CORE_GROUPS_MAX)};
    for (uint32_t i = 0; i < CORE_KEY_BYTES; i++) {
        space.id[i] = (uint8_t)rng_next(rng);
    }
    for (uint32_t g = 0; g < space.group_count; g++) {
        space.groups[g] =
            (struct core_group){.rule = 1 + (uint32_t)rng_below(rng, 3),
                                .window_tokens = (uint32_t)rng_below(rng, 5000),
                                .layer_count = 1 + (uint32_t)rng_below(rng, LAYOUT_LAYERS_MAX),
                                .head_count = 1 + (uint32_t)rng_below(rng, LAYOUT_HEADS_MAX)};
    }
    (void)snprintf(space.model, sizeof space.model, "model-%u", (unsigned)rng_below(rng, 1000));
    (void)memset(space.revision, 'r', rng_below(rng, SPACE_NAME_BYTES));
    return space;
}

/* A form that a layout has: planes of tokens, heads and elements, side by side. */
static struct kind_form some_form(struct rng *rng)
{
    uint32_t grains = 1 + (uint32_t)rng_below(rng, BLOCK_GRAINS_MAX);
    uint32_t heads = 1 + (uint32_t)rng_below(rng, 8);
    uint32_t elements = 1 + (uint32_t)rng_below(rng, 200);
    struct layout_plane planes[2 * LAYOUT_KINDS_MAX];
    struct layout layout = {.page_tokens = 16,
                            .page_count = 4096,
                            .layer_count = 2,
                            .head_count = heads,
                            .kind_count = 1 + (uint32_t)rng_below(rng, LAYOUT_KINDS_MAX),
                            .element_bytes = 2,
                            .planes = planes};
    uint64_t page = (uint64_t)16 * heads * elements * 2;
    for (uint32_t k = 0; k < layout.kind_count; k++) {
        layout.kind_elements[k] = elements;
    }
    for (uint32_t p = 0; p < 2 * layout.kind_count; p++) {
        planes[p] = (struct layout_plane){.offset = p * page * 4096,
                                          .page_stride = page,
                                          .token_stride = (uint64_t)heads * elements * 2,
                                          .head_stride = (uint64_t)elements * 2,
                                          .element_stride = 2};
    }
    struct kind_form kind = {.group = 3, .grains = grains};
    ck_assert_int_eq(stored_form_of(&layout, grains, &kind.form, NULL), ST_OK);
    return kind;
}

START_TEST(spaces_come_back_as_they_went)
    {
        struct rng rng = {.state = 1};
        for (int i = 0; i < 500; i++) {
            struct kind_space space = some_space(&rng);
            uint8_t bytes[KIND_SPACE_BYTES_MAX];
            uint8_t again[KIND_SPACE_BYTES_MAX];
            uint32_t count = kind_space_encode(&space, bytes);
            struct kind_space back;
            ck_assert(kind_space_decode(bytes, count, &back));
            ck_assert_uint_eq(kind_space_encode(&back, again), count);
            ck_assert_mem_eq(again, bytes, count);
            ck_assert_str_eq(back.model, space.model);
            ck_assert_str_eq(back.revision, space.revision);
            ck_assert_uint_eq(back.quota_bytes, space.quota_bytes);
            for (uint32_t cut = 0; cut < count; cut++) {
                ck_assert(!kind_space_decode(bytes, cut, &back));
            }
        }
    }
END_TEST

START_TEST(forms_come_back_as_they_went)
    {
        struct rng rng = {.state = 2};
        for (int i = 0; i < 500; i++) {
            struct kind_form form = some_form(&rng);
            uint8_t bytes[KIND_FORM_BYTES_MAX];
            uint8_t again[KIND_FORM_BYTES_MAX];
            uint32_t count = kind_form_encode(&form, bytes);
            struct kind_form back;
            ck_assert(kind_form_decode(bytes, count, &back));
            ck_assert_uint_eq(kind_form_encode(&back, again), count);
            ck_assert_mem_eq(again, bytes, count);
            ck_assert_uint_eq(back.form.part_bytes, form.form.part_bytes);
            for (uint32_t cut = 0; cut < count; cut++) {
                ck_assert(!kind_form_decode(bytes, cut, &back));
            }
        }
    }
END_TEST

/* Whatever the bytes: no plane that is accepted reaches behind its layer. */
START_TEST(no_bytes_make_a_form_that_reaches_outside)
    {
        struct rng rng = {.state = 3};
        uint32_t accepted = 0;
        for (int i = 0; i < 100000; i++) {
            struct kind_form form = some_form(&rng);
            uint8_t bytes[KIND_FORM_BYTES_MAX];
            uint32_t count = kind_form_encode(&form, bytes);
            for (uint32_t n = 1 + (uint32_t)rng_below(&rng, 3); n > 0; n--) {
                bytes[rng_below(&rng, count)] ^= (uint8_t)(1u << rng_below(&rng, 8));
            }
            struct kind_form back;
            if (!kind_form_decode(bytes, count, &back)) {
                continue;
            }
            accepted++;
            const struct stored_form *f = &back.form;
            for (uint32_t k = 0; k < f->kind_count; k++) {
                const struct stored_kind *kind = &f->kinds[k];
                uint64_t end = kind->offset +
                               (f->block_tokens / f->cell_tokens - 1) * kind->cell_stride +
                               (f->cell_tokens - 1) * kind->token_stride +
                               (f->head_count - 1) * kind->head_stride +
                               (kind->elements - 1) * kind->element_stride + f->element_bytes;
                ck_assert_uint_le(end, f->layer_bytes);
            }
            ck_assert_uint_eq(f->layer_bytes * f->layer_count, f->part_bytes);
        }
        ck_assert_uint_gt(accepted, 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {spaces_come_back_as_they_went, forms_come_back_as_they_went,
                                  no_bytes_make_a_form_that_reaches_outside};
    return check_main("kind", tests, ARRAY_COUNT(tests));
}
