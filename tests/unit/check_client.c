/*
 * A client's life: connecting in good and bad cases, info, fork, shortages.
 *
 * Covers: client/lib/socket.c
 * Covers: client/lib/random.c
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>

#include "tests/lib/client_fixture.h"

static int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    }
    return count;
}

static int try_connect(struct fixture *fix, uint32_t timeout_ms)
{
    struct kveik_options options = fix_options(fix);
    options.connect_timeout_ms = timeout_ms;
    fix->client = NULL;
    int status = kveik_connect(&options, &fix->client, &fix->error);
    if (status != KVEIK_OK) {
        ck_assert_ptr_null(fix->client);
        ck_assert_int_eq(fix->error.status, status);
        ck_assert_str_ne(fix->error.text, "");
    }
    return status;
}

START_TEST(connects_and_tells_who_is_there)
    {
        struct fixture fix;
        fix_start(&fix);
        fix_connect(&fix);
        struct kveik_info info = KVEIK_INFO_INIT;
        ck_assert_int_eq(kveik_info(fix.client, &info), KVEIK_OK);
        ck_assert(info.connected);
        ck_assert_uint_eq(info.protocol_version, 1);
        ck_assert_str_eq(info.daemon, "fake 1");
        ck_assert_str_eq(info.instance, "test");
        ck_assert_uint_eq(info.requests_max, 1024 - 8);
        ck_assert_uint_eq(info.keys_max, 65536);
        ck_assert_uint_eq(info.reconnects, 0);
        char *json = NULL;
        MUST(&fix, kveik_daemon_status(fix.client, 1000, &json, &fix.error));
        ck_assert_str_eq(json, "{\"fake\":true}");
        kveik_text_free(json);
        fix_close(&fix);
    }
END_TEST

START_TEST(without_a_daemon_it_fails_at_once)
    {
        struct fixture fix = {0};
        fix_path(&fix);
        uint64_t begin = clock_ms();
        ck_assert_int_eq(try_connect(&fix, 5000), KVEIK_E_UNAVAILABLE);
        ck_assert_uint_lt(clock_ms() - begin, 500);
        ck_assert_ptr_nonnull(strstr(fix.error.text, fix.path));
    }
END_TEST

START_TEST(a_daemon_may_come_later)
    {
        struct fixture fix = {0};
        fix_path(&fix);
        struct kveik_options options = fix_options(&fix);
        options.wait_for_daemon = true;
        MUST(&fix, kveik_connect(&options, &fix.client, &fix.error));
        ck_assert(!fix_is_connected(&fix));
        uint32_t space = 0;
        struct kveik_group group = fix_group();
        struct kveik_space wanted = KVEIK_SPACE_INIT;
        wanted.model = "model";
        wanted.dtype = KVEIK_BF16;
        wanted.group_count = 1;
        wanted.groups = &group;
        ck_assert_int_eq(kveik_space_register(fix.client, &wanted, &space, &fix.error),
                         KVEIK_E_UNAVAILABLE);
        fix.daemon = fake_daemon_start(fix.path);
        ck_assert(fix_await_connected(&fix, true));
        MUST(&fix, kveik_space_register(fix.client, &wanted, &space, &fix.error));
        fix_close(&fix);
    }
END_TEST

START_TEST(bad_hellos_are_told_apart)
    {
        struct fixture fix;
        fix_start(&fix);
        int descriptors = open_descriptors();
        int64_t outstanding = heap_outstanding();
        fake_daemon_hello(fix.daemon, FAKE_HELLO_VERSION);
        ck_assert_int_eq(try_connect(&fix, 1000), KVEIK_E_VERSION);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_REFUSED);
        ck_assert_int_eq(try_connect(&fix, 1000), KVEIK_E_PERMISSION);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_GARBAGE);
        ck_assert_int_eq(try_connect(&fix, 1000), KVEIK_E_PROTOCOL);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_NO_MESSAGE);
        ck_assert_int_eq(try_connect(&fix, 1000), KVEIK_E_PROTOCOL);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_OTHER);
        ck_assert_int_eq(try_connect(&fix, 1000), KVEIK_E_PROTOCOL);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_CUT);
        ck_assert_int_eq(try_connect(&fix, 1000), KVEIK_E_UNAVAILABLE);
        uint64_t begin = clock_ms();
        fake_daemon_hello(fix.daemon, FAKE_HELLO_SILENT);
        ck_assert_int_eq(try_connect(&fix, 100), KVEIK_E_UNAVAILABLE);
        ck_assert_uint_ge(clock_ms() - begin, 90);
        fake_daemon_hello(fix.daemon, FAKE_HELLO_GOOD);
        fake_daemon_cut(fix.daemon);
        ck_assert_int_eq(try_connect(&fix, 1000), KVEIK_OK);
        kveik_close(fix.client);
        fake_daemon_cut(fix.daemon);
        ck_assert_int_eq(open_descriptors(), descriptors);
        ck_assert_int_eq(heap_outstanding(), outstanding);
        fix.client = NULL;
        fix_close(&fix);
    }
END_TEST

START_TEST(wrong_options_are_refused)
    {
        struct fixture fix = {0};
        char text[300];
        (void)memset(text, 'x', sizeof text);
        text[sizeof text - 1] = '\0';
        struct kveik_options options = {.size = 0};
        ck_assert_int_eq(kveik_connect(&options, &fix.client, &fix.error), KVEIK_E_INVALID);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "KVEIK_OPTIONS_INIT"));
        options = (struct kveik_options)KVEIK_OPTIONS_INIT;
        options.socket_path = text;
        ck_assert_int_eq(kveik_connect(&options, &fix.client, &fix.error), KVEIK_E_INVALID);
        options.socket_path = "/x";
        options.instance = text;
        ck_assert_int_eq(kveik_connect(&options, &fix.client, NULL), KVEIK_E_INVALID);
        options.instance = "";
        ck_assert_int_eq(kveik_connect(&options, &fix.client, &fix.error), KVEIK_E_INVALID);
        options.instance = "a\tb";
        ck_assert_int_eq(kveik_connect(&options, &fix.client, &fix.error), KVEIK_E_INVALID);
        options.instance = NULL;
        options.token = text;
        options.token_bytes = 257;
        ck_assert_int_eq(kveik_connect(&options, &fix.client, &fix.error), KVEIK_E_INVALID);
        ck_assert_int_eq(kveik_connect(NULL, NULL, &fix.error), KVEIK_E_INVALID);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

/* A program that was built against a later header: what it sets beyond our struct is refused. */
START_TEST(structs_may_grow)
    {
        struct fixture fix;
        fix_start(&fix);
        struct {
            struct kveik_options known;
            uint64_t later;
        } options = {.known = fix_options(&fix)};
        options.known.size = sizeof options;
        MUST(&fix, kveik_connect(&options.known, &fix.client, &fix.error));
        kveik_close(fix.client);
        options.later = 1;
        ck_assert_int_eq(kveik_connect(&options.known, &fix.client, &fix.error),
                         KVEIK_E_UNSUPPORTED);
        fix_connect(&fix);
        struct {
            struct kveik_info known;
            uint64_t later;
        } info = {.known = {.size = sizeof info}, .later = 7};
        ck_assert_int_eq(kveik_info(fix.client, &info.known), KVEIK_OK);
        ck_assert(info.known.connected);
        ck_assert_uint_eq(info.later, 0);
        fix_close(&fix);
    }
