/*
 * What a benchmark found: measurements by name, each with all its samples, and what is wanted of
 * some of them. Printed as a table, or as one JSON document.
 */
#ifndef KVEIK_CLI_BENCH_REPORT_H
#define KVEIK_CLI_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "client/cli/bench_stats.h"

struct json_t;

enum { BENCH_NAME_BYTES = 64, BENCH_METRICS_MAX = 192 };

enum bench_wanted { BENCH_NOTHING, BENCH_AT_LEAST, BENCH_AT_MOST };

struct bench_metric {
    char name[BENCH_NAME_BYTES]; /* the JSON field */
    const char *unit;
    struct samples samples;
    enum bench_wanted wanted;
    double bound;
};

struct bench_report {
    struct bench_metric metrics[BENCH_METRICS_MAX];
    uint32_t count;
    struct json_t *facts; /* about the machine and the run; owned */
};

/* What is wanted of a median. */
struct bench_want {
    enum bench_wanted wanted;
    double bound;
};

/* The metric of that name, made when it is new. `unit` is a constant text. */
struct bench_metric *bench_metric(struct bench_report *report, const char *unit, const char *format,
                                  ...) __attribute__((format(printf, 3, 4)));

void bench_want(struct bench_metric *metric, enum bench_wanted wanted, double bound);

/* The metric's median, 0 when there is no such metric. */
double bench_median(struct bench_report *report, const char *name);

/* True when nothing that is wanted is missed. */
bool bench_met(struct bench_report *report);

void bench_report_print(struct bench_report *report, bool json);
void bench_report_finish(struct bench_report *report);

/* ---- the machine ------------------------------------------------------------------------------
 */

/* Bytes of the largest cache that sysfs shows for processor 0; 32 MiB when it shows none. */
uint64_t bench_last_cache_bytes(void);

/* Processor, cores, caches, memory, kernel, huge pages. A new reference. */
struct json_t *bench_machine_facts(void);

#endif
