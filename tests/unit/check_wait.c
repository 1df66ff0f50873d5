/*
 * Waiting: the event descriptor, many threads, time-outs.
 *
 * Covers: client/lib/async.c
 * Covers: client/lib/complete.c
 */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/lib/client_fixture.h"

START_TEST(the_descriptor_tells_of_answers)
    {
        struct fixture fix;
        fix_open(&fix);
        int fd = kveik_event_fd(fix.client);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        while (kveik_poll(fix.client, &done) == KVEIK_OK) {
        }
        ck_assert(!fd_is_readable(fd, 50));
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t ops[2];
        fix_keys(key, 1, 1);
        MUST(&fix, fix_push(&fix, key, 0, &ops[0]));
        MUST(&fix, fix_push(&fix, key, 0, &ops[1]));
        ck_assert(!fd_is_readable(fd, 50));
        ck_assert(fake_daemon_await(fix.daemon, MSG_PUSH, 2));
        fake_daemon_release(fix.daemon);
        ck_assert(fd_is_readable(fd, 1000));
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_OK);
        ck_assert_uint_eq(done.op, ops[0]);
        kveik_completion_finish(&done);
        /* the other was read from the socket with the first: only the library knows of it */
        ck_assert(fd_is_readable(fd, 0));
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_OK);
        ck_assert_uint_eq(done.op, ops[1]);
        kveik_completion_finish(&done);
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_PENDING);
        ck_assert(!fd_is_readable(fd, 50));
        fix_close(&fix);
    }
END_TEST

START_TEST(the_descriptor_tells_of_ends_time_outs_and_new_daemons)
    {
        struct fixture fix;
        fix_open(&fix);
        int fd = kveik_event_fd(fix.client);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t op = 0;
        fix_keys(key, 1, 1);
        MUST(&fix, fix_push(&fix, key, 0, &op));
        uint64_t begin = clock_ms();
        int status = KVEIK_PENDING;
        while (status == KVEIK_PENDING && clock_ms() - begin < 5000) {
            ck_assert(fd_is_readable(fd, 5000)); /* the timer, for the stuck request */
            status = kveik_poll(fix.client, &done);
        }
        ck_assert_int_eq(status, KVEIK_OK);
        ck_assert_int_eq(done.status, KVEIK_E_STUCK);
        kveik_completion_finish(&done);
        fake_daemon_stop(fix.daemon);
        ck_assert(fd_is_readable(fd, 1000)); /* the end of file */
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_PENDING);
        fix.daemon = fake_daemon_start(fix.path);
        begin = clock_ms();
        while (!fix_is_connected(&fix) && clock_ms() - begin < 5000) {
            ck_assert(fd_is_readable(fd, 5000)); /* the next attempt, then the answers */
            (void)kveik_poll(fix.client, &done);
        }
        ck_assert(fix_is_connected(&fix));
        fix_close(&fix);
    }
END_TEST

START_TEST(an_answer_counts_that_was_fetched_after_the_deadline)
    {
        struct fixture fix;
        fix_open(&fix);
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t op = 0;
        fix_keys(key, 1, 1);
        MUST(&fix, fix_push(&fix, key, 0, &op)); /* with a deadline of 300 ms */
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        nap_ms(1500); /* an engine that computes, and does not look for so long */
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_OK);
        ck_assert_uint_eq(done.op, op);
        ck_assert_int_eq(done.status, KVEIK_OK);
        kveik_completion_finish(&done);
        fix_close(&fix);
    }
END_TEST

START_TEST(local_completions_wake_the_descriptor_too)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_stop(fix.daemon);
        fix.daemon = NULL;
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert(fix_await_connected(&fix, false));
        uint64_t op = 0;
        MUST(&fix, kveik_submit_quiesce(fix.client, fix.layout, NULL, 0, NULL, &op, &fix.error));
        ck_assert(fd_is_readable(kveik_event_fd(fix.client), 0));
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_OK);
        ck_assert_uint_eq(done.op, op);
        ck_assert_int_eq(done.status, KVEIK_OK);
        fix_close(&fix);
    }
END_TEST

/* Another thread reads our answer, or waits for another one: nobody misses his. */
struct crowd {
    struct fixture *fix;
    atomic_int failures;
    uint32_t rounds;
    atomic_uint next;
};

