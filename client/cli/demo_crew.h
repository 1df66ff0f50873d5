/*
 * The demo's engine processes as the parent sees them: started, given one request at a time,
 * listened to, ended. A process that dies or does not answer in time is noticed; nothing hangs.
 */
#ifndef KVEIK_CLI_DEMO_CREW_H
#define KVEIK_CLI_DEMO_CREW_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/cli/demo.h"

enum { DEMO_NO_JOB = INT32_MAX };

struct demo_worker {
    pid_t pid;    /* 0: none */
    int socket;   /* -1: gone */
    uint32_t job; /* its index, or DEMO_NO_JOB */
    uint64_t deadline_ms;
};

struct demo_crew {
    struct demo_worker workers[DEMO_ENGINES];
};

/* "engine-A", "engine-B" */
const char *demo_engine_name(uint32_t engine);

/* Starts both and waits until they are up. ST_OK or a failure in words; finished by the caller in
 * any case. */
int demo_crew_start(struct demo_crew *crew, const struct demo_setup *setup, struct error *error);

/* Hands a job to an idle engine that is alive. ST_OK or ST_LOST. */
int demo_crew_give(struct demo_crew *crew, uint32_t engine, const struct demo_job *job);

bool demo_crew_alive(const struct demo_crew *crew, uint32_t engine);

/* Waits for one answer of any busy engine. ST_OK: result_out is engine_out's; ST_LOST: engine_out
 * died or did not answer in time and was ended; result_out has the job's index; ST_PENDING: nobody
 * is busy. */
int demo_crew_wait(struct demo_crew *crew, uint32_t *engine_out, struct demo_result *result_out);

/* Ends the processes and reaps them. Accepts a zeroed crew. */
void demo_crew_finish(struct demo_crew *crew);

#endif
