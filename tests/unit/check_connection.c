/* Losing the daemon and finding it again; garbage; going down. */
#include "tests/lib/client_fixture.h"

static void wait_for(struct fixture *fix, uint64_t op, struct kveik_completion *done)
{
    *done = (struct kveik_completion)KVEIK_COMPLETION_INIT;
    ck_assert_int_eq(kveik_wait(fix->client, op, 5000, done), KVEIK_OK);
    kveik_completion_finish(done);
}

static int push_one(struct fixture *fix, uint32_t number)
{
    uint8_t key[KVEIK_KEY_BYTES];
    uint64_t op = 0;
    fix_keys(key, 1, number);
    int status = fix_push(fix, key, 0, &op);
    if (status == KVEIK_OK) {
        struct kveik_completion done;
        wait_for(fix, op, &done);
        status = done.status;
    }
    return status;
}

START_TEST(requests_in_flight_are_lost_with_the_connection)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        uint8_t key[KVEIK_KEY_BYTES];
        fix_keys(key, 1, 1);
        uint64_t op = 0;
        MUST(&fix, fix_push(&fix, key, 0, &op));
        ck_assert(fake_daemon_await(fix.daemon, MSG_PUSH, 1));
        fake_daemon_cut(fix.daemon);
        struct kveik_completion done;
        uint64_t begin = clock_ms();
        wait_for(&fix, op, &done);
        ck_assert_uint_lt(clock_ms() - begin, 200);
        ck_assert_int_eq(done.status, KVEIK_E_LOST);
        ck_assert_str_ne(done.text, "");
        fake_daemon_hold(fix.daemon, 0);
        fix_close(&fix);
    }
END_TEST

START_TEST(a_new_daemon_gets_all_that_was_registered)
    {
        struct fixture fix;
        fix_open(&fix);
        struct kveik_info before = KVEIK_INFO_INIT;
        struct kveik_info after = KVEIK_INFO_INIT;
        ck_assert_int_eq(kveik_info(fix.client, &before), KVEIK_OK);
        int fd = kveik_event_fd(fix.client);
        for (int round = 1; round <= 3; round++) {
            fix_restart(&fix);
            ck_assert_int_eq(kveik_release(fix.client, 7) < 0 || fix_await_connected(&fix, true),
                             1);
            ck_assert(fix_await_connected(&fix, true));
            ck_assert_int_eq(kveik_info(fix.client, &after), KVEIK_OK);
            ck_assert_uint_eq(after.reconnects, (uint64_t)round);
            ck_assert_mem_ne(before.boot_id, after.boot_id, sizeof after.boot_id);
            ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_REGISTER_SPACE), 1);
            ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_EXPORT_MEMORY), 1);
            ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_REGISTER_LAYOUT), 1);
            /* the user's handles are the old ones */
            ck_assert_int_eq(push_one(&fix, (uint32_t)round), KVEIK_OK);
            ck_assert_int_eq(kveik_event_fd(fix.client), fd);
            before = after;
        }
        fix_close(&fix);
    }
END_TEST

START_TEST(without_a_daemon_calls_return_at_once)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_stop(fix.daemon);
        uint64_t begin = clock_ms();
        for (uint32_t i = 0; i < 100; i++) {
            int status = push_one(&fix, i);
            ck_assert(status == KVEIK_E_UNAVAILABLE || status == KVEIK_E_LOST);
        }
        ck_assert_uint_lt(clock_ms() - begin, 500);
        /* nothing can touch the pages: quiet at once, dropped at once */
        ck_assert_int_eq(kveik_quiesce(fix.client, fix.layout, NULL, 0, 1000), KVEIK_OK);
        MUST(&fix, kveik_layout_drop(fix.client, fix.layout, 1000, &fix.error));
        MUST(&fix, kveik_memory_drop(fix.client, fix.region, 1000, &fix.error));
        ck_assert_int_eq(kveik_layout_drop(fix.client, fix.layout, 1000, NULL), KVEIK_E_UNKNOWN_ID);
        fix.daemon = NULL;
        fix_close(&fix);
    }
END_TEST

/* A daemon that accepts and never answers costs a caller a few milliseconds, once. */
START_TEST(a_silent_daemon_is_not_waited_for)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_SILENT);
        fake_daemon_cut(fix.daemon);
        ck_assert(fix_await_connected(&fix, false));
        uint64_t begin = clock_ms();
        for (uint32_t i = 0; i < 200; i++) {
            ck_assert_int_eq(push_one(&fix, i), KVEIK_E_UNAVAILABLE);
        }
        ck_assert_uint_lt(clock_ms() - begin, 300);
        fix_close(&fix);
    }
END_TEST

static void expect_garbage_survived(const void *bytes, size_t count)
{
    struct fixture fix;
    fix_open(&fix);
    uint8_t key[KVEIK_KEY_BYTES];
    uint64_t op = 0;
    fix_keys(key, 1, 1);
    fake_daemon_hold(fix.daemon, KIND(PUSH));
    MUST(&fix, fix_push(&fix, key, 0, &op));
    ck_assert(fake_daemon_await(fix.daemon, MSG_PUSH, 1));
    fake_daemon_say(fix.daemon, bytes, count);
    struct kveik_completion done;
    wait_for(&fix, op, &done);
    ck_assert_int_eq(done.status, KVEIK_E_LOST);
    fake_daemon_hold(fix.daemon, 0);
    ck_assert(fix_await_connected(&fix, true));
    ck_assert_int_eq(push_one(&fix, 2), KVEIK_OK);
    fix_close(&fix);
}

