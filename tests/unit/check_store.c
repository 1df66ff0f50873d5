#include <string.h>

#include "tests/lib/core_disk_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;

static void open_with(enum core_admission admission)
{
    struct core_limits limits = core_disk_limits();
    core_disk_open(&f, &limits, admission);
}

START_TEST(at_once_means_when_the_copies_have_ended)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        (void)fixture_push(&f, 0, core_disk_shape, 1, 2, GRAIN_TOKENS);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 2);
        ck_assert_uint_eq(fixture_gauges(&f).stores, 2);
        /* copies that fail leave nothing to write */
        (void)fixture_push(&f, 0, core_disk_shape, 10, 2, GRAIN_TOKENS);
        (void)fixture_done(&f, 0, f.last_request, ST_MEMORY);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_found_no_segment_waits_until_something_changes)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 1, 1);
        core_disk_write_failed(&f, 0, ST_NO_SPACE);
        ck_assert_uint_eq(fixture_gauges(&f).stores, 0);
        ck_assert_uint_eq(fixture_gauges(&f).queued, 1);
        fixture_store(&f, 0, core_disk_shape, 2, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        core_disk_committed(&f, 1); /* perhaps a segment came back */
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 2);
        ck_assert_uint_eq(fixture_counters(&f).store_failed, 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_could_not_be_written_is_when_it_is_used_again)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 1, 1);
        core_disk_write_failed(&f, 0, ST_IO);
        ck_assert_uint_eq(fixture_gauges(&f).stores, 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 1, 1), 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(second_use_means_a_lookup_a_pull_or_a_push_again)
    {
        open_with(CORE_ADMIT_SECOND_USE);
        fixture_store(&f, 0, core_disk_shape, 1, 3);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 1, 1), 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        (void)fixture_pull(&f, 0, core_disk_space, 2, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        (void)fixture_push(&f, 0, core_disk_shape, 3, 1, GRAIN_TOKENS);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        /* once is enough */
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 1, 1), 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(eviction_means_ahead_of_need_and_oldest_first)
    {
        open_with(CORE_ADMIT_EVICTION);
        for (uint32_t i = 0; i < 115; i++) {
            fixture_store(&f, 0, core_disk_shape, i, 1);
        }
        ck_assert_uint_eq(fixture_gauges(&f).stores, 0); /* 115 of 128: not above nine tenths */
        (void)fixture_push(&f, 0, core_disk_shape, 115, 1, GRAIN_TOKENS);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        const struct core_action *store = core_disk_action(&f, ACTION_STORE, 0);
        ck_assert_mem_eq(store->stored->keys, fixture_keys(&f, 0, 1, 1), CORE_KEY_BYTES);
        uint32_t job = store->job;
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0); /* one is on its way out already */
        core_disk_written(&f, job, 0, 0, 1);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_STORED);
        ck_assert_uint_eq(fixture_counters(&f).demoted, 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 1);
        /* a write that fails leaves it in memory, and the next to be written is another */
        (void)fixture_push(&f, 0, core_disk_shape, 116, 1, GRAIN_TOKENS);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        core_disk_write_failed(&f, core_disk_action(&f, ACTION_STORE, 0)->job, ST_IO);
        ck_assert_int_eq((int)core_disk_part_state(&f, 1), PART_READY);
        store = core_disk_action(&f, ACTION_STORE, 0);
        ck_assert_ptr_nonnull(store);
        ck_assert_mem_eq(store->stored->keys, fixture_keys(&f, 2, 1, 1), CORE_KEY_BYTES);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(never_means_gone)
    {
        open_with(CORE_ADMIT_NEVER);
        for (uint32_t i = 0; i < 200; i++) {
            fixture_store(&f, 0, core_disk_shape, i, 1);
            ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        }
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 0);
        ck_assert_uint_eq(fixture_counters(&f).evicted_space, 72);
        fixture_close(&f);
    }
END_TEST

