/* The demo's restart: reading the daemon's status, and a command that ends well, badly or never. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/cli/demo_restart.h"
#include "tests/lib/check_main.h"

enum { PATIENCE_MS = 20 * 1000, SHORT_MS = 300 };

static const char nowhere[] = "/nonexistent/kveik.sock";

START_TEST(reads_a_status)
    {
        static const char json[] =
            "{\"boot_id\": \"00112233445566778899aabbccddeeff\", \"index\": {\"blocks\": 7},"
            " \"disk\": {\"state\": \"up\", \"counters\": {\"restored_parts\": 8,"
            " \"read_bytes\": 9}}}";
        struct demo_look look;
        ck_assert_int_eq(demo_look_parse(&look, json, NULL), ST_OK);
        ck_assert_str_eq(look.boot_id, "00112233445566778899aabbccddeeff");
        ck_assert_uint_eq(look.blocks, 7);
        ck_assert_uint_eq(look.restored_parts, 8);
        ck_assert_uint_eq(look.disk_read_bytes, 9);
        ck_assert_str_eq(look.disk_state, "up");
        ck_assert_int_eq(demo_look_parse(&look, "{\"boot_id\": \"a\"}", NULL), ST_OK);
        ck_assert_uint_eq(look.blocks, 0);
        ck_assert_str_eq(look.disk_state, "none");
    }
END_TEST

START_TEST(refuses_a_status_without_a_name)
    {
        static const char *const wrong[] = {"",
                                            "hello",
                                            "[]",
                                            "{}",
                                            "{\"boot_id\": 5}",
                                            "{\"boot_id\": \"\"}",
                                            "{\"boot_id\": \"00112233445566778899aabbccddeeff0\"}"};
        for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
            struct demo_look look;
            struct error error = {0};
            ck_assert_int_eq(demo_look_parse(&look, wrong[i], &error), ST_INVALID);
            ck_assert_ptr_nonnull(strstr(error.text, "boot_id"));
        }
    }
END_TEST

static void fails(const char *command, int status, const char *word)
{
    struct error error = {0};
    ck_assert_int_eq(demo_command(command, PATIENCE_MS, &error), status);
    ck_assert_msg(strstr(error.text, word) != NULL, "%s", error.text);
}

START_TEST(commands_end_well_or_badly)
    {
        ck_assert_int_eq(demo_command("true", PATIENCE_MS, NULL), ST_OK);
        ck_assert_int_eq(demo_command("read word && exit 5 || exit 0", PATIENCE_MS, NULL), ST_OK);
        fails("exit 3", ST_IO, "exit code 3");
        fails("kill -KILL $$", ST_IO, "signal 9");
        fails("/nonexistent/restart", ST_IO, "exit code 127");
    }
END_TEST

/* What the shell started goes with it. */
START_TEST(commands_that_do_not_end_are_killed)
    {
        char folder[] = "/tmp/kveik-demo-XXXXXX";
        ck_assert_ptr_nonnull(mkdtemp(folder));
        char command[256];
        char late[128];
        (void)snprintf(late, sizeof late, "%s/late", folder);
        (void)snprintf(command, sizeof command, "(sleep 2; touch %s) & sleep 60", late);
        struct error error = {0};
        uint64_t began_ms = clock_ms();
        ck_assert_int_eq(demo_command(command, SHORT_MS, &error), ST_DEADLINE);
        ck_assert_uint_lt(clock_ms() - began_ms, 30 * 1000);
        ck_assert_ptr_nonnull(strstr(error.text, "did not end"));
        (void)poll(NULL, 0, 3000);
        struct stat stat_of;
        ck_assert_int_ne(stat(late, &stat_of), 0);
        ck_assert_int_eq(rmdir(folder), 0);
    }
END_TEST

START_TEST(what_a_command_starts_may_go_on)
    {
        uint64_t began_ms = clock_ms();
        ck_assert_int_eq(demo_command("sleep 5 &", PATIENCE_MS, NULL), ST_OK);
        ck_assert_uint_lt(clock_ms() - began_ms, 4 * 1000);
    }
END_TEST

START_TEST(waiting_has_an_end)
    {
        struct demo_look look;
        struct error error = {0};
        ck_assert_int_eq(demo_look(&look, nowhere, &error), ST_UNAVAILABLE);
        ck_assert_str_ne(error.text, "");
        uint64_t began_ms = clock_ms();
        ck_assert_int_eq(demo_look_await(&look, nowhere, "", SHORT_MS, &error), ST_UNAVAILABLE);
        ck_assert_uint_ge(clock_ms() - began_ms, SHORT_MS);
        ck_assert_ptr_nonnull(strstr(error.text, "does not answer again"));
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {reads_a_status,
                                  refuses_a_status_without_a_name,
                                  commands_end_well_or_badly,
                                  commands_that_do_not_end_are_killed,
                                  what_a_command_starts_may_go_on,
                                  waiting_has_an_end};
    return check_main("demo_restart", tests, ARRAY_COUNT(tests));
}
