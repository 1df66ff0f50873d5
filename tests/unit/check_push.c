#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 2, 2};
static const struct core_ranges whole = {0, 2, 0, 2};
static uint32_t space;
static uint32_t shape; /* 4 grains */

static void open_core(void)
{
    struct core_limits limits = fixture_limits();
    fixture_open(&f, &limits);
    (void)fixture_session(&f, 0, "a", 0);
    space = fixture_space(&f, 0, 1, &group, 1);
    shape = fixture_shape(&f, 0, space, 0, 4, whole, 1024);
}

static const struct core_action *push_run(const struct core_push_run *run, uint32_t of_space)
{
    struct core_event event = {.kind = EVENT_PUSH,
                               .u.push = {.space = of_space, .runs = run, .run_count = 1}};
    const struct core_action *action = fixture_step(&f, &event, ACTION_REPLY);
    for (uint32_t i = 0; action == NULL && i < f.actions.count; i++) {
        action = f.actions.items[i].kind == ACTION_COPY ? &f.actions.items[i] : NULL;
    }
    return action;
}

START_TEST(copies_name_tokens_of_run_and_part)
    {
        open_core();
        const struct core_action *copy = fixture_push(&f, 0, shape, 0, 10, 7);
        ck_assert_uint_eq(copy->status_count, 3);
        ck_assert_uint_eq(copy->copy_count, 3);
        static const uint32_t expected[][2] = {{0, 64}, {64, 64}, {128, 23}};
        for (uint32_t i = 0; i < 3; i++) {
            ck_assert_int_eq(copy->statuses[i], ST_OK);
            ck_assert_uint_eq(copy->copies[i].run_token, expected[i][0]);
            ck_assert_uint_eq(copy->copies[i].part_token, 0);
            ck_assert_uint_eq(copy->copies[i].tokens, expected[i][1]);
            ck_assert_uint_eq(copy->copies[i].shape, shape);
        }
        fixture_close(&f);
    }
END_TEST

START_TEST(held_in_any_form_is_not_copied_again)
    {
        open_core();
        uint32_t fine = fixture_shape(&f, 0, space, 0, 1, whole, 512);
        fixture_store(&f, 0, shape, 0, 8);
        const struct core_action *reply = fixture_push(&f, 0, fine, 0, 9, 16);
        for (uint32_t i = 0; i < 9; i++) { /* grains of large blocks */
            ck_assert_int_eq(reply->statuses[i], i < 8 ? ST_HELD : ST_OK);
        }
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        fixture_store(&f, 0, fine, 100, 8);
        reply = fixture_push(&f, 0, shape, 100, 12, 16); /* large blocks, grain by grain */
        ck_assert_int_eq(reply->statuses[0], ST_HELD);
        ck_assert_int_eq(reply->statuses[1], ST_HELD);
        ck_assert_int_eq(reply->statuses[2], ST_OK);
        ck_assert_int_eq(fixture_push(&f, 0, shape, 108, 4, 16)->statuses[0], ST_HELD);
        fixture_close(&f);
    }
END_TEST

