/* Push, lookup, pull, release, quiesce, cancel: from the public structs to messages. */
#include <string.h>

#include "base/heap.h"
#include "client/lib/client.h"

enum { RUNS_ON_STACK = 16, CANCEL_TIMEOUT_MS = 10000 };

/* ---- submitting ------------------------------------------------------------------------------ */

/* What submit needs to know of a request beside its message. */
struct submission {
    uint32_t kind;
    void *user;
    uint32_t deadline_ms;
    uint64_t *op_out;
};

/* With the lock held, after the message was built. */
static int submit(struct kveik_client *client, struct msg *msg, const struct submission *submission,
                  struct error *error)
{
    if (client->in_flight >= client->requests_max) {
        return error_set(error, ST_BUSY, "%u requests are in flight: reap completions first",
                         client->in_flight);
    }
    struct op *op = op_create(client, submission->kind, submission->user, submission->deadline_ms);
    if (op == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    msg->request_id = op->id;
    op->claimed = true; /* so that a failing send does not hand it to kveik_poll() */
    int status = client_send(client, msg, NULL, 0, error);
    op->claimed = false;
    if (status != ST_OK) {
        if (op->done) {
            op_free(op);
        } else {
            op_forget(client, op);
        }
        return status;
    }
    if (submission->op_out != NULL) {
        *submission->op_out = op->id;
    }
    return ST_OK;
}

/* Locks and makes sure of the connection; on failure nothing is locked. */
static int enter(struct kveik_client *client, struct kveik_error *error)
{
    int status = client_lock(client);
    if (status != ST_OK) {
        return error_say(error, status, "%s", status_text(status));
    }
    struct error cause = {0};
    status = client_ready(client, &cause);
    if (status != ST_OK) {
        client_unlock(client);
        return error_out(error, &cause);
    }
    return ST_OK;
}

static int leave(struct kveik_client *client, int status, const struct error *cause,
                 struct kveik_error *error)
{
    client_unlock(client);
    return status == ST_OK ? ST_OK : error_out(error, cause);
}

static int layout_remote(const struct kveik_client *client, uint32_t handle, uint32_t *remote_out,
                         struct error *error)
{
    const struct client_layout *layout = table_get(&client->layouts, handle);
    if (layout == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "no layout %u", handle);
    }
    if (layout->status != ST_OK) {
        return error_set(error, layout->status, "layout %u could not be registered again", handle);
    }
    *remote_out = layout->remote;
    return ST_OK;
}

/* ---- push ------------------------------------------------------------------------------------ */

static int push_run_fill(const struct kveik_client *client, const struct kveik_push_run *run,
                         struct msg_push_run *out, struct error *error)
{
    if (run->block_tokens == 0 || run->block_tokens % GRAIN_TOKENS != 0 ||
        run->block_tokens / GRAIN_TOKENS > BLOCK_GRAINS_MAX) {
        return error_set(error, ST_INVALID,
                         "block_tokens is %u: must be a multiple of %d, at most %d",
                         run->block_tokens, GRAIN_TOKENS, BLOCK_GRAINS_MAX * GRAIN_TOKENS);
    }
    if (run->block_count == 0 || run->keys == NULL || run->pages == NULL) {
        return error_set(error, ST_INVALID, "a push run needs blocks, keys and pages");
    }
    uint32_t tail = run->tail_tokens != 0 ? run->tail_tokens : run->block_tokens;
    *out = (struct msg_push_run){.parent_key = run->parent_key,
                                 .keys = run->keys,
                                 .key_count = run->key_count,
                                 .block_count = run->block_count,
                                 .block_grains = run->block_tokens / GRAIN_TOKENS,
                                 .tail_tokens = tail,
                                 .tokens = run->tokens,
                                 .pages = run->pages,
                                 .page_count = run->page_count,
                                 .page_token = run->page_token};
    out->token_count = msg_push_run_tokens(out);
    return layout_remote(client, run->layout, &out->layout, error);
}

static int push_submit(struct kveik_client *client, const struct kveik_push *push,
                       struct msg_push_run *runs, const struct submission *submission,
                       struct error *error)
{
    for (uint32_t i = 0; i < push->run_count; i++) {
        int status = push_run_fill(client, &push->runs[i], &runs[i], error);
        if (status != ST_OK) {
            return status;
        }
    }
    struct msg msg = {.kind = MSG_PUSH,
                      .u.push = {.runs = runs,
                                 .run_count = push->run_count,
                                 .deadline_ms = submission->deadline_ms}};
    return submit(client, &msg, submission, error);
}

