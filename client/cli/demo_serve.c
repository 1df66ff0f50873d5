/*
 * One request in an engine: hash the prompt, look it up, pull what is held, compute the rest, push
 * what was computed. Beside it the same prompt is prefilled in fresh pages, timed, and compared.
 *
 * Whatever the cache answers, the request is served: a daemon that is gone is a miss, and the
 * result says why. Only the model itself can fail a request.
 */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/cli/demo_engine.h"

enum {
    REQUEST_DEADLINE_MS = 5000,
    RECONNECT_MS = 5000,
    RECONNECT_STEP_MS = 10,
    POISON = 0xff, /* bf16 0xffff: not a number */
};

/* Makes leftovers of earlier prompts useless: what is not written again ends as NaN. */
static void poison_pages(struct demo_engine *engine, const uint32_t *pages)
{
    for (uint32_t i = 0; i < engine->sizes->layers * 2; i++) {
        struct refmodel_plane plane;
        int status = refmodel_plane(engine->model, i / 2, (enum refmodel_kind)(i % 2), &plane);
        KVEIK_ASSERT(status == ST_OK);
        for (uint32_t page = 0; page < engine->pages; page++) {
            memset((char *)engine->kv + plane.offset + pages[page] * plane.page_stride, POISON,
                   plane.page_stride);
        }
    }
}

static bool kv_same(const struct demo_engine *engine, uint32_t token_count)
{
    for (uint32_t i = 0; i < engine->sizes->layers * 2; i++) {
        struct refmodel_plane plane;
        int status = refmodel_plane(engine->model, i / 2, (enum refmodel_kind)(i % 2), &plane);
        KVEIK_ASSERT(status == ST_OK);
        for (uint32_t first = 0; first < token_count; first += DEMO_PAGE_TOKENS) {
            uint32_t tokens = token_count - first;
            tokens = tokens > DEMO_PAGE_TOKENS ? DEMO_PAGE_TOKENS : tokens;
            const char *base = (const char *)engine->kv + plane.offset;
            uint32_t page = first / DEMO_PAGE_TOKENS;
            if (memcmp(base + engine->served_pages[page] * plane.page_stride,
                       base + engine->fresh_pages[page] * plane.page_stride,
                       tokens * plane.token_stride) != 0) {
                return false;
            }
        }
    }
    return true;
}

/* ---- the cache ------------------------------------------------------------------------------- */

/* The first trouble is the one to tell. */
static void note(struct demo_result *result, int status, const char *step, const char *text)
{
    if (result->cache_status == ST_OK) {
        result->cache_status = status;
        (void)snprintf(result->text, sizeof result->text, "%s: %.240s", step,
                       text[0] != '\0' ? text : kveik_status_text(status));
    }
}

static void count_origins(const struct demo_engine *engine, const struct kveik_completion *found,
                          struct demo_result *result)
{
    for (uint32_t i = 0; i < found->origin_count; i++) {
        uint32_t tokens = found->origins[i].keys * KVEIK_GRAIN_TOKENS;
        if (strcmp(found->origins[i].instance, engine->setup.instance) == 0) {
            result->own_tokens += tokens;
        } else {
            result->other_tokens += tokens;
        }
    }
}

/* Returns the lease, 0 for none. */
static uint64_t look_up(struct demo_engine *engine, const struct demo_job *job,
                        struct demo_result *result)
{
    struct kveik_lookup lookup = KVEIK_LOOKUP_INIT;
    lookup.space = engine->space;
    lookup.keys = engine->keys;
    lookup.key_count = job->token_count / KVEIK_GRAIN_TOKENS;
    lookup.step_tokens = DEMO_PAGE_TOKENS;
    lookup.lease = true;
    lookup.origins = true;
    lookup.deadline_ms = REQUEST_DEADLINE_MS;
    struct kveik_completion found = KVEIK_COMPLETION_INIT;
    uint64_t began_ns = clock_ns();
    int status = lookup.key_count > 0 ? kveik_lookup(engine->client, &lookup, &found) : KVEIK_OK;
    result->lookup_ns = clock_ns() - began_ns;
    uint64_t lease = 0;
    if (status < 0) {
        note(result, status, "lookup", found.text);
    } else {
        result->hit_tokens = found.hit_tokens;
        count_origins(engine, &found, result);
        lease = found.lease;
    }
    kveik_completion_finish(&found);
    return lease;
}

