/*
 * A restart of the daemon in the middle of the demo: a command of the user's restarts it, and the
 * demo waits until another daemon answers at the same socket. All waits have an end. Called from
 * the demo's one thread.
 */
#ifndef KVEIK_CLI_DEMO_RESTART_H
#define KVEIK_CLI_DEMO_RESTART_H

#include <stdint.h>

#include "base/error.h"
#include "client/cli/demo.h"

/* What the demo wants to know of a daemon, out of its status. */
struct demo_look {
    char boot_id[DEMO_BOOT_ID_BYTES]; /* another text: another daemon */
    uint64_t blocks;                  /* that it holds */
    uint64_t restored_parts;          /* that it found on disk when it started */
    uint64_t disk_read_bytes;         /* since then */
    char disk_state[16];              /* "up", "degraded", "none", "off" */
};

/* Reads a status document. ST_OK or ST_INVALID with a text. */
int demo_look_parse(struct demo_look *look, const char *json, struct error *error);

/* Asks the daemon at the socket (NULL: the default). ST_OK, ST_UNAVAILABLE when none answers. */
int demo_look(struct demo_look *look, const char *socket_path, struct error *error);

/* Waits until a daemon with another boot id than `boot_id` answers. ST_OK; ST_UNAVAILABLE when none
 * answered in time, ST_INVALID when it is still the same one. */
int demo_look_await(struct demo_look *look, const char *socket_path, const char *boot_id,
                    uint32_t patience_ms, struct error *error);

/* Runs a shell command, its output on our stderr, and waits for its end; what does not end in time
 * is killed, with all that it started in its process group. ST_OK when it ended with 0, else a
 * failure in words. */
int demo_command(const char *command, uint32_t patience_ms, struct error *error);

#endif
