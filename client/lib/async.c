/* The asynchronous interface: submit, poll, wait, cancel. */
#include "base/assert.h"
#include "base/clock.h"
#include "client/lib/submit.h"
#include "kveik/kveik.h"

/* The common end of every submit: the id out, the mutex back. */
static int submitted(struct kveik_client *client, const struct op *op, uint64_t *op_out,
                     const struct error *error, struct kveik_error *error_out)
{
    if (op != NULL && op_out != NULL) {
        *op_out = op->id;
    }
    return client_return(client, op != NULL ? ST_OK : error->status, error, error_out);
}

int kveik_submit_push(kveik_client *client, const struct kveik_push *push, void *user,
                      uint64_t *op_out, struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct submit submit = {.user = user};
    struct op *op = submit_push(client, push, &submit, &error);
    return submitted(client, op, op_out, &error, error_out);
}

int kveik_submit_lookup(kveik_client *client, const struct kveik_lookup *lookup, void *user,
                        uint64_t *op_out, struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct submit submit = {.user = user};
    struct op *op = submit_lookup(client, lookup, &submit, &error);
    return submitted(client, op, op_out, &error, error_out);
}

int kveik_submit_pull(kveik_client *client, const struct kveik_pull *pull, void *user,
                      uint64_t *op_out, struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct submit submit = {.user = user};
    struct op *op = submit_pull(client, pull, &submit, &error);
    return submitted(client, op, op_out, &error, error_out);
}

int kveik_submit_persist(kveik_client *client, const struct kveik_persist *persist, void *user,
                         uint64_t *op_out, struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct submit submit = {.user = user};
    struct op *op = submit_persist(client, persist, &submit, &error);
    return submitted(client, op, op_out, &error, error_out);
}

int kveik_submit_release(kveik_client *client, uint64_t lease, void *user, uint64_t *op_out,
                         struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct submit submit = {.user = user};
    struct op *op = submit_release(client, lease, &submit, &error);
    return submitted(client, op, op_out, &error, error_out);
}

/* NOLINTNEXTLINE(readability-function-size): the public signature */
int kveik_submit_quiesce(kveik_client *client, uint32_t layout, const uint32_t *pages,
                         uint32_t page_count, void *user, uint64_t *op_out,
                         struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct submit submit = {.user = user, .timeout_ms = QUIESCE_TIMEOUT_MS};
    const struct submit_quiesce quiesce = {
        .layout = layout, .pages = pages, .page_count = page_count};
    struct op *op = submit_quiesce(client, &quiesce, &submit, &error);
    return submitted(client, op, op_out, &error, error_out);
}

/* ---- completions ----------------------------------------------------------------------------- */

/* A struct without its size cannot be filled: the completion would be lost. */
static bool has_size(const struct kveik_completion *completion)
{
    return completion != NULL && completion->size >= 2 * sizeof completion->size;
}

static int take_any(struct kveik_client *client, struct kveik_completion *completion_out)
{
    if (queue_empty(&client->ready)) {
        return ST_PENDING;
    }
    op_take(client, CONTAINER_OF(client->ready.next, struct op, ready), completion_out);
    return ST_OK;
}

int kveik_poll(kveik_client *client, struct kveik_completion *completion_out)
{
    int status = has_size(completion_out) ? client_enter(client) : ST_INVALID;
    if (status != ST_OK) {
        return status;
    }
    status = take_any(client, completion_out);
    if (status == ST_PENDING) {
        client_work(client);
        status = take_any(client, completion_out);
    }
    client_leave(client);
    return status;
}

static bool any_ready(const struct kveik_client *client, const void *arg)
{
    (void)arg;
    return client->closing || !queue_empty(&client->ready);
}

static struct op *find_untaken(const struct kveik_client *client, uint64_t id)
{
    struct op *op = op_find(client, id);
    return op != NULL && !op->internal && !op->taken ? op : NULL;
}

static bool is_over(const struct kveik_client *client, const void *arg)
{
    const struct op *op = find_untaken(client, *(const uint64_t *)arg);
    return op == NULL || op->done;
}

static int wait_any(struct kveik_client *client, uint64_t until_ms,
                    struct kveik_completion *completion_out)
{
    (void)client_await(client, any_ready, NULL, until_ms);
    int status = take_any(client, completion_out);
    return status == ST_PENDING && client->closing ? ST_CANCELLED : status;
}

static int wait_one(struct kveik_client *client, uint64_t id, uint64_t until_ms,
                    struct kveik_completion *completion_out)
{
    struct op *op = find_untaken(client, id);
    if (op == NULL) {
        return ST_UNKNOWN_ID;
    }
    op->waiters++;
    queue_remove(&op->ready); /* ours now, as long as we wait */
    (void)client_await(client, is_over, &id, until_ms);
    op = find_untaken(client, id);
    if (op == NULL) {
        return ST_UNKNOWN_ID; /* another thread waited for it too and took it */
    }
    op->waiters--;
    if (op->done) {
        op_take(client, op, completion_out);
        return ST_OK;
    }
    return ST_PENDING;
}

int kveik_wait(kveik_client *client, uint64_t op, uint32_t timeout_ms,
               struct kveik_completion *completion_out)
{
    int status = has_size(completion_out) ? client_enter(client) : ST_INVALID;
    if (status != ST_OK) {
        return status;
    }
    if (timeout_ms == 0) {
        client_work(client);
    }
    uint64_t until_ms = clock_ms() + timeout_ms;
    status = op == 0 ? wait_any(client, until_ms, completion_out)
                     : wait_one(client, op, until_ms, completion_out);
    client_leave(client);
    return status;
}

int kveik_cancel(kveik_client *client, uint64_t op)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return status;
    }
    const struct op *target = find_untaken(client, op);
    if (target == NULL) {
        status = ST_UNKNOWN_ID;
    } else if (!target->done) {
        struct msg msg = {.kind = MSG_CANCEL, .u.cancel.target = op};
        request_forgotten(client, &msg);
    }
    client_leave(client);
    return status;
}