START_TEST(the_default_is_the_limits)
    {
        open_with(CORE_ADMIT_DEFAULT);
        fixture_store(&f, 0, core_disk_shape, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_waits_is_bounded_and_counted)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 0, 20);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 4);
        ck_assert_uint_eq(fixture_gauges(&f).queued, 4);
        ck_assert_uint_eq(fixture_counters(&f).store_dropped, 12);
        core_disk_written(&f, 0, 0, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1); /* the next one's turn */
        core_disk_write_all(&f, 0, 1);
        ck_assert_uint_eq(fixture_counters(&f).stored, 8);
        ck_assert_uint_eq(fixture_gauges(&f).queued, 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 20), 20);
        fixture_close(&f);
    }
END_TEST

START_TEST(bytes_in_flight_are_bounded)
    {
        struct core_limits limits = core_disk_limits();
        limits.disk.store_bytes_max = 1024;
        core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 0, 6);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 2);
        core_disk_write_all(&f, 0, 1);
        ck_assert_uint_eq(fixture_counters(&f).stored, 6);
        fixture_close(&f);
        /* a part larger than that is written alone */
        limits.disk.store_bytes_max = 1;
        core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 0, 3);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        core_disk_write_all(&f, 0, 1);
        ck_assert_uint_eq(fixture_counters(&f).stored, 3);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_goes_to_disk_with_a_part)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        uint8_t before[CORE_KEY_BYTES];
        (void)memcpy(before, fixture_keys(&f, 99, 1, 1), sizeof before);
        uint32_t pairs =
            fixture_shape(&f, 0, core_disk_space, 0, 2, (struct core_ranges){0, 2, 0, 2}, 1000);
        struct core_push_run run = {.shape = pairs,
                                    .keys = fixture_keys(&f, 1, 3, 1),
                                    .key_count = 3,
                                    .block_count = 2,
                                    .tail_tokens = 5,
                                    .parent = before};
        struct core_event push = {
            .kind = EVENT_PUSH, .u.push = {.space = core_disk_space, .runs = &run, .run_count = 1}};
        ck_assert_ptr_nonnull(fixture_step(&f, &push, ACTION_COPY));
        (void)fixture_done(&f, 0, 0, ST_OK);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 2);
        const uint8_t *keys = fixture_keys(&f, 1, 3, 1);
        for (uint32_t i = 0; i < 2; i++) {
            const struct core_action *action = core_disk_action(&f, ACTION_STORE, i);
            const struct core_stored *stored = action->stored;
            bool first = stored->key_count == 2;
            ck_assert_uint_eq(action->handle, pairs);
            ck_assert_uint_eq(action->bytes, 1000);
            ck_assert_uint_eq(stored->grains, first ? 2 : 1);
            ck_assert_uint_eq(stored->tail_tokens, first ? 16 : 5);
            ck_assert_mem_eq(stored->keys, keys + (size_t)(first ? 0 : 2) * CORE_KEY_BYTES,
                             (size_t)stored->key_count * CORE_KEY_BYTES);
            ck_assert_mem_eq(stored->parent, first ? before : keys + CORE_KEY_BYTES,
                             CORE_KEY_BYTES);
            ck_assert_uint_eq(stored->origin_bytes, 1);
            ck_assert_mem_eq(stored->origin, "a", 1);
            ck_assert(!stored->move && !stored->survivor);
        }
        fixture_close(&f);
    }
END_TEST

START_TEST(a_parent_that_is_not_told_does_not_erase_one_that_was)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        uint32_t half =
            fixture_shape(&f, 0, core_disk_space, 0, 1, (struct core_ranges){0, 1, 0, 2}, 512);
        uint32_t other =
            fixture_shape(&f, 0, core_disk_space, 0, 1, (struct core_ranges){1, 1, 0, 2}, 512);
        uint8_t before[CORE_KEY_BYTES];
        (void)memcpy(before, fixture_keys(&f, 99, 1, 1), sizeof before);
        struct core_push_run run = {.shape = half,
                                    .keys = fixture_keys(&f, 1, 1, 1),
                                    .key_count = 1,
                                    .block_count = 1,
                                    .tail_tokens = GRAIN_TOKENS,
                                    .parent = before};
        struct core_event push = {
            .kind = EVENT_PUSH, .u.push = {.space = core_disk_space, .runs = &run, .run_count = 1}};
        ck_assert_ptr_nonnull(fixture_step(&f, &push, ACTION_COPY));
        (void)fixture_done(&f, 0, 0, ST_OK);
        (void)fixture_push(&f, 0, other, 1, 1, GRAIN_TOKENS);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        ck_assert_mem_eq(core_disk_action(&f, ACTION_STORE, 0)->stored->parent, before,
                         CORE_KEY_BYTES);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_is_written_is_not_evicted_meanwhile)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 0, 1);
        uint64_t offset = core_disk_action(&f, ACTION_STORE, 0)->offset;
        core_disk_state(&f, 8, true, false);
        for (uint32_t i = 1; i < 300; i++) {
            (void)fixture_push(&f, 0, core_disk_shape, i, 1, GRAIN_TOKENS);
            ck_assert_uint_ne(core_disk_action(&f, ACTION_COPY, 0)->copies[0].offset, offset);
            (void)fixture_done(&f, 0, f.last_request, ST_OK);
        }
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 1);
        core_disk_write_failed(&f, 0, ST_IO);
        ck_assert_uint_eq(fixture_counters(&f).store_failed, 1);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_READY);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

