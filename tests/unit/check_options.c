#include <stdio.h>
#include <string.h>

#include <check.h>

#include "base/fault.h"
#include "base/heap.h"
#include "tests/lib/check_main.h"
#include "tests/lib/options_fixture.h"

enum { WORDS_MAX = 8, OUTPUT_BYTES = 4096, SWEEP_MAX = 100 };

static int load(struct options *options, char *const *environment, const char *const *words,
                struct brewery *brewery, struct error *error)
{
    static char storage[WORDS_MAX][64];
    char *argv[WORDS_MAX] = {NULL};
    struct options_input input = {.argv = argv, .environment = environment};
    for (; words[input.argc] != NULL; input.argc++) {
        ck_assert_int_lt(input.argc, WORDS_MAX - 1);
        (void)snprintf(storage[input.argc], sizeof storage[0], "%s", words[input.argc]);
        argv[input.argc] = storage[input.argc];
    }
    return options_load(options, &input, brewery, error);
}

static struct options *load_words(const char *const *words, char *const *environment,
                                  struct brewery *brewery)
{
    struct error error = {0};
    struct options *options = options_create(&brewery_table);
    ck_assert_ptr_nonnull(options);
    int status = load(options, environment, words, brewery, &error);
    ck_assert_msg(status == ST_OK, "%s", error.text);
    return options;
}

START_TEST(defaults)
    {
        struct brewery brewery;
        const char *const words[] = {"brewery", NULL};
        struct options *options = load_words(words, NULL, &brewery);
        ck_assert_int_eq(brewery.verbose, 0);
        ck_assert_uint_eq(brewery.threads, 4);
        ck_assert_uint_eq(brewery.blocks_max, 1000000);
        ck_assert_uint_eq(brewery.cpu_bytes, UINT64_C(8) << 30);
        ck_assert_uint_eq(brewery.timeout_ms, 2000);
        ck_assert_str_eq(brewery.name, "");
        ck_assert_str_eq(brewery.state_dir, "/var/lib/kveik");
        ck_assert_uint_eq(brewery.log_level, LOG_LEVEL_INFO);
        ck_assert_ptr_null(options_config_path(options));
        options_destroy(options);
        options_destroy(NULL);
    }
END_TEST

/* Each option is set by one source more than the one before it; the strongest wins. */
START_TEST(precedence)
    {
        char path[32];
        const char *text = "name: from-file\nthreads: 11\ntimeout: 11s\n";
        write_file(path, text, strlen(text));
        char config[64];
        (void)snprintf(config, sizeof config, "BREWERY_CONFIG=%s", path);
        char threads[] = "BREWERY_THREADS=12";
        char timeout[] = "BREWERY_TIMEOUT=12s";
        char stranger[] = "BREWERY_THREADSX=99";
        char *environment[] = {stranger, config, threads, timeout, NULL};
        const char *const words[] = {"brewery", "--timeout=13s", NULL};
        struct brewery brewery;
        struct options *options = load_words(words, environment, &brewery);
        ck_assert_str_eq(brewery.name, "from-file");
        ck_assert_uint_eq(brewery.threads, 12);
        ck_assert_uint_eq(brewery.timeout_ms, 13000);
        ck_assert_str_eq(options_config_path(options), path);
        static const enum option_source sources[] = {
            OPTION_FROM_DEFAULT, OPTION_FROM_ENVIRONMENT,  OPTION_FROM_DEFAULT,
            OPTION_FROM_DEFAULT, OPTION_FROM_COMMAND_LINE, OPTION_FROM_FILE,
            OPTION_FROM_DEFAULT, OPTION_FROM_DEFAULT};
        ck_assert_uint_eq(options_count(options), ARRAY_COUNT(sources));
        for (uint32_t i = 0; i < options_count(options); i++) {
            struct option_view view;
            options_view(options, i, &view);
            ck_assert_int_eq(view.source, sources[i]);
        }
        options_destroy(options);
        ck_assert_int_eq(unlink(path), 0);
    }