/* Returns the tokens whose KV is in the served pages. */
static uint32_t pull(struct demo_engine *engine, struct demo_result *result, uint64_t lease)
{
    uint32_t keys = result->hit_tokens / KVEIK_GRAIN_TOKENS;
    struct kveik_pull_run run = {.layout = engine->layout,
                                 .keys = engine->keys,
                                 .key_count = keys,
                                 .pages = engine->served_pages,
                                 .page_count = result->hit_tokens / DEMO_PAGE_TOKENS};
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &run;
    pull.run_count = 1;
    pull.deadline_ms = REQUEST_DEADLINE_MS;
    pull.lease = lease;
    pull.release_lease = lease != 0;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    uint64_t began_ns = clock_ns();
    int status = kveik_pull(engine->client, &pull, &done);
    result->pull_ns = clock_ns() - began_ns;
    uint32_t good = 0;
    if (status < 0) {
        note(result, status, "pull", done.text);
    } else {
        while (good < done.status_count && done.statuses[good] == KVEIK_OK) {
            good++;
        }
        result->pulled_bytes = done.bytes;
    }
    kveik_completion_finish(&done);
    return good * KVEIK_GRAIN_TOKENS;
}

/* Pushes the whole blocks that were computed; the unfinished tail of a prompt is not kept. */
static void push(struct demo_engine *engine, const struct demo_job *job, struct demo_result *result)
{
    enum { BLOCK_GRAINS = DEMO_BLOCK_TOKENS / KVEIK_GRAIN_TOKENS };
    uint32_t first = result->used_tokens / DEMO_BLOCK_TOKENS;
    uint32_t blocks = job->token_count / DEMO_BLOCK_TOKENS - first;
    if (blocks == 0) {
        return;
    }
    const uint8_t *keys = engine->keys + (size_t)first * BLOCK_GRAINS * KVEIK_KEY_BYTES;
    struct kveik_push_run run = {.layout = engine->layout,
                                 .block_count = blocks,
                                 .block_tokens = DEMO_BLOCK_TOKENS,
                                 .parent_key = first > 0 ? keys - KVEIK_KEY_BYTES : NULL,
                                 .keys = keys,
                                 .key_count = blocks * BLOCK_GRAINS,
                                 .tokens = job->tokens + (size_t)first * DEMO_BLOCK_TOKENS,
                                 .pages = engine->served_pages +
                                          (size_t)first * (DEMO_BLOCK_TOKENS / DEMO_PAGE_TOKENS),
                                 .page_count = blocks * (DEMO_BLOCK_TOKENS / DEMO_PAGE_TOKENS)};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    push.deadline_ms = REQUEST_DEADLINE_MS;
    struct kveik_completion done = KVEIK_COMPLETION_INIT;
    uint64_t began_ns = clock_ns();
    int status = kveik_push(engine->client, &push, &done);
    result->push_ns = clock_ns() - began_ns;
    if (status < 0) {
        note(result, status, "push", done.text);
    } else {
        result->pushed_bytes = done.bytes;
    }
    kveik_completion_finish(&done);
}

/* After a restart of the daemon: the library finds it again by itself, and here that is waited for
 * outside of what is measured. Without success the request is served all the same. */
static void await_daemon(struct demo_engine *engine, const char *boot_id)
{
    uint64_t give_up_ms = clock_ms() + RECONNECT_MS;
    while (clock_ms() < give_up_ms) {
        struct kveik_info info = KVEIK_INFO_INIT;
        char text[DEMO_BOOT_ID_BYTES] = "";
        int status = kveik_info(engine->client, &info);
        for (uint32_t i = 0; i < sizeof info.boot_id; i++) {
            (void)snprintf(text + (size_t)2 * i, 3, "%02x", info.boot_id[i]);
        }
        if (status != KVEIK_OK || (info.connected && strcmp(text, boot_id) == 0)) {
            return;
        }
        (void)poll(NULL, 0, RECONNECT_STEP_MS);
    }
}

/* ---- the two ways to the first token --------------------------------------------------------- */

