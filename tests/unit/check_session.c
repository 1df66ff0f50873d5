#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 1, 1};
static const struct core_ranges whole = {0, 1, 0, 1};

START_TEST(closing_waits_for_copies)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&f, &limits);
        (void)fixture_session(&f, 3, "a", 0);
        uint32_t space = fixture_space(&f, 3, 1, &group, 1);
        uint32_t shape = fixture_shape(&f, 3, space, 0, 1, whole, 512);
        fixture_store(&f, 3, shape, 0, 4);
        (void)fixture_push(&f, 3, shape, 10, 4, 16);
        uint32_t push = f.last_request;
        (void)fixture_pull(&f, 3, space, 0, 4);
        uint32_t pull = f.last_request;
        ck_assert_ptr_null(fixture_session_close(&f, 3));
        ck_assert_uint_eq(f.actions.count, 2);
        ck_assert_int_eq(f.actions.items[0].kind, ACTION_CANCEL_COPY);
        core_check(f.core);
        ck_assert_int_eq(fixture_done(&f, 3, push, ST_CANCELLED)->status, ST_CANCELLED);
        ck_assert_uint_eq(f.actions.count, 1);
        (void)fixture_done(&f, 3, pull, ST_OK);
        ck_assert_int_eq(f.actions.items[f.actions.count - 1].kind, ACTION_SESSION_CLOSED);
        struct core_gauges g = fixture_gauges(&f);
        ck_assert_uint_eq(g.sessions + g.instances + g.requests, 0);
        ck_assert_uint_eq(g.parts, 4);
        ck_assert_uint_eq(g.shapes, 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(numbers_and_names_can_be_used_again)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&f, &limits);
        for (uint32_t i = 0; i < 100; i++) {
            ck_assert_int_eq(fixture_session(&f, i % 8, i % 2 == 0 ? "a" : "b", i % 3)->status,
                             ST_OK);
            core_check(f.core);
            ck_assert_ptr_nonnull(fixture_session_close(&f, i % 8));
        }
        ck_assert_uint_eq(f.core->origins.used, 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(one_name_in_two_tenants_is_two_instances)
    {
        struct core_limits limits = fixture_limits();
        limits.instances_max = 2;
        fixture_open(&f, &limits);
        ck_assert_int_eq(fixture_session(&f, 0, "a", 0)->status, ST_OK);
        ck_assert_int_eq(fixture_session(&f, 1, "a", 1)->status, ST_OK);
        ck_assert_int_eq(fixture_session(&f, 2, "a", 1)->status, ST_OK);
        ck_assert_uint_eq(fixture_gauges(&f).instances, 2);
        ck_assert_int_eq(fixture_session(&f, 3, "c", 0)->status, ST_LIMIT);
        ck_assert_int_eq(fixture_session(&f, 3, "a", 4)->status, ST_LIMIT); /* no such tenant */
        ck_assert_int_eq(fixture_session(&f, 3, "a", 0)->status, ST_OK);
        fixture_close(&f);
    }
END_TEST

/* The name of who pushed outlives its sessions as long as its blocks. */
START_TEST(origins_live_as_long_as_their_parts)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&f, &limits);
        (void)fixture_session(&f, 0, "first", 0);
        uint32_t space = fixture_space(&f, 0, 1, &group, 1);
        fixture_store(&f, 0, fixture_shape(&f, 0, space, 0, 1, whole, 512), 0, 4);
        (void)fixture_session_close(&f, 0);
        (void)fixture_session(&f, 0, "second", 0);
        ck_assert_uint_eq(fixture_space(&f, 0, 1, &group, 1), space);
        struct core_event event = fixture_lookup(&f, 0, space, 0, 4);
        event.u.lookup.origins = true;
        const struct core_action *reply = fixture_step(&f, &event, ACTION_REPLY);
        ck_assert_uint_eq(reply->origin_count, 1);
        ck_assert_mem_eq(reply->origins[0].instance_id, "first", 5);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("session", closing_waits_for_copies, numbers_and_names_can_be_used_again,
          one_name_in_two_tenants_is_two_instances, origins_live_as_long_as_their_parts)