END_TEST

START_TEST(refusals_name_their_source)
    {
        struct brewery brewery = {.threads = 77};
        char threads[] = "BREWERY_THREADS=none";
        char *environment[] = {threads, NULL};
        const char *const words[] = {"brewery", NULL};
        const char *const missing[] = {"brewery", "--config=/nowhere/b.yaml", NULL};
        struct error error = {0};
        struct options *options = options_create(&brewery_table);
        ck_assert_int_eq(load(options, environment, words, &brewery, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "variable BREWERY_THREADS: \"none\" is not a"));
        options_destroy(options);
        options = options_create(&brewery_table);
        ck_assert_int_eq(load(options, NULL, missing, &brewery, &error), ST_IO);
        ck_assert_ptr_nonnull(strstr(error.text, "/nowhere/b.yaml"));
        options_destroy(options);
        ck_assert_uint_eq(brewery.threads, 77); /* untouched by what fails */
    }
END_TEST

START_TEST(a_default_file_may_be_missing)
    {
        char path[32];
        write_file(path, "threads: 5\n", strlen("threads: 5\n"));
        struct options_table table = brewery_table;
        table.config_default = path;
        const char *const words[] = {"brewery", NULL};
        struct brewery brewery;
        struct options *options = options_create(&table);
        ck_assert_int_eq(load(options, NULL, words, &brewery, NULL), ST_OK);
        ck_assert_uint_eq(brewery.threads, 5);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(options_reload(options, &brewery, NULL, NULL, NULL), ST_OK);
        options_destroy(options);
        options = options_create(&table);
        ck_assert_int_eq(load(options, NULL, words, &brewery, NULL), ST_OK);
        ck_assert_uint_eq(brewery.threads, 4);
        options_destroy(options);
    }
END_TEST

struct heard {
    int applied;
    int refused;
    char last[64];
};

static void on_changed(void *arg, const struct option_spec *spec, const char *text, bool applied)
{
    struct heard *heard = arg;
    heard->applied += applied;
    heard->refused += !applied;
    (void)snprintf(heard->last, sizeof heard->last, "%s=%s", spec->name, text);
}

