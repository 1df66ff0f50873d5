/* Covers: daemon/core/disk.c, daemon/core/check_disk.c */
#include <string.h>

#include "base/fault.h"
#include "tests/lib/core_disk_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;

static void open_usual(void)
{
    struct core_limits limits = core_disk_limits();
    core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
}

/* The write, of this step, of the key's part; NULL. */
static const struct core_action *move_of(uint32_t key)
{
    const struct core_action *action = NULL;
    for (uint32_t i = 0; (action = core_disk_action(&f, ACTION_STORE, i)) != NULL; i++) {
        if (memcmp(action->stored->keys, fixture_keys(&f, key, 1, 1), CORE_KEY_BYTES) == 0) {
            return action;
        }
    }
    return NULL;
}

START_TEST(limits_are_checked)
    {
        struct core_limits good = core_disk_limits();
        struct core_limits bad[6] = {good, good, good, good, good, good};
        bad[0].disk.segments_max = 65536;
        bad[1].disk.stores_max = 0;
        bad[2].disk.loads_max = 0;
        bad[3].disk.queue_max = 0;
        bad[4].disk.admission = CORE_ADMIT_DEFAULT;
        bad[5].disk.admission = CORE_ADMIT_NEVER + 1;
        for (uint32_t i = 0; i < 6; i++) {
            struct core *core = NULL;
            struct error error = {0};
            ck_assert_int_eq(core_create(&bad[i], &core, &error), ST_INVALID);
            ck_assert_ptr_null(core);
            ck_assert_ptr_nonnull(strstr(error.text, "disk: "));
        }
        good.disk.segments_max = 65535;
        struct core *core = NULL;
        ck_assert_int_eq(core_create(&good, &core, NULL), ST_OK);
        core_check(core);
        core_destroy(core);
    }
END_TEST

