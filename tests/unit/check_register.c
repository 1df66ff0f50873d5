/* Registering again with a new daemon that does not want everything; spaces; drops meanwhile. */
#include "tests/lib/client_fixture.h"

START_TEST(what_a_new_daemon_refuses_is_told_by_who_uses_it)
    {
        struct fixture fix;
        fix_open(&fix);
        uint8_t key[KVEIK_KEY_BYTES];
        uint64_t op = 0;
        fix_keys(key, 1, 1);
        fake_daemon_refuse(fix.daemon, KIND(EXPORT_MEMORY), ST_PERMISSION);
        fake_daemon_cut(fix.daemon);
        ck_assert(fix_await_connected(&fix, true));
        ck_assert_int_lt(fix_push(&fix, key, 0, &op), 0);
        ck_assert_str_ne(fix.error.text, "");
        struct kveik_lookup lookup = KVEIK_LOOKUP_INIT; /* needs no memory */
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        lookup.space = fix.space;
        lookup.keys = key;
        lookup.key_count = 1;
        ck_assert_int_eq(kveik_lookup(fix.client, &lookup, &done), KVEIK_OK);
        ck_assert_int_eq(kveik_quiesce(fix.client, fix.layout, NULL, 0, 100), KVEIK_OK);
        fake_daemon_refuse(fix.daemon, 0, ST_OK);
        fake_daemon_cut(fix.daemon);
        for (int i = 0; i < 1000 && fix_push(&fix, key, 0, &op) != KVEIK_OK; i++) {
            (void)kveik_poll(fix.client, &done);
            nap_ms(1);
        }
        ck_assert_int_eq(kveik_wait(fix.client, op, 1000, &done), KVEIK_OK);
        ck_assert_int_eq(done.status, KVEIK_OK);
        kveik_completion_finish(&done);
        fix_close(&fix);
    }
END_TEST

START_TEST(the_same_space_is_the_same_handle)
    {
        struct fixture fix;
        fix_start(&fix);
        fix_connect(&fix);
        fix_space(&fix);
        uint32_t first = fix.space;
        fix_space(&fix);
        ck_assert_uint_eq(fix.space, first);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_REGISTER_SPACE), 1);
        struct kveik_group group = fix_group();
        struct kveik_space space = KVEIK_SPACE_INIT;
        char name[300];
        (void)memset(name, 'n', sizeof name);
        name[sizeof name - 1] = '\0';
        space.dtype = KVEIK_BF16;
        space.group_count = 1;
        space.groups = &group;
        ck_assert_int_eq(kveik_space_register(fix.client, &space, &fix.space, &fix.error),
                         KVEIK_E_INVALID);
        space.model = name;
        ck_assert_int_eq(kveik_space_register(fix.client, &space, &fix.space, &fix.error),
                         KVEIK_E_INVALID);
        space.model = "m";
        space.group_count = 17;
        ck_assert_int_eq(kveik_space_register(fix.client, &space, &fix.space, &fix.error),
                         KVEIK_E_INVALID);
        space.group_count = 1;
        space.isolation = name;
        space.isolation_bytes = 129;
        ck_assert_int_eq(kveik_space_register(fix.client, &space, &fix.space, &fix.error),
                         KVEIK_E_INVALID);
        space.isolation_bytes = 0;
        fake_daemon_refuse(fix.daemon, KIND(REGISTER_SPACE), ST_LIMIT);
        ck_assert_int_eq(kveik_space_register(fix.client, &space, &fix.space, &fix.error),
                         KVEIK_E_LIMIT);
        ck_assert_str_eq(fix.error.text, "the fake refuses");
        fix_close(&fix);
    }
END_TEST

/* Regions are exported one after the other; the one that is dropped meanwhile is given back. */
START_TEST(what_is_dropped_while_it_is_registered_is_given_back)
    {
        struct fixture fix;
        fix_open(&fix);
        fake_daemon_hold(fix.daemon, KIND(EXPORT_MEMORY));
        fake_daemon_cut(fix.daemon);
        ck_assert(fix_await_connected(&fix, false));
        struct kveik_completion done = KVEIK_COMPLETION_INIT;
        for (int i = 0; i < 1000 && fake_daemon_count(fix.daemon, MSG_EXPORT_MEMORY) < 2; i++) {
            (void)kveik_poll(fix.client, &done);
            nap_ms(1);
        }
        MUST(&fix, kveik_layout_drop(fix.client, fix.layout, 1000, &fix.error));
        MUST(&fix, kveik_memory_drop(fix.client, fix.region, 1000, &fix.error));
        fake_daemon_release(fix.daemon);
        ck_assert(fix_await_connected(&fix, true));
        ck_assert(fake_daemon_await(fix.daemon, MSG_DROP_MEMORY, 1));
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {what_a_new_daemon_refuses_is_told_by_who_uses_it,
                                  the_same_space_is_the_same_handle,
                                  what_is_dropped_while_it_is_registered_is_given_back};
    return check_main("register", tests, ARRAY_COUNT(tests));
}
