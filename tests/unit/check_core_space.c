/* Covers: daemon/core/space.c */
#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group groups[] = {{CORE_EVERY, 0, 2, 2}, {CORE_STATE, 0, 1, 1}};
static const struct core_ranges whole = {0, 2, 0, 2};

static void open_core(void)
{
    struct core_limits limits = fixture_limits();
    fixture_open(&f, &limits);
    (void)fixture_session(&f, 0, "a", 0);
    (void)fixture_session(&f, 1, "b", 0);
    (void)fixture_session(&f, 2, "c", 1);
}

static int handle_event(enum core_event_kind kind, uint32_t session, uint32_t handle)
{
    struct core_event event = {.kind = kind, .session = session, .u.handle.handle = handle};
    return fixture_step(&f, &event, kind == EVENT_SPACE_DROP ? ACTION_SPACE : ACTION_SHAPE)->status;
}

static bool freed(uint32_t shape)
{
    for (uint32_t i = 0; i < f.actions.count; i++) {
        if (f.actions.items[i].kind == ACTION_SHAPE_FREED && f.actions.items[i].handle == shape) {
            return true;
        }
    }
    return false;
}

START_TEST(spaces_are_shared_inside_a_tenant)
    {
        open_core();
        uint32_t space = fixture_space(&f, 0, 1, groups, 2);
        ck_assert_uint_eq(fixture_space(&f, 1, 1, groups, 2), space);
        ck_assert_uint_eq(fixture_space(&f, 1, 1, groups, 2), space); /* once more is once */
        ck_assert_uint_ne(fixture_space(&f, 2, 1, groups, 2), space);
        ck_assert_uint_ne(fixture_space(&f, 0, 2, groups, 2), space);
        ck_assert_uint_eq(fixture_space(&f, 1, 1, groups, 1), NONE); /* other groups */
        core_check(f.core);
        ck_assert_int_eq(handle_event(EVENT_SPACE_DROP, 1, space), ST_OK);
        ck_assert_int_eq(handle_event(EVENT_SPACE_DROP, 1, space), ST_UNKNOWN_ID);
        ck_assert_int_eq(handle_event(EVENT_SPACE_DROP, 0, space), ST_OK);
        ck_assert_uint_eq(fixture_gauges(&f).spaces, 2);
        fixture_close(&f);
    }
END_TEST

START_TEST(shapes_are_shared_by_asking)
    {
        open_core();
        uint32_t space = fixture_space(&f, 0, 1, groups, 2);
        uint32_t shape = fixture_shape(&f, 0, space, 0, 1, whole, 512);
        ck_assert_uint_ne(fixture_shape(&f, 0, space, 0, 1, whole, 512), shape);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_USE, 1, shape), ST_UNKNOWN_ID); /* no space */
        (void)fixture_space(&f, 1, 1, groups, 2);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_USE, 1, shape), ST_OK);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_USE, 1, shape), ST_OK);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_USE, 1, 40), ST_UNKNOWN_ID);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_USE, 1, UINT32_MAX), ST_UNKNOWN_ID);
        (void)fixture_space(&f, 2, 1, groups, 2);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_USE, 2, shape), ST_UNKNOWN_ID); /* tenant */
        core_check(f.core);
        fixture_store(&f, 1, shape, 0, 2);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_DROP, 0, shape), ST_OK);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_DROP, 0, shape), ST_UNKNOWN_ID);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_DROP, 1, shape), ST_OK);
        ck_assert(!freed(shape)); /* its parts are there */
        ck_assert_uint_eq(fixture_gauges(&f).parts, 2);
        fixture_close(&f);
    }
END_TEST

START_TEST(shapes_go_with_their_last_part)
    {
        open_core();
        uint32_t space = fixture_space(&f, 0, 1, groups, 2);
        uint32_t shape = fixture_shape(&f, 0, space, 0, 1, whole, 512);
        (void)fixture_push(&f, 0, shape, 0, 2, 16);
        ck_assert_int_eq(handle_event(EVENT_SHAPE_DROP, 0, shape), ST_OK);
        ck_assert(!freed(shape));
        (void)fixture_done(&f, 0, f.last_request, ST_CANCELLED);
        ck_assert(freed(shape));
        (void)fixture_session_close(&f, 0);
        ck_assert_uint_eq(fixture_gauges(&f).spaces, 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(limits_and_nonsense)
    {
        open_core();
        uint32_t space = fixture_space(&f, 0, 1, groups, 2);
        struct core_ranges bad[] = {
            {0, 3, 0, 2}, {0, 0, 0, 2}, {2, 1, 0, 1}, {UINT32_MAX, 2, 0, 1}};
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            ck_assert_uint_eq(fixture_shape(&f, 0, space, 0, 1, bad[i], 512), NONE);
        }
        ck_assert_uint_eq(fixture_shape(&f, 0, space, 2, 1, whole, 512), NONE);
        ck_assert_uint_eq(fixture_shape(&f, 0, space, 0, 0, whole, 512), NONE);
        ck_assert_uint_eq(fixture_shape(&f, 0, space, 0, 257, whole, 512), NONE);
        ck_assert_uint_eq(fixture_shape(&f, 0, space, 0, 1, whole, 0), NONE);
        ck_assert_uint_eq(fixture_shape(&f, 0, space, 0, 1, whole, 65537), NONE);
        ck_assert_uint_eq(fixture_shape(&f, 0, space, 0, 1, whole, UINT64_MAX), NONE);
        ck_assert_uint_eq(fixture_shape(&f, 1, space, 0, 1, whole, 512), NONE);
        uint32_t made = 0;
        while (fixture_shape(&f, 0, space, 0, 1, whole, 512) != NONE) {
            made++;
        }
        ck_assert_uint_eq(made, 64);
        for (uint8_t id = 2; id < 9; id++) {
            ck_assert_uint_ne(fixture_space(&f, 0, id, groups, 2), NONE);
        }
        ck_assert_uint_eq(fixture_space(&f, 0, 99, groups, 2), NONE);
        fixture_close(&f);
    }
END_TEST

/* One session cannot take all handles there are. */
START_TEST(handles_of_a_session_are_bounded)
    {
        struct core_limits limits = fixture_limits();
        limits.shapes_max = 4096;
        fixture_open(&f, &limits);
        (void)fixture_session(&f, 0, "a", 0);
        uint32_t space = fixture_space(&f, 0, 1, groups, 2);
        for (uint32_t i = 1; i < CORE_HANDLES_MAX; i++) {
            ck_assert_uint_ne(fixture_shape(&f, 0, space, 0, 1, whole, 512), NONE);
        }
        ck_assert_uint_eq(fixture_shape(&f, 0, space, 0, 1, whole, 512), NONE);
        ck_assert_uint_eq(fixture_space(&f, 0, 2, groups, 2), NONE);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("space", spaces_are_shared_inside_a_tenant, shapes_are_shared_by_asking,
          shapes_go_with_their_last_part, limits_and_nonsense, handles_of_a_session_are_bounded)
