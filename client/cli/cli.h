/*
 * The frame of `kveik`: what every command gets and gives back.
 *
 * A command is one function in a file of its own, listed in main.c. It gets what was said before
 * its name (struct cli) and its own argv (argv[0] is its name), reads its options with cli_load(),
 * prints its result to stdout, all else to stderr, and returns an exit code.
 */
#ifndef KVEIK_CLI_H
#define KVEIK_CLI_H

#include <kveik/kveik.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/options.h"

/* Exit codes of every command; the help texts and the manual say the same. */
enum cli_exit {
    CLI_GOOD = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_UNREACHABLE = 3, /* no daemon answers */
};

/* What cli_load() returns when the command shall go on. */
enum { CLI_GO_ON = -1 };

struct cli {
    const char *socket_path; /* NULL: the default of kveik_connect() */
    bool json;               /* one JSON document on stdout instead of tables */
};

struct command {
    const char *name;
    const char *summary; /* one line, for `kveik --help`; NULL: not listed there */
    int (*run)(struct cli *cli, int argc, char **argv);
};

int command_status(struct cli *cli, int argc, char **argv);
int command_doctor(struct cli *cli, int argc, char **argv);
int command_replay(struct cli *cli, int argc, char **argv);
int command_replay_engine(struct cli *cli, int argc, char **argv); /* one process of a replay */
int command_demo(struct cli *cli, int argc, char **argv);          /* demo*.c */
int command_bench(struct cli *cli, int argc, char **argv);         /* bench*.c */

/* ---- options ----------------------------------------------------------------------------------
 */

/* The options that every command takes, so that they may stand before or behind its name. The
 * settings struct of a command begins with it: `struct cli_common common;`, and its table with
 * CLI_COMMON_SPECS. */
struct cli_common {
    const char *socket_path;
    bool json;
};

// clang-format off
#define CLI_COMMON_SPECS                                                                           \
    {.name = "socket", .kind = OPTION_PATH, .preset = "", .max = 107,                              \
     .offset = offsetof(struct cli_common, socket_path),                                           \
     .preset_note = "kveik/engine.sock under $XDG_RUNTIME_DIR or /run; /tmp/kveik-UID for users",  \
     .help = "the daemon's Unix socket"},                                                          \
    {.name = "json", .kind = OPTION_BOOL, .preset = "no",                                          \
     .offset = offsetof(struct cli_common, json),                                                  \
     .help = "print one JSON document instead of tables"}
// clang-format on

/* The environment prefix of every command's table: the common options have one name each there. */
#define CLI_ENV_PREFIX "KVEIK_"

/* What every help text says behind its options (argp prints what follows \v there). */
#define CLI_EXIT_HELP "Exit codes: 0 good, 1 failed, 2 wrong usage, 3 the daemon is not reachable."

/* Reads a command's options into `settings` and merges the common ones into `cli`. CLI_GO_ON, or
 * the exit code to return at once, with everything said. The caller destroys *options_out when it
 * does not need the settings' texts any more; it is NULL unless CLI_GO_ON. */
int cli_load(struct cli *cli, const struct options_table *table, int argc, char **argv,
             void *settings, struct options **options_out);

/* ---- the daemon -------------------------------------------------------------------------------
 */

/* Connects, with the defaults of libkveik. CLI_GOOD, or CLI_UNREACHABLE or CLI_FAILED after a
 * message on stderr that says what to do (with --json also a document on stdout). */
int cli_connect(const struct cli *cli, const char *client_name, kveik_client **client_out);

/* The path that cli_connect() uses, for messages. */
const char *cli_socket_path(const struct cli *cli, char *out, size_t out_bytes);

/* ---- messages ---------------------------------------------------------------------------------
 */

/* "kveik: ..." on stderr; returns `code`, so that `return cli_fail(...)` reads well. */
int cli_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The most similar of `count` names, or NULL when none is close. */
const char *cli_nearest(const char *const *names, size_t count, const char *name);

/* One line on stderr that overwrites itself; nothing when stderr is no terminal. NULL erases it. */
void cli_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
