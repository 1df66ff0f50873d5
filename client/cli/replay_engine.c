/*
 * One engine process of a replay: `kveik replay-engine FD NUMBER`, started by `kveik replay`. It
 * takes every engine_count-th request of the trace, in_flight of them at once.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/size.h"
#include "client/cli/replay.h"

enum { WAIT_MS = 1000, GATE_MS = 2, NS_PER_US = 1000, US_PER_MS = 1000 };

static const char *const mode_names[] = {"auto", "shared", "adopted", "cross"};

static int slots_create(struct replay_engine *engine)
{
    const struct replay_plan *plan = engine->plan;
    size_t tokens = (size_t)plan->request_blocks_max * plan->block_tokens;
    engine->tokens = heap_calloc(tokens, sizeof *engine->tokens);
    engine->grain_keys = heap_calloc(tokens / KVEIK_GRAIN_TOKENS, KVEIK_KEY_BYTES);
    engine->hasher = kveik_hasher_create();
    engine->slots = heap_calloc(plan->in_flight, sizeof *engine->slots);
    bool whole = engine->tokens != NULL && engine->grain_keys != NULL && engine->hasher != NULL &&
                 engine->slots != NULL;
    for (uint32_t i = 0; whole && i < plan->in_flight; i++) {
        struct replay_request *slot = &engine->slots[i];
        slot->first_page = i * plan->chunk_blocks;
        slot->pages = heap_calloc(plan->chunk_blocks, sizeof *slot->pages);
        slot->keys = heap_calloc(plan->request_blocks_max, KVEIK_KEY_BYTES);
        whole = slot->pages != NULL && slot->keys != NULL;
        for (uint32_t p = 0; whole && p < plan->chunk_blocks; p++) {
            slot->pages[p] = slot->first_page + p;
        }
    }
    return whole ? KVEIK_OK : KVEIK_E_NO_MEMORY;
}

static int engine_create(struct replay_engine *engine, struct kveik_error *error)
{
    const struct replay_plan *plan = engine->plan;
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = plan->socket_path;
    options.client_name = "kveik replay";
    int status = kveik_connect(&options, &engine->client, error);
    if (status == KVEIK_OK) {
        status =
            replay_space_register(engine->client, plan, plan->quota_bytes, &engine->space, error);
    }
    if (status == KVEIK_OK) {
        status = replay_memory_create(engine->client, plan, engine->space,
                                      plan->in_flight * plan->chunk_blocks, &engine->memory, error);
    }
    if (status == KVEIK_OK) {
        KVEIK_ASSERT(engine->memory.mode < ARRAY_COUNT(mode_names));
        (void)snprintf(engine->numbers->mode, sizeof engine->numbers->mode, "%s",
                       mode_names[engine->memory.mode]);
        status = slots_create(engine);
    }
    return status;
}

static void engine_destroy(struct replay_engine *engine)
{
    for (uint32_t i = 0; engine->slots != NULL && i < engine->plan->in_flight; i++) {
        heap_free(engine->slots[i].pages);
        heap_free(engine->slots[i].keys);
    }
    heap_free(engine->slots);
    heap_free(engine->tokens);
    heap_free(engine->grain_keys);
    kveik_hasher_destroy(engine->hasher);
    if (engine->client != NULL) {
        replay_memory_destroy(engine->client, &engine->memory);
    }
    kveik_close(engine->client);
}

static void sleep_us(uint64_t us)
{
    struct timespec time = {.tv_sec = (time_t)(us / 1000000u),
                            .tv_nsec = (long)(us % 1000000u) * 1000};
    (void)nanosleep(&time, NULL);
}

/* ---- the clock of the trace -------------------------------------------------------------------
 */

struct pace {
    uint64_t began_ns;
    uint64_t first_us; /* of the trace */
    uint32_t speed;    /* 0: everything is due at once */
};