/* Numbers in the queue outlive their parts, and may be another part's when their turn comes. */
START_TEST(parts_that_left_before_their_turn_are_counted_and_skipped)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        core_disk_state(&f, 8, true, false);
        fixture_store(&f, 0, core_disk_shape, 0, 8);
        ck_assert_uint_eq(fixture_gauges(&f).queued, 8);
        core_disk_demote(&f, 0, 8);
        ck_assert_uint_eq(fixture_counters(&f).store_dropped, 8);
        fixture_store(&f, 0, core_disk_shape, 100,
                      2); /* in the numbers of two; the queue is full */
        ck_assert_uint_eq(fixture_counters(&f).store_dropped, 10);
        core_check(f.core);
        core_disk_state(&f, 8, true, true);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        ck_assert_uint_eq(fixture_gauges(&f).queued, 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_tenants_quota_on_disk)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        core_disk_quota(&f, 1024);
        fixture_store(&f, 0, core_disk_shape, 0, 3); /* what is on its way counts */
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 2);
        core_disk_write_all(&f, 0, 1);
        fixture_store(&f, 0, core_disk_shape, 10, 2);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        ck_assert_uint_eq(fixture_counters(&f).store_quota, 3);
        struct core_tenant tenant;
        ck_assert(core_tenant(f.core, 1, &tenant));
        ck_assert_uint_eq(tenant.disk_bytes, 1024);
        core_disk_quota(&f, 0);
        fixture_store(&f, 0, core_disk_shape, 20, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_write_into_a_lost_segment_does_not_count)
    {
        open_with(CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 0, 2);
        core_disk_written(&f, 0, 3, 0, 1);
        core_disk_fill(&f, 10, 1, 3);
        (void)fixture_pull(&f, 0, core_disk_space, 10,
                           1); /* a read keeps the segment from being free */
        uint32_t load = core_disk_action(&f, ACTION_LOAD, 0)->job;
        uint32_t pull = f.last_request;
        core_disk_lost(&f, 3);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 0);
        fixture_store(&f, 0, core_disk_shape, 20, 1);
        core_disk_written(&f, core_disk_action(&f, ACTION_STORE, 0)->job, 3, 9, 1);
        ck_assert_int_eq((int)core_disk_part_state(&f, 20), PART_READY);
        ck_assert_uint_eq(fixture_gauges(&f).disk_parts, 0);
        core_disk_loaded(&f, load, ST_OK);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        (void)fixture_done(&f, 0, pull, ST_OK);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("store", at_once_means_when_the_copies_have_ended,
          what_found_no_segment_waits_until_something_changes,
          what_could_not_be_written_is_when_it_is_used_again,
          second_use_means_a_lookup_a_pull_or_a_push_again,
          eviction_means_ahead_of_need_and_oldest_first, never_means_gone,
          the_default_is_the_limits, what_waits_is_bounded_and_counted, bytes_in_flight_are_bounded,
          what_goes_to_disk_with_a_part, a_parent_that_is_not_told_does_not_erase_one_that_was,
          what_is_written_is_not_evicted_meanwhile,
          parts_that_left_before_their_turn_are_counted_and_skipped, a_tenants_quota_on_disk,
          a_write_into_a_lost_segment_does_not_count)