static void *crowd_member(void *arg)
{
    struct crowd *crowd = arg;
    uint32_t me = atomic_fetch_add(&crowd->next, 1);
    for (uint32_t i = 0; i < crowd->rounds; i++) {
        uint8_t key[KVEIK_KEY_BYTES];
        fix_keys(key, 1, me * 100000 + i);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        if (i % 3 == 0) {
            struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
            lookup.space = crowd->fix->space;
            lookup.keys = key;
            lookup.key_count = 1;
            lookup.deadline_ms = 20000;
            if (kveik_lookup(crowd->fix->client, &lookup, &done) != KVEIK_OK) {
                atomic_fetch_add(&crowd->failures, 1);
            }
        } else {
            uint32_t page = me;
            struct kveik_push_run run = {.layout = crowd->fix->layout,
                                         .block_count = 1,
                                         .block_tokens = 16,
                                         .keys = key,
                                         .key_count = 1,
                                         .pages = &page,
                                         .page_count = 1};
            struct kveik_push push = KVEIK_PUSH_INIT;
            push.runs = &run;
            push.run_count = 1;
            push.deadline_ms = 20000;
            uint64_t op = 0;
            if (kveik_submit_push(crowd->fix->client, &push, NULL, &op, NULL) != KVEIK_OK ||
                kveik_wait(crowd->fix->client, op, 20000, &done) != KVEIK_OK || done.op != op) {
                atomic_fetch_add(&crowd->failures, 1);
            }
        }
        kveik_completion_finish(&done);
    }
    return NULL;
}

START_TEST(many_threads_wait_at_once)
    {
        struct fixture fix;
        pthread_t threads[8];
        fix_open(&fix);
        struct crowd crowd = {.fix = &fix, .rounds = (uint32_t)check_scaled(200)};
        for (size_t i = 0; i < ARRAY_COUNT(threads); i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, crowd_member, &crowd), 0);
        }
        for (size_t i = 0; i < ARRAY_COUNT(threads); i++) {
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        }
        ck_assert_int_eq(atomic_load(&crowd.failures), 0);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_PENDING);
        fix_close(&fix);
    }
END_TEST

/* The daemon goes and comes while a crowd is at work: every call returns, nothing is left. */
START_TEST(a_crowd_survives_restarts)
    {
        struct fixture fix;
        pthread_t threads[4];
        fix_open(&fix);
        struct crowd crowd = {.fix = &fix, .rounds = (uint32_t)check_scaled(400)};
        for (size_t i = 0; i < ARRAY_COUNT(threads); i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, crowd_member, &crowd), 0);
        }
        for (int i = 0; i < 5; i++) {
            nap_ms(10);
            fake_daemon_cut(fix.daemon);
        }
        for (size_t i = 0; i < ARRAY_COUNT(threads); i++) {
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        }
        ck_assert(fix_await_connected(&fix, true));
        fix_close(&fix);
    }
END_TEST

struct late {
    struct fixture *fix;
    uint64_t op;
    int status;
    uint64_t took_ms;
};

static void *wait_shortly(void *arg)
{
    struct late *late = arg;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    uint64_t begin = clock_ms();
    late->status = kveik_wait(late->fix->client, late->op, 100, &done);
    late->took_ms = clock_ms() - begin;
    return NULL;
}

START_TEST(time_outs_hold_for_leader_and_followers)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        pthread_t threads[4];
        struct late lates[4];
        uint8_t key[KVEIK_KEY_BYTES];
        fix_keys(key, 1, 1);
        for (size_t i = 0; i < 4; i++) {
            lates[i] = (struct late){.fix = &fix};
            MUST(&fix, fix_push(&fix, key, 0, &lates[i].op));
            ck_assert_int_eq(pthread_create(&threads[i], NULL, wait_shortly, &lates[i]), 0);
        }
        for (size_t i = 0; i < 4; i++) {
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
            ck_assert_int_eq(lates[i].status, KVEIK_PENDING);
            ck_assert_uint_ge(lates[i].took_ms, 99);
            ck_assert_uint_lt(lates[i].took_ms, 1000);
        }
        fake_daemon_release(fix.daemon);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        for (size_t i = 0; i < 4; i++) {
            ck_assert_int_eq(kveik_wait(fix.client, 0, 1000, &done), KVEIK_OK);
            kveik_completion_finish(&done);
        }
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_descriptor_tells_of_answers,
                                  the_descriptor_tells_of_ends_time_outs_and_new_daemons,
                                  an_answer_counts_that_was_fetched_after_the_deadline,
                                  local_completions_wake_the_descriptor_too,
                                  many_threads_wait_at_once,
                                  a_crowd_survives_restarts,
                                  time_outs_hold_for_leader_and_followers};
    return check_main("wait", tests, ARRAY_COUNT(tests));
}
