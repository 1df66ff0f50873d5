#include "tests/lib/core_disk_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;

static void open_usual(void)
{
    struct core_limits limits = core_disk_limits();
    core_disk_open(&f, &limits, CORE_ADMIT_NEVER); /* persist writes whatever the admission says */
}

START_TEST(it_keeps_no_more_than_half_of_memory)
    {
        open_usual();                          /* 128 parts of 512 bytes fill the pool */
        f.core->disk.persist_bytes = 63 * 512; /* as if others had taken so much */
        fixture_store(&f, 0, core_disk_shape, 0, 2);
        const struct core_action *wait = core_disk_persist(&f, 0, 2);
        ck_assert_int_eq((int)wait->statuses[0], ST_OK);
        ck_assert_int_eq((int)wait->statuses[1], ST_BUSY);
        ck_assert_uint_eq(fixture_counters(&f).persist_busy, 1);
        core_disk_write_all(&f, 0, 1);
        core_disk_committed(&f, 1);
        ck_assert_uint_eq(f.core->disk.persist_bytes, 63 * 512);
        core_check(f.core);
        fixture_close(&f);
    }
END_TEST

START_TEST(it_waits_for_the_write_and_its_commit)
    {
        open_usual();
        fixture_store(&f, 0, core_disk_shape, 0, 2);
        const struct core_action *wait = core_disk_persist(&f, 0, 2);
        ck_assert_int_eq((int)wait->kind, ACTION_WAIT);
        ck_assert_uint_eq(wait->status_count, 2);
        ck_assert_int_eq((int)wait->statuses[0], ST_OK);
        ck_assert_int_eq((int)wait->statuses[1], ST_OK);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SYNC), 0); /* nothing to commit yet */
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 2);
        core_check(f.core);
        core_disk_written(&f, 0, 0, 0, 7);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 0);
        core_disk_written(&f, 1, 0, 1, 8);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 0);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SYNC), 1);
        core_disk_committed(&f, 7);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 0);
        core_check(f.core);
        core_disk_committed(&f, 8);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 1);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_OK);
        ck_assert_uint_eq(core_disk_action(&f, ACTION_REPLY, 0)->request, f.last_request);
        ck_assert_uint_eq(fixture_gauges(&f).requests, 0);
        /* what is durable needs no wait */
        ck_assert_int_eq((int)core_disk_persist(&f, 0, 2)->kind, ACTION_WAIT);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 1);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_OK);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_SYNC), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(epochs_go_around)
    {
        open_usual();
        core_disk_committed(&f, UINT32_MAX - 1);
        fixture_store(&f, 0, core_disk_shape, 0, 1);
        (void)core_disk_persist(&f, 0, 1);
        core_disk_written(&f, 0, 0, 0, 0); /* two later */
        core_disk_committed(&f, UINT32_MAX);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 0);
        core_disk_committed(&f, 0);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(what_waits_stays_in_memory)
    {
        open_usual();
        core_disk_state(&f, 8, true, false);
        fixture_store(&f, 0, core_disk_shape, 0, 1);
        (void)core_disk_persist(&f, 0, 1);
        for (uint32_t i = 1; i < 300; i++) {
            fixture_store(&f, 0, core_disk_shape, i, 1);
        }
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_READY);
        core_disk_state(&f, 8, true, true);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_STORE), 1);
        core_disk_write_all(&f, 0, 1);
        core_disk_committed(&f, 1);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_write_that_fails_is_told)
    {
        open_usual();
        fixture_store(&f, 0, core_disk_shape, 0, 2);
        (void)core_disk_persist(&f, 0, 2);
        core_disk_write_failed(&f, 1, ST_IO);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY),
                          0); /* the other may still be written */
        core_disk_written(&f, 0, 0, 0, 1);
        core_disk_committed(&f, 1);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_IO);
        ck_assert_ptr_nonnull(core_disk_action(&f, ACTION_REPLY, 0)->text);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_segment_lost_before_its_commit_is_told)
    {
        open_usual();
        fixture_store(&f, 0, core_disk_shape, 0, 1);
        (void)core_disk_persist(&f, 0, 1);
        core_disk_written(&f, 0, 0, 0, 1);
        core_disk_lost(&f, 0);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 1);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_IO);
        ck_assert_int_eq((int)core_disk_part_state(&f, 0), PART_READY);
        fixture_close(&f);
    }
END_TEST

