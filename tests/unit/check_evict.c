#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 2, 2};
static const struct core_ranges whole = {0, 2, 0, 2};
static uint32_t space;
static uint32_t small; /* 512 bytes: 8 a slab, 128 in the pool */
static uint32_t large; /* 4096 bytes: 16 in the pool */

static void open_with(const struct core_limits *limits)
{
    fixture_open(&f, limits);
    (void)fixture_session(&f, 0, "a", 0);
    space = fixture_space(&f, 0, 1, &group, 1);
    small = fixture_shape(&f, 0, space, 0, 1, whole, 512);
    large = fixture_shape(&f, 0, space, 0, 1, whole, 4096);
}

START_TEST(the_least_recently_used_goes_and_prefixes_go_from_their_end)
    {
        struct core_limits limits = fixture_limits();
        open_with(&limits);
        fixture_store(&f, 0, small, 0, 64);
        fixture_store(&f, 0, small, 1000, 64);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 64), 64); /* now 1000 … is the older */
        fixture_store(&f, 0, small, 2000, 10);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 64), 64);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 1000, 64), 54);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 2000, 10), 10);
        ck_assert_uint_eq(fixture_counters(&f).evicted_space, 10);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_slab_goes_to_another_size)
    {
        struct core_limits limits = fixture_limits();
        open_with(&limits);
        fixture_store(&f, 0, small, 0, 128);
        const struct core_action *copy = fixture_push(&f, 0, large, 1000, 1, 16);
        ck_assert_int_eq(copy->kind, ACTION_COPY);
        ck_assert_uint_eq(fixture_counters(&f).evicted_slab, 8);
        ck_assert_int_eq(f.actions.items[0].kind, ACTION_DECOMMIT);
        ck_assert_int_eq(f.actions.items[1].kind, ACTION_COMMIT);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        core_check(f.core);
        /* … and back */
        fixture_store(&f, 0, large, 2000, 15);
        fixture_store(&f, 0, small, 3000, 128);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 3000, 128), 128);
        ck_assert_uint_eq(fixture_gauges(&f).slab_bytes, 65536);
        fixture_close(&f);
    }
END_TEST

START_TEST(own_size_goes_when_every_slab_of_others_is_in_use)
    {
        struct core_limits limits = fixture_limits();
        open_with(&limits);
        fixture_store(&f, 0, large, 5000, 2);
        fixture_store(&f, 0, small, 0, 112);
        for (uint32_t i = 0; i < 112; i += 8) { /* one part of every small slab */
            ck_assert_uint_ne(fixture_lease(&f, 0, space, 104 - i, 1), 0);
        }
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 5000, 2), 2);
        const struct core_action *copy = fixture_push(&f, 0, large, 6000, 2, 16);
        ck_assert_int_eq(copy->kind, ACTION_COPY);
        ck_assert_uint_eq(copy->copy_count, 2);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 5000, 2), 0);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(full_of_parts_in_use_is_no_space)
    {
        struct core_limits limits = fixture_limits();
        open_with(&limits);
        fixture_store(&f, 0, small, 0, 128);
        uint64_t lease = fixture_lease(&f, 0, space, 0, 128);
        const struct core_action *reply = fixture_push(&f, 0, small, 1000, 2, 16);
        ck_assert_int_eq(reply->kind, ACTION_REPLY);
        ck_assert_int_eq(reply->status, ST_OK);
        ck_assert_int_eq(reply->statuses[0], ST_NO_SPACE);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        ck_assert_int_eq(fixture_push(&f, 0, small, 1000, 2, 16)->kind, ACTION_COPY);
        fixture_close(&f);
    }
END_TEST

/* What a push found held, it does not evict for its own end. */
START_TEST(held_blocks_of_a_push_stay)
    {
        struct core_limits limits = fixture_limits();
        open_with(&limits);
        fixture_store(&f, 0, small, 0, 64);
        fixture_store(&f, 0, small, 1000, 64);
        const struct core_action *copy = fixture_push(&f, 0, small, 0, 128, 16);
        ck_assert_uint_eq(copy->copy_count, 64);
        ck_assert_int_eq(copy->statuses[63], ST_HELD);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 128), 128);
        fixture_close(&f);
    }
END_TEST

START_TEST(quotas_of_tenant_and_space)
    {
        struct core_limits limits = fixture_limits();
        open_with(&limits);
        struct core_event quota = {.kind = EVENT_TENANT_QUOTA, .u.tenant_quota.bytes = 4096};
        core_step(f.core, &quota, &f.actions);
        fixture_store(&f, 0, small, 0, 20);
        ck_assert_uint_eq(fixture_gauges(&f).parts, 8);
        ck_assert_int_eq(fixture_push(&f, 0, small, 0, 8, 16)->statuses[0], ST_HELD);
        struct core_tenant tenant;
        ck_assert(core_tenant(f.core, 0, &tenant));
        ck_assert_uint_eq(tenant.used_bytes, 4096);
        ck_assert(!core_tenant(f.core, 1, &tenant));
        ck_assert(!core_tenant(f.core, 99, &tenant));
        quota.u.tenant_quota.bytes = 100;
        core_step(f.core, &quota, &f.actions);
        ck_assert_int_eq(fixture_push(&f, 0, small, 3000, 1, 16)->statuses[0], ST_QUOTA);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_lowered_quota_is_reached_over_several_pushes)
    {
        struct core_limits limits = fixture_limits();
        limits.pool_bytes = 16 * 1024 * 1024;
        limits.blocks_max = limits.parts_max = 32768;
        limits.keys_max = 32768;
        open_with(&limits);
        for (uint32_t i = 0; i < 8; i++) {
            fixture_store(&f, 0, small, i * 4096, 4096);
        }
        struct core_event quota = {.kind = EVENT_TENANT_QUOTA, .u.tenant_quota.bytes = 5120};
        core_step(f.core, &quota, &f.actions);
        uint32_t pushes = 0;
        while (fixture_push(&f, 0, small, 500000, 1, 16)->kind != ACTION_COPY) {
            uint64_t evicted = fixture_counters(&f).evicted_quota;
            ck_assert_uint_le(evicted, ++pushes * 8192);
            ck_assert_uint_le(pushes, 8);
        }
        ck_assert_uint_ge(pushes, 3);
        ck_assert_uint_eq(fixture_gauges(&f).parts, 10);
        fixture_close(&f);
    }