START_TEST(garbage_costs_the_session_only)
    {
        const uint8_t no_message[] = {2, 0, 0, 0, 0, 0, 0x4b, 0x56, 0xff, 0xff};
        const uint8_t empty[] = {0, 0, 0, 0, 0, 0, 0x4b, 0x56};
        const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0x4b, 0x56};
        expect_garbage_survived("neither header nor message", 26);
        expect_garbage_survived(no_message, sizeof no_message);
        expect_garbage_survived(empty, sizeof empty);
        expect_garbage_survived(huge, sizeof huge);
    }
END_TEST

START_TEST(a_daemon_that_goes_down_is_left_when_all_is_done)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t op = 0;
        fix_keys(key, 1, 1);
        MUST(&fix, fix_push(&fix, key, 0, &op));
        ck_assert(fake_daemon_await(fix.daemon, MSG_PUSH, 1));
        fake_daemon_notice(fix.daemon, NOTICE_GOING_DOWN, ST_SHUTDOWN);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_wait(fix.client, op, 50, &done), KVEIK_PENDING);
        uint64_t other = 0;
        ck_assert_int_eq(fix_push(&fix, key, 1, &other), KVEIK_E_UNAVAILABLE);
        fake_daemon_release(fix.daemon);
        wait_for(&fix, op, &done);
        ck_assert_int_eq(done.status, KVEIK_OK);
        /* the fake goes on listening: the library is back at once */
        ck_assert(fake_daemon_await(fix.daemon, MSG_HELLO, 1));
        ck_assert(fix_await_connected(&fix, true));
        fix_close(&fix);
    }
END_TEST

START_TEST(the_daemons_reason_is_passed_on)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_SILENT);
        fake_daemon_notice(fix.daemon, NOTICE_SESSION_ENDED, ST_LIMIT);
        uint64_t begin = clock_ms();
        bool told = false;
        while (!told && clock_ms() - begin < 3000) {
            uint8_t key[KVEIK_KEY_BYTES];
            fix_keys(key, 1, 1);
            uint64_t op = 0;
            if (fix_push(&fix, key, 0, &op) == KVEIK_E_UNAVAILABLE) {
                told = true;
                ck_assert_ptr_nonnull(strstr(fix.error.text, "as told"));
            }
            struct kveik_completion done = KVEIK_COMPLETION_INIT;
            (void)kveik_poll(fix.client, &done);
            kveik_completion_finish(&done);
        }
        ck_assert(told);
        fix_close(&fix);
    }
END_TEST

START_TEST(failing_calls_of_the_system_are_survived)
    {
        struct fixture fix;
        fix_open(&fix);
        const enum fault_point points[] = {FAULT_SEND, FAULT_RECEIVE};
        for (size_t p = 0; p < ARRAY_COUNT(points); p++) {
            for (int64_t n = 0; n < 3; n++) {
                fault_set(points[p], n, 1);
                for (int i = 0; i < 50; i++) {
                    (void)push_one(&fix, 1);
                }
                fault_clear();
                ck_assert(fix_await_connected(&fix, true));
                ck_assert_int_ge(push_one(&fix, 1), KVEIK_OK);
            }
        }
        fix_close(&fix);
    }
END_TEST

/* More than the socket takes: the rest waits for room, the leader sends it. */
START_TEST(a_full_socket_is_waited_for)
    {
        struct fixture fix;
        fix_open(&fix);
        enum { KEYS = 8192, LOOKUPS = 20 };
        static uint8_t keys[KEYS * KVEIK_KEY_BYTES];
        fix_keys(keys, KEYS, 1);
        fake_daemon_deaf(fix.daemon, true);
        struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
        lookup.space = fix.space;
        lookup.keys = keys;
        lookup.key_count = KEYS;
        lookup.deadline_ms = 20000;
        uint64_t ops[LOOKUPS];
        for (int i = 0; i < LOOKUPS; i++) {
            MUST(&fix, kveik_submit_lookup(fix.client, &lookup, NULL, &ops[i], &fix.error));
        }
        fake_daemon_deaf(fix.daemon, false);
        for (int i = 0; i < LOOKUPS; i++) {
            struct kveik_completion done;
            wait_for(&fix, ops[i], &done);
            ck_assert_int_eq(done.status, KVEIK_OK);
        }
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {requests_in_flight_are_lost_with_the_connection,
                                  a_new_daemon_gets_all_that_was_registered,
                                  without_a_daemon_calls_return_at_once,
                                  a_silent_daemon_is_not_waited_for,
                                  garbage_costs_the_session_only,
                                  a_daemon_that_goes_down_is_left_when_all_is_done,
                                  the_daemons_reason_is_passed_on,
                                  failing_calls_of_the_system_are_survived,
                                  a_full_socket_is_waited_for};
    return check_main("connection", tests, ARRAY_COUNT(tests));
}
