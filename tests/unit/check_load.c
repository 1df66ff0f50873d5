#include "tests/lib/core_disk_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;

/* Keys 0 to 7 on disk only, in segment 0. */
static void open_with(const struct core_limits *limits)
{
    core_disk_open(&f, limits, CORE_ADMIT_AT_ONCE);
    core_disk_fill(&f, 0, 8, 0);
    ck_assert_uint_eq(fixture_gauges(&f).stored_parts, 8);
    ck_assert_uint_eq(fixture_gauges(&f).slot_bytes, 0);
}

static void open_usual(void)
{
    struct core_limits limits = core_disk_limits();
    open_with(&limits);
}

START_TEST(what_is_on_disk_is_held)
    {
        open_usual();
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 8), 8);
        ck_assert_uint_eq(core_disk_action(&f, ACTION_REPLY, 0)->hit_disk_bytes, 8u * 512);
        const struct core_action *reply = fixture_push(&f, 0, core_disk_shape, 0, 8, GRAIN_TOKENS);
        ck_assert_int_eq((int)reply->kind, ACTION_REPLY);
        for (uint32_t i = 0; i < 8; i++) {
            ck_assert_int_eq((int)reply->statuses[i], ST_HELD);
        }
        ck_assert_uint_eq(core_disk_count(&f, ACTION_LOAD), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(two_pulls_share_one_read)
    {
        open_usual();
        const struct core_action *copy = fixture_pull(&f, 0, core_disk_space, 0, 1);
        uint32_t first = f.last_request;
        ck_assert_int_eq((int)copy->kind, ACTION_COPY);
        const struct core_action *load = core_disk_action(&f, ACTION_LOAD, 0);
        ck_assert_ptr_nonnull(load);
        ck_assert(load < copy); /* in the order in which they are carried out */
        ck_assert_uint_eq(copy->copies[0].load, load->job);
        ck_assert_uint_eq(copy->copies[0].offset, load->offset);
        ck_assert_uint_eq(load->seal, load->place.offset + (uint64_t)1);
        ck_assert_uint_eq(load->place.segment, 0);
        ck_assert_mem_eq(load->key, fixture_keys(&f, 0, 1, 1), CORE_KEY_BYTES);
        uint32_t job = load->job;
        copy = fixture_pull(&f, 0, core_disk_space, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_LOAD), 0);
        ck_assert_uint_eq(copy->copies[0].load, job);
        core_disk_loaded(&f, job, ST_OK);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_READY);
        uint32_t second = f.last_request;
        copy = fixture_pull(&f, 0, core_disk_space, 0, 1);
        ck_assert_uint_eq(copy->copies[0].load, CORE_NO_LOAD);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        (void)fixture_done(&f, 0, first, ST_OK);
        (void)fixture_done(&f, 0, second, ST_OK);
        ck_assert_uint_eq(fixture_counters(&f).loads, 1);
        /* it is on disk still: out of memory again it is not gone */
        core_disk_demote(&f, 0, 1);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_STORED);
        fixture_close(&f);
    }
END_TEST

START_TEST(damaged_and_unreadable_bytes_are_given_up)
    {
        static const int statuses[] = {ST_CORRUPT, ST_IO};
        for (uint32_t i = 0; i < 2; i++) {
            open_usual();
            uint64_t lease = fixture_lease(&f, 0, core_disk_space, 3, 1);
            uint32_t job = core_disk_action(&f, ACTION_LOAD, 0)->job; /* the lookup reads ahead */
            (void)fixture_pull(&f, 0, core_disk_space, 3, 1);
            ck_assert_uint_eq(core_disk_count(&f, ACTION_LOAD), 0);
            core_disk_loaded(&f, job, statuses[i]);
            ck_assert_uint_eq(core_disk_count(&f, ACTION_FORGET), 1);
            ck_assert_uint_eq(core_disk_action(&f, ACTION_FORGET, 0)->place.segment, 0);
            ck_assert_int_eq((int)core_disk_part_state(&f, 3), PART_FAILED);
            ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 3, 1), 0);
            core_check(f.core);
            /* the same block can be pushed again meanwhile */
            fixture_store(&f, 0, core_disk_shape, 3, 1);
            ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 3, 1), 1);
            core_check(f.core);
            ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
            (void)fixture_done(&f, 0, 0, ST_OK);
            ck_assert_uint_eq(fixture_counters(&f).load_corrupt, i == 0 ? 1 : 0);
            ck_assert_uint_eq(fixture_counters(&f).load_failed, i == 1 ? 1 : 0);
            ck_assert_uint_eq(fixture_gauges(&f).stored_parts, 7);
            fixture_close(&f);
        }
    }
END_TEST

