#include <string.h>

#include <check.h>

#include "base/heap.h"
#include "tests/lib/check_main.h"
#include "tests/lib/options_fixture.h"

enum { WORDS_MAX = 8, OUTPUT_BYTES = 1 << 13 };

struct fixture {
    struct options_table table;
    struct options *options;
    struct error error;
    char *argv[WORDS_MAX];
};

/* Reads `line`, words parted by single spaces, as the command line. */
static int read_line(struct fixture *fixture, char *line)
{
    int argc = 0;
    for (char *word = strtok_r(line, " ", &line); word != NULL; word = strtok_r(NULL, " ", &line)) {
        ck_assert_int_lt(argc, WORDS_MAX - 1);
        fixture->argv[argc++] = word;
    }
    fixture->argv[argc] = NULL;
    fixture->error = (struct error){0};
    fixture->options = options_create(&fixture->table);
    ck_assert_ptr_nonnull(fixture->options);
    return options_args_read(fixture->options, argc, fixture->argv, &fixture->error);
}

static const char *taken(const struct fixture *fixture, enum option_index option)
{
    return fixture->options->slots[option].texts[OPTION_FROM_COMMAND_LINE];
}

START_TEST(takes_options)
    {
        struct fixture fixture = {.table = brewery_table};
        char line[] = "brewery --threads 8 --cpu-bytes=1GiB --verbose --threads=9";
        ck_assert_int_eq(read_line(&fixture, line), ST_OK);
        ck_assert_str_eq(taken(&fixture, AT_THREADS), "9"); /* the last one counts */
        ck_assert_str_eq(taken(&fixture, AT_CPU), "1GiB");
        ck_assert_str_eq(taken(&fixture, AT_VERBOSE), "yes");
        ck_assert_ptr_null(taken(&fixture, AT_NAME));
        options_destroy(fixture.options);
        char other[] = "brewery --verbose=no --config a.yaml --config b.yaml";
        ck_assert_int_eq(read_line(&fixture, other), ST_OK);
        ck_assert_str_eq(taken(&fixture, AT_VERBOSE), "no");
        ck_assert_str_eq(options_config_path(fixture.options), "b.yaml");
        options_destroy(fixture.options);
    }
END_TEST

struct refusal {
    const char *line;
    const char *says;
};

static const struct refusal refusals[] = {
    {"brewery --thread-count=8", "unknown option \"--thread-count=8\""},
    {"brewery --cpu_bytes 8GiB", "did you mean --cpu-bytes?"},
    {"brewery --tim", "--timeout"},
    {"brewery --frobnicate-the-wort", "brewery --help lists them"},
    {"brewery --threads", "--threads needs a value: write --threads=N"},
    {"brewery --threads 0", "--threads: 0 is too small: write at least 1"},
    {"brewery --state-dir", "--state-dir needs a value: write --state-dir=DIR"},
    {"brewery --help=all", "--help takes no value"},
    {"brewery --verbose -x", "unknown option \"-x\""},
    {"brewery -xyz", "unknown option \"-xyz\""},
    {"brewery --verbose lager", "unexpected argument \"lager\": brewery takes options only"},
    {"brewery --verbose=perhaps", "--verbose: \"perhaps\" is neither yes nor no"},
    {"brewery --log-level=loud", "--log-level: \"loud\" is not known here: write one of error"},
};

START_TEST(refuses_with_remedy)
    {
        for (size_t i = 0; i < ARRAY_COUNT(refusals); i++) {
            struct fixture fixture = {.table = brewery_table};
            char *line = heap_strdup(refusals[i].line);
            ck_assert_ptr_nonnull(line);
            int status = read_line(&fixture, line);
            ck_assert_msg(status < 0, "%s", refusals[i].line);
            ck_assert_msg(strstr(fixture.error.text, refusals[i].says) != NULL, "%s gave %s",
                          refusals[i].line, fixture.error.text);
            options_destroy(fixture.options);
            heap_free(line);
        }
    }
END_TEST

