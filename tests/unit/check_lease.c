#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 1, 1};
static const struct core_ranges whole = {0, 1, 0, 1};
static uint32_t space;
static uint32_t shape;

static void open_core(void)
{
    struct core_limits limits = fixture_limits();
    fixture_open(&f, &limits);
    (void)fixture_session(&f, 0, "a", 0);
    space = fixture_space(&f, 0, 1, &group, 1);
    shape = fixture_shape(&f, 0, space, 0, 1, whole, 512);
    fixture_store(&f, 0, shape, 0, 40);
}

START_TEST(leased_parts_are_not_evicted)
    {
        open_core();
        uint64_t lease = fixture_lease(&f, 0, space, 0, 40);
        for (uint32_t i = 0; i < 20; i++) {
            fixture_store(&f, 0, shape, 1000 + i * 50, 50);
        }
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 40), 40);
        ck_assert_uint_eq(fixture_gauges(&f).leased_bytes, 40 * 512);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_UNKNOWN_ID);
        ck_assert_uint_eq(fixture_gauges(&f).leased_bytes, 0);
        fixture_close(&f);
    }
END_TEST

/* Let go from its end: when half of it must go, the beginning stays readable. */
START_TEST(the_beginning_of_a_released_prefix_goes_last)
    {
        open_core();
        uint64_t lease = fixture_lease(&f, 0, space, 0, 40);
        fixture_store(&f, 0, shape, 1000, 88);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        fixture_store(&f, 0, shape, 2000, 108);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 40), 20);
        fixture_close(&f);
    }
END_TEST

START_TEST(only_the_owner_releases)
    {
        open_core();
        (void)fixture_session(&f, 1, "b", 0);
        (void)fixture_session(&f, 2, "a", 0); /* the same instance */
        uint64_t first = fixture_lease(&f, 0, space, 0, 10);
        uint64_t second = fixture_lease(&f, 0, space, 0, 10);
        ck_assert_uint_ne(first, second);
        ck_assert_int_eq(fixture_release(&f, 1, first), ST_UNKNOWN_ID);
        ck_assert_int_eq(fixture_release(&f, 0, 0), ST_UNKNOWN_ID);
        ck_assert_int_eq(fixture_release(&f, 0, UINT64_MAX), ST_UNKNOWN_ID);
        ck_assert_int_eq(fixture_release(&f, 2, first), ST_OK);
        core_check(f.core);
        /* its place is taken by another lease: the old id stays unknown */
        uint64_t third = fixture_lease(&f, 0, space, 0, 10);
        ck_assert_uint_eq(third & 0xffffff, first & 0xffffff);
        ck_assert_int_eq(fixture_release(&f, 0, first), ST_UNKNOWN_ID);
        ck_assert_int_eq(fixture_release(&f, 0, third), ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(leases_go_with_the_last_session)
    {
        open_core();
        (void)fixture_session(&f, 1, "a", 0);
        (void)fixture_lease(&f, 0, space, 0, 40);
        (void)fixture_lease(&f, 0, space, 5, 3);
        ck_assert_ptr_nonnull(fixture_session_close(&f, 0));
        ck_assert_uint_eq(fixture_gauges(&f).leases, 2);
        core_check(f.core);
        ck_assert_ptr_nonnull(fixture_session_close(&f, 1));
        struct core_gauges g = fixture_gauges(&f);
        ck_assert_uint_eq(g.leases + g.leased_bytes + g.instances + g.sessions, 0);
        ck_assert_uint_eq(f.core->chunks.used, 0);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("lease", leased_parts_are_not_evicted, the_beginning_of_a_released_prefix_goes_last,
          only_the_owner_releases, leases_go_with_the_last_session)
