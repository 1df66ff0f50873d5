/* A kveikd of the test's own: started on a private socket, stopped or killed. */
#ifndef KVEIK_TESTS_LIB_DAEMON_H
#define KVEIK_TESTS_LIB_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct daemon {
    pid_t pid; /* 0: not running */
    char folder[64];
    char socket[96];
    char log[96];
    char disk[96]; /* a folder for a disk tier, made by nobody yet; removed at the end */
    const char *const
        *environment; /* NAME, VALUE, … for the process, NULL-terminated; NULL: none */
};

/* Makes a folder for socket and log under /tmp. */
void daemon_init(struct daemon *daemon);

/* Starts $KVEIKD (set by CMake) with these further arguments, NULL-terminated, and waits until the
 * socket answers. False when it does not within 20 s. */
bool daemon_start(struct daemon *daemon, const char *const *arguments);

/* SIGTERM and wait; the exit status, or -1 when it did not end in 20 s (then it is killed). */
int daemon_stop(struct daemon *daemon);

/* Waits for it to end by itself; false when it did not within timeout_ms. */
bool daemon_ended(struct daemon *daemon, uint32_t timeout_ms);

/* SIGKILL and wait. */
void daemon_kill(struct daemon *daemon);

/* Kills what runs and removes the folder. */
void daemon_finish(struct daemon *daemon);

/* Whether the log has this text, waiting up to timeout_ms for it. */
bool daemon_logged(const struct daemon *daemon, const char *text, uint32_t timeout_ms);

/* Open descriptors and mappings of the process. */
uint32_t daemon_descriptors(const struct daemon *daemon);
uint32_t daemon_mappings(const struct daemon *daemon);

#endif