START_TEST(a_quota_on_disk_ends_it)
    {
        open_usual();
        core_disk_quota(&f, 512);
        fixture_store(&f, 0, core_disk_shape, 0, 2);
        core_disk_state(&f, 8, true, false);
        (void)core_disk_persist(&f, 0, 1);
        core_disk_quota(&f, 1);
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 0);
        core_disk_state(&f, 8, true, true); /* now it is its turn */
        ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 1);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_IO);
        fixture_close(&f);
    }
END_TEST

START_TEST(cancels_deadlines_and_sessions_end_it)
    {
        static const int statuses[] = {ST_OK, ST_DEADLINE, ST_CANCELLED};
        for (uint32_t i = 0; i < 3; i++) {
            open_usual();
            fixture_store(&f, 0, core_disk_shape, 0, 1);
            (void)core_disk_persist(&f, 0, 1);
            struct core_event cancel = {
                .kind = EVENT_CANCEL, .request = f.last_request, .u.cancel.status = statuses[i]};
            const struct core_action *reply = fixture_step(&f, &cancel, ACTION_REPLY);
            ck_assert_int_eq(reply->status, i == 1 ? ST_DEADLINE : ST_CANCELLED);
            ck_assert_ptr_null(fixture_step(&f, &cancel, ACTION_REPLY));
            core_check(f.core);
            core_disk_written(&f, 0, 0, 0, 1); /* the write goes on */
            core_disk_committed(&f, 1);
            ck_assert_uint_eq(core_disk_count(&f, ACTION_REPLY), 0);
            fixture_close(&f);
        }
        open_usual();
        fixture_store(&f, 0, core_disk_shape, 0, 1);
        (void)core_disk_persist(&f, 0, 1);
        ck_assert_ptr_nonnull(fixture_session_close(&f, 0));
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_LOST);
        core_disk_written(&f, 0, 0, 0, 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(keys_that_are_not_held_or_cannot_wait)
    {
        open_usual();
        fixture_store(&f, 0, core_disk_shape, 0, 10);
        core_disk_state(&f, 8, true, false);
        const struct core_action *wait = core_disk_persist(&f, 0, 12);
        for (uint32_t i = 0; i < 12; i++) {
            ck_assert_int_eq((int)wait->statuses[i], i < 8 ? ST_OK : i < 10 ? ST_BUSY : ST_MISS);
        }
        core_check(f.core);
        fixture_close(&f);
        /* none at all: answered at once */
        open_usual();
        wait = core_disk_persist(&f, 50, 2);
        ck_assert_int_eq((int)wait->statuses[0], ST_MISS);
        ck_assert_int_eq(core_disk_action(&f, ACTION_REPLY, 0)->status, ST_OK);
        fixture_close(&f);
    }
END_TEST

START_TEST(nonsense_is_refused)
    {
        open_usual();
        struct core_event event = {.kind = EVENT_PERSIST,
                                   .u.persist = {.space = core_disk_space + 1,
                                                 .keys = fixture_keys(&f, 0, 1, 1),
                                                 .key_count = 1,
                                                 .key_grains = 1,
                                                 .tail_tokens = GRAIN_TOKENS}};
        ck_assert_int_eq(fixture_step(&f, &event, ACTION_REPLY)->status, ST_INVALID);
        event.u.persist.space = core_disk_space;
        event.u.persist.tail_tokens = 17;
        ck_assert_int_eq(fixture_step(&f, &event, ACTION_REPLY)->status, ST_INVALID);
        event.u.persist.tail_tokens = GRAIN_TOKENS;
        event.u.persist.key_count = UINT32_MAX;
        ck_assert_int_eq(fixture_step(&f, &event, ACTION_REPLY)->status, ST_INVALID);
        fixture_close(&f);
        struct core_limits limits = fixture_limits();
        core_disk_open(&f, &limits, CORE_ADMIT_DEFAULT);
        ck_assert_int_eq(core_disk_persist(&f, 0, 1)->status, ST_UNSUPPORTED);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("persist", it_keeps_no_more_than_half_of_memory, it_waits_for_the_write_and_its_commit,
          epochs_go_around, what_waits_stays_in_memory, a_write_that_fails_is_told,
          a_segment_lost_before_its_commit_is_told, a_quota_on_disk_ends_it,
          cancels_deadlines_and_sessions_end_it, keys_that_are_not_held_or_cannot_wait,
          nonsense_is_refused)
