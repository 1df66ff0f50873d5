/*
 * Submitting: the user's structs are checked against what is registered, so that a mistake is an
 * error here and not the end of the session there, and turned into messages that point at the
 * user's arrays.
 */
#include "client/lib/submit.h"

#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "kveik/kveik.h"

enum { BLOCK_TOKENS_MAX = BLOCK_GRAINS_MAX * GRAIN_TOKENS };

static int check_deadline(uint32_t deadline_ms, struct error *error)
{
    return deadline_ms <= MSG_DEADLINE_MS_MAX
               ? ST_OK
               : error_set(error, ST_INVALID, "deadline_ms is %u, at most %d", deadline_ms,
                           MSG_DEADLINE_MS_MAX);
}

static int check_key_total(const struct kveik_client *client, uint64_t keys, struct error *error)
{
    return keys <= client->connection.keys_max
               ? ST_OK
               : error_set(error, ST_LIMIT, "%llu keys in one request, at most %u",
                           (unsigned long long)keys, client->connection.keys_max);
}

/* Tokens from key to key, as grains; 0 means one grain. */
static int grains_of(const char *field, uint32_t tokens, uint32_t *grains_out, struct error *error)
{
    if (tokens % GRAIN_TOKENS != 0 || tokens > BLOCK_TOKENS_MAX) {
        return error_set(error, ST_INVALID, "%s is %u, must be a multiple of %d, at most %d", field,
                         tokens, GRAIN_TOKENS, BLOCK_TOKENS_MAX);
    }
    *grains_out = tokens == 0 ? 1 : tokens / GRAIN_TOKENS;
    return ST_OK;
}

static int check_tail(uint32_t tail_tokens, uint32_t most, struct error *error)
{
    return tail_tokens <= most
               ? ST_OK
               : error_set(error, ST_INVALID, "tail_tokens is %u, at most %u", tail_tokens, most);
}

static const struct client_layout *find_layout(const struct kveik_client *client, uint32_t handle,
                                               struct error *error)
{
    const struct client_layout *layout = handles_get(&client->layouts, handle);
    if (layout == NULL) {
        (void)error_set(error, ST_UNKNOWN_ID, "layout %u is not registered", handle);
        return NULL;
    }
    return register_usable(client, &layout->object, "layout", error) ? layout : NULL;
}

/* Pages that the tokens need; what the caller gave beyond them is not sent. */
static int take_pages(const struct layout *layout, const struct submit_pages *pages,
                      uint32_t *page_count_out, struct error *error)
{
    uint32_t page_tokens = layout->page_tokens;
    if (pages->page_token >= page_tokens) {
        return error_set(error, ST_INVALID, "page_token is %u, a page has %u tokens",
                         pages->page_token, page_tokens);
    }
    uint64_t needed = (pages->page_token + pages->tokens + page_tokens - 1) / page_tokens;
    if (pages->pages == NULL || needed > pages->page_count) {
        return error_set(error, ST_INVALID, "%u pages for %llu tokens, %llu are needed",
                         pages->pages == NULL ? 0 : pages->page_count,
                         (unsigned long long)pages->tokens, (unsigned long long)needed);
    }
    for (uint64_t i = 0; i < needed; i++) {
        if (pages->pages[i] >= layout->page_count) {
            return error_set(error, ST_INVALID, "page %u at place %llu, the layout has %u",
                             pages->pages[i], (unsigned long long)i, layout->page_count);
        }
    }
    *page_count_out = (uint32_t)needed;
    return ST_OK;
}

/* ---- push ------------------------------------------------------------------------------------ */

static int check_push_run(const struct kveik_push_run *run, struct error *error)
{
    if (run->block_tokens == 0 || run->block_tokens % GRAIN_TOKENS != 0 ||
        run->block_tokens > BLOCK_TOKENS_MAX) {
        return error_set(error, ST_INVALID,
                         "block_tokens is %u, must be a multiple of %d, at most %d",
                         run->block_tokens, GRAIN_TOKENS, BLOCK_TOKENS_MAX);
    }
    if (run->block_count == 0 || run->block_count > MSG_KEYS_MAX) {
        return error_set(error, ST_INVALID, "block_count is %u, must be 1 to %d", run->block_count,
                         MSG_KEYS_MAX);
    }
    if (run->keys == NULL) {
        return error_set(error, ST_INVALID, "no keys");
    }
    return check_tail(run->tail_tokens, run->block_tokens, error);
}

