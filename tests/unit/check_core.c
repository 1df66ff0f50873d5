/*
 * Covers: daemon/core/check.c
 * Covers: daemon/core/check_index.c
 * Covers: daemon/core/check_memory.c
 */
#include "base/fault.h"
#include "base/heap.h"
#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group groups[] = {{CORE_EVERY, 0, 2, 2}, {CORE_WINDOW, 40, 2, 2}};
static const struct core_ranges whole = {0, 2, 0, 2};

START_TEST(limits_are_refused_in_words)
    {
        struct core_limits good = fixture_limits();
        struct core_limits bad[16];
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            bad[i] = good;
        }
        bad[0].pool_bytes = 0;
        bad[1].pool_bytes = 4096 + 1;
        bad[2].granule_bytes = 0;
        bad[3].granule_bytes = 512;
        bad[4].keys_max = 0;
        bad[5].keys_max = UINT64_C(1) << 40;
        bad[6].spaces_max = 65537;
        bad[7].shapes_max = 65537;
        bad[8].leases_max = 1 << 24;
        bad[9].low_percent = 101;
        bad[10].high_percent = 101;
        bad[11].parts_max = 0;
        bad[12].sessions_max = 0;
        bad[13].tenants_max = 0;
        bad[14].blocks_max = UINT32_MAX;
        bad[15].pool_bytes = UINT64_MAX / 4096 * 4096;
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            struct error error = {0};
            struct core *core = NULL;
            ck_assert_int_eq(core_create(&bad[i], &core, &error), ST_INVALID);
            ck_assert_ptr_null(core);
            ck_assert_int_ne(error.text[0], 0);
        }
        core_destroy(NULL);
    }
END_TEST

START_TEST(creation_survives_any_shortage)
    {
        struct core_limits limits = fixture_limits();
        enum fault_point points[] = {FAULT_HEAP, FAULT_MMAP};
        for (size_t p = 0; p < ARRAY_COUNT(points); p++) {
            bool fired = true;
            for (int64_t n = 0; fired; n++) {
                struct core *core = NULL;
                fault_set(points[p], n, 1);
                int status = core_create(&limits, &core, NULL);
                fired = fault_fired(points[p]) > 0;
                fault_clear();
                ck_assert_int_eq(status, fired ? ST_NO_MEMORY : ST_OK);
                core_destroy(core);
                ck_assert_int_eq(heap_outstanding(), 0);
            }
        }
    }
END_TEST

/* Registers, pushes, leases, pulls, evicts; whatever is refused on the way is skipped. */
static void history(void)
{
    for (uint32_t s = 0; s < 3; s++) {
        if (fixture_session(&f, s, s == 0 ? "a" : "b", 0)->status != ST_OK) {
            continue;
        }
        uint32_t space = fixture_space(&f, s, 1, groups, 2);
        if (space == NONE) {
            continue;
        }
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t grains = 1u << (3 * i);
            uint32_t shape = fixture_shape(&f, s, space, i % 2, grains, whole, 512u << i);
            if (shape != NONE) {
                fixture_store(&f, s, shape, 0, 100);
                fixture_store(&f, s, shape, 1000 * s, 90);
            }
        }
        struct core_event event = fixture_lookup(&f, s, space, 0, 100);
        event.u.lookup.lease = true;
        event.u.lookup.origins = true;
        const struct core_action *reply = fixture_step(&f, &event, ACTION_REPLY);
        ck_assert(reply->status == ST_OK || reply->status == ST_NO_MEMORY ||
                  reply->status == ST_LIMIT);
        if (fixture_pull(&f, s, space, 0, 100)->kind == ACTION_COPY) {
            (void)fixture_done(&f, s, f.last_request, ST_OK);
        }
    }
}

static void close_all(void)
{
    for (uint32_t s = 0; s < 3; s++) {
        if (session_at(f.core, s)->open) {
            ck_assert_ptr_nonnull(fixture_session_close(&f, s));
        }
    }
    struct core_gauges g = fixture_gauges(&f);
    ck_assert_uint_eq(g.sessions + g.instances + g.leases + g.requests, 0);
}

START_TEST(a_history_survives_any_shortage)
    {
        struct core_limits limits = fixture_limits();
        limits.pool_bytes = 1 << 20;
        enum fault_point points[] = {FAULT_HEAP, FAULT_MMAP};
        for (size_t p = 0; p < ARRAY_COUNT(points); p++) {
            bool fired = true;
            for (int64_t n = 0; fired; n++) {
                fixture_open(&f, &limits);
                fault_set(points[p], n, n % 3 == 2 ? INT64_MAX : 1);
                history();
                fired = fault_fired(points[p]) > 0;
                fault_clear();
                core_check(f.core);
                close_all();
                core_check(f.core);
                history(); /* and it works again when there is memory */
                ck_assert_uint_gt(fixture_gauges(&f).leases, 0);
                close_all();
                fixture_close(&f);
            }
        }
    }
END_TEST

START_TEST(gauges_and_reserve)
    {
        struct core_limits limits = fixture_limits();
        ck_assert_uint_ge(core_reserve_bytes(&limits), limits.pool_bytes);
        fixture_open(&f, &limits);
        uint64_t empty = fixture_gauges(&f).index_live_bytes;
        history();
        struct core_gauges g = fixture_gauges(&f);
        ck_assert_uint_gt(g.index_live_bytes, empty);
        ck_assert_uint_ge(g.index_bytes, g.index_live_bytes);
        ck_assert_uint_le(g.slab_bytes, limits.pool_bytes);
        struct core_counters c = fixture_counters(&f);
        ck_assert_uint_eq(c.lookups, 3);
        ck_assert_uint_eq(c.pulls, 3);
        ck_assert_uint_eq(c.pull_keys, 300);
        ck_assert_uint_eq(c.slabs_committed - c.slabs_decommitted, g.slab_bytes / 4096);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("core", limits_are_refused_in_words, creation_survives_any_shortage,
          a_history_survives_any_shortage, gauges_and_reserve)
