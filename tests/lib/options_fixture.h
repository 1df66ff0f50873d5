/* A table of options with one of each kind, and what the tests of base/options*.c share. */
#ifndef KVEIK_TESTS_LIB_OPTIONS_FIXTURE_H
#define KVEIK_TESTS_LIB_OPTIONS_FIXTURE_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <check.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/options_internal.h"

struct brewery {
    bool verbose;
    uint32_t threads;
    uint64_t blocks_max;
    uint64_t cpu_bytes;
    uint64_t timeout_ms;
    const char *name;
    const char *state_dir;
    uint32_t log_level;
};

enum option_index {
    AT_VERBOSE,
    AT_THREADS,
    AT_BLOCKS,
    AT_CPU,
    AT_TIMEOUT,
    AT_NAME,
    AT_DIR,
    AT_LOG
};

static const struct option_spec brewery_specs[] = {
    {.name = "verbose",
     .kind = OPTION_BOOL,
     .preset = "no",
     .help = "say more",
     .offset = offsetof(struct brewery, verbose)},
    {.name = "threads",
     .kind = OPTION_U32,
     .preset = "4",
     .min = 1,
     .max = 64,
     .help = "copy threads",
     .offset = offsetof(struct brewery, threads)},
    {.name = "blocks-max",
     .kind = OPTION_U64,
     .preset = "1000000",
     .min = 16,
     .help = "blocks in the index",
     .offset = offsetof(struct brewery, blocks_max)},
    {.name = "cpu-bytes",
     .kind = OPTION_SIZE,
     .preset = "8GiB",
     .min = UINT64_C(64) << 20,
     .max = UINT64_C(16) << 40,
     .preset_note = "a quarter of the memory",
     .help = "memory of the pool",
     .offset = offsetof(struct brewery, cpu_bytes)},
    {.name = "timeout",
     .kind = OPTION_DURATION_MS,
     .preset = "2s",
     .reloadable = true,
     .max = 3600000,
     .help = "patience with a client",
     .offset = offsetof(struct brewery, timeout_ms)},
    {.name = "name",
     .kind = OPTION_STRING,
     .preset = "",
     .reloadable = true,
     .max = 32,
     .help = "what this node is called",
     .offset = offsetof(struct brewery, name)},
    {.name = "state-dir",
     .kind = OPTION_PATH,
     .preset = "/var/lib/kveik",
     .min = 1,
     .unit = "DIR",
     .help = "where blocks are kept",
     .offset = offsetof(struct brewery, state_dir)},
    {.name = "log-level",
     .kind = OPTION_CHOICE,
     .preset = "info",
     .reloadable = true,
     .choices = log_level_names,
     .help = "how much is logged",
     .offset = offsetof(struct brewery, log_level)},
};

static const struct options_table brewery_table = {
    .program = "brewery",
    .version = "1.2.3",
    .summary = "Brews.",
    .env_prefix = "BREWERY_",
    .config_file = true,
    .specs = brewery_specs,
    .count = ARRAY_COUNT(brewery_specs),
    .settings_bytes = sizeof(struct brewery),
};

/* A file with `bytes` of `text` in it; the caller unlinks path_out. */
static inline void write_file(char path_out[32], const char *text, size_t bytes)
{
    (void)memcpy(path_out, "/tmp/kveik-check-XXXXXX", sizeof "/tmp/kveik-check-XXXXXX");
    int fd = mkstemp(path_out);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, bytes), (ssize_t)bytes);
    ck_assert_int_eq(close(fd), 0);
}

#endif