END_TEST

START_TEST(a_forked_child_is_kept_out)
    {
        struct fixture fix;
        fix_open(&fix);
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            struct kveik_completion done = KVEIK_COMPLETION_INIT;
            struct kveik_info info = KVEIK_INFO_INIT;
            int wrong = kveik_poll(fix.client, &done) != KVEIK_E_FORKED;
            wrong |= kveik_info(fix.client, &info) != KVEIK_E_FORKED;
            wrong |= kveik_event_fd(fix.client) != KVEIK_E_FORKED;
            wrong |= kveik_release(fix.client, 1) != KVEIK_E_FORKED;
            kveik_close(fix.client);
            _exit(wrong);
        }
        int state = 0;
        ck_assert_int_eq(waitpid(child, &state, 0), child);
        ck_assert_int_eq(state, 0);
        /* the child's close told the daemon nothing, and our session goes on */
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t op = 0;
        fix_keys(key, 1, 1);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        MUST(&fix, fix_push(&fix, key, 0, &op));
        ck_assert_int_eq(kveik_wait(fix.client, op, 2000, &done), KVEIK_OK);
        ck_assert_int_eq(done.status, KVEIK_OK);
        kveik_completion_finish(&done);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_HELLO), 1);
        fix_close(&fix);
    }
END_TEST

START_TEST(two_clients_know_nothing_of_each_other)
    {
        struct fixture one;
        struct fixture two;
        fix_open(&one);
        fix_open(&two);
        fake_daemon_cut(one.daemon);
        uint8_t key[KVEIK_KEY_BYTES];
        fix_keys(key, 1, 2);
        uint64_t op = 0;
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        MUST(&two, fix_push(&two, key, 0, &op));
        ck_assert_int_eq(kveik_wait(one.client, op + 1, 10, &done), KVEIK_E_UNKNOWN_ID);
        ck_assert_int_eq(kveik_wait(two.client, op, 2000, &done), KVEIK_OK);
        kveik_completion_finish(&done);
        fix_close(&one);
        fix_close(&two);
    }
END_TEST