START_TEST(duplicates_inside_a_push)
    {
        open_core();
        uint8_t keys[3 * CORE_KEY_BYTES] = {0};
        keys[CORE_KEY_BYTES] = 1;
        struct core_push_run run = {shape, keys, 3, 3, 64, NULL};
        const struct core_action *copy = push_run(&run, space);
        ck_assert_uint_eq(copy->copy_count, 2);
        ck_assert_int_eq(copy->statuses[2], ST_HELD);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

/* A key repeated inside a block, in parts of two ranks, gave a copy from before the part. */
START_TEST(a_repeated_key_gives_no_wild_copy)
    {
        open_core();
        uint8_t keys[4 * CORE_KEY_BYTES] = {0};
        for (uint32_t h = 0; h < 2; h++) {
            struct core_ranges half = {0, 2, h, 1};
            struct core_push_run run = {
                fixture_shape(&f, 0, space, 0, 4, half, 512), keys, 4, 1, 64, NULL};
            ck_assert_int_eq(push_run(&run, space)->kind, ACTION_COPY);
            (void)fixture_done(&f, 0, 0, ST_OK);
        }
        for (uint32_t grains = 1; grains <= 4; grains++) {
            struct core_pull_run run = {{0, whole}, keys, 1, grains, 16};
            struct core_event event = {.kind = EVENT_PULL,
                                       .u.pull = {.space = space, .runs = &run, .run_count = 1}};
            const struct core_action *copy = fixture_step(&f, &event, ACTION_COPY);
            ck_assert_ptr_nonnull(copy);
            for (uint32_t i = 0; i < copy->copy_count; i++) {
                ck_assert_uint_le(copy->copies[i].part_token + copy->copies[i].tokens, 64);
            }
            (void)fixture_done(&f, 0, 0, ST_OK);
        }
        fixture_close(&f);
    }
END_TEST

START_TEST(last_keys_only)
    {
        open_core();
        struct core_push_run run = {shape, fixture_keys(&f, 3, 3, 4), 3, 3, 64, NULL};
        ck_assert_uint_eq(push_run(&run, space)->copy_count, 3);
        (void)fixture_done(&f, 0, 0, ST_OK);
        ck_assert_uint_eq(fixture_gauges(&f).keys, 3);
        struct core_event event = fixture_lookup(&f, 0, space, 0, 0);
        event.u.lookup.keys = fixture_keys(&f, 3, 3, 4);
        event.u.lookup.key_count = 3;
        event.u.lookup.key_grains = 4;
        ck_assert_uint_eq(fixture_step(&f, &event, ACTION_REPLY)->hit_keys, 3);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 3, 1), 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 2, 1), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(nonsense_is_refused)
    {
        open_core();
        const uint8_t *keys = fixture_keys(&f, 0, 64, 1);
        struct core_push_run bad[] = {{shape, keys, 3, 2, 64, NULL},
                                      {shape, keys, 8, 2, 0, NULL},
                                      {shape, keys, 8, 2, 65, NULL},
                                      {shape, keys, 8, 2, UINT32_MAX - 10, NULL},
                                      {shape, keys, 0, 0, 64, NULL},
                                      {shape + 1, keys, 8, 2, 64, NULL},
                                      {UINT32_MAX, keys, 8, 2, 64, NULL},
                                      {shape, keys, UINT32_MAX, UINT32_MAX, 64, NULL},
                                      {shape, keys, 2000000, 2000000, 64, NULL}};
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            const struct core_action *reply = push_run(&bad[i], space);
            ck_assert_int_eq(reply->kind, ACTION_REPLY);
            ck_assert_int_eq(reply->status, ST_INVALID);
            ck_assert_ptr_nonnull(reply->text);
        }
        fixture_close(&f);
    }
END_TEST

/* A session could once push into any space whose shape's number it guessed. */
START_TEST(shapes_of_others_are_refused)
    {
        open_core();
        (void)fixture_session(&f, 1, "b", 1);
        uint32_t foreign = fixture_space(&f, 1, 1, &group, 1);
        uint32_t theirs = fixture_shape(&f, 1, foreign, 0, 4, whole, 1024);
        struct core_push_run run = {theirs, fixture_keys(&f, 0, 4, 1), 4, 1, 64, NULL};
        ck_assert_uint_ne(foreign, space);
        ck_assert_int_eq(push_run(&run, foreign)->status, ST_INVALID);
        ck_assert_int_eq(push_run(&run, space)->status, ST_INVALID);
        struct core_event event = fixture_lookup(&f, 0, foreign, 0, 4);
        ck_assert_int_eq(fixture_step(&f, &event, ACTION_REPLY)->status, ST_INVALID);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("push", copies_name_tokens_of_run_and_part, held_in_any_form_is_not_copied_again,
          duplicates_inside_a_push, a_repeated_key_gives_no_wild_copy, last_keys_only,
          nonsense_is_refused, shapes_of_others_are_refused)
