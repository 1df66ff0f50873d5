/*
 * kveik doctor, the parts:
 *
 *   doctor.c          options, the order of the checks, the findings
 *   doctor_system.c   this machine and process: clock, processor, limits, pidfd, other processes
 *   doctor_memory.c   huge pages, sealed memory, memory limits
 *   doctor_daemon.c   the socket, the daemon, and bytes sent there and back
 *   doctor_disk.c     the disk tier, and the CPU tier's file
 *
 * A check finds out by trying, not by reading version numbers; each says what it found and, when
 * that is not well, what would make it so.
 */
#ifndef KVEIK_CLI_DOCTOR_H
#define KVEIK_CLI_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/cli/cli.h"

enum doctor_result {
    DOCTOR_OK,
    DOCTOR_NOTE,    /* fine, but good to know */
    DOCTOR_WARNING, /* works, slower or with less */
    DOCTOR_PROBLEM, /* does not work */
    DOCTOR_SKIPPED,
    DOCTOR_RESULT_COUNT
};

enum { DOCTOR_TEXT_BYTES = 512 };

struct doctor {
    struct cli *cli;
    json_t *findings; /* NULL when memory was short */
    uint32_t counts[DOCTOR_RESULT_COUNT];
    bool unreachable; /* no daemon answers */
};

/* Notes a finding; `advice` may be NULL. */
void doctor_say(struct doctor *doctor, enum doctor_result result, const char *check,
                const char *advice, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The first line of a file, without its end; false when it cannot be read. */
bool doctor_read_line(const char *path, char *out, size_t out_bytes);

/* The number behind `name` and blanks at the beginning of a line; false when there is none. */
bool doctor_number(const char *line, const char *name, uint64_t *number_out);

void doctor_check_system(struct doctor *doctor);
void doctor_check_memory(struct doctor *doctor);
void doctor_check_daemon(struct doctor *doctor);

/* By the daemon's status; NULL when no daemon answers. */
void doctor_check_disk(struct doctor *doctor, const json_t *status);

/* The value of `name` in the comma-separated options of a mount; empty when it is not among them.
 */
void doctor_mount_option(const char *options, const char *name, char *out, size_t out_bytes);

#endif
