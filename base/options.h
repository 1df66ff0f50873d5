/*
 * Settings as one table. A program declares each setting once; from the table come its command
 * line, its environment names, its configuration file, the checks and the help.
 *
 *   command line   --cpu-bytes 8GiB           strongest
 *   environment    KVEIK_CPU_BYTES=8GiB
 *   file           cpu-bytes: 8GiB            a flat YAML mapping
 *   default        the table's text           weakest
 *
 * A value is refused with its place, what is wrong and what would be right. Nothing here ends the
 * process. Options are loaded before there are threads (argp), and belong to one thread.
 */
#ifndef KVEIK_BASE_OPTIONS_H
#define KVEIK_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* The comment is the type of the field in the settings struct. */
enum option_kind {
    OPTION_BOOL,        /* bool; --name, --name=no */
    OPTION_U32,         /* uint32_t */
    OPTION_U64,         /* uint64_t */
    OPTION_SIZE,        /* uint64_t, bytes */
    OPTION_DURATION_MS, /* uint64_t, milliseconds */
    OPTION_STRING,      /* const char *, owned by the options; never NULL */
    OPTION_PATH,        /* const char *, as OPTION_STRING */
    OPTION_CHOICE,      /* uint32_t, the index in `choices` */
};

enum option_source {
    OPTION_FROM_DEFAULT,
    OPTION_FROM_FILE,
    OPTION_FROM_ENVIRONMENT,
    OPTION_FROM_COMMAND_LINE,
    OPTION_SOURCE_COUNT
};

struct option_spec {
    const char *name; /* "cpu-bytes": lower case, digits and dashes */
    enum option_kind kind;
    bool reloadable;            /* options_reload() may change it */
    const char *preset;         /* the default, as one would write it */
    const char *preset_note;    /* what the help says instead of `preset`; NULL: `preset` */
    uint64_t min;               /* numbers, sizes, durations: limits, both included */
    uint64_t max;               /* 0: as large as the field holds; texts: bytes */
    const char *const *choices; /* OPTION_CHOICE: the words, NULL-terminated */
    const char *unit;           /* the help's word for the value; NULL: by kind */
    const char *help;           /* one sentence, no full stop */
    size_t offset;              /* offsetof() the field in the settings struct */
};

struct options_table {
    const char *program; /* "kveikd" */
    const char *version;
    const char *summary;        /* what the program does, for --help */
    const char *arguments;      /* "COMMAND [ARGUMENT...]"; NULL: takes no arguments */
    const char *env_prefix;     /* "KVEIK_" */
    bool config_file;           /* adds --config FILE and <prefix>CONFIG */
    const char *config_default; /* read without being asked for, when it exists; NULL: none */
    bool stop_at_argument;      /* what follows the first argument belongs to a subcommand */
    const struct option_spec *specs;
    uint32_t count;
    size_t settings_bytes; /* sizeof the settings struct: offsets are checked against it */
};

struct options_input {
    int argc;
    char **argv;              /* may be reordered; must live as long as the options */
    char *const *environment; /* environ, or NULL */
};

/* One setting as it stands; pointers are good until the next load, reload or destroy. */
struct option_view {
    const struct option_spec *spec;
    const char *text; /* the effective value, as one would write it */
    enum option_source source;
};

struct options;

/* The table must outlive the options. NULL when memory is short. */
struct options *options_create(const struct options_table *table);

/* Accepts NULL. Frees the strings that the settings point to. */
void options_destroy(struct options *options);

/* Reads all sources and fills `settings`, only on success. --help, --usage and --version print to
 * stdout and give ST_CANCELLED: the program should end, well. Other failures: ST_INVALID,
 * ST_LIMIT, ST_IO, ST_NO_MEMORY, with the text in `error`. Called once. */
int options_load(struct options *options, const struct options_input *input, void *settings,
                 struct error *error);

/* Told of every setting that the file now gives otherwise; `applied` is false for those that need
 * a restart. Texts are good during the call. */
typedef void (*options_changed_fn)(void *arg, const struct option_spec *spec, const char *text,
                                   bool applied);

/* Reads the file again and changes the reloadable fields of `settings`; on an error nothing has
 * changed. `changed` may be NULL. Pointers to changed strings in earlier copies of the settings
 * are stale after it. */
int options_reload(struct options *options, void *settings, options_changed_fn changed, void *arg,
                   struct error *error);

/* What is left of the command line; *count_out of them. */
char *const *options_arguments(const struct options *options, int *count_out);

/* The file that was read; NULL for none. */
const char *options_config_path(const struct options *options);

uint32_t options_count(const struct options *options);
void options_view(const struct options *options, uint32_t index, struct option_view *view_out);

/* "default", "file", "environment", "command line". */
const char *option_source_name(enum option_source source);

/* Writes the effective settings with the source of each, as a file that --config reads. ST_OK or
 * ST_IO. */
int options_print(const struct options *options, FILE *out);

#endif