START_TEST(what_was_found_is_hit_and_read)
    {
        open_usual();
        for (uint32_t i = 0; i < 4; i++) {
            ck_assert_int_eq(core_disk_restore(&f, i, 3, i), ST_OK);
        }
        ck_assert_uint_eq(fixture_gauges(&f).disk_parts, 4);
        ck_assert_uint_eq(fixture_gauges(&f).disk_bytes, 4u * 512);
        ck_assert_uint_eq(fixture_counters(&f).restored, 4);
        struct core_event lookup = fixture_lookup(&f, 0, core_disk_space, 0, 4);
        lookup.u.lookup.origins = true;
        const struct core_action *reply = fixture_step(&f, &lookup, ACTION_REPLY);
        ck_assert_uint_eq(reply->hit_keys, 4);
        ck_assert_uint_eq(reply->origin_count, 1);
        ck_assert_mem_eq(reply->origins[0].instance_id, "past", 4);
        (void)fixture_pull(&f, 0, core_disk_space, 2, 1);
        const struct core_action *load = core_disk_action(&f, ACTION_LOAD, 0);
        ck_assert_uint_eq(load->place.segment, 3);
        ck_assert_uint_eq(load->place.offset, 2);
        ck_assert_uint_eq(load->seal, 3);
        /* durable from the beginning */
        (void)core_disk_persist(&f, 0, 4);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(all_keys_and_parents_come_back)
    {
        open_usual();
        uint32_t pairs =
            fixture_shape(&f, 0, core_disk_space, 0, 2, (struct core_ranges){0, 2, 0, 2}, 1000);
        struct core_event event = {.kind = EVENT_RESTORE,
                                   .u.restore = {.shape = pairs,
                                                 .keys = fixture_keys(&f, 10, 2, 1),
                                                 .key_count = 2,
                                                 .grains = 2,
                                                 .tail_tokens = 9,
                                                 .parent = fixture_keys(&f, 10, 2, 1),
                                                 .origin = NULL,
                                                 .place = {.segment = 1}}};
        ck_assert_int_eq(fixture_step(&f, &event, ACTION_RESTORED)->status, ST_OK);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 10, 1), 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 10, 2),
                          1);         /* the second has nine tokens */
        core_disk_fill(&f, 50, 8, 0); /* so much fits a segment */
        core_disk_pin(&f, 10, true);
        core_disk_state(&f, 0, true, true); /* it must be moved, with all that is known of it */
        const struct core_action *store = move_of(10);
        ck_assert_ptr_nonnull(store);
        ck_assert_uint_eq(store->stored->key_count, 2);
        ck_assert_uint_eq(store->stored->tail_tokens, 9);
        ck_assert_mem_eq(store->stored->parent, fixture_keys(&f, 10, 1, 1), CORE_KEY_BYTES);
        ck_assert_uint_eq(store->stored->origin_bytes, 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(duplicates_and_nonsense_are_refused)
    {
        open_usual();
        ck_assert_int_eq(core_disk_restore(&f, 1, 0, 0), ST_OK);
        ck_assert_int_eq(core_disk_restore(&f, 1, 0, 1), ST_LIMIT);
        fixture_store(&f, 0, core_disk_shape, 2, 1);
        ck_assert_int_eq(core_disk_restore(&f, 2, 0, 2), ST_LIMIT);
        const struct core_event good = {.kind = EVENT_RESTORE,
                                        .u.restore = {.shape = core_disk_shape,
                                                      .keys = fixture_keys(&f, 7, 1, 1),
                                                      .key_count = 1,
                                                      .grains = 1,
                                                      .tail_tokens = GRAIN_TOKENS,
                                                      .origin = (const uint8_t *)"x",
                                                      .origin_bytes = 1}};
        struct core_event bad[10];
        for (uint32_t i = 0; i < 10; i++) {
            bad[i] = good;
        }
        bad[0].u.restore.shape = 63;
        bad[1].u.restore.shape = UINT32_MAX;
        bad[2].u.restore.grains = 0;
        bad[3].u.restore.grains = 2;
        bad[4].u.restore.key_count = 0;
        bad[5].u.restore.key_count = UINT32_MAX;
        bad[6].u.restore.tail_tokens = 0;
        bad[7].u.restore.tail_tokens = 17;
        bad[8].u.restore.place.segment = 8;
        bad[9].u.restore.origin_bytes = CORE_INSTANCE_MAX + 1;
        for (uint32_t i = 0; i < 10; i++) {
            const struct core_action *answer = fixture_step(&f, &bad[i], ACTION_RESTORED);
            ck_assert_int_eq(answer->status, ST_INVALID);
            ck_assert_ptr_nonnull(answer->text);
        }
        core_check(f.core);
        ck_assert_int_eq(core_disk_restore(&f, 7, 0, 3), ST_OK);
        fixture_close(&f);
        struct core_limits none = fixture_limits();
        core_disk_open(&f, &none, CORE_ADMIT_DEFAULT);
        ck_assert_int_eq(core_disk_restore(&f, 1, 0, 0), ST_INVALID);
        fixture_close(&f);
    }
END_TEST

START_TEST(records_are_a_limit_at_start)
    {
        struct core_limits limits = core_disk_limits();
        limits.parts_max = 512; /* what a page holds and more */
        limits.keys_max = 600;
        core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
        uint32_t good = 0;
        for (uint32_t i = 0; i < 700; i++) {
            int status = core_disk_restore(&f, i, i % 8, i / 8);
            ck_assert(status == ST_OK || status == ST_LIMIT);
            good += status == ST_OK ? 1 : 0;
        }
        ck_assert_uint_ge(good, 512);
        core_check(f.core);
        /* what is pushed goes before what is on disk only, the oldest of that first */
        core_disk_state(&f, 8, true, false);
        fixture_store(&f, 0, core_disk_shape, 5000, 64);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 5000, 64), 64);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, good - 1, 1), 1);
        ck_assert_uint_ge(fixture_counters(&f).evicted_space, 64);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_lost_segment)
    {
        open_usual();
        core_disk_fill(&f, 0, 4, 2);
        core_disk_fill(&f, 10, 1, 3);
        uint64_t lease = fixture_lease(&f, 0, core_disk_space, 0, 2); /* both are read ahead */
        uint32_t jobs[] = {core_disk_action(&f, ACTION_LOAD, 0)->job,
                           core_disk_action(&f, ACTION_LOAD, 1)->job};
        core_disk_loaded(&f, jobs[0],
                         ST_OK); /* 0 is in memory, 1 still being read, 2 and 3 on disk only */
        core_disk_lost(&f, 2);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_FORGET), 0);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 0);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_READY);
        ck_assert_int_eq((int)core_disk_part_state(&f, 1), PART_LOADING);
        ck_assert_uint_eq(core_disk_part(&f, 2), NONE);
        ck_assert_uint_eq(fixture_counters(&f).lost_parts, 2);
        core_check(f.core);
        core_disk_loaded(&f, jobs[1], ST_UNAVAILABLE);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        ck_assert_int_eq((int)core_disk_part_state(&f, 1), PART_FAILED);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        ck_assert_uint_eq(core_disk_part(&f, 1), NONE);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 10, 1), 1);
        /* one that was never told of is free at once */
        core_disk_lost(&f, 7);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        ck_assert_uint_eq(core_disk_action(&f, ACTION_SEGMENT_FREE, 0)->handle, 7);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_move_out_of_a_lost_segment_finds_the_part_again)
    {
        open_usual();
        core_disk_fill(&f, 0, 1, 2);
        core_disk_fill(&f, 50, 8, 3); /* so much fits a segment */
        core_disk_pin(&f, 0, true);
        uint64_t lease = fixture_lease(&f, 0, core_disk_space, 0, 1);
        core_disk_loaded(&f, core_disk_action(&f, ACTION_LOAD, 0)->job, ST_UNAVAILABLE);
        core_disk_state(&f, 0, true, true);
        const struct core_action *move = move_of(0);
        ck_assert_ptr_nonnull(move);
        uint32_t job = move->job;
        core_disk_lost(&f, 2);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_FAILED);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 0);
        core_check(f.core);
        core_disk_written(&f, job, 5, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 1);
        core_check(f.core);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_leaves_is_forgotten)
    {
        struct core_limits limits = core_disk_limits();
        limits.parts_max = 16;
        core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
        for (uint32_t i = 0; i < 16; i++) {
            core_disk_fill(&f, i, 1, 1);
        }
        (void)fixture_push(&f, 0, core_disk_shape, 100, 2, GRAIN_TOKENS);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_FORGET), 2);
        ck_assert_uint_eq(core_disk_action(&f, ACTION_FORGET, 0)->place.segment, 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 2, 1), 1);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        fixture_close(&f);
    }
