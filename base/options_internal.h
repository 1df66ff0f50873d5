/* Shared by the files options*.c only. */
#ifndef KVEIK_BASE_OPTIONS_INTERNAL_H
#define KVEIK_BASE_OPTIONS_INTERNAL_H

#include "base/options.h"

#define OPTIONS_MAGIC 0x4b4f5054u

enum {
    OPTION_NAME_BYTES = 64,    /* a name in any spelling, with its NUL */
    OPTION_LIMITS_BYTES = 256, /* what is allowed, in words */
    OPTION_TEXT_BYTES_MAX = 4096,
    OPTION_SHOWN_BYTES = 64, /* of a foreign text in an error */
};

/* What the sources say about one option; NULL where a source says nothing. */
struct option_slot {
    char *texts[OPTION_SOURCE_COUNT]; /* owned; that of the default stays NULL */
};

struct options {
    uint32_t magic;
    const struct options_table *table;
    struct option_slot *slots; /* table->count */
    char *config_path;         /* owned; NULL: no file */
    bool config_needed;        /* asked for, so it must exist */
    char **arguments;          /* in the program's argv */
    int argument_count;
};

/* ---- options_value.c: one value, between text and field ---- */

struct option_value {
    uint64_t number;
    const char *text;
};

/* The error says what is wrong and what would be right, without the option's name. */
int option_value_parse(const struct option_spec *spec, const char *text,
                       struct option_value *value_out, struct error *error);

void option_value_store(const struct option_spec *spec, const struct option_value *value,
                        void *settings);

/* The limits in words: "64MiB to 16TiB", "one of human, json"; empty when there are none. */
void option_value_limits(const struct option_spec *spec, char out[OPTION_LIMITS_BYTES]);

size_t option_value_bytes(enum option_kind kind);

/* ---- options_names.c: one name, in all its spellings ---- */

/* The index of the option, or -1. */
int option_find(const struct options_table *table, const char *name);

/* The most similar name, or NULL when none is close. */
const char *option_nearest(const struct options_table *table, const char *name);

/* KVEIK_CPU_BYTES */
void option_environment_name(const struct options_table *table, const char *name,
                             char out[OPTION_NAME_BYTES]);

/* "foreign text", as one harmless short line. */
void option_show(const char *text, char out[OPTION_SHOWN_BYTES]);

/* ---- options_file.c, options_args.c: the sources ---- */

/* Reads the file into texts[table->count], which is all NULL; the caller frees them, on failure
 * too. */
int options_file_read(const struct options *options, const char *path, char **texts,
                      struct error *error);

/* Reads the command line into the slots, config_path and arguments. */
int options_args_read(struct options *options, int argc, char **argv, struct error *error);

/* Checks `text` and keeps a copy of it for `source`. */
int option_slot_set(struct options *options, uint32_t index, enum option_source source,
                    const char *text, struct error *error);

#endif
