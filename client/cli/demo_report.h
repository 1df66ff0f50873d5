/* What the demo prints: a row a request as it finishes, then the totals; or one JSON document. */
#ifndef KVEIK_CLI_DEMO_REPORT_H
#define KVEIK_CLI_DEMO_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "client/cli/bench_stats.h"
#include "client/cli/demo.h"
#include "client/cli/demo_restart.h"

struct json_t;

/* How the requests were chosen, for people and for JSON. */
struct demo_choice {
    const char *trace; /* its name */
    uint32_t window;   /* requests of the trace that were looked at */
    uint32_t eligible; /* of these, by the rule */
    uint32_t served;   /* of these, by --requests */
    bool all;          /* the rule: every request; else those of conversations seen again */
};

/* What was served before, and what after a restart of the daemon. */
struct demo_part {
    uint32_t requests;
    uint32_t hits;
    uint64_t prompt_tokens;
    uint64_t hit_tokens;
};

struct demo_report {
    bool json;
    bool restarted;
    struct demo_choice choice;
    struct demo_part parts[2]; /* [restarted] */
    struct demo_look daemon;   /* as it was when it was back */
    double restart_seconds;
    uint64_t outlived_tokens; /* of those found after the restart: pushed before it */
    uint64_t disk_read_bytes; /* by the daemon since its restart */
    struct json_t *rows;      /* with json */
    uint32_t requests;
    uint32_t failed;
    uint32_t same;     /* logits equal bit for bit */
    uint32_t kv_same;  /* and all KV */
    uint32_t uncached; /* served although the cache could not be used */
    uint32_t hits;     /* requests that found anything */
    char uncached_why[ERROR_TEXT_BYTES];
    uint64_t prompt_tokens;
    uint64_t hit_tokens;
    uint64_t own_tokens;
    uint64_t other_tokens;
    uint64_t pushed_bytes;
    uint64_t pulled_bytes;
    uint64_t pull_ns;
    uint64_t push_ns;
    struct samples cached_ms;
    struct samples fresh_ms;
    struct samples hit_cached_ms; /* of requests that found something */
    struct samples hit_fresh_ms;
    struct samples lookup_us;
};

/* Prints the headings. */
void demo_report_begin(struct demo_report *report, const struct demo_choice *choice,
                       const struct demo_setup *setup, bool json);

/* `trace_number`: the request's line in the trace. */
void demo_report_row(struct demo_report *report, uint32_t engine, uint32_t trace_number,
                     const struct demo_result *result);

/* A request whose engine was lost. */
void demo_report_lost(struct demo_report *report, uint32_t engine, uint32_t trace_number);

/* The daemon was restarted, and is back as `daemon` says after `seconds`. What follows is counted
 * apart. */
void demo_report_restart(struct demo_report *report, const struct demo_look *daemon,
                         double seconds);

/* Prints the totals. True when every request was served with equal logits. */
bool demo_report_end(struct demo_report *report, double seconds);

void demo_report_finish(struct demo_report *report);

#endif
