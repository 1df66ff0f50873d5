#include "base/rng.h"
#include "tests/lib/core_disk_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;

/* Segments 0 to 4 of eight with eight parts each, all on disk only: keys 100 * segment + 0 to 7.
 * The disk is not writable, so that nothing is freed until go(). */
static void open_full(void)
{
    struct core_limits limits = core_disk_limits();
    limits.disk.segments_max = 8;
    core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
    for (uint32_t s = 0; s < 4; s++) {
        core_disk_fill(&f, 100 * s, 8, s);
    }
    core_disk_state(&f, 8, true, false);
    for (uint32_t i = 0; i < 8; i++) {
        ck_assert_int_eq(core_disk_restore(&f, 400 + i, 4, i), ST_OK);
    }
    ck_assert_uint_eq(fixture_gauges(&f).segments, 5);
}

static void go(void)
{
    core_disk_state(&f, 8, true, true);
}

/* The write, of this step, of the key's part. */
static const struct core_action *move_of(uint32_t key)
{
    for (uint32_t i = 0; i < core_disk_count(&f, ACTION_STORE); i++) {
        const struct core_action *action = core_disk_action(&f, ACTION_STORE, i);
        if (__builtin_memcmp(action->stored->keys, fixture_keys(&f, key, 1, 1), CORE_KEY_BYTES) ==
            0) {
            return action;
        }
    }
    return NULL;
}

START_TEST(the_cold_go_and_the_needed_move)
    {
        open_full();
        uint64_t lease = fixture_lease(&f, 0, core_disk_space, 0, 1); /* it is read ahead … */
        core_disk_loaded(&f, core_disk_action(&f, ACTION_LOAD, 0)->job,
                         ST_UNAVAILABLE); /* … or not */
        core_disk_pin(&f, 1, true);
        go();
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 2);
        const struct core_action *leased = move_of(0);
        const struct core_action *pinned = move_of(1);
        ck_assert_ptr_nonnull(leased);
        ck_assert_ptr_nonnull(pinned);
        uint32_t jobs[] = {leased->job, pinned->job};
        ck_assert(leased->stored->move && leased->stored->survivor);
        ck_assert_uint_eq(leased->place.segment, 0);
        ck_assert_uint_eq(leased->seal, leased->place.offset + (uint64_t)1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_FORGET), 0); /* the segment goes as a whole */
        ck_assert_uint_eq(fixture_counters(&f).reclaimed_parts, 6);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 2, 6), 0);
        core_check(f.core);
        core_disk_written(&f, jobs[0], 5, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 0);
        core_disk_written(&f, jobs[1], 5, 1, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        ck_assert_uint_eq(core_disk_action(&f, ACTION_SEGMENT_FREE, 0)->handle, 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 2), 2);
        ck_assert_uint_eq(fixture_counters(&f).moved, 2);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_is_in_memory_is_moved_from_there)
    {
        open_full();
        uint64_t lease = fixture_lease(&f, 0, core_disk_space, 0, 1);
        uint64_t offset = core_disk_action(&f, ACTION_LOAD, 0)->offset;
        core_disk_loaded(&f, core_disk_action(&f, ACTION_LOAD, 0)->job, ST_OK);
        go();
        const struct core_action *store = move_of(0);
        ck_assert_ptr_nonnull(store);
        ck_assert(!store->stored->move && store->stored->survivor);
        ck_assert_uint_eq(store->offset, offset);
        core_disk_written(&f, store->job, 5, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        ck_assert_uint_eq(fixture_counters(&f).moved, 1);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        core_disk_demote(&f, 0, 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_move_that_fails_loses_the_part)
    {
        open_full();
        uint64_t lease = fixture_lease(&f, 0, core_disk_space, 0, 1);
        core_disk_loaded(&f, core_disk_action(&f, ACTION_LOAD, 0)->job, ST_UNAVAILABLE);
        go();
        core_disk_write_failed(&f, move_of(0)->job, ST_CORRUPT);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_FAILED);
        ck_assert_uint_eq(fixture_hit(&f, 0, core_disk_space, 0, 1), 0);
        ck_assert_int_eq((int)fixture_pull(&f, 0, core_disk_space, 0, 1)->statuses[0], ST_MISS);
        ck_assert_uint_eq(fixture_counters(&f).lost_parts, 1);
        core_check(f.core);
        ck_assert_int_eq(fixture_release(&f, 0, lease), ST_OK);
        ck_assert_uint_eq(core_disk_part(&f, 0), NONE);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_read_keeps_its_segment)
    {
        open_full();
        (void)fixture_pull(&f, 0, core_disk_space, 0, 1);
        uint32_t load = core_disk_action(&f, ACTION_LOAD, 0)->job;
        go();
        const struct core_action *store = move_of(0); /* being read is a need */
        ck_assert_ptr_nonnull(store);
        core_disk_written(&f, store->job, 5, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 0);
        core_check(f.core);
        core_disk_loaded(&f, load, ST_OK);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 1);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        fixture_close(&f);
    }