/* Microseconds until the request is due; 0: now. *late_out: since then. */
static uint64_t due_us(const struct pace *pace, const struct trace_request *request,
                       uint64_t *late_out)
{
    *late_out = 0;
    if (pace->speed == 0 || request->at_us <= pace->first_us) {
        return 0;
    }
    uint64_t due = (request->at_us - pace->first_us) / pace->speed;
    uint64_t now = (clock_ns() - pace->began_ns) / NS_PER_US;
    if (now < due) {
        return due - now;
    }
    *late_out = now - due;
    return 0;
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static struct replay_request *idle_slot(struct replay_engine *engine)
{
    for (uint32_t i = 0; i < engine->plan->in_flight; i++) {
        if (engine->slots[i].step == STEP_IDLE) {
            return &engine->slots[i];
        }
    }
    return NULL;
}

static int take_completion(struct replay_engine *engine, uint64_t wait_us,
                           struct kveik_error *error)
{
    uint64_t wait_ms = wait_us / US_PER_MS + 1;
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    int status = kveik_wait(engine->client, 0, (uint32_t)(wait_ms < WAIT_MS ? wait_ms : WAIT_MS),
                            &completion);
    if (status == KVEIK_PENDING) {
        return KVEIK_OK; /* the library's deadlines end every request */
    }
    if (status == KVEIK_OK) {
        status = replay_request_step(engine, completion.user, &completion, error);
    }
    kveik_completion_finish(&completion);
    return status;
}

static int engine_run(struct replay_engine *engine, uint32_t number, struct kveik_error *error)
{
    const struct trace *trace = &engine->trace;
    struct pace pace = {
        .began_ns = clock_ns(), .first_us = trace->requests[0].at_us, .speed = engine->plan->speed};
    uint32_t next = number;
    int status = KVEIK_OK;
    while (status == KVEIK_OK && (next < trace->request_count || engine->busy > 0)) {
        struct replay_request *slot = next < trace->request_count ? idle_slot(engine) : NULL;
        uint64_t late_us = 0;
        uint64_t wait_us =
            slot != NULL ? due_us(&pace, &trace->requests[next], &late_us) : UINT32_MAX;
        if (slot != NULL && wait_us == 0) {
            struct replay_numbers *numbers = engine->numbers;
            numbers->late_us_max = late_us > numbers->late_us_max ? late_us : numbers->late_us_max;
            status = replay_request_begin(engine, slot, &trace->requests[next], error);
            next += engine->plan->engine_count;
        } else if (engine->busy > 0) {
            status = take_completion(engine, wait_us, error);
        } else {
            sleep_us(wait_us);
        }
    }
    return status;
}

static int engine_main(struct replay_shared *shared, uint32_t number)
{
    struct replay_engine engine = {.plan = &shared->plan, .numbers = &shared->numbers[number]};
    replay_shared_trace(shared, &engine.trace);
    struct kveik_error error = {0};
    int status = engine_create(&engine, &error);
    if (status == KVEIK_OK) {
        atomic_store(&engine.numbers->state, REPLAY_READY);
        while (atomic_load(&shared->go) == 0) {
            sleep_us((uint64_t)GATE_MS * US_PER_MS);
        }
        status = engine_run(&engine, number, &error);
    }
    if (status != KVEIK_OK) {
        const char *text = error.text[0] != '\0' ? error.text : kveik_status_text(status);
        (void)snprintf(engine.numbers->text, sizeof engine.numbers->text, "%s", text);
    }
    engine.numbers->ended_ns = clock_ns();
    atomic_store(&engine.numbers->state, status == KVEIK_OK ? REPLAY_DONE : REPLAY_FAILED);
    engine_destroy(&engine);
    return status == KVEIK_OK ? CLI_GOOD : CLI_FAILED;
}

int command_replay_engine(struct cli *cli, int argc, char **argv)
{
    (void)cli;
    uint64_t fd = 0;
    uint64_t number = 0;
    struct replay_shared *shared = NULL;
    /* an engine without its replay has nobody to report to */
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (argc != 3 || number_parse(argv[1], &fd, NULL) != ST_OK ||
        number_parse(argv[2], &number, NULL) != ST_OK || fd > INT32_MAX ||
        replay_shared_open((int)fd, &shared) != ST_OK) {
        return cli_fail(CLI_USAGE, "replay-engine is a part of `kveik replay'; use that");
    }
    int code = CLI_USAGE;
    if (number < shared->plan.engine_count) {
        code = engine_main(shared, (uint32_t)number);
    }
    replay_shared_close(shared);
    return code;
}
