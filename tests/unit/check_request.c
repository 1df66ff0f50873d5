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
}

static uint32_t cancel(uint32_t session, uint32_t request)
{
    struct core_event event = {.kind = EVENT_CANCEL, .session = session, .request = request};
    core_step(f.core, &event, &f.actions);
    return f.actions.count;
}

START_TEST(every_end_has_its_words)
    {
        open_core();
        static const int ends[] = {ST_MEMORY, ST_DEADLINE, ST_CANCELLED, ST_IO};
        for (size_t i = 0; i < ARRAY_COUNT(ends); i++) {
            (void)fixture_push(&f, 0, shape, 0, 2, 16);
            const struct core_action *reply = fixture_done(&f, 0, f.last_request, ends[i]);
            ck_assert_int_eq(reply->status, ends[i]);
            ck_assert_ptr_nonnull(reply->text);
            ck_assert_uint_eq(fixture_gauges(&f).parts, 0);
        }
        (void)fixture_push(&f, 0, shape, 0, 2, 16);
        ck_assert_ptr_null(fixture_done(&f, 0, f.last_request, ST_OK)->text);
        ck_assert_uint_eq(fixture_gauges(&f).parts, 2);
        fixture_close(&f);
    }
END_TEST

START_TEST(cancel_hurries_once_and_only_ones_own)
    {
        open_core();
        (void)fixture_session(&f, 1, "b", 0);
        (void)fixture_push(&f, 0, shape, 0, 2, 16);
        uint32_t request = f.last_request;
        ck_assert_uint_eq(cancel(1, request), 0);
        ck_assert_uint_eq(cancel(0, request + 1), 0);
        ck_assert_uint_eq(cancel(0, request), 1);
        ck_assert_int_eq(f.actions.items[0].kind, ACTION_CANCEL_COPY);
        ck_assert_uint_eq(cancel(0, request), 0);
        core_check(f.core);
        /* too late: the bytes are there */
        ck_assert_int_eq(fixture_done(&f, 0, request, ST_OK)->status, ST_OK);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 2), 2);
        ck_assert_uint_eq(cancel(0, request), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(requests_end_in_any_order)
    {
        open_core();
        for (uint32_t i = 0; i < 10; i++) {
            (void)fixture_push(&f, 0, shape, i * 10, 3, 16);
            ck_assert_uint_eq(f.last_request, i);
        }
        ck_assert_uint_eq(fixture_gauges(&f).requests, 10);
        static const uint32_t order[] = {4, 0, 9, 5, 3, 8, 1, 2, 7, 6};
        for (uint32_t i = 0; i < 10; i++) {
            (void)fixture_done(&f, 0, order[i], i % 2 == 0 ? ST_OK : ST_CANCELLED);
            core_check(f.core);
        }
        ck_assert_uint_eq(fixture_gauges(&f).parts, 15);
        ck_assert_uint_eq(fixture_gauges(&f).requests, 0);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("request", every_end_has_its_words, cancel_hurries_once_and_only_ones_own,
          requests_end_in_any_order)