static void rewrite(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

START_TEST(reload_changes_what_it_may)
    {
        char path[32];
        char argument[48];
        struct brewery brewery;
        struct heard heard = {0};
        struct error error = {0};
        write_file(path, "", 0);
        rewrite(path, "name: a\nthreads: 5\ntimeout: 1s\n");
        (void)snprintf(argument, sizeof argument, "--config=%s", path);
        const char *const words[] = {"brewery", argument, "--log-level=warn", NULL};
        struct options *options = load_words(words, NULL, &brewery);

        rewrite(path, "name: b\nthreads: 6\ntimeout: 1s\nlog-level: debug\n");
        ck_assert_int_eq(options_reload(options, &brewery, on_changed, &heard, &error), ST_OK);
        ck_assert_str_eq(brewery.name, "b");
        ck_assert_uint_eq(brewery.threads, 5);                /* needs a restart */
        ck_assert_uint_eq(brewery.log_level, LOG_LEVEL_WARN); /* the command line is stronger */
        ck_assert_int_eq(heard.applied, 1);
        ck_assert_int_eq(heard.refused, 1);

        rewrite(path, "name: c\nthreads: 5\ntimeout: never\n");
        ck_assert_int_eq(options_reload(options, &brewery, on_changed, &heard, &error), ST_INVALID);
        ck_assert_str_eq(brewery.name, "b"); /* all or nothing */

        heard = (struct heard){0};
        rewrite(path, "threads: 5\n");
        ck_assert_int_eq(options_reload(options, &brewery, on_changed, &heard, &error), ST_OK);
        ck_assert_str_eq(brewery.name, "");
        ck_assert_uint_eq(brewery.timeout_ms, 2000);
        ck_assert_int_eq(heard.applied, 2);
        ck_assert_int_eq(heard.refused, 0);
        options_destroy(options);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

START_TEST(prints_a_file_that_it_can_read)
    {
        char output[OUTPUT_BYTES] = {0};
        char path[32];
        char argument[48];
        struct brewery brewery;
        const char *const words[] = {"brewery", "--name=\"od\td\"\n# name", "--verbose", NULL};
        struct options *options = load_words(words, NULL, &brewery);
        FILE *file = fmemopen(output, sizeof output, "w");
        ck_assert_ptr_nonnull(file);
        ck_assert_int_eq(options_print(options, file), ST_OK);
        ck_assert_int_eq(fclose(file), 0);
        options_destroy(options);
        ck_assert_ptr_nonnull(strstr(output, "verbose:    yes  # command line\n"));
        ck_assert_ptr_nonnull(strstr(output, "cpu-bytes:  8GiB  # default\n"));

        write_file(path, output, strlen(output));
        (void)snprintf(argument, sizeof argument, "--config=%s", path);
        const char *const again[] = {"brewery", argument, NULL};
        options = load_words(again, NULL, &brewery);
        ck_assert_str_eq(brewery.name, "\"od\td\"\n# name");
        ck_assert_int_eq(brewery.verbose, 1);
        FILE *full = fopen("/dev/full", "we");
        ck_assert_ptr_nonnull(full);
        ck_assert_int_eq(options_print(options, full), ST_IO);
        (void)fclose(full);
        options_destroy(options);
        ck_assert_int_eq(unlink(path), 0);
    }
END_TEST

/* Fails each allocation of a load and a reload in turn: an error each time, and nothing leaks. */
START_TEST(survives_shortage)
    {
        char path[32];
        char argument[48];
        const char *text = "name: a\ntimeout: 1s\n";
        write_file(path, text, strlen(text));
        (void)snprintf(argument, sizeof argument, "--config=%s", path);
        char threads[] = "BREWERY_THREADS=12";
        char *environment[] = {threads, NULL};
        const char *const words[] = {"brewery", argument, "--verbose", NULL};
        int round = 0;
        for (; round < SWEEP_MAX; round++) {
            struct brewery brewery;
            struct error error = {0};
            fault_set(FAULT_HEAP, round, 1);
            struct options *options = options_create(&brewery_table);
            int status = ST_NO_MEMORY;
            if (options != NULL) {
                status = load(options, environment, words, &brewery, &error);
            }
            if (status == ST_OK) {
                status = options_reload(options, &brewery, NULL, NULL, &error);
            }
            bool fired = fault_fired(FAULT_HEAP) > 0;
            fault_clear();
            options_destroy(options);
            ck_assert_int_eq(heap_outstanding(), 0);
            ck_assert_int_eq(status, fired ? ST_NO_MEMORY : ST_OK);
            if (!fired) {
                break;
            }
        }
        ck_assert_int_gt(round, 8);
        ck_assert_int_lt(round, SWEEP_MAX);
        ck_assert_int_eq(unlink(path), 0);
    }
END_TEST

START_TEST(source_names)
    {
        ck_assert_str_eq(option_source_name(OPTION_FROM_DEFAULT), "default");
        ck_assert_str_eq(option_source_name(OPTION_FROM_FILE), "file");
        ck_assert_str_eq(option_source_name(OPTION_FROM_ENVIRONMENT), "environment");
        ck_assert_str_eq(option_source_name(OPTION_FROM_COMMAND_LINE), "command line");
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        defaults,
        precedence,
        refusals_name_their_source,
        a_default_file_may_be_missing,
        reload_changes_what_it_may,
        prints_a_file_that_it_can_read,
        survives_shortage,
        source_names,
    };
    return check_main("options", tests, ARRAY_COUNT(tests));
}