END_TEST

/* Writes end in any order: one to an older segment may be under way still when a newer one has
 * parts already. */
START_TEST(a_segment_that_a_write_may_be_on_its_way_to_stays)
    {
        struct core_limits limits = core_disk_limits();
        limits.disk.segments_max = 8;
        core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
        fixture_store(&f, 0, core_disk_shape, 0, 3);
        core_disk_written(&f, 0, 0, 0, 1); /* 1 is still on its way to segment 0 … */
        core_disk_written(&f, 2, 1, 0, 1); /* … as core cannot know, and segment 1 is open */
        for (uint32_t s = 1; s < 5; s++) {
            fixture_store(&f, 0, core_disk_shape, 100 * s, 2);
            const struct core_action *first = core_disk_action(&f, ACTION_STORE, 0);
            const struct core_action *second = core_disk_action(&f, ACTION_STORE, 1);
            ck_assert_ptr_nonnull(second);
            uint32_t jobs[] = {first->job, second->job};
            core_disk_written(&f, jobs[0], s, 1, 1);
            core_disk_written(&f, jobs[1], s, 2, 1);
            ck_assert_uint_eq(core_disk_count(&f, ACTION_SEGMENT_FREE), 0);
        }
        ck_assert_uint_eq(fixture_gauges(&f).segments, 5); /* short, and still nothing is chosen */
        ck_assert_uint_eq(fixture_counters(&f).reclaimed_segments, 0);
        core_disk_written(&f, 1, 0, 1, 1);
        ck_assert_uint_eq(fixture_counters(&f).reclaimed_segments, 1);
        ck_assert_uint_ne(f.core->disk.open[0], 0); /* and a late one does not open it again */
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(fresh_writes_wait_while_segments_are_short)
    {
        open_full();
        (void)fixture_pull(&f, 0, core_disk_space, 0, 1);
        uint32_t load = core_disk_action(&f, ACTION_LOAD, 0)->job;
        uint32_t pull = f.last_request;
        go();
        uint32_t job = move_of(0)->job;
        core_disk_state(&f, 6, true, true);
        fixture_store(&f, 0, core_disk_shape, 1000, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        ck_assert_uint_eq(fixture_gauges(&f).queued, 1);
        core_disk_written(&f, job, 5, 0, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 0);
        core_disk_loaded(&f, load, ST_OK); /* segment 0 is free: four of five left are in use */
        core_disk_write_all(&f, 5, 1);
        ck_assert_int_eq((int)core_disk_part_state(&f, 1000), PART_READY);
        (void)fixture_done(&f, 0, pull, ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_disk_full_of_what_is_needed_is_left_alone)
    {
        open_full();
        for (uint32_t key = 0; key < 500; key += key % 100 == 7 ? 93 : 1) {
            core_disk_pin(&f, key, true);
        }
        ck_assert_uint_gt(fixture_gauges(&f).pinned_bytes, 0);
        go();
        for (uint32_t i = 0; i < 20; i++) {
            core_disk_committed(&f, i);
        }
        ck_assert_uint_eq(fixture_counters(&f).reclaimed_segments, 0);
        for (uint32_t key = 300; key < 302; key++) { /* a quarter of one can go now */
            core_disk_pin(&f, key, false);
        }
        ck_assert_uint_eq(fixture_counters(&f).reclaimed_segments, 0); /* it is the open one */
        for (uint32_t key = 200; key < 202; key++) {
            core_disk_pin(&f, key, false);
        }
        ck_assert_uint_eq(fixture_counters(&f).reclaimed_segments, 1);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(nothing_is_freed_that_need_not_or_cannot_be)
    {
        open_full();
        core_check(f.core);
        ck_assert_uint_eq(fixture_counters(&f).reclaimed_segments, 0); /* not writable */
        core_disk_state(&f, 0, true,
                        true); /* of a disk without any room all goes but what is open */
        for (uint32_t i = 0; i < 100; i++) {
            const struct store *store = slots_at(&f.core->disk.stores, i % 4);
            if (i % 4 < f.core->disk.stores.high && store->used) {
                core_disk_write_failed(&f, i % 4, ST_NO_SPACE);
            }
            core_disk_committed(&f, i);
        }
        ck_assert_uint_eq(fixture_gauges(&f).segments, 1);
        core_check(f.core);
        fixture_close(&f);
        open_full();
        core_disk_state(&f, 9, true, true); /* more than the limits say counts not */
        ck_assert_uint_eq(f.core->disk.segments_max, 8);
        fixture_close(&f);
    }
END_TEST

/* The write under way that was begun first; NONE. */
static uint32_t first_write(void)
{
    uint32_t first = NONE;
    uint64_t sequence = UINT64_MAX;
    for (uint32_t i = 0; i < f.core->disk.stores.high; i++) {
        const struct store *store = slots_at(&f.core->disk.stores, i);
        if (store->used && store->sequence < sequence) {
            first = i;
            sequence = store->sequence;
        }
    }
    return first;
}

/* Whatever is asked for, what is moved stays within a fifth of what is written afresh. */
START_TEST(bytes_moved_are_in_proportion)
    {
        struct rng rng = {11};
        struct core_limits limits = core_disk_limits();
        limits.disk.segments_max = 16;
        core_disk_open(&f, &limits, CORE_ADMIT_AT_ONCE);
        uint32_t segment[2] = {NONE, NONE};
        uint32_t fill[2] = {8, 8};
        bool used[16] = {false};
        for (uint32_t round = 0; round < 6000; round++) {
            uint32_t key =
                (uint32_t)rng_below(&rng, 10) < 7 ? (uint32_t)rng_below(&rng, 60) : 1000 + round;
            fixture_store(&f, 0, core_disk_shape, key, 1);
            for (uint32_t i = first_write(); i != NONE; i = first_write()) {
                const struct store *store = slots_at(&f.core->disk.stores, i);
                uint32_t lane = store->move ? 1 : 0;
                if (fill[lane] == 8) {
                    uint32_t n = 0;
                    for (; used[n]; n++) {
                        ck_assert_uint_lt(n, 15);
                    }
                    used[n] = true;
                    segment[lane] = n;
                    fill[lane] = 0;
                }
                core_disk_written(&f, i, segment[lane], fill[lane]++, 1);
                for (uint32_t a = 0; a < core_disk_count(&f, ACTION_SEGMENT_FREE); a++) {
                    used[core_disk_action(&f, ACTION_SEGMENT_FREE, a)->handle] = false;
                }
            }
            if (core_disk_part(&f, key) != NONE && core_disk_part_state(&f, key) == PART_READY &&
                part_at(f.core, core_disk_part(&f, key))->refs == 0 && rng_below(&rng, 2) == 0) {
                core_disk_demote(&f, key, 1);
            }
        }
        struct core_counters c = fixture_counters(&f);
        ck_assert_uint_gt(c.stored, 1000);
        ck_assert_uint_gt(c.moved, 0);
        ck_assert_uint_le(c.moved, c.stored / 5 + 8);
        ck_assert_uint_eq(c.store_failed, 0);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("reclaim", the_cold_go_and_the_needed_move, what_is_in_memory_is_moved_from_there,
          a_move_that_fails_loses_the_part, a_read_keeps_its_segment,
          a_segment_that_a_write_may_be_on_its_way_to_stays,
          fresh_writes_wait_while_segments_are_short, a_disk_full_of_what_is_needed_is_left_alone,
          nothing_is_freed_that_need_not_or_cannot_be, bytes_moved_are_in_proportion)