int kveik_submit_push(kveik_client *client, const struct kveik_push *push, void *user,
                      uint64_t *op_out, struct kveik_error *error)
{
    if (push == NULL || push->size != sizeof *push || push->runs == NULL || push->run_count == 0 ||
        push->run_count > MSG_RUNS_MAX) {
        return error_say(error, ST_INVALID,
                         "push: initialise it with KVEIK_PUSH_INIT and give 1 to %d runs",
                         MSG_RUNS_MAX);
    }
    struct submission submission = {.kind = KVEIK_OP_PUSH,
                                    .user = user,
                                    .deadline_ms = push->deadline_ms != 0 ? push->deadline_ms
                                                                          : PUSH_DEADLINE_MS,
                                    .op_out = op_out};
    int status = enter(client, error);
    if (status != ST_OK) {
        return status;
    }
    struct msg_push_run few[RUNS_ON_STACK];
    struct msg_push_run *runs =
        push->run_count <= RUNS_ON_STACK ? few : heap_calloc(push->run_count, sizeof *runs);
    struct error cause = {.status = ST_NO_MEMORY, .text = "out of memory"};
    status = runs == NULL ? ST_NO_MEMORY : push_submit(client, push, runs, &submission, &cause);
    if (runs != few) {
        heap_free(runs);
    }
    return leave(client, status, &cause, error);
}

/* ---- pull ------------------------------------------------------------------------------------ */

static uint32_t key_grains_of(uint32_t key_tokens)
{
    return key_tokens == 0 ? 1 : key_tokens / GRAIN_TOKENS;
}

static int key_step_check(uint32_t key_tokens, uint32_t tail_tokens, struct error *error)
{
    if (key_tokens % GRAIN_TOKENS != 0 || key_tokens / GRAIN_TOKENS > BLOCK_GRAINS_MAX) {
        return error_set(error, ST_INVALID,
                         "key_tokens is %u: must be a multiple of %d, at most %d", key_tokens,
                         GRAIN_TOKENS, BLOCK_GRAINS_MAX * GRAIN_TOKENS);
    }
    if (tail_tokens > GRAIN_TOKENS) {
        return error_set(error, ST_INVALID, "tail_tokens is %u: the last grain has at most %d",
                         tail_tokens, GRAIN_TOKENS);
    }
    return ST_OK;
}

static int pull_submit(struct kveik_client *client, const struct kveik_pull *pull,
                       struct msg_pull_run *runs, const struct submission *submission,
                       struct error *error)
{
    for (uint32_t i = 0; i < pull->run_count; i++) {
        const struct kveik_pull_run *run = &pull->runs[i];
        int status = key_step_check(run->key_tokens, run->tail_tokens, error);
        if (status == ST_OK && (run->keys == NULL || run->key_count == 0 || run->pages == NULL)) {
            status = error_set(error, ST_INVALID, "a pull run needs keys and pages");
        }
        runs[i] = (struct msg_pull_run){.keys = run->keys,
                                        .key_count = run->key_count,
                                        .key_grains = key_grains_of(run->key_tokens),
                                        .tail_tokens =
                                            run->tail_tokens != 0 ? run->tail_tokens : GRAIN_TOKENS,
                                        .pages = run->pages,
                                        .page_count = run->page_count,
                                        .page_token = run->page_token};
        status =
            status != ST_OK ? status : layout_remote(client, run->layout, &runs[i].layout, error);
        if (status != ST_OK) {
            return status;
        }
    }
    struct msg msg = {.kind = MSG_PULL,
                      .u.pull = {.runs = runs,
                                 .run_count = pull->run_count,
                                 .deadline_ms = submission->deadline_ms,
                                 .lease = pull->lease,
                                 .release_lease = pull->release_lease}};
    return submit(client, &msg, submission, error);
}

