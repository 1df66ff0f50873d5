/* The blocking conveniences: submit and wait in one. */
#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"
#include "client/lib/submit.h"
#include "kveik/kveik.h"

static bool is_done(const struct kveik_client *client, const void *arg)
{
    (void)client;
    return ((const struct op *)arg)->done;
}

/* A request that never was has a completion too: it says why. Its op is 0. */
static int refused(int status, const struct error *error, struct kveik_completion *completion_out)
{
    struct kveik_completion why = KVEIK_COMPLETION_INIT;
    why.status = status;
    const char *text = error != NULL && error->text[0] != '\0' ? error->text : status_text(status);
    (void)snprintf(why.text, sizeof why.text, "%s", text);
    if (completion_out != NULL) {
        (void)give_struct(&why, sizeof why, completion_out);
    }
    return status;
}

/* Ends with the request's own deadline: there is no other time-out to give. Leaves the client. */
static int finish(struct kveik_client *client, struct op *op, const struct error *error,
                  struct kveik_completion *completion_out)
{
    if (op == NULL) {
        client_leave(client);
        return refused(error->status, error, completion_out);
    }
    op->waiters++;
    while (client_await(client, is_done, op, clock_ms() + ANSWER_GRACE_MS) != ST_OK) {
        op_expire(client, clock_ms());
    }
    op->waiters--;
    int status = op->completion.status;
    op_take(client, op, completion_out);
    client_leave(client);
    return status;
}

/* The caller's struct is filled on every way out, so that finishing it is always right. */
static int begin(struct kveik_client *client, struct kveik_completion *completion_out)
{
    if (completion_out == NULL || completion_out->size < 2 * sizeof completion_out->size) {
        return ST_INVALID;
    }
    int status = client_enter(client);
    return status == ST_OK ? status : refused(status, NULL, completion_out);
}

int kveik_push(kveik_client *client, const struct kveik_push *push,
               struct kveik_completion *completion_out)
{
    int status = begin(client, completion_out);
    if (status != ST_OK) {
        return status;
    }
    struct error error = {0};
    struct submit submit = {0};
    struct op *op = submit_push(client, push, &submit, &error);
    return finish(client, op, &error, completion_out);
}

int kveik_lookup(kveik_client *client, const struct kveik_lookup *lookup,
                 struct kveik_completion *completion_out)
{
    int status = begin(client, completion_out);
    if (status != ST_OK) {
        return status;
    }
    struct error error = {0};
    struct submit submit = {0};
    struct op *op = submit_lookup(client, lookup, &submit, &error);
    return finish(client, op, &error, completion_out);
}

int kveik_pull(kveik_client *client, const struct kveik_pull *pull,
               struct kveik_completion *completion_out)
{
    int status = begin(client, completion_out);
    if (status != ST_OK) {
        return status;
    }
    struct error error = {0};
    struct submit submit = {0};
    struct op *op = submit_pull(client, pull, &submit, &error);
    return finish(client, op, &error, completion_out);
}

int kveik_persist(kveik_client *client, const struct kveik_persist *persist,
                  struct kveik_completion *completion_out)
{
    int status = begin(client, completion_out);
    if (status != ST_OK) {
        return status;
    }
    struct error error = {0};
    struct submit submit = {0};
    struct op *op = submit_persist(client, persist, &submit, &error);
    return finish(client, op, &error, completion_out);
}

int kveik_release(kveik_client *client, uint64_t lease)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return status;
    }
    struct error error = {0};
    struct submit submit = {0};
    struct op *op = submit_release(client, lease, &submit, &error);
    return finish(client, op, &error, NULL);
}

int kveik_quiesce(kveik_client *client, uint32_t layout, const uint32_t *pages, uint32_t page_count,
                  uint32_t timeout_ms)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return status;
    }
    struct error error = {0};
    struct submit submit = {.internal = true, .timeout_ms = timeout_ms};
    const struct submit_quiesce quiesce = {
        .layout = layout, .pages = pages, .page_count = page_count};
    struct op *op = submit_quiesce(client, &quiesce, &submit, &error);
    if (op == NULL) {
        client_leave(client);
        return error.status;
    }
    op->waiters++;
    bool over = client_await(client, is_done, op, clock_ms() + timeout_ms) == ST_OK;
    op->waiters--;
    status = over ? op->completion.status : ST_STUCK;
    op_forget(client, op);
    client_leave(client);
    return status;
}

int kveik_daemon_status(kveik_client *client, uint32_t timeout_ms, char **json_out,
                        struct kveik_error *error_out)
{
    int status = json_out == NULL ? ST_INVALID : client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct op *op = NULL;
    status = connection_ready(client, &error);
    if (status == ST_OK) {
        op = op_create(client, MSG_STATUS_REQUEST, true, 0, &error);
        struct msg msg = {.kind = MSG_STATUS_REQUEST};
        status = op == NULL ? error.status : request_send(client, op, &msg, timeout_ms, &error);
    }
    if (status != ST_OK || op == NULL) {
        return client_return(client, status, &error, error_out);
    }
    KVEIK_ASSERT(op != NULL);
    op->waiters++;
    bool over = client_await(client, is_done, op, clock_ms() + timeout_ms) == ST_OK;
    op->waiters--;
    if (!over) {
        status = error_set(&error, ST_DEADLINE, "no status within %u ms", timeout_ms);
    } else if (op->completion.status != ST_OK) {
        status = error_set(&error, op->completion.status, "%s", op->completion.text);
    } else {
        *json_out = op->json;
        op->json = NULL;
    }
    op_forget(client, op);
    return client_return(client, status, &error, error_out);
}
