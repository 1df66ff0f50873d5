#include <string.h>

#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 2, 4};
static const struct core_ranges whole = {0, 2, 0, 4};
static uint32_t space;

static uint32_t open_shape(uint32_t grains)
{
    struct core_limits limits = fixture_limits();
    fixture_open(&f, &limits);
    (void)fixture_session(&f, 0, "a", 0);
    space = fixture_space(&f, 0, 1, &group, 1);
    return fixture_shape(&f, 0, space, 0, grains, whole, 1024);
}

static const struct core_action *pull_run(const struct core_pull_run *run, uint64_t lease,
                                          bool release)
{
    struct core_event event = {
        .kind = EVENT_PULL,
        .u.pull = {
            .space = space, .runs = run, .run_count = 1, .lease = lease, .release_lease = release}};
    const struct core_action *action = fixture_step(&f, &event, ACTION_REPLY);
    for (uint32_t i = 0; action == NULL && i < f.actions.count; i++) {
        action = f.actions.items[i].kind == ACTION_COPY ? &f.actions.items[i] : NULL;
    }
    return action;
}

START_TEST(grains_of_one_block_are_one_copy)
    {
        fixture_store(&f, 0, open_shape(8), 0, 16);
        const struct core_action *copy = fixture_pull(&f, 0, space, 2, 12);
        ck_assert_uint_eq(copy->copy_count, 2);
        ck_assert_uint_eq(copy->copies[0].part_token, 32);
        ck_assert_uint_eq(copy->copies[0].tokens, 96);
        ck_assert_uint_eq(copy->copies[1].run_token, 96);
        ck_assert_uint_eq(copy->copies[1].part_token, 0);
        ck_assert_uint_eq(copy->copies[1].tokens, 96);
        fixture_close(&f);
    }
END_TEST

/* Copies of two ranks alternate key by key, and were once one a key. */
START_TEST(so_they_are_with_several_ranks)
    {
        (void)open_shape(8);
        for (uint32_t h = 0; h < 2; h++) {
            struct core_ranges half = {0, 2, 2 * h, 2};
            fixture_store(&f, 0, fixture_shape(&f, 0, space, 0, 8, half, 512), 0, 16);
        }
        const struct core_action *copy = fixture_pull(&f, 0, space, 0, 16);
        ck_assert_uint_eq(copy->copy_count, 4);
        for (uint32_t i = 0; i < 4; i++) {
            ck_assert_uint_eq(copy->copies[i].tokens, 128);
        }
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(missing_keys_and_repeated_keys)
    {
        fixture_store(&f, 0, open_shape(1), 0, 4);
        uint8_t keys[4 * CORE_KEY_BYTES];
        static const uint32_t numbers[] = {3, 77, 3, 3};
        for (uint32_t i = 0; i < 4; i++) {
            (void)memcpy(keys + (size_t)i * CORE_KEY_BYTES, fixture_keys(&f, numbers[i], 1, 1),
                         CORE_KEY_BYTES);
        }
        struct core_pull_run run = {{0, whole}, keys, 4, 1, 16};
        const struct core_action *copy = pull_run(&run, 0, false);
        ck_assert_uint_eq(copy->copy_count, 3); /* the same part three times, never as one */
        for (uint32_t i = 0; i < 4; i++) {
            ck_assert_int_eq(copy->statuses[i], i == 1 ? ST_MISS : ST_OK);
        }
        ck_assert_uint_eq(copy->copies[2].run_token, 48);
        ck_assert_uint_eq(copy->copies[2].part_token, 0);
        ck_assert_uint_eq(fixture_counters(&f).pull_missed_keys, 1);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(nothing_held_is_answered_at_once)
    {
        (void)open_shape(1);
        const struct core_action *reply = fixture_pull(&f, 0, space, 0, 3);
        ck_assert_int_eq(reply->kind, ACTION_REPLY);
        ck_assert_int_eq(reply->status, ST_OK);
        ck_assert_uint_eq(reply->status_count, 3);
        ck_assert_int_eq(reply->statuses[2], ST_MISS);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_is_read_stays_until_the_copies_end)
    {
        uint32_t shape = open_shape(1);
        fixture_store(&f, 0, shape, 0, 4);
        ck_assert_int_eq(fixture_pull(&f, 0, space, 0, 4)->kind, ACTION_COPY);
        uint32_t request = f.last_request;
        fixture_store(&f, 0, shape, 1000, 60);
        fixture_store(&f, 0, shape, 2000, 60);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 4), 4);
        (void)fixture_done(&f, 0, request, ST_CANCELLED);
        fixture_store(&f, 0, shape, 3000, 62);
        ck_assert_uint_le(fixture_hit(&f, 0, space, 0, 4), 2);
        fixture_close(&f);
    }
END_TEST

START_TEST(leases_are_known_and_released_with_the_pull)
    {
        uint32_t shape = open_shape(1);
        fixture_store(&f, 0, shape, 0, 4);
        uint64_t lease = fixture_lease(&f, 0, space, 0, 4);
        struct core_pull_run run = {{0, whole}, fixture_keys(&f, 0, 4, 1), 4, 1, 16};
        ck_assert_int_eq(pull_run(&run, lease + 1, true)->status, ST_UNKNOWN_ID);
        ck_assert_int_eq(pull_run(&run, lease, false)->kind, ACTION_COPY);
        (void)fixture_done(&f, 0, 0, ST_OK);
        ck_assert_uint_eq(fixture_gauges(&f).leases, 1);
        ck_assert_int_eq(pull_run(&run, lease, true)->kind, ACTION_COPY);
        ck_assert_uint_eq(fixture_gauges(&f).leases, 1);
        (void)fixture_done(&f, 0, 0, ST_OK);
        ck_assert_uint_eq(fixture_gauges(&f).leases, 0);
        ck_assert_int_eq(pull_run(&run, lease, true)->status, ST_UNKNOWN_ID);
        fixture_close(&f);
    }
END_TEST

/* Ranges were not looked at: they went to the copies as they came. */
START_TEST(nonsense_is_refused)
    {
        fixture_store(&f, 0, open_shape(1), 0, 4);
        const uint8_t *keys = fixture_keys(&f, 0, 4, 1);
        struct core_pull_run bad[] = {{{0, {UINT32_MAX, 2, 0, 4}}, keys, 4, 1, 16},
                                      {{0, {0, 2, 3, UINT32_MAX}}, keys, 4, 1, 16},
                                      {{0, {0, 3, 0, 4}}, keys, 4, 1, 16},
                                      {{0, {0, 0, 0, 4}}, keys, 4, 1, 16},
                                      {{1, whole}, keys, 4, 1, 16},
                                      {{0, whole}, keys, 4, 0, 16},
                                      {{0, whole}, keys, 4, 257, 16},
                                      {{0, whole}, keys, 4, 1, 0},
                                      {{0, whole}, keys, 4, 1, 17},
                                      {{0, whole}, keys, UINT32_MAX, 1, 16}};
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            ck_assert_int_eq(pull_run(&bad[i], 0, false)->status, ST_INVALID);
        }
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("pull", grains_of_one_block_are_one_copy, so_they_are_with_several_ranks,
          missing_keys_and_repeated_keys, nothing_held_is_answered_at_once,
          what_is_read_stays_until_the_copies_end, leases_are_known_and_released_with_the_pull,
          nonsense_is_refused)
