/* Requests that are stuck, refused, cancelled, or too many. */
#include "tests/lib/client_fixture.h"

static uint64_t push_one(struct fixture *fix, uint32_t number)
{
    uint8_t key[KVEIK_KEY_BYTES];
    uint64_t op = 0;
    fix_keys(key, 1, number);
    MUST(fix, fix_push(fix, key, 0, &op));
    return op;
}

START_TEST(a_silent_request_is_stuck_after_its_deadline)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        uint64_t op = push_one(&fix, 1); /* with a deadline of 300 ms */
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        uint64_t begin = clock_ms();
        ck_assert_int_eq(kveik_wait(fix.client, op, 5000, &done), KVEIK_OK);
        ck_assert_int_eq(done.status, KVEIK_E_STUCK);
        ck_assert_uint_ge(clock_ms() - begin, 1250);
        ck_assert_uint_lt(clock_ms() - begin, 2500);
        ck_assert_int_eq(done.statuses[0], KVEIK_E_STUCK);
        kveik_completion_finish(&done);
        /* quiesce proves the pages quiet; the late answer is ignored */
        ck_assert_int_eq(kveik_quiesce(fix.client, fix.layout, NULL, 0, 1000), KVEIK_OK);
        fake_daemon_release(fix.daemon);
        nap_ms(20);
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_PENDING);
        op = push_one(&fix, 2);
        ck_assert_int_eq(kveik_wait(fix.client, op, 5000, &done), KVEIK_OK);
        ck_assert_int_eq(done.status, KVEIK_OK);
        kveik_completion_finish(&done);
        fix_close(&fix);
    }
END_TEST

START_TEST(a_lease_that_comes_too_late_is_given_back)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(LOOKUP));
        uint8_t key[KVEIK_KEY_BYTES];
        fix_keys(key, 1, 1);
        struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
        lookup.space = fix.space;
        lookup.keys = key;
        lookup.key_count = 1;
        lookup.lease = true;
        lookup.deadline_ms = 50;
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_lookup(fix.client, &lookup, &done), KVEIK_E_STUCK);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_RELEASE), 0);
        fake_daemon_release(fix.daemon);
        for (int i = 0; i < 100 && fake_daemon_count(fix.daemon, MSG_RELEASE) == 0; i++) {
            ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_PENDING);
            nap_ms(5);
        }
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_RELEASE), 1);
        fix_close(&fix);
    }
END_TEST

START_TEST(too_many_are_busy_and_quiesce_still_goes_through)
    {
        struct fixture fix;
        fix_start(&fix);
        fake_daemon_requests_max(fix.daemon, 20);
        fix_connect(&fix);
        fix_space(&fix);
        fix_memory(&fix);
        struct kveik_layout layout = fix_layout(&fix);
        MUST(&fix, kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error));
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        for (uint32_t i = 0; i < 12; i++) {
            (void)push_one(&fix, i);
        }
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t op = 0;
        fix_keys(key, 1, 99);
        ck_assert_int_eq(fix_push(&fix, key, 0, &op), KVEIK_E_BUSY);
        ck_assert_int_eq(kveik_quiesce(fix.client, fix.layout, NULL, 0, 1000), KVEIK_OK);
        fake_daemon_release(fix.daemon);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_wait(fix.client, 0, 1000, &done), KVEIK_OK);
        kveik_completion_finish(&done);
        MUST(&fix, fix_push(&fix, key, 0, &op)); /* one was taken, one fits */
        ck_assert_int_eq(fix_push(&fix, key, 0, &op), KVEIK_E_BUSY);
        for (int i = 0; i < 12; i++) {
            ck_assert_int_eq(kveik_wait(fix.client, 0, 1000, &done), KVEIK_OK);
            kveik_completion_finish(&done);
        }
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_PENDING);
        fix_close(&fix);
    }
END_TEST

START_TEST(cancel_asks_and_the_request_still_completes)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        uint64_t op = push_one(&fix, 1);
        ck_assert_int_eq(kveik_cancel(fix.client, op), KVEIK_OK);
        ck_assert(fake_daemon_await(fix.daemon, MSG_CANCEL, 1));
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_wait(fix.client, op, 50, &done), KVEIK_PENDING);
        fake_daemon_release(fix.daemon);
        ck_assert_int_eq(kveik_wait(fix.client, op, 1000, &done), KVEIK_OK);
        kveik_completion_finish(&done);
        ck_assert_int_eq(kveik_cancel(fix.client, op), KVEIK_E_UNKNOWN_ID);
        ck_assert_int_eq(kveik_wait(fix.client, op, 0, &done), KVEIK_E_UNKNOWN_ID);
        ck_assert_int_eq(kveik_wait(fix.client, 0, 0, &done), KVEIK_PENDING);
        fix_close(&fix);
    }
END_TEST

START_TEST(refusals_come_with_their_text)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_refuse(fix.daemon, KIND(PUSH) | KIND(LOOKUP) | KIND(RELEASE), ST_QUOTA);
        uint64_t op = push_one(&fix, 1);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_wait(fix.client, op, 1000, &done), KVEIK_OK);
        ck_assert_int_eq(done.status, KVEIK_E_QUOTA);
        ck_assert_str_eq(done.text, "the fake refuses");
        ck_assert_ptr_eq(done.user, &fix);
        ck_assert_uint_eq(done.kind, KVEIK_OP_PUSH);
        ck_assert_uint_eq(done.status_count, 1);
        ck_assert_int_eq(done.statuses[0], KVEIK_E_QUOTA);
        kveik_completion_finish(&done);
        kveik_completion_finish(&done);
        ck_assert_int_eq(kveik_release(fix.client, 5), KVEIK_E_QUOTA);
        fix_close(&fix);
    }
END_TEST

START_TEST(a_miscounted_completion_ends_the_session)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_miscount(fix.daemon, true);
        uint64_t op = push_one(&fix, 1);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_wait(fix.client, op, 1000, &done), KVEIK_OK);
        ck_assert_int_eq(done.status, KVEIK_E_LOST);
        kveik_completion_finish(&done);
        fake_daemon_miscount(fix.daemon, false);
        ck_assert(fix_await_connected(&fix, true));
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_silent_request_is_stuck_after_its_deadline,
                                  a_lease_that_comes_too_late_is_given_back,
                                  too_many_are_busy_and_quiesce_still_goes_through,
                                  cancel_asks_and_the_request_still_completes,
                                  refusals_come_with_their_text,
                                  a_miscounted_completion_ends_the_session};
    return check_main("op", tests, ARRAY_COUNT(tests));
}
