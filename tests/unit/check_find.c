#include <string.h>

#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 8, 64};
static uint32_t space;

static void open_space(void)
{
    struct core_limits limits = fixture_limits();
    limits.pool_bytes = 1 << 20;
    limits.parts_max = 4096;
    fixture_open(&f, &limits);
    (void)fixture_session(&f, 0, "a", 0);
    space = fixture_space(&f, 0, 1, &group, 1);
}

static uint32_t shape_of(uint32_t layer, uint32_t layers, uint32_t head, uint32_t heads,
                         uint32_t grains)
{
    struct core_ranges ranges = {layer, layers, head, heads};
    uint32_t shape = fixture_shape(&f, 0, space, 0, grains, ranges, 512);
    ck_assert_uint_ne(shape, NONE);
    return shape;
}

static bool find(uint32_t key, uint32_t grains, uint32_t tail, struct core_ranges ranges,
                 struct cover *cover)
{
    struct asked asked = {
        .key = fixture_keys(&f, key, 1, 1), .space = space, .grains = grains, .tail_tokens = tail};
    asked.hash = core_hash(f.core, space, asked.key);
    struct core_want want = {0, ranges};
    return find_cover(f.core, &asked, &want, cover);
}

/* The pieces tile the ranges: every layer and head once. */
static void check_tiles(const struct cover *cover, struct core_ranges wanted)
{
    uint8_t seen[8][64];
    (void)memset(seen, 0, sizeof seen);
    for (uint32_t p = 0; p < cover->count; p++) {
        const struct core_ranges *r = &cover->pieces[p].ranges;
        const struct part *part = part_at(f.core, cover->pieces[p].part);
        ck_assert(ranges_inside(r, &shape_at(f.core, part->shape)->ranges));
        ck_assert(ranges_inside(r, &wanted));
        for (uint32_t l = 0; l < r->layer_count; l++) {
            for (uint32_t h = 0; h < r->head_count; h++) {
                ck_assert_uint_eq(seen[r->layer_begin + l][r->head_begin + h]++, 0);
            }
        }
    }
    for (uint32_t l = 0; l < wanted.layer_count; l++) {
        for (uint32_t h = 0; h < wanted.head_count; h++) {
            ck_assert_uint_eq(seen[wanted.layer_begin + l][wanted.head_begin + h], 1);
        }
    }
}

START_TEST(sums_that_wrap_are_outside)
    {
        struct core_ranges all = {0, 8, 0, 64};
        struct core_ranges good = {7, 1, 63, 1};
        ck_assert(ranges_inside(&good, &all));
        struct core_ranges bad[] = {{UINT32_MAX, 2, 0, 1},
                                    {1, UINT32_MAX, 0, 1},
                                    {0, 1, UINT32_MAX - 3, 8},
                                    {0, 1, 60, UINT32_MAX - 58},
                                    {0, 0, 0, 1},
                                    {0, 1, 0, 0},
                                    {8, 1, 0, 1},
                                    {0, 9, 0, 1}};
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            ck_assert(!ranges_inside(&bad[i], &all));
        }
    }
END_TEST

START_TEST(ranks_are_put_together)
    {
        open_space();
        for (uint32_t pp = 0; pp < 2; pp++) {
            for (uint32_t tp = 0; tp < 4; tp++) {
                fixture_store(&f, 0, shape_of(pp * 4, 4, tp * 16, 16, 1), 7, 1);
            }
        }
        struct cover cover;
        struct core_ranges wanted[] = {
            {0, 8, 0, 64}, {0, 4, 0, 16}, {2, 4, 8, 16}, {3, 2, 31, 2}, {7, 1, 63, 1}};
        uint32_t pieces[] = {8, 1, 4, 4, 1};
        for (size_t i = 0; i < ARRAY_COUNT(wanted); i++) {
            ck_assert(find(7, 1, 16, wanted[i], &cover));
            ck_assert_uint_eq(cover.count, pieces[i]);
            check_tiles(&cover, wanted[i]);
        }
        fixture_close(&f);
    }
END_TEST