static int push_run(const struct kveik_client *client, const struct kveik_push_run *in,
                    struct msg_push_run *out, struct error *error)
{
    int status = check_push_run(in, error);
    const struct client_layout *layout =
        status == ST_OK ? find_layout(client, in->layout, error) : NULL;
    if (layout == NULL) {
        return error->status;
    }
    *out = (struct msg_push_run){.layout = layout->object.number,
                                 .parent_key = in->parent_key,
                                 .keys = in->keys,
                                 .key_count = in->key_count,
                                 .block_count = in->block_count,
                                 .block_grains = in->block_tokens / GRAIN_TOKENS,
                                 .tail_tokens =
                                     in->tail_tokens != 0 ? in->tail_tokens : in->block_tokens,
                                 .tokens = in->tokens,
                                 .pages = in->pages,
                                 .page_token = in->page_token};
    out->token_count = msg_push_run_tokens(out);
    uint32_t grains = msg_push_run_grains(out);
    if (in->key_count != grains && in->key_count != in->block_count) {
        return error_set(error, ST_INVALID, "%u keys, must be one a grain (%u) or one a block (%u)",
                         in->key_count, grains, in->block_count);
    }
    const struct submit_pages pages = {.pages = in->pages,
                                       .page_count = in->page_count,
                                       .page_token = in->page_token,
                                       .tokens = out->token_count};
    return take_pages(&layout->layout, &pages, &out->page_count, error);
}

/* An array of the arena that the message is encoded from. */
static void *take_runs(struct kveik_client *client, const void *runs, uint32_t run_count,
                       size_t run_bytes, struct error *error)
{
    if (runs == NULL || run_count == 0 || run_count > MSG_RUNS_MAX) {
        (void)error_set(error, ST_INVALID, "run_count is %u, must be 1 to %d", run_count,
                        MSG_RUNS_MAX);
        return NULL;
    }
    void *out = msg_arena_take(&client->out, run_count * run_bytes);
    if (out == NULL) {
        (void)error_set(error, ST_NO_MEMORY, "no memory for %u runs", run_count);
    }
    return out;
}

static int build_push(struct kveik_client *client, const struct kveik_push *push, struct msg *msg,
                      uint32_t *blocks_out, struct error *error)
{
    msg->kind = MSG_PUSH;
    msg->u.push = (struct msg_push){.run_count = push->run_count};
    msg->u.push.deadline_ms = push->deadline_ms != 0 ? push->deadline_ms : PUSH_DEADLINE_MS;
    msg->u.push.runs =
        take_runs(client, push->runs, push->run_count, sizeof *msg->u.push.runs, error);
    if (msg->u.push.runs == NULL) {
        return error->status;
    }
    uint64_t keys = 0;
    *blocks_out = 0;
    for (uint32_t i = 0; i < push->run_count; i++) {
        int status = push_run(client, &push->runs[i], &msg->u.push.runs[i], error);
        if (status != ST_OK) {
            return error_wrap(error, "push: run %u", i);
        }
        keys += push->runs[i].key_count;
        *blocks_out += push->runs[i].block_count;
    }
    return check_key_total(client, keys, error);
}

/* ---- pull ------------------------------------------------------------------------------------ */

static int pull_run(const struct kveik_client *client, const struct kveik_pull_run *in,
                    struct msg_pull_run *out, struct error *error)
{
    uint32_t grains = 0;
    int status = grains_of("key_tokens", in->key_tokens, &grains, error);
    if (status == ST_OK) {
        status = check_tail(in->tail_tokens, GRAIN_TOKENS, error);
    }
    if (status == ST_OK && (in->keys == NULL || in->key_count == 0)) {
        status = error_set(error, ST_INVALID, "no keys");
    }
    const struct client_layout *layout =
        status == ST_OK ? find_layout(client, in->layout, error) : NULL;
    if (layout == NULL) {
        return error->status;
    }
    *out =
        (struct msg_pull_run){.layout = layout->object.number,
                              .keys = in->keys,
                              .key_count = in->key_count,
                              .key_grains = grains,
                              .tail_tokens = in->tail_tokens != 0 ? in->tail_tokens : GRAIN_TOKENS,
                              .pages = in->pages,
                              .page_token = in->page_token};
    uint64_t tokens = ((uint64_t)in->key_count * grains - 1) * GRAIN_TOKENS + out->tail_tokens;
    const struct submit_pages pages = {.pages = in->pages,
                                       .page_count = in->page_count,
                                       .page_token = in->page_token,
                                       .tokens = tokens};
    return take_pages(&layout->layout, &pages, &out->page_count, error);
}

