/* Covers: client/cli/table.c */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "client/cli/cli.h"
#include "client/cli/table.h"
#include "tests/lib/check_main.h"

static const char *const names[] = {"status", "doctor", "replay", "bench", "demo"};

static const char *nearest(const char *name)
{
    return cli_nearest(names, ARRAY_COUNT(names), name);
}

START_TEST(nearest_command)
    {
        ck_assert_str_eq(nearest("statsu"), "status");
        ck_assert_str_eq(nearest("DOCTOR"), "doctor");
        ck_assert_str_eq(nearest("rep"), "replay");
        ck_assert_str_eq(nearest("dmeo"), "demo");
        ck_assert_ptr_null(nearest("s"));
        ck_assert_ptr_null(nearest("xylophone"));
        ck_assert_ptr_null(nearest("a-name-that-is-longer-than-any-command-could-be"));
    }
END_TEST

START_TEST(socket_path)
    {
        char out[64];
        struct cli cli = {.socket_path = "/tmp/x.sock"};
        ck_assert_str_eq(cli_socket_path(&cli, out, sizeof out), "/tmp/x.sock");
        cli.socket_path = NULL;
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): a process without threads */
        ck_assert_int_eq(setenv("KVEIK_SOCKET", "/tmp/env.sock", 1), 0);
        ck_assert_str_eq(cli_socket_path(&cli, out, sizeof out), "/tmp/env.sock");
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): a process without threads */
        ck_assert_int_eq(unsetenv("KVEIK_SOCKET"), 0);
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): a process without threads */
        ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", "/run/user/7", 1), 0);
        ck_assert_str_eq(cli_socket_path(&cli, out, sizeof out), "/run/user/7/kveik/engine.sock");
    }
END_TEST

struct settings {
    struct cli_common common;
    uint32_t count;
};

static const struct option_spec specs[] = {
    {.name = "count",
     .kind = OPTION_U32,
     .preset = "3",
     .offset = offsetof(struct settings, count),
     .max = 9,
     .help = "how many"},
    CLI_COMMON_SPECS,
};

static const struct options_table options_of_test = {
    .program = "kveik test",
    .version = "1",
    .summary = "Nothing.",
    .env_prefix = CLI_ENV_PREFIX,
    .specs = specs,
    .count = ARRAY_COUNT(specs),
    .settings_bytes = sizeof(struct settings),
};

START_TEST(common_options_merge)
    {
        char program[] = "test";
        char socket[] = "--socket=/a";
        char json[] = "--json";
        char bad[] = "--count=10";
        char *argv[] = {program, socket, json, NULL};
        struct cli cli = {.socket_path = "/b"};
        struct settings settings = {0};
        struct options *options = NULL;
        ck_assert_int_eq(cli_load(&cli, &options_of_test, 1, argv, &settings, &options), CLI_GO_ON);
        ck_assert_str_eq(cli.socket_path, "/b");
        ck_assert(!cli.json);
        options_destroy(options);
        ck_assert_int_eq(cli_load(&cli, &options_of_test, 3, argv, &settings, &options), CLI_GO_ON);
        ck_assert_str_eq(cli.socket_path, "/a");
        ck_assert(cli.json);
        ck_assert_uint_eq(settings.count, 3);
        options_destroy(options);
        argv[1] = bad;
        ck_assert_int_eq(cli_load(&cli, &options_of_test, 2, argv, &settings, &options), CLI_USAGE);
        ck_assert_ptr_null(options);
    }
END_TEST

enum { NAME, BYTES, RATE, COLUMNS };

static const struct table_column columns[COLUMNS] = {
    [NAME] = {.name = "name", .json_name = "name"},
    [BYTES] = {.name = "bytes", .json_name = "bytes", .align = TABLE_RIGHT},
    [RATE] = {.name = "rate", .json_name = NULL, .align = TABLE_RIGHT},
};

static struct table *a_table(void)
{
    struct table *table = table_create(columns, COLUMNS, true);
    ck_assert_ptr_nonnull(table);
    table_row(table);
    table_text(table, NAME, "one");
    table_bytes(table, BYTES, 8192);
    table_real(table, RATE, 1.25, 1);
    table_row(table);
    table_text(table, NAME, "another");
    table_count(table, BYTES, 7);
    table_set(table, RATE, json_null(), "%s", "-");
    return table;
}

START_TEST(table_as_json)
    {
        struct table *table = a_table();
        json_t *rows = table_json(table);
        table_destroy(table);
        ck_assert_uint_eq(json_array_size(rows), 2);
        const json_t *row = json_array_get(rows, 0);
        ck_assert_uint_eq(json_object_size(row), 2);
        ck_assert_str_eq(json_string_value(json_object_get(row, "name")), "one");
        ck_assert_int_eq(json_integer_value(json_object_get(row, "bytes")), 8192);
        json_decref(rows);
    }
END_TEST

START_TEST(table_for_people)
    {
        char text[512] = "";
        FILE *out = fmemopen(text, sizeof text, "w");
        ck_assert_ptr_nonnull(out);
        struct table *table = a_table();
        ck_assert_int_eq(table_print(table, out), ST_OK);
        table_destroy(table);
        ck_assert_int_eq(fclose(out), 0);
        ck_assert_str_eq(text, "name    bytes rate\n"
                               "one      8KiB  1.2\n"
                               "another     7    -\n");
    }
END_TEST

START_TEST(table_without_memory)
    {
        table_row(NULL);
        table_text(NULL, 0, "x");
        table_count(NULL, 0, 1);
        table_destroy(NULL);
        ck_assert_ptr_null(table_json(NULL));
        ck_assert_int_eq(table_print(NULL, stdout), ST_NO_MEMORY);
        ck_assert_int_eq(table_print_json(NULL, stdout), ST_NO_MEMORY);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {nearest_command, socket_path,      common_options_merge,
                                  table_as_json,   table_for_people, table_without_memory};
    return check_main("cli", tests, ARRAY_COUNT(tests));
}