/* 32 parts that did not even meet the wanted heads once filled the candidates. */
START_TEST(parts_beside_the_wanted_do_not_count)
    {
        open_space();
        for (uint32_t tp = 0; tp < 64; tp++) {
            fixture_store(&f, 0, shape_of(0, 8, 63 - tp, 1, 1), 7, 1);
        }
        struct cover cover;
        for (uint32_t h = 0; h < 64; h += 32) {
            struct core_ranges wanted = {0, 8, h, 32};
            ck_assert(find(7, 1, 16, wanted, &cover));
            ck_assert_uint_eq(cover.count, 32);
            check_tiles(&cover, wanted);
        }
        struct core_ranges all = {0, 8, 0, 64};
        ck_assert(!find(7, 1, 16, all, &cover)); /* more than CORE_PARTS_A_GRAIN_MAX */
        fixture_close(&f);
    }
END_TEST

/* A part of all layers beside parts of one layer each: its cells join downwards. */
START_TEST(pieces_join_across_rows)
    {
        open_space();
        fixture_store(&f, 0, shape_of(0, 8, 0, 32, 1), 7, 1);
        for (uint32_t l = 0; l < 8; l++) {
            fixture_store(&f, 0, shape_of(l, 1, 32, 32, 1), 7, 1);
        }
        struct cover cover;
        struct core_ranges all = {0, 8, 0, 64};
        ck_assert(find(7, 1, 16, all, &cover));
        ck_assert_uint_eq(cover.count, 9);
        check_tiles(&cover, all);
        fixture_close(&f);
    }
END_TEST

START_TEST(blocks_of_other_sizes_share_grains)
    {
        open_space();
        fixture_store(&f, 0, shape_of(0, 8, 0, 32, 8), 0, 8);
        fixture_store(&f, 0, shape_of(0, 8, 32, 32, 1), 0, 8);
        struct cover cover;
        struct core_ranges all = {0, 8, 0, 64};
        struct core_ranges left = {0, 8, 0, 32};
        for (uint32_t key = 0; key < 8; key++) {
            ck_assert(find(key, 1, 16, all, &cover));
            ck_assert_uint_eq(cover.count, 2);
            uint32_t big = cover.pieces[0].ranges.head_begin == 0 ? 0 : 1;
            ck_assert_uint_eq(cover.pieces[big].grain, key);
            ck_assert_uint_eq(cover.pieces[1 - big].grain, 0);
            /* so many grains before it lie in the large block only */
            ck_assert(find(key, key + 1, 16, left, &cover));
            ck_assert(!find(key, key + 2, 16, left, &cover));
            ck_assert(find(key, 2, 16, all, &cover) == false);
        }
        fixture_close(&f);
    }
END_TEST

START_TEST(a_lying_tail_is_a_miss)
    {
        open_space();
        uint32_t shape = shape_of(0, 8, 0, 64, 4);
        (void)fixture_push(&f, 0, shape, 0, 3, 5);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        struct cover cover;
        struct core_ranges all = {0, 8, 0, 64};
        ck_assert(find(2, 1, 5, all, &cover));
        ck_assert(!find(2, 1, 16, all, &cover));
        ck_assert(!find(2, 1, 4, all, &cover));
        ck_assert(find(1, 1, 16, all, &cover));
        ck_assert(!find(1, 1, 5, all, &cover));
        fixture_close(&f);
    }
END_TEST

START_TEST(other_spaces_have_other_keys)
    {
        open_space();
        fixture_store(&f, 0, shape_of(0, 8, 0, 64, 1), 0, 3);
        uint32_t other = fixture_space(&f, 0, 2, &group, 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 3), 3);
        ck_assert_uint_eq(fixture_hit(&f, 0, other, 0, 3), 0);
        /* not even when the hashes meet */
        struct asked asked = {
            .key = fixture_keys(&f, 0, 1, 1), .space = other, .grains = 1, .tail_tokens = 16};
        asked.hash = core_hash(f.core, space, asked.key);
        struct core_want want = {0, {0, 8, 0, 64}};
        struct cover cover;
        ck_assert(!find_cover(f.core, &asked, &want, &cover));
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("find", sums_that_wrap_are_outside, ranks_are_put_together,
          parts_beside_the_wanted_do_not_count, pieces_join_across_rows,
          blocks_of_other_sizes_share_grains, a_lying_tail_is_a_miss, other_spaces_have_other_keys)