static int build_pull(struct kveik_client *client, const struct kveik_pull *pull, struct msg *msg,
                      uint32_t *keys_out, struct error *error)
{
    msg->kind = MSG_PULL;
    msg->u.pull = (struct msg_pull){.run_count = pull->run_count,
                                    .lease = pull->lease,
                                    .release_lease = pull->lease != 0 && pull->release_lease};
    msg->u.pull.deadline_ms = pull->deadline_ms != 0 ? pull->deadline_ms : PULL_DEADLINE_MS;
    msg->u.pull.runs =
        take_runs(client, pull->runs, pull->run_count, sizeof *msg->u.pull.runs, error);
    if (msg->u.pull.runs == NULL) {
        return error->status;
    }
    uint64_t keys = 0;
    for (uint32_t i = 0; i < pull->run_count; i++) {
        int status = pull_run(client, &pull->runs[i], &msg->u.pull.runs[i], error);
        if (status != ST_OK) {
            return error_wrap(error, "pull: run %u", i);
        }
        keys += pull->runs[i].key_count;
    }
    *keys_out = (uint32_t)keys;
    return check_key_total(client, keys, error);
}

/* ---- lookup ---------------------------------------------------------------------------------- */

/* The hit is a multiple of whole grains anyway: the cut is the least common multiple. */
static int step_of(uint32_t step_tokens, uint32_t *grains_out, struct error *error)
{
    if (step_tokens > LAYOUT_PAGE_TOKENS_MAX) {
        return error_set(error, ST_INVALID, "step_tokens is %u, at most %d", step_tokens,
                         LAYOUT_PAGE_TOKENS_MAX);
    }
    uint32_t common = GRAIN_TOKENS; /* a power of two: the greatest common divisor by halving */
    while (step_tokens % common != 0) {
        common /= 2;
    }
    *grains_out = step_tokens == 0 ? 1 : step_tokens / common;
    return ST_OK;
}

static int build_lookup(struct kveik_client *client, const struct kveik_lookup *lookup,
                        struct msg *msg, struct error *error)
{
    const struct client_space *space = handles_get(&client->spaces, lookup->space);
    if (space == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "space %u is not registered", lookup->space);
    }
    if (!register_usable(client, &space->object, "space", error)) {
        return error->status;
    }
    struct msg_lookup *out = &msg->u.lookup;
    msg->kind = MSG_LOOKUP;
    *out = (struct msg_lookup){.space = space->object.number,
                               .keys = lookup->keys,
                               .key_count = lookup->key_count,
                               .want_count = lookup->want_count,
                               .lease = lookup->lease,
                               .origins = lookup->origins};
    out->deadline_ms = lookup->deadline_ms != 0 ? lookup->deadline_ms : LOOKUP_DEADLINE_MS;
    out->tail_tokens = lookup->tail_tokens != 0 ? lookup->tail_tokens : GRAIN_TOKENS;
    int status = grains_of("key_tokens", lookup->key_tokens, &out->key_grains, error);
    if (status == ST_OK) {
        status = step_of(lookup->step_tokens, &out->step_grains, error);
    }
    if (status == ST_OK) {
        status = check_tail(lookup->tail_tokens, GRAIN_TOKENS, error);
    }
    if (status == ST_OK && (lookup->keys == NULL || lookup->key_count == 0)) {
        status = error_set(error, ST_INVALID, "no keys");
    }
    if (status == ST_OK) {
        status = check_key_total(client, lookup->key_count, error);
    }
    if (status != ST_OK) {
        return status;
    }
    if (lookup->want_count > MSG_WANTS_MAX || (lookup->want_count > 0 && lookup->wants == NULL)) {
        return error_set(error, ST_INVALID, "want_count is %u, at most %d", lookup->want_count,
                         MSG_WANTS_MAX);
    }
    out->wants = msg_arena_take(&client->out, lookup->want_count * sizeof *out->wants);
    if (out->wants == NULL) {
        return error_set(error, ST_NO_MEMORY, "no memory for a lookup");
    }
    for (uint32_t i = 0; i < lookup->want_count; i++) {
        const struct kveik_want *want = &lookup->wants[i];
        out->wants[i] = (struct msg_want){.group = want->group,
                                          .layer_begin = want->layer_begin,
                                          .layer_count = want->layer_count,
                                          .head_begin = want->head_begin,
                                          .head_count = want->head_count};
    }
    return ST_OK;
}

/* ---- submit ---------------------------------------------------------------------------------- */

struct op *submit_send(struct kveik_client *client, struct msg *msg, const struct submit *submit,
                       uint32_t status_count, struct error *error)
{
    struct op *op = op_create(client, msg->kind, submit->internal, status_count, error);
    if (op == NULL) {
        msg_arena_reset(&client->out);
        return NULL;
    }
    op->completion.user = submit->user;
    return request_send(client, op, msg, submit->timeout_ms, error) == ST_OK ? op : NULL;
}

static struct op *refuse(struct kveik_client *client)
{
    msg_arena_reset(&client->out);
    return NULL;
}