START_TEST(what_cannot_be_read_now_stays)
    {
        open_usual();
        (void)fixture_pull(&f, 0, core_disk_space, 3, 1);
        core_disk_loaded(&f, core_disk_action(&f, ACTION_LOAD, 0)->job, ST_UNAVAILABLE);
        ck_assert_int_eq((int)core_disk_part_state(&f, 3), PART_STORED);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_FORGET), 0);
        ck_assert_uint_eq(fixture_gauges(&f).slot_bytes, 0);
        uint32_t before = f.last_request;
        const struct core_action *copy = fixture_pull(&f, 0, core_disk_space, 3, 1);
        ck_assert_uint_ne(copy->copies[0].load, CORE_NO_LOAD);
        core_check(f.core);
        core_disk_loaded(&f, copy->copies[0].load, ST_OK);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        (void)fixture_done(&f, 0, before, ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(too_many_reads_are_misses)
    {
        open_usual();
        const struct core_action *copy = fixture_pull(&f, 0, core_disk_space, 0, 6);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_LOAD), 4);
        for (uint32_t i = 0; i < 6; i++) {
            ck_assert_int_eq((int)copy->statuses[i], i < 4 ? ST_OK : ST_MISS);
        }
        ck_assert_uint_eq(copy->copy_count, 4);
        ck_assert_uint_eq(fixture_counters(&f).load_refused, 2);
        fixture_close(&f);
    }
END_TEST

START_TEST(no_space_to_read_to_is_a_miss)
    {
        open_usual();
        core_disk_state(&f, 8, true, false);
        fixture_store(&f, 0, core_disk_shape, 100, 128);
        uint64_t lease = fixture_lease(&f, 0, core_disk_space, 100, 128);
        const struct core_action *reply = fixture_pull(&f, 0, core_disk_space, 0, 1);
        ck_assert_int_eq((int)reply->kind, ACTION_REPLY);
        ck_assert_int_eq((int)reply->statuses[0], ST_MISS);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_STORED);
        ck_assert_uint_eq(fixture_counters(&f).load_refused, 1);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        ck_assert_int_eq((int)fixture_pull(&f, 0, core_disk_space, 0, 1)->kind, ACTION_COPY);
        fixture_close(&f);
    }
END_TEST

START_TEST(lookups_read_ahead_so_far)
    {
        struct core_limits limits = core_disk_limits();
        limits.disk.load_bytes_max = 1024;
        open_with(&limits);
        ck_assert_uint_ne(fixture_lease(&f, 0, core_disk_space, 0, 8), 0);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_LOAD), 2);
        ck_assert_mem_eq(core_disk_action(&f, ACTION_LOAD, 0)->key, fixture_keys(&f, 0, 1, 1),
                         CORE_KEY_BYTES);
        ck_assert_uint_eq(fixture_counters(&f).load_ahead, 2);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 8),
                          8); /* no lease: nothing is read */
        ck_assert_uint_eq(core_disk_count(&f, ACTION_LOAD), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_disk_that_cannot_be_read_has_nothing)
    {
        open_usual();
        fixture_store(&f, 0, core_disk_shape, 50, 1);
        (void)fixture_pull(&f, 0, core_disk_space, 0, 1);
        uint32_t job = core_disk_action(&f, ACTION_LOAD, 0)->job;
        core_disk_state(&f, 8, false, true);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 1, 1), 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 50, 1), 1);
        core_disk_loaded(&f, job, ST_OK);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 1);
        core_disk_state(&f, 8, true, true);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 8), 8);
        fixture_close(&f);
    }
END_TEST

/* A quota is kept by eviction when parts come back, too, and not only after a push. */
START_TEST(a_quota_is_kept_when_parts_come_back)
    {
        static const uint8_t id[CORE_KEY_BYTES] = {9};
        static const struct core_group group = {CORE_EVERY, 0, 2, 2};
        struct core_limits limits = core_disk_limits();
        core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
        struct core_event space = {
            .kind = EVENT_SPACE,
            .u.space = {.id = id, .group_count = 1, .groups = &group, .quota_bytes = 1024}};
        ck_assert_int_eq(fixture_step(&f, &space, ACTION_SPACE)->status, ST_OK);
        for (uint32_t i = 0; i < 4; i++) {
            ck_assert_int_eq(core_disk_restore(&f, i, 0, i), ST_OK);
        }
        for (uint32_t i = 0; i < 4; i++) {
            const struct core_action *copy = fixture_pull(&f, 0, core_disk_space, i, 1);
            ck_assert_int_eq((int)copy->kind, ACTION_COPY);
            core_disk_loaded(&f, copy->copies[0].load, ST_OK);
            (void)fixture_done(&f, 0, f.last_request, ST_OK);
            ck_assert_uint_le(fixture_gauges(&f).slot_bytes, 1024);
        }
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_STORED);
        ck_assert_int_eq((int)core_disk_part_state(&f, 3), PART_READY);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("load", what_is_on_disk_is_held, two_pulls_share_one_read,
          damaged_and_unreadable_bytes_are_given_up, what_cannot_be_read_now_stays,
          too_many_reads_are_misses, no_space_to_read_to_is_a_miss, lookups_read_ahead_so_far,
          a_disk_that_cannot_be_read_has_nothing, a_quota_is_kept_when_parts_come_back)