int kveik_submit_pull(kveik_client *client, const struct kveik_pull *pull, void *user,
                      uint64_t *op_out, struct kveik_error *error)
{
    if (pull == NULL || pull->size != sizeof *pull || pull->runs == NULL || pull->run_count == 0 ||
        pull->run_count > MSG_RUNS_MAX) {
        return error_say(error, ST_INVALID,
                         "pull: initialise it with KVEIK_PULL_INIT and give 1 to %d runs",
                         MSG_RUNS_MAX);
    }
    struct submission submission = {.kind = KVEIK_OP_PULL,
                                    .user = user,
                                    .deadline_ms = pull->deadline_ms != 0 ? pull->deadline_ms
                                                                          : PUSH_DEADLINE_MS,
                                    .op_out = op_out};
    int status = enter(client, error);
    if (status != ST_OK) {
        return status;
    }
    struct msg_pull_run few[RUNS_ON_STACK];
    struct msg_pull_run *runs =
        pull->run_count <= RUNS_ON_STACK ? few : heap_calloc(pull->run_count, sizeof *runs);
    struct error cause = {.status = ST_NO_MEMORY, .text = "out of memory"};
    status = runs == NULL ? ST_NO_MEMORY : pull_submit(client, pull, runs, &submission, &cause);
    if (runs != few) {
        heap_free(runs);
    }
    return leave(client, status, &cause, error);
}

/* ---- lookup ---------------------------------------------------------------------------------- */

static int lookup_submit(struct kveik_client *client, const struct kveik_lookup *lookup,
                         const struct submission *submission, struct error *error)
{
    const struct client_space *space = table_get(&client->spaces, lookup->space);
    int status = key_step_check(lookup->key_tokens, lookup->tail_tokens, error);
    if (status != ST_OK) {
        return status;
    }
    if (space == NULL || space->status != ST_OK) {
        return error_set(error, space == NULL ? ST_UNKNOWN_ID : space->status,
                         "no space %u, or it could not be registered again", lookup->space);
    }
    if (lookup->step_tokens % GRAIN_TOKENS != 0) {
        return error_set(error, ST_INVALID, "step_tokens is %u: must be a multiple of %d",
                         lookup->step_tokens, GRAIN_TOKENS);
    }
    struct msg_want wants[MSG_WANTS_MAX];
    for (uint32_t i = 0; i < lookup->want_count; i++) {
        wants[i] = (struct msg_want){.group = lookup->wants[i].group,
                                     .layer_begin = lookup->wants[i].layer_begin,
                                     .layer_count = lookup->wants[i].layer_count,
                                     .head_begin = lookup->wants[i].head_begin,
                                     .head_count = lookup->wants[i].head_count};
    }
    uint32_t step = lookup->step_tokens / GRAIN_TOKENS;
    struct msg msg = {
        .kind = MSG_LOOKUP,
        .u.lookup = {.space = space->remote,
                     .keys = lookup->keys,
                     .key_count = lookup->key_count,
                     .key_grains = key_grains_of(lookup->key_tokens),
                     .tail_tokens = lookup->tail_tokens != 0 ? lookup->tail_tokens : GRAIN_TOKENS,
                     .wants = wants,
                     .want_count = lookup->want_count,
                     .lease = lookup->lease,
                     .origins = lookup->origins,
                     .deadline_ms = submission->deadline_ms,
                     .step_grains = step == 0 ? 1 : step}};
    return submit(client, &msg, submission, error);
}

int kveik_submit_lookup(kveik_client *client, const struct kveik_lookup *lookup, void *user,
                        uint64_t *op_out, struct kveik_error *error)
{
    if (lookup == NULL || lookup->size != sizeof *lookup || lookup->keys == NULL ||
        lookup->key_count == 0 || lookup->want_count > MSG_WANTS_MAX) {
        return error_say(
            error, ST_INVALID,
            "lookup: initialise it with KVEIK_LOOKUP_INIT, give keys and at most %d wants",
            MSG_WANTS_MAX);
    }
    struct submission submission = {.kind = KVEIK_OP_LOOKUP,
                                    .user = user,
                                    .deadline_ms = lookup->deadline_ms != 0 ? lookup->deadline_ms
                                                                            : LOOKUP_DEADLINE_MS,
                                    .op_out = op_out};
    int status = enter(client, error);
    if (status != ST_OK) {
        return status;
    }
    struct error cause = {0};
    status = lookup_submit(client, lookup, &submission, &cause);
    return leave(client, status, &cause, error);
}

/* ---- release, quiesce, cancel ---------------------------------------------------------------- */

