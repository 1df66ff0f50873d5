#include <string.h>

#include <check.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "tests/lib/check_main.h"
#include "tests/lib/options_fixture.h"

enum { ROUNDS = 4000, FOREIGN_BYTES = 256, HUGE_BYTES = (1 << 20) + 1 };

struct outcome {
    int status;
    struct error error;
    char *texts[ARRAY_COUNT(brewery_specs)];
};

static void forget(struct outcome *outcome)
{
    for (size_t i = 0; i < ARRAY_COUNT(outcome->texts); i++) {
        heap_free(outcome->texts[i]);
    }
}

static void read_path(struct outcome *outcome, const char *path)
{
    struct options *options = options_create(&brewery_table);
    ck_assert_ptr_nonnull(options);
    *outcome = (struct outcome){0};
    outcome->status = options_file_read(options, path, outcome->texts, &outcome->error);
    ck_assert_int_eq(outcome->error.status, outcome->status);
    ck_assert_ptr_null(strchr(outcome->error.text, '\n'));
    options_destroy(options);
}

static void read_bytes(struct outcome *outcome, const char *text, size_t bytes)
{
    char path[32];
    write_file(path, text, bytes);
    read_path(outcome, path);
    ck_assert_int_eq(unlink(path), 0);
}

START_TEST(reads_settings)
    {
        const char *text = "# the node in the cellar\n"
                           "cpu-bytes: 2GiB   # half\n"
                           "name: \"old \\u00f8l\"\n"
                           "verbose: yes\n"
                           "state-dir: '/srv/it''s here'\n";
        struct outcome outcome;
        read_bytes(&outcome, text, strlen(text));
        ck_assert_msg(outcome.status == ST_OK, "%s", outcome.error.text);
        ck_assert_str_eq(outcome.texts[AT_CPU], "2GiB");
        ck_assert_str_eq(outcome.texts[AT_NAME], "old \xc3\xb8l");
        ck_assert_str_eq(outcome.texts[AT_VERBOSE], "yes");
        ck_assert_str_eq(outcome.texts[AT_DIR], "/srv/it's here");
        ck_assert_ptr_null(outcome.texts[AT_THREADS]);
        forget(&outcome);
    }
END_TEST

START_TEST(an_empty_file_sets_nothing)
    {
        static const char *const empty[] = {"", "\n\n", "# nothing yet\n", "---\n", "{}\n"};
        for (size_t i = 0; i < ARRAY_COUNT(empty); i++) {
            struct outcome outcome;
            read_bytes(&outcome, empty[i], strlen(empty[i]));
            ck_assert_msg(outcome.status == ST_OK, "%s", outcome.error.text);
            for (size_t j = 0; j < ARRAY_COUNT(outcome.texts); j++) {
                ck_assert_ptr_null(outcome.texts[j]);
            }
        }
    }
END_TEST

struct refusal {
    const char *text;
    const char *says;
};

static const struct refusal refusals[] = {
    {"threads: 2\ncpu-byte: 1GiB\n",
     ":2: unknown setting \"cpu-byte\"; did you mean \"cpu-bytes\"?"},
    {"wort-temperature: 1\n",
     ":1: unknown setting \"wort-temperature\"; brewery --help lists them"},
    {"threads: 2\n\nthreads: 3\n", ":3: this setting stands here twice: keep one"},
    {"threads: many\n", ":1: threads: \"many\" is not a number"},
    {"threads: 65\n", ":1: threads: 65 is too large: write at most 64"},
    {"\ncpu-bytes: 1k\n", ":2: cpu-bytes: 1KiB is too small: write at least 64MiB"},
    {"threads:\n", ":1: threads: has no value: write threads: 4"},
    {"name: \"a\\0b\"\n", ":1: name: the value holds a zero byte"},
    {"threads: [1, 2]\n", ":1: a list has no place here"},
    {"- threads\n", ":1: a list has no place here"},
    {"cpu:\n  bytes: 1GiB\n", ":1: unknown setting \"cpu\""},
    {"name:\n  first: a\n", ":2: settings are flat"},
    {"name: &x a\n", ":1: anchors are not used here"},
    {"name: *x\n", ":1: aliases are not used here"},
    {"threads: 1\n---\nthreads: 2\n", ":2: a second document begins"},
    {"just words\n", ":1: expected lines of the form NAME: VALUE"},
    {"threads: 1\n\tname: a\n", ": not YAML: "},
    {"name: \"unfinished\n", ": not YAML: "},
    {"name: \xff\xfe\n", ": not YAML: "},
};