END_TEST

/* Whatever memory cannot be had, at creation or later: it is told, and nothing is torn. */
START_TEST(memory_fails)
    {
        struct core_limits limits = core_disk_limits();
        static const enum fault_point points[] = {FAULT_MMAP, FAULT_HEAP};
        uint32_t refused = 0;
        for (uint32_t p = 0; p < 2; p++) {
            for (int64_t n = 0;; n++) {
                struct core *core = NULL;
                fault_set(points[p], n, 1);
                int status = core_create(&limits, &core, NULL);
                bool fired = fault_fired(points[p]) > 0;
                fault_clear();
                ck_assert_int_eq(status, fired ? ST_NO_MEMORY : ST_OK);
                core_destroy(core);
                if (!fired) {
                    break;
                }
            }
        }
        for (int64_t n = 0; n < 12; n++) {
            open_usual();
            fault_set(FAULT_MMAP, n, 3);
            for (uint32_t i = 0; i < 400; i++) {
                int status = core_disk_restore(&f, i, i % 8, i / 8);
                ck_assert(status == ST_OK || status == ST_LIMIT);
                refused += status == ST_OK ? 0 : 1;
            }
            fault_clear();
            core_check(f.core);
            ck_assert_int_eq(core_disk_restore(&f, 2000, 0, 1000), ST_OK);
            fixture_close(&f);
        }
        ck_assert_uint_gt(refused, 0);
    }
END_TEST

UNIT_MAIN("core_disk", limits_are_checked, what_was_found_is_hit_and_read,
          all_keys_and_parents_come_back, duplicates_and_nonsense_are_refused,
          records_are_a_limit_at_start, a_lost_segment,
          a_move_out_of_a_lost_segment_finds_the_part_again, what_leaves_is_forgotten, memory_fails)
