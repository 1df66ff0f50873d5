/*
 * One request of a replay, driven by completions:
 *
 *   IDLE -> LOOKUP (leased) -> PULL, chunk by chunk -> PUSH, chunk by chunk -> IDLE
 *
 * The last pull releases the lease, as an engine would: what it pulled is in its own memory now.
 *
 * The order in which the daemon sees blocks used: what is let go of together counts as used from
 * its last block to its first, so that a prefix's beginning is the last to go. A hit is let go of
 * as a whole with its lease, and each chunk of the rest when its push ends. With plain_lru there is
 * no lease and a chunk is one block, so blocks are used in the prompt's order.
 *
 * A status that concerns only the request is counted, and the request goes on with what is left:
 * it is a cache. One that concerns the connection ends the engine.
 */
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "client/cli/replay.h"

static const uint8_t *key_at(const struct replay_request *slot, uint32_t block)
{
    return slot->keys + (size_t)block * KVEIK_KEY_BYTES;
}

static void count_error(struct replay_engine *engine, int status)
{
    int code = -status;
    KVEIK_ASSERT(code > 0);
    engine->numbers->errors[code < REPLAY_STATUS_MAX ? code : 0]++;
}

/* Whether the connection, not the request, is what failed. */
static bool fatal(int status)
{
    switch (status) {
    case KVEIK_E_LOST:
    case KVEIK_E_UNAVAILABLE:
    case KVEIK_E_SHUTDOWN:
    case KVEIK_E_STUCK:
    case KVEIK_E_PROTOCOL:
    case KVEIK_E_FORKED:
    case KVEIK_E_INVALID: /* ours: the replay asks for something impossible */
        return true;
    default:
        return false;
    }
}

static int make_keys(struct replay_engine *engine, struct replay_request *slot)
{
    const struct replay_plan *plan = engine->plan;
    uint32_t grains = plan->block_tokens / KVEIK_GRAIN_TOKENS;
    trace_tokens(&engine->trace, slot->request, plan->block_tokens, engine->tokens);
    uint64_t began_ns = clock_ns();
    int status =
        kveik_hasher_tokens(engine->hasher, NULL, engine->tokens,
                            (size_t)slot->blocks * plan->block_tokens, NULL, 0, engine->grain_keys);
    engine->numbers->hash_ns += clock_ns() - began_ns;
    for (uint32_t i = 0; i < slot->blocks && status == KVEIK_OK; i++) {
        size_t last = (size_t)(i + 1) * grains - 1;
        (void)memcpy(slot->keys + (size_t)i * KVEIK_KEY_BYTES,
                     engine->grain_keys + last * KVEIK_KEY_BYTES, KVEIK_KEY_BYTES);
    }
    return status;
}

int replay_request_begin(struct replay_engine *engine, struct replay_request *slot,
                         const struct trace_request *request, struct kveik_error *error)
{
    KVEIK_ASSERT(slot->step == STEP_IDLE);
    const struct replay_plan *plan = engine->plan;
    slot->request = request;
    slot->blocks = trace_blocks(&engine->trace, request, plan->block_tokens);
    KVEIK_ASSERT(slot->blocks <= plan->request_blocks_max);
    slot->hits = 0;
    slot->next = 0;
    slot->count = 0;
    slot->lease = 0;
    slot->pull_us = 0;
    slot->push_us = 0;
    int status = make_keys(engine, slot);
    if (status != KVEIK_OK) {
        return status;
    }
    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
    lookup.space = engine->space;
    lookup.keys = slot->keys;
    lookup.key_count = slot->blocks;
    lookup.key_tokens = plan->block_tokens;
    lookup.lease = !plan->plain_lru;
    lookup.deadline_ms = plan->deadline_ms;
    status = kveik_submit_lookup(engine->client, &lookup, slot, NULL, error);
    if (status == KVEIK_OK) {
        slot->step = STEP_LOOKUP;
        engine->busy++;
    }
    return status;
}

static void choose_chunk(const struct replay_plan *plan, struct replay_request *slot, uint32_t end)
{
    uint32_t left = end - slot->next;
    slot->count = left < plan->chunk_blocks ? left : plan->chunk_blocks;
}

static int submit_pull(struct replay_engine *engine, struct replay_request *slot,
                       struct kveik_error *error)
{
    const struct replay_plan *plan = engine->plan;
    choose_chunk(plan, slot, slot->hits);
    for (uint32_t i = 0; plan->verify && i < slot->count; i++) {
        replay_page_poison(plan, &engine->memory, slot->pages[i]);
    }
    struct kveik_pull_run run = {.layout = engine->memory.layout,
                                 .keys = key_at(slot, slot->next),
                                 .key_count = slot->count,
                                 .key_tokens = plan->block_tokens,
                                 .pages = slot->pages,
                                 .page_count = slot->count};
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &run;
    pull.run_count = 1;
    pull.deadline_ms = plan->deadline_ms;
    pull.lease = slot->lease;
    pull.release_lease = slot->lease != 0 && slot->next + slot->count == slot->hits;
    slot->step = STEP_PULL;
    return kveik_submit_pull(engine->client, &pull, slot, NULL, error);
}

