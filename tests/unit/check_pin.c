#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 1, 1};
static const struct core_ranges whole = {0, 1, 0, 1};
static uint32_t space;

static uint32_t pin(uint32_t first, uint32_t count, bool on)
{
    struct core_event event = {.kind = EVENT_PIN,
                               .u.pin = {space, fixture_keys(&f, first, count, 1), count, on}};
    const struct core_action *reply = fixture_step(&f, &event, ACTION_REPLY);
    ck_assert_int_eq(reply->status, ST_OK);
    return reply->hit_keys;
}

START_TEST(pinned_parts_stay)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&f, &limits);
        (void)fixture_session(&f, 0, "a", 0);
        space = fixture_space(&f, 0, 1, &group, 1);
        uint32_t shape = fixture_shape(&f, 0, space, 0, 1, whole, 512);
        fixture_store(&f, 0, shape, 0, 10);
        ck_assert_uint_eq(pin(5, 10, true), 5);
        ck_assert_uint_eq(pin(5, 5, true), 5);
        ck_assert_uint_eq(fixture_gauges(&f).pinned_bytes, 5 * 512);
        for (uint32_t i = 0; i < 10; i++) {
            fixture_store(&f, 0, shape, 1000 + i * 50, 50);
        }
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 10), 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 5, 5), 5);
        (void)pin(5, 5, false);
        ck_assert_uint_eq(fixture_gauges(&f).pinned_bytes, 0);
        struct core_event event = {.kind = EVENT_PIN, .u.pin = {.space = space + 1}};
        ck_assert_int_eq(fixture_step(&f, &event, ACTION_REPLY)->status, ST_INVALID);
        fixture_close(&f);
    }
END_TEST

/* The key may lead to another block now than when it was pinned. */
START_TEST(unpinning_reaches_every_block_of_the_key)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&f, &limits);
        (void)fixture_session(&f, 0, "a", 0);
        space = fixture_space(&f, 0, 1, &group, 1);
        fixture_store(&f, 0, fixture_shape(&f, 0, space, 0, 1, whole, 512), 2, 1);
        ck_assert_uint_eq(pin(2, 1, true), 1);
        fixture_store(&f, 0, fixture_shape(&f, 0, space, 0, 4, whole, 512), 0, 4);
        ck_assert_uint_eq(pin(2, 1, true), 1);
        (void)pin(2, 1, false);
        ck_assert_uint_eq(fixture_gauges(&f).pinned_bytes, 0);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("pin", pinned_parts_stay, unpinning_reaches_every_block_of_the_key)