START_TEST(arguments_go_to_the_program)
    {
        struct fixture fixture = {.table = brewery_table};
        fixture.table.arguments = "BEER...";
        char line[] = "brewery pils --verbose bock -- --stout";
        ck_assert_int_eq(read_line(&fixture, line), ST_OK);
        int count = 0;
        char *const *arguments = options_arguments(fixture.options, &count);
        ck_assert_int_eq(count, 3);
        ck_assert_str_eq(arguments[0], "pils");
        ck_assert_str_eq(arguments[1], "bock");
        ck_assert_str_eq(arguments[2], "--stout");
        ck_assert_str_eq(taken(&fixture, AT_VERBOSE), "yes");
        options_destroy(fixture.options);
    }
END_TEST

START_TEST(a_subcommand_keeps_its_options)
    {
        struct fixture fixture = {.table = brewery_table};
        fixture.table.arguments = "COMMAND";
        fixture.table.stop_at_argument = true;
        char line[] = "brewery --verbose mash --unknown-here --threads=9";
        ck_assert_int_eq(read_line(&fixture, line), ST_OK);
        int count = 0;
        char *const *arguments = options_arguments(fixture.options, &count);
        ck_assert_int_eq(count, 3);
        ck_assert_str_eq(arguments[0], "mash");
        ck_assert_str_eq(arguments[1], "--unknown-here");
        ck_assert_ptr_null(taken(&fixture, AT_THREADS));
        options_destroy(fixture.options);
    }
END_TEST

/* Runs `line` with stdout in a file and returns what it printed. */
static void capture(struct fixture *fixture, char *line, char output[OUTPUT_BYTES])
{
    FILE *file = tmpfile();
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fflush(stdout), 0);
    int kept = dup(STDOUT_FILENO);
    ck_assert_int_ge(kept, 0);
    ck_assert_int_ge(dup2(fileno(file), STDOUT_FILENO), 0);
    int status = read_line(fixture, line);
    ck_assert_int_ge(dup2(kept, STDOUT_FILENO), 0);
    ck_assert_int_eq(close(kept), 0);
    ck_assert_msg(status == ST_CANCELLED, "%s", fixture->error.text);
    ssize_t bytes = pread(fileno(file), output, OUTPUT_BYTES - 1, 0);
    ck_assert_int_gt(bytes, 0);
    output[bytes] = '\0';
    ck_assert_int_eq(fclose(file), 0);
    options_destroy(fixture->options);
}

START_TEST(help_tells_all)
    {
        struct fixture fixture = {.table = brewery_table};
        char output[OUTPUT_BYTES];
        char line[] = "brewery --help --threads=nonsense";
        capture(&fixture, line, output);
        for (size_t i = 0; i < ARRAY_COUNT(brewery_specs); i++) {
            char name[OPTION_NAME_BYTES];
            ck_assert_msg(strstr(output, brewery_specs[i].name) != NULL, "%s", output);
            option_environment_name(&brewery_table, brewery_specs[i].name, name);
            ck_assert_msg(strstr(output, name) != NULL, "%s", output);
        }
        ck_assert_ptr_nonnull(strstr(output, "--state-dir=DIR"));
        ck_assert_ptr_nonnull(strstr(output, "--verbose[=yes|no]"));
        ck_assert_ptr_nonnull(strstr(output, "a quarter of the"));
        ck_assert_ptr_nonnull(strstr(output, "--config=FILE"));
        ck_assert_ptr_nonnull(strstr(output, "Brews."));
    }
END_TEST

START_TEST(version_and_usage)
    {
        struct fixture fixture = {.table = brewery_table};
        char output[OUTPUT_BYTES];
        char version[] = "brewery --version";
        capture(&fixture, version, output);
        ck_assert_str_eq(output, "brewery 1.2.3\n");
        char usage[] = "brewery --usage";
        capture(&fixture, usage, output);
        ck_assert_int_eq(strncmp(output, "Usage: brewery [", strlen("Usage: brewery [")), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        takes_options,  refuses_with_remedy, arguments_go_to_the_program,
        help_tells_all, version_and_usage,   a_subcommand_keeps_its_options,
    };
    return check_main("options_args", tests, ARRAY_COUNT(tests));
}