struct op *submit_push(struct kveik_client *client, const struct kveik_push *push,
                       struct submit *submit, struct error *error)
{
    struct kveik_push ours;
    struct msg msg = {.kind = MSG_NONE};
    uint32_t blocks = 0;
    if (take_struct(&ours, sizeof ours, push, "KVEIK_PUSH_INIT", error) != ST_OK ||
        connection_ready(client, error) != ST_OK ||
        check_deadline(ours.deadline_ms, error) != ST_OK ||
        build_push(client, &ours, &msg, &blocks, error) != ST_OK) {
        return refuse(client);
    }
    msg.u.push.sent_ns = clock_ns();
    submit->timeout_ms = msg.u.push.deadline_ms;
    return submit_send(client, &msg, submit, blocks, error);
}

struct op *submit_pull(struct kveik_client *client, const struct kveik_pull *pull,
                       struct submit *submit, struct error *error)
{
    struct kveik_pull ours;
    struct msg msg = {.kind = MSG_NONE};
    uint32_t keys = 0;
    if (take_struct(&ours, sizeof ours, pull, "KVEIK_PULL_INIT", error) != ST_OK ||
        connection_ready(client, error) != ST_OK ||
        check_deadline(ours.deadline_ms, error) != ST_OK ||
        build_pull(client, &ours, &msg, &keys, error) != ST_OK) {
        return refuse(client);
    }
    submit->timeout_ms = msg.u.pull.deadline_ms;
    return submit_send(client, &msg, submit, keys, error);
}

struct op *submit_lookup(struct kveik_client *client, const struct kveik_lookup *lookup,
                         struct submit *submit, struct error *error)
{
    struct kveik_lookup ours;
    struct msg msg = {.kind = MSG_NONE};
    if (take_struct(&ours, sizeof ours, lookup, "KVEIK_LOOKUP_INIT", error) != ST_OK ||
        connection_ready(client, error) != ST_OK ||
        check_deadline(ours.deadline_ms, error) != ST_OK ||
        build_lookup(client, &ours, &msg, error) != ST_OK) {
        return refuse(client);
    }
    submit->timeout_ms = msg.u.lookup.deadline_ms;
    return submit_send(client, &msg, submit, 0, error);
}

struct op *submit_release(struct kveik_client *client, uint64_t lease, struct submit *submit,
                          struct error *error)
{
    if (lease == 0) {
        (void)error_set(error, ST_INVALID, "lease 0 is none");
        return NULL;
    }
    if (connection_ready(client, error) != ST_OK) {
        return NULL;
    }
    struct msg msg = {.kind = MSG_RELEASE, .u.release.lease = lease};
    submit->timeout_ms = RELEASE_TIMEOUT_MS;
    return submit_send(client, &msg, submit, 0, error);
}

static int check_quiesce(const struct layout *layout, const uint32_t *pages, uint32_t page_count,
                         struct error *error)
{
    if (page_count > MSG_PAGES_MAX || (pages != NULL && page_count == 0)) {
        return error_set(error, ST_INVALID,
                         "quiesce: page_count is %u, must be 1 to %d, or pages "
                         "NULL for all",
                         page_count, MSG_PAGES_MAX);
    }
    for (uint32_t i = 0; pages != NULL && i < page_count; i++) {
        if (pages[i] >= layout->page_count) {
            return error_set(error, ST_INVALID, "quiesce: page %u, the layout has %u", pages[i],
                             layout->page_count);
        }
    }
    return ST_OK;
}

struct op *submit_quiesce(struct kveik_client *client, const struct submit_quiesce *quiesce,
                          struct submit *submit, struct error *error)
{
    const struct client_layout *layout = handles_get(&client->layouts, quiesce->layout);
    if (layout == NULL) {
        (void)error_set(error, ST_UNKNOWN_ID, "layout %u is not registered", quiesce->layout);
        return NULL;
    }
    if (check_quiesce(&layout->layout, quiesce->pages, quiesce->page_count, error) != ST_OK) {
        return NULL;
    }
    enum connection_state state = client->connection.state;
    if (state == STATE_READY && layout->object.status == ST_OK) {
        struct msg msg = {
            .kind = MSG_QUIESCE,
            .u.quiesce = {.layout = layout->object.number,
                          .pages = quiesce->pages,
                          .page_count = quiesce->pages == NULL ? 0 : quiesce->page_count}};
        return submit_send(client, &msg, submit, 0, error);
    }
    if (state == STATE_DRAINING) {
        (void)error_set(error, ST_UNAVAILABLE, "the daemon still has to end the session");
        return NULL;
    }
    /* no session that could copy: done before it began */
    struct op *op = op_create(client, MSG_QUIESCE, submit->internal, 0, error);
    if (op != NULL) {
        op->completion.user = submit->user;
        op_finish(client, op, ST_OK, NULL);
        op_answered(client, op);
    }
    return op;
}