static int prefill(struct demo_engine *engine, const struct demo_job *job, uint32_t first,
                   const uint32_t *pages, float *logits, struct error *error)
{
    struct refmodel_batch batch = {.tokens = job->tokens + first,
                                   .token_count = job->token_count - first,
                                   .first_position = first,
                                   .page_table = pages,
                                   .page_table_count = engine->pages};
    return refmodel_prefill(engine->model, &batch, logits, error);
}

static int serve_cached(struct demo_engine *engine, const struct demo_job *job,
                        struct demo_result *result, struct error *error)
{
    poison_pages(engine, engine->served_pages);
    uint64_t began_ns = clock_ns();
    int status = kveik_hash_tokens(NULL, job->tokens, job->token_count, NULL, 0, engine->keys);
    if (status != KVEIK_OK) {
        return error_set(error, status, "hash the prompt");
    }
    uint64_t lease = look_up(engine, job, result);
    uint32_t have = result->hit_tokens > 0 ? pull(engine, result, lease) : 0;
    result->used_tokens = have;
    /* the last token's logits are not in the cache: it is always computed */
    uint32_t first = have < job->token_count ? have : job->token_count - 1;
    status = prefill(engine, job, first, engine->served_pages, engine->cached_logits, error);
    result->cached_ns = clock_ns() - began_ns;
    return status;
}

static int serve_fresh(struct demo_engine *engine, const struct demo_job *job,
                       struct demo_result *result, struct error *error)
{
    poison_pages(engine, engine->fresh_pages);
    uint64_t began_ns = clock_ns();
    int status = prefill(engine, job, 0, engine->fresh_pages, engine->fresh_logits, error);
    result->fresh_ns = clock_ns() - began_ns;
    return status;
}

void demo_engine_serve(struct demo_engine *engine, const struct demo_job *job,
                       struct demo_result *result)
{
    KVEIK_ASSERT(job->token_count > 0 && job->token_count <= engine->setup.tokens_max);
    *result = (struct demo_result){.index = job->index, .prompt_tokens = job->token_count};
    struct error error = {0};
    int status = ST_OK;
    if (job->boot_id[0] != '\0') {
        await_daemon(engine, job->boot_id);
    }
    if (job->fresh_first) {
        status = serve_fresh(engine, job, result, &error);
    }
    if (status == ST_OK) {
        status = serve_cached(engine, job, result, &error);
    }
    if (status == ST_OK) {
        push(engine, job, result);
    }
    if (status == ST_OK && !job->fresh_first) {
        status = serve_fresh(engine, job, result, &error);
    }
    if (status != ST_OK) {
        result->status = status;
        (void)snprintf(result->text, sizeof result->text, "%s", error.text);
        return;
    }
    result->logits_same = memcmp(engine->cached_logits, engine->fresh_logits,
                                 engine->sizes->vocabulary * sizeof(float)) == 0;
    result->kv_same = kv_same(engine, job->token_count);
}

/* ---- the process ------------------------------------------------------------------------------
 */

/* True when a whole message of exactly `bytes` (at least `bytes_min`) came. */
static bool receive(void *message, size_t bytes_min, size_t bytes)
{
    ssize_t got = 0;
    do {
        got = recv(DEMO_ENGINE_FD, message, bytes, 0);
    } while (got < 0 && errno == EINTR);
    return got >= 0 && (size_t)got >= bytes_min;
}

static bool answer(const struct demo_result *result)
{
    return send(DEMO_ENGINE_FD, result, sizeof *result, MSG_NOSIGNAL) == (ssize_t)sizeof *result;
}

int demo_engine_main(void)
{
    struct demo_setup setup;
    struct demo_engine engine = {0};
    struct demo_job *job = heap_calloc(1, sizeof *job);
    if (job == NULL || !receive(&setup, sizeof setup, sizeof setup)) {
        heap_free(job);
        return 1;
    }
    struct error error = {0};
    struct demo_result ready = {.index = DEMO_READY};
    ready.status = demo_engine_init(&engine, &setup, &error);
    (void)snprintf(ready.text, sizeof ready.text, "%s", error.text);
    bool going = answer(&ready) && ready.status == ST_OK;
    while (going && receive(job, offsetof(struct demo_job, tokens), sizeof *job)) {
        struct demo_result result;
        demo_engine_serve(&engine, job, &result);
        going = answer(&result);
    }
    demo_engine_finish(&engine);
    heap_free(job);
    return going ? 0 : 1;
}