/* Every allocation fails once, in everything from connect to a push. */
START_TEST(shortages_lose_nothing)
    {
        int64_t fired = 1;
        for (int64_t n = 0; fired > 0; n++) {
            struct fixture fix;
            fix_start(&fix);
            int64_t outstanding = heap_outstanding();
            int descriptors = open_descriptors();
            struct kveik_options options = fix_options(&fix);
            options.connect_timeout_ms = 200;
            struct kveik_group group = fix_group();
            struct kveik_space space = KVEIK_SPACE_INIT;
            space.model = "model";
            space.dtype = KVEIK_BF16;
            space.group_count = 1;
            space.groups = &group;
            void *memory = NULL;
            uint8_t key[KVEIK_KEY_BYTES];
            fix_keys(key, 1, 3);
            fault_set(FAULT_HEAP, n, 1);
            int status = kveik_connect(&options, &fix.client, &fix.error);
            if (status == KVEIK_OK) {
                status = kveik_space_register(fix.client, &space, &fix.space, &fix.error);
            }
            if (status == KVEIK_OK) {
                status = kveik_memory_allocate(fix.client, FIX_BYTES, &memory, &fix.error);
            }
            if (status == KVEIK_OK) {
                status = kveik_memory_export(fix.client, memory, FIX_BYTES, NULL, &fix.region, NULL,
                                             &fix.error);
            }
            struct kveik_layout layout = fix_layout(&fix);
            if (status == KVEIK_OK) {
                status = kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error);
            }
            uint64_t op = 0;
            if (status == KVEIK_OK) {
                status = fix_push(&fix, key, 0, &op);
            }
            struct kveik_completion done = KVEIK_COMPLETION_INIT;
            if (status == KVEIK_OK) {
                ck_assert_int_eq(kveik_wait(fix.client, op, 2000, &done), KVEIK_OK);
                kveik_completion_finish(&done);
            }
            fired = fault_fired(FAULT_HEAP);
            fault_clear();
            ck_assert_msg(status == KVEIK_OK || fired > 0, "allocation %d: %d %s", (int)n, status,
                          fix.error.text);
            if (memory != NULL) {
                kveik_memory_free(fix.client, memory);
            }
            kveik_close(fix.client);
            fake_daemon_cut(fix.daemon);
            ck_assert_int_eq(open_descriptors(), descriptors);
            ck_assert_int_eq(heap_outstanding(), outstanding);
            fix.client = NULL;
            fix_close(&fix);
        }
    }
END_TEST

static void *wait_for_any(void *arg)
{
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    int status = kveik_wait(arg, 0, 20000, &done);
    kveik_completion_finish(&done);
    return status == KVEIK_E_CANCELLED || status == KVEIK_OK ? NULL : arg;
}

START_TEST(close_wakes_who_waits)
    {
        struct fixture fix;
        pthread_t threads[4];
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(PUSH));
        uint8_t key[KVEIK_KEY_BYTES];
        fix_keys(key, 1, 4);
        uint64_t op = 0;
        MUST(&fix, fix_push(&fix, key, 0, &op));
        for (size_t i = 0; i < ARRAY_COUNT(threads); i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, wait_for_any, fix.client), 0);
        }
        nap_ms(50);
        uint64_t begin = clock_ms();
        kveik_close(fix.client);
        ck_assert_uint_lt(clock_ms() - begin, 1500);
        for (size_t i = 0; i < ARRAY_COUNT(threads); i++) {
            void *bad = NULL;
            ck_assert_int_eq(pthread_join(threads[i], &bad), 0);
            ck_assert_ptr_null(bad);
        }
        fix.client = NULL;
        fix.memory = NULL;
        fix_close(&fix);
    }
END_TEST

/* After a shutdown a thread that comes late is answered: the client is still there. */
START_TEST(shutdown_wakes_and_answers)
    {
        struct fixture fix;
        pthread_t thread;
        fix_open(&fix);
        ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_any, fix.client), 0);
        nap_ms(50);
        kveik_shutdown(fix.client);
        void *bad = NULL;
        ck_assert_int_eq(pthread_join(thread, &bad), 0);
        ck_assert_ptr_null(bad);
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        ck_assert_int_eq(kveik_wait(fix.client, 0, 20000, &done), KVEIK_E_CANCELLED);
        ck_assert_int_eq(kveik_poll(fix.client, &done), KVEIK_PENDING);
        uint8_t key[KVEIK_KEY_BYTES];
        fix_keys(key, 1, 4);
        uint64_t op = 0;
        ck_assert_int_eq(fix_push(&fix, key, 0, &op), KVEIK_E_UNAVAILABLE);
        ck_assert(!fix_is_connected(&fix));
        kveik_shutdown(fix.client);
        kveik_shutdown(NULL);
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        connects_and_tells_who_is_there, without_a_daemon_it_fails_at_once,
        a_daemon_may_come_later,         bad_hellos_are_told_apart,
        wrong_options_are_refused,       structs_may_grow,
        a_forked_child_is_kept_out,      two_clients_know_nothing_of_each_other,
        shortages_lose_nothing,          close_wakes_who_waits,
        shutdown_wakes_and_answers};
    return check_main("client", tests, ARRAY_COUNT(tests));
}