int kveik_submit_release(kveik_client *client, uint64_t lease, void *user, uint64_t *op_out,
                         struct kveik_error *error)
{
    struct submission submission = {.kind = KVEIK_OP_RELEASE,
                                    .user = user,
                                    .deadline_ms = LOOKUP_DEADLINE_MS,
                                    .op_out = op_out};
    int status = enter(client, error);
    if (status != ST_OK) {
        return status;
    }
    struct error cause = {0};
    struct msg msg = {.kind = MSG_RELEASE, .u.release.lease = lease};
    status = submit(client, &msg, &submission, &cause);
    return leave(client, status, &cause, error);
}

int kveik_submit_quiesce(kveik_client *client, uint32_t layout, const uint32_t *pages,
                         uint32_t page_count, void *user, uint64_t *op_out,
                         struct kveik_error *error)
{
    struct submission submission = {
        .kind = KVEIK_OP_QUIESCE, .user = user, .deadline_ms = PUSH_DEADLINE_MS, .op_out = op_out};
    int status = enter(client, error);
    if (status != ST_OK) {
        return status;
    }
    struct error cause = {0};
    struct msg msg = {.kind = MSG_QUIESCE,
                      .u.quiesce = {.pages = pages, .page_count = pages != NULL ? page_count : 0}};
    status = layout_remote(client, layout, &msg.u.quiesce.layout, &cause);
    status = status != ST_OK ? status : submit(client, &msg, &submission, &cause);
    return leave(client, status, &cause, error);
}

int kveik_cancel(kveik_client *client, uint64_t op)
{
    int status = enter(client, NULL);
    if (status != ST_OK) {
        return status;
    }
    /* its own answer is not waited for: it finds no operation and is dropped */
    struct error cause = {0};
    struct msg msg = {.request_id = ++client->ids, .kind = MSG_CANCEL, .u.cancel.target = op};
    status = client_send(client, &msg, NULL, 0, &cause);
    return leave(client, status, &cause, NULL);
}

/* ---- blocking -------------------------------------------------------------------------------- */

/* Waits for an operation that ends by itself: by its answer, its deadline or a lost connection. */
static int finish(kveik_client *client, int status, uint64_t op, const struct kveik_error *error,
                  struct kveik_completion *out)
{
    struct kveik_completion own = KVEIK_COMPLETION_INIT;
    struct kveik_completion *to = out != NULL ? out : &own;
    if (status != ST_OK) {
        size_t size = to->size;
        *to = (struct kveik_completion){.size = size, .status = status};
        (void)memcpy(to->text, error->text, sizeof to->text);
        return status;
    }
    do {
        status = kveik_wait(client, op, CANCEL_TIMEOUT_MS, to);
    } while (status == ST_PENDING);
    status = status == ST_OK ? to->status : status;
    if (to == &own) {
        kveik_completion_finish(&own);
    }
    return status;
}

int kveik_push(kveik_client *client, const struct kveik_push *push,
               struct kveik_completion *completion_out)
{
    struct kveik_error error = {0};
    uint64_t op = 0;
    int status = kveik_submit_push(client, push, NULL, &op, &error);
    return finish(client, status, op, &error, completion_out);
}

int kveik_lookup(kveik_client *client, const struct kveik_lookup *lookup,
                 struct kveik_completion *completion_out)
{
    struct kveik_error error = {0};
    uint64_t op = 0;
    int status = kveik_submit_lookup(client, lookup, NULL, &op, &error);
    return finish(client, status, op, &error, completion_out);
}

int kveik_pull(kveik_client *client, const struct kveik_pull *pull,
               struct kveik_completion *completion_out)
{
    struct kveik_error error = {0};
    uint64_t op = 0;
    int status = kveik_submit_pull(client, pull, NULL, &op, &error);
    return finish(client, status, op, &error, completion_out);
}

int kveik_release(kveik_client *client, uint64_t lease)
{
    struct kveik_error error = {0};
    uint64_t op = 0;
    int status = kveik_submit_release(client, lease, NULL, &op, &error);
    return finish(client, status, op, &error, NULL);
}

int kveik_quiesce(kveik_client *client, uint32_t layout, const uint32_t *pages, uint32_t page_count,
                  uint32_t timeout_ms)
{
    struct kveik_error error = {0};
    uint64_t op = 0;
    int status = kveik_submit_quiesce(client, layout, pages, page_count, NULL, &op, &error);
    if (status != ST_OK) {
        return status;
    }
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    status = kveik_wait(client, op, timeout_ms, &completion);
    return status == ST_OK ? completion.status : ST_DEADLINE;
}