static int submit_push(struct replay_engine *engine, struct replay_request *slot,
                       struct kveik_error *error)
{
    const struct replay_plan *plan = engine->plan;
    choose_chunk(plan, slot, slot->blocks);
    uint64_t began_ns = clock_ns();
    for (uint32_t i = 0; plan->verify && i < slot->count; i++) {
        replay_page_fill(plan, &engine->memory, slot->pages[i], key_at(slot, slot->next + i));
    }
    engine->numbers->fill_ns += clock_ns() - began_ns;
    struct kveik_push_run run = {.layout = engine->memory.layout,
                                 .block_count = slot->count,
                                 .block_tokens = plan->block_tokens,
                                 .parent_key = slot->next > 0 ? key_at(slot, slot->next - 1) : NULL,
                                 .keys = key_at(slot, slot->next),
                                 .key_count = slot->count,
                                 .pages = slot->pages,
                                 .page_count = slot->count};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    push.deadline_ms = plan->deadline_ms;
    slot->step = STEP_PUSH;
    return kveik_submit_push(engine->client, &push, slot, NULL, error);
}

static int finish(struct replay_engine *engine, struct replay_request *slot)
{
    struct replay_numbers *numbers = engine->numbers;
    numbers->requests++;
    numbers->references += slot->blocks;
    numbers->hits += slot->hits;
    if (slot->hits > 0) {
        hist_add(&numbers->pull_us, slot->pull_us);
    }
    if (slot->hits < slot->blocks) {
        hist_add(&numbers->push_us, slot->push_us);
    }
    slot->step = STEP_IDLE;
    engine->busy--;
    atomic_fetch_add(&numbers->progress, 1);
    return KVEIK_OK;
}

static int push_rest(struct replay_engine *engine, struct replay_request *slot,
                     struct kveik_error *error)
{
    return slot->next < slot->blocks ? submit_push(engine, slot, error) : finish(engine, slot);
}

static int after_lookup(struct replay_engine *engine, struct replay_request *slot,
                        const struct kveik_completion *completion, struct kveik_error *error)
{
    hist_add(&engine->numbers->lookup_us, completion->latency_us);
    if (completion->status == KVEIK_OK) {
        KVEIK_ASSERT(completion->hit_keys <= slot->blocks);
        slot->hits = completion->hit_keys;
        slot->lease = completion->lease;
    }
    return slot->hits > 0 ? submit_pull(engine, slot, error) : push_rest(engine, slot, error);
}

static int after_pull(struct replay_engine *engine, struct replay_request *slot,
                      const struct kveik_completion *completion, struct kveik_error *error)
{
    struct replay_numbers *numbers = engine->numbers;
    slot->pull_us += completion->latency_us;
    numbers->pulled_bytes += completion->bytes;
    uint64_t began_ns = clock_ns();
    for (uint32_t i = 0; i < slot->count && i < completion->status_count; i++) {
        if (completion->statuses[i] == KVEIK_OK) {
            numbers->pulled_blocks++;
        } else {
            numbers->missed_blocks++;
        }
        if (engine->plan->verify && completion->statuses[i] == KVEIK_OK) {
            uint64_t wrong = replay_page_check(engine->plan, &engine->memory, slot->pages[i],
                                               key_at(slot, slot->next + i));
            numbers->wrong_blocks += wrong > 0 ? 1 : 0;
            numbers->wrong_bytes += wrong;
        }
    }
    numbers->fill_ns += clock_ns() - began_ns;
    if (completion->status != KVEIK_OK && slot->lease != 0) {
        (void)kveik_release(engine->client, slot->lease); /* the pull may not have come that far */
    }
    slot->next += slot->count;
    return slot->next < slot->hits ? submit_pull(engine, slot, error)
                                   : push_rest(engine, slot, error);
}

static int after_push(struct replay_engine *engine, struct replay_request *slot,
                      const struct kveik_completion *completion, struct kveik_error *error)
{
    struct replay_numbers *numbers = engine->numbers;
    slot->push_us += completion->latency_us;
    numbers->pushed_bytes += completion->bytes;
    for (uint32_t i = 0; i < completion->status_count; i++) {
        int status = completion->statuses[i];
        if (status == KVEIK_OK) {
            numbers->stored_blocks++;
        } else if (status == KVEIK_HELD) {
            numbers->held_blocks++;
        } else {
            numbers->refused_blocks++;
        }
        if (status < 0 && completion->status == KVEIK_OK) {
            count_error(engine, status);
        }
    }
    slot->next += slot->count;
    return push_rest(engine, slot, error);
}

int replay_request_step(struct replay_engine *engine, struct replay_request *slot,
                        const struct kveik_completion *completion, struct kveik_error *error)
{
    if (completion->status < 0) {
        count_error(engine, completion->status);
    }
    if (fatal(completion->status)) {
        error->status = completion->status;
        (void)memcpy(error->text, completion->text, sizeof error->text);
        return completion->status;
    }
    switch (slot->step) {
    case STEP_LOOKUP:
        return after_lookup(engine, slot, completion, error);
    case STEP_PULL:
        return after_pull(engine, slot, completion, error);
    case STEP_PUSH:
        return after_push(engine, slot, completion, error);
    case STEP_IDLE:
    default:
        KVEIK_UNREACHABLE("an idle request has nothing in flight");
    }
}