START_TEST(refuses_with_place_and_remedy)
    {
        for (size_t i = 0; i < ARRAY_COUNT(refusals); i++) {
            struct outcome outcome;
            read_bytes(&outcome, refusals[i].text, strlen(refusals[i].text));
            ck_assert_msg(outcome.status == ST_INVALID || outcome.status == ST_LIMIT, "%s",
                          refusals[i].text);
            ck_assert_msg(strstr(outcome.error.text, refusals[i].says) != NULL, "%s gave %s",
                          refusals[i].text, outcome.error.text);
            forget(&outcome);
        }
    }
END_TEST

START_TEST(files_that_cannot_be_read)
    {
        struct outcome outcome;
        read_path(&outcome, "/nowhere/kveik.yaml");
        ck_assert_int_eq(outcome.status, ST_IO);
        ck_assert_str_eq(outcome.error.text, "cannot open the configuration /nowhere/kveik.yaml: "
                                             "No such file or directory");
        read_path(&outcome, "/");
        ck_assert_int_eq(outcome.status, ST_IO);
        char *huge = heap_alloc(HUGE_BYTES);
        ck_assert_ptr_nonnull(huge);
        (void)memset(huge, '#', HUGE_BYTES);
        read_bytes(&outcome, huge, HUGE_BYTES);
        ck_assert_int_eq(outcome.status, ST_LIMIT);
        heap_free(huge);
        fault_set(FAULT_OPEN, 0, 1);
        read_path(&outcome, "/dev/null");
        ck_assert_int_eq(outcome.status, ST_IO);
        fault_clear();
        fault_set(FAULT_FILE, 0, 1);
        read_path(&outcome, "/dev/null");
        ck_assert_int_eq(outcome.status, ST_IO);
        fault_clear();
    }
END_TEST

/* Pieces of YAML thrown together: any answer will do, as long as it is one. */
START_TEST(survives_anything)
    {
        static const char *const pieces[] = {
            "threads",   ":",  " ",    "\n", "4",  "{",    "}",     "[",   "]",     "&a", "*a",
            "- ",        "?",  "---",  "\"", "'",  "|",    ">",     "#",   "%YAML", "!!", "\x01",
            "cpu-bytes", ": ", "8GiB", ",",  "\t", "\xff", "\\u00", "...", "name",  "  ", "~"};
        struct rng rng = {.state = 11};
        uint64_t rounds = check_scaled(ROUNDS);
        for (uint64_t i = 0; i < rounds; i++) {
            char text[FOREIGN_BYTES];
            size_t used = 0;
            for (;;) {
                const char *piece = pieces[rng_below(&rng, ARRAY_COUNT(pieces))];
                size_t bytes = strlen(piece);
                if (used + bytes >= sizeof text || rng_below(&rng, 24) == 0) {
                    break;
                }
                (void)snprintf(text + used, sizeof text - used, "%s", piece);
                used += bytes;
            }
            struct outcome outcome;
            read_bytes(&outcome, text, used);
            forget(&outcome);
        }
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        reads_settings,
        an_empty_file_sets_nothing,
        refuses_with_place_and_remedy,
        files_that_cannot_be_read,
        survives_anything,
    };
    return check_main("options_file", tests, ARRAY_COUNT(tests));
}