END_TEST

START_TEST(watermarks)
    {
        struct core_limits limits = fixture_limits();
        limits.high_percent = 75;
        limits.low_percent = 50;
        open_with(&limits);
        fixture_store(&f, 0, small, 0, 95);
        ck_assert_uint_eq(fixture_gauges(&f).parts, 95);
        fixture_store(&f, 0, small, 1000, 10);
        ck_assert_uint_le(fixture_gauges(&f).slot_bytes, 32768);
        ck_assert_uint_eq(fixture_counters(&f).evicted_watermark, 105 - 63);
        fixture_close(&f);
    }
END_TEST

START_TEST(records_run_out_before_the_pool)
    {
        struct core_limits limits = fixture_limits();
        limits.keys_max = 512;
        limits.blocks_max = 20;
        limits.parts_max = 30;
        open_with(&limits);
        fixture_store(&f, 0, small, 0, 50);
        ck_assert_uint_eq(fixture_gauges(&f).blocks, 20);
        uint32_t wide = fixture_shape(&f, 0, space, 0, 256, whole, 512);
        fixture_store(&f, 0, wide, 2000, 512);
        ck_assert_uint_eq(fixture_gauges(&f).keys, 512);
        ck_assert_uint_eq(fixture_gauges(&f).blocks, 2);
        fixture_store(&f, 0, small, 5000, 7);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 5000, 7), 7);
        fixture_close(&f);
    }
END_TEST

/* A slab that failed when nothing was in it once stayed in the budget for good. */
START_TEST(failed_slabs_go_back_to_the_budget)
    {
        struct core_limits limits = fixture_limits();
        limits.pool_bytes = 8192;
        open_with(&limits);
        for (uint32_t i = 0; i < 10; i++) {
            (void)fixture_push(&f, 0, small, 0, 16, 16);
            uint64_t offsets[2] = {0};
            uint32_t count = 0;
            for (uint32_t a = 0; a < f.actions.count; a++) {
                if (f.actions.items[a].kind == ACTION_COMMIT) {
                    offsets[count++] = f.actions.items[a].offset;
                }
            }
            ck_assert_uint_eq(count, 2);
            bool told_late = i % 2 == 0;
            for (uint32_t n = 0; n < 4; n++) {
                if (n / 2 == (told_late ? 0u : 1u)) {
                    if (n % 2 == 0) {
                        (void)fixture_done(&f, 0, f.last_request, ST_MEMORY);
                    }
                    continue;
                }
                struct core_event failed = {.kind = EVENT_SLAB_FAILED,
                                            .u.slab_failed.offset = offsets[n % 2]};
                core_step(f.core, &failed, &f.actions);
            }
            core_check(f.core);
            ck_assert_uint_eq(fixture_gauges(&f).slab_bytes, 0);
        }
        fixture_close(&f);
    }
END_TEST

/* Sizes that nobody uses any more once kept their class until the pool was full. */
START_TEST(classes_of_old_sizes_can_be_had_again)
    {
        struct core_limits limits = fixture_limits();
        limits.pool_bytes = 1 << 20;
        open_with(&limits);
        for (uint32_t i = 1; i < 200; i++) {
            uint32_t shape = fixture_shape(&f, 0, space, 0, 1, whole, 4096 + i * 512u);
            ck_assert_uint_ne(shape, NONE);
            (void)fixture_push(&f, 0, shape, i, 1, 16);
            (void)fixture_done(&f, 0, f.last_request, ST_MEMORY);
            struct core_event drop = {.kind = EVENT_SHAPE_DROP, .u.handle.handle = shape};
            ck_assert_int_eq(fixture_step(&f, &drop, ACTION_SHAPE)->status, ST_OK);
            ck_assert_ptr_nonnull(fixture_step(&f, &drop, ACTION_SHAPE));
        }
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("evict", the_least_recently_used_goes_and_prefixes_go_from_their_end,
          a_slab_goes_to_another_size, own_size_goes_when_every_slab_of_others_is_in_use,
          full_of_parts_in_use_is_no_space, held_blocks_of_a_push_stay, quotas_of_tenant_and_space,
          a_lowered_quota_is_reached_over_several_pushes, watermarks,
          records_run_out_before_the_pool, failed_slabs_go_back_to_the_budget,
          classes_of_old_sizes_can_be_had_again)
