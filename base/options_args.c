/*
 * The command line, through argp. argp would end the process on --help and on errors; it is told
 * not to, and both are answered here, so that a test or a tool can load options too.
 */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/options_internal.h"

enum {
    KEY_OPTIONS = 0x1000, /* + index; beyond what can be a short option */
    KEY_CONFIG = 0x800,
    KEY_USAGE,
    KEY_HELP = 'h',
    KEY_VERSION = 'V',
    OWN_OPTIONS = 5, /* config, help, usage, version, the end */
    DOC_BYTES = 1024,
};

struct args {
    struct options *options;
    struct argp_option *list; /* owned, with the texts in it */
    char *docs;               /* owned: DOC_BYTES for each of the table's options */
    struct argp argp;
    struct error *error;
    int status;
    int asked; /* KEY_HELP, KEY_USAGE, KEY_VERSION; 0: none */
};

static const char *unit_of(const struct option_spec *spec)
{
    static const char *const units[] = {
        [OPTION_BOOL] = "yes|no",
        [OPTION_U32] = "N",
        [OPTION_U64] = "N",
        [OPTION_SIZE] = "SIZE",
        [OPTION_DURATION_MS] = "TIME",
        [OPTION_STRING] = "TEXT",
        [OPTION_PATH] = "PATH",
        [OPTION_CHOICE] = "WORD",
    };
    return spec->unit != NULL ? spec->unit : units[spec->kind];
}

/* "memory of the pool (default: 8GiB; 64MiB to 16TiB; KVEIK_CPU_BYTES)" */
static void describe(const struct options_table *table, const struct option_spec *spec,
                     char doc[DOC_BYTES])
{
    char limits[OPTION_LIMITS_BYTES];
    char environment_name[OPTION_NAME_BYTES];
    option_value_limits(spec, limits);
    option_environment_name(table, spec->name, environment_name);
    const char *preset = spec->preset_note != NULL ? spec->preset_note : spec->preset;
    (void)snprintf(doc, DOC_BYTES, "%s (default: %s; %s%s%s)", spec->help,
                   *preset != '\0' ? preset : "none", limits, *limits != '\0' ? "; " : "",
                   environment_name);
}

static int build_list(struct args *args)
{
    const struct options_table *table = args->options->table;
    args->list = heap_calloc((size_t)table->count + OWN_OPTIONS, sizeof *args->list);
    args->docs = heap_calloc((size_t)table->count + 1, DOC_BYTES);
    if (args->list == NULL || args->docs == NULL) {
        return error_set(args->error, ST_NO_MEMORY, "out of memory");
    }
    struct argp_option *next = args->list;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct option_spec *spec = &table->specs[i];
        char *doc = args->docs + (size_t)i * DOC_BYTES;
        describe(table, spec, doc);
        *next++ = (struct argp_option){.name = spec->name,
                                       .key = KEY_OPTIONS + (int)i,
                                       .arg = unit_of(spec),
                                       .flags = spec->kind == OPTION_BOOL ? OPTION_ARG_OPTIONAL : 0,
                                       .doc = doc};
    }
    if (table->config_file) {
        char *doc = args->docs + (size_t)table->count * DOC_BYTES;
        char environment_name[OPTION_NAME_BYTES];
        option_environment_name(table, "config", environment_name);
        (void)snprintf(
            doc, DOC_BYTES, "read settings from FILE, NAME: VALUE lines (default: %s; %s)",
            table->config_default != NULL ? table->config_default : "none", environment_name);
        *next++ =
            (struct argp_option){.name = "config", .key = KEY_CONFIG, .arg = "FILE", .doc = doc};
    }
    *next++ = (struct argp_option){
        .name = "help", .key = KEY_HELP, .doc = "print this help", .group = -1};
    *next++ = (struct argp_option){
        .name = "usage", .key = KEY_USAGE, .doc = "print a short usage", .group = -1};
    *next = (struct argp_option){
        .name = "version", .key = KEY_VERSION, .doc = "print the version", .group = -1};
    return ST_OK;
}

static error_t fail(struct args *args, int status)
{
    args->status = status;
    return EINVAL;
}

static error_t take_option(struct args *args, uint32_t index, const char *text)
{
    const struct option_spec *spec = &args->options->table->specs[index];
    int status = option_slot_set(args->options, index, OPTION_FROM_COMMAND_LINE,
                                 text != NULL ? text : "yes", args->error);
    if (status == ST_OK) {
        return 0;
    }
    (void)error_wrap(args->error, "--%s", spec->name);
    return fail(args, status);
}

static error_t take_config(struct args *args, const char *path)
{
    char *copy = heap_strdup(path);
    if (copy == NULL) {
        return fail(args, error_set(args->error, ST_NO_MEMORY, "out of memory"));
    }
    heap_free(args->options->config_path);
    args->options->config_path = copy;
    args->options->config_needed = true;
    return 0;
}

/* The first argument: it and all that follows are the program's. */
static error_t take_arguments(struct args *args, struct argp_state *state)
{
    const struct options_table *table = args->options->table;
    if (table->arguments == NULL) {
        char shown[OPTION_SHOWN_BYTES];
        option_show(state->argv[state->next - 1], shown);
        return fail(args, error_set(args->error, ST_INVALID,
                                    "unexpected argument %s: %s takes options only", shown,
                                    table->program));
    }
    args->options->arguments = state->argv + state->next - 1;
    args->options->argument_count = state->argc - state->next + 1;
    state->next = state->argc;
    return 0;
}

/* The option that `name` stands for: by its whole name or, as argp allows, a beginning that no
 * other shares. */
static const struct argp_option *find_listed(const struct args *args, const char *name)
{
    const struct argp_option *begun = NULL;
    int begun_count = 0;
    for (const struct argp_option *option = args->list; option->name != NULL; option++) {
        if (strcmp(option->name, name) == 0) {
            return option;
        }
        if (strncmp(option->name, name, strlen(name)) == 0) {
            begun = option;
            begun_count++;
        }
    }
    return begun_count == 1 ? begun : NULL;
}

static int refuse_unknown(const struct args *args, const char *word, const char *nearest)
{
    char shown[OPTION_SHOWN_BYTES];
    option_show(word, shown);
    if (nearest != NULL) {
        return error_set(args->error, ST_INVALID, "unknown option %s; did you mean --%s?", shown,
                         nearest);
    }
    return error_set(args->error, ST_INVALID, "unknown option %s; %s --help lists them", shown,
                     args->options->table->program);
}

/* argp found an option that it cannot take and keeps to itself which: it is the word before
 * `next`, or the one at it while the letters of a word like -abc are being taken. */
static error_t explain(struct args *args, const struct argp_state *state)
{
    const char *word = state->next > 0 ? state->argv[state->next - 1] : "";
    if (word[0] != '-' && state->next < state->argc) {
        word = state->argv[state->next];
    }
    if (strncmp(word, "--", 2) != 0) {
        return fail(args, refuse_unknown(args, word, NULL));
    }
    char name[OPTION_NAME_BYTES];
    (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    const struct argp_option *listed = find_listed(args, name);
    if (listed == NULL) {
        return fail(args, refuse_unknown(args, word, option_nearest(args->options->table, name)));
    }
    if (listed->arg == NULL) {
        return fail(args, error_set(args->error, ST_INVALID, "--%s takes no value", listed->name));
    }
    return fail(args, error_set(args->error, ST_INVALID, "--%s needs a value: write --%s=%s",
                                listed->name, listed->name, listed->arg));
}

static error_t on_key(int key, char *text, struct argp_state *state)
{
    struct args *args = state->input;
    switch (key) {
    case KEY_HELP:
    case KEY_USAGE:
    case KEY_VERSION:
        args->asked = key;
        state->next = state->argc; /* nothing else matters */
        return 0;
    case KEY_CONFIG:
        return take_config(args, text);
    case ARGP_KEY_ARG:
        return take_arguments(args, state);
    case ARGP_KEY_ERROR:
        return args->status != ST_OK ? EINVAL : explain(args, state);
    default:
        if (key >= KEY_OPTIONS && key < KEY_OPTIONS + (int)args->options->table->count) {
            return take_option(args, (uint32_t)(key - KEY_OPTIONS), text);
        }
        return ARGP_ERR_UNKNOWN;
    }
}

static void answer(const struct args *args, char *program)
{
    const struct options_table *table = args->options->table;
    if (args->asked == KEY_VERSION) {
        (void)fprintf(stdout, "%s %s\n", table->program, table->version);
    } else {
        unsigned flags = args->asked == KEY_HELP ? ARGP_HELP_STD_HELP : ARGP_HELP_USAGE;
        /* argp keeps process-wide state: options are loaded before there are threads */
        /* NOLINTNEXTLINE(concurrency-mt-unsafe) */
        argp_help(&args->argp, stdout, flags, program);
    }
    (void)fflush(stdout);
}

int options_args_read(struct options *options, int argc, char **argv, struct error *error)
{
    const struct options_table *table = options->table;
    char program[OPTION_NAME_BYTES];
    struct args args = {.options = options, .error = error, .status = ST_OK};
    int status = build_list(&args);
    if (status == ST_OK) {
        args.argp = (struct argp){.options = args.list,
                                  .parser = on_key,
                                  .args_doc = table->arguments,
                                  .doc = table->summary};
        unsigned flags = ARGP_NO_HELP | ARGP_NO_EXIT | ARGP_NO_ERRS;
        flags |= table->stop_at_argument ? ARGP_IN_ORDER : 0u;
        /* NOLINTNEXTLINE(concurrency-mt-unsafe): as above */
        error_t failed = argp_parse(&args.argp, argc, argv, flags, NULL, &args);
        status = args.status;
        if (failed != 0 && status == ST_OK) {
            status = error_set(error, failed == ENOMEM ? ST_NO_MEMORY : ST_INVALID,
                               "the command line cannot be read");
        }
    }
    if (status == ST_OK && args.asked != 0) {
        (void)snprintf(program, sizeof program, "%s", table->program);
        answer(&args, program);
        status = ST_CANCELLED;
    }
    heap_free(args.list);
    heap_free(args.docs);
    return status;
}
