/* Requests from submission to the moment when both sides are done with them. */
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/lib/client.h"

enum { SLOT_BITS = 16, SLOT_MASK = (1 << SLOT_BITS) - 1, OPS_FIRST = 64 };

static uint32_t public_kind(enum msg_kind request)
{
    switch ((int)request) {
    case MSG_PUSH:
        return KVEIK_OP_PUSH;
    case MSG_LOOKUP:
        return KVEIK_OP_LOOKUP;
    case MSG_PULL:
        return KVEIK_OP_PULL;
    case MSG_RELEASE:
        return KVEIK_OP_RELEASE;
    case MSG_QUIESCE:
        return KVEIK_OP_QUIESCE;
    case MSG_PERSIST:
        return KVEIK_OP_PERSIST;
    default:
        return 0;
    }
}

/* What the user may have at once. Some of the daemon's limit is kept for quiesce and registration:
 * they must go through when everything else is stuck. */
static uint32_t user_limit(const struct kveik_client *client)
{
    uint32_t daemon = client->connection.requests_max;
    uint32_t reserved = daemon > 2 * OPS_RESERVED ? OPS_RESERVED : daemon / 2;
    uint32_t limit = daemon - reserved;
    limit = limit < OPS_MAX - OPS_RESERVED ? limit : OPS_MAX - OPS_RESERVED;
    return client->requests_wanted != 0 && client->requests_wanted < limit ? client->requests_wanted
                                                                           : limit;
}

uint32_t op_user_limit(const struct kveik_client *client)
{
    return user_limit(client);
}

static int grow(struct kveik_client *client)
{
    uint32_t count = client->op_count == 0 ? OPS_FIRST : 2 * client->op_count;
    count = count < OPS_MAX ? count : OPS_MAX;
    if (count == client->op_count) {
        return ST_BUSY;
    }
    struct op **ops = heap_realloc(client->ops, count * sizeof(struct op *)); /* NOLINT */
    if (ops == NULL) {
        return ST_NO_MEMORY;
    }
    client->ops = ops;
    for (uint32_t i = client->op_count; i < count; i++) {
        ops[i] = heap_calloc(1, sizeof *ops[i]);
        if (ops[i] == NULL) {
            break;
        }
        ops[i]->slot = i;
        queue_init(&ops[i]->flight);
        queue_init(&ops[i]->ready);
        queue_push_back(&client->free, &ops[i]->ready);
        client->op_count = i + 1;
    }
    return queue_empty(&client->free) ? ST_NO_MEMORY : ST_OK;
}

struct op *op_create(struct kveik_client *client, enum msg_kind request, bool internal,
                     uint32_t status_count, struct error *error)
{
    uint32_t limit = user_limit(client);
    if (!internal && request != MSG_QUIESCE && client->user_ops >= limit) {
        (void)error_set(error, ST_BUSY, "%u requests are in flight or not yet polled, the limit",
                        limit);
        return NULL;
    }
    int status = queue_empty(&client->free) ? grow(client) : ST_OK;
    if (status != ST_OK) {
        (void)error_set(error, status, "%s", status_text(status));
        return NULL;
    }
    int8_t *statuses = NULL;
    if (status_count > 0) {
        statuses = heap_alloc(status_count);
        if (statuses == NULL) {
            (void)error_set(error, ST_NO_MEMORY, "no memory for %u statuses", status_count);
            return NULL;
        }
    }
    struct queue *item = queue_pop_front(&client->free);
    KVEIK_ASSERT(item != NULL);
    struct op *op = CONTAINER_OF(item, struct op, ready);
    KVEIK_ASSERT(op->id == 0);
    uint32_t slot = op->slot;
    (void)memset(op, 0, sizeof *op);
    queue_init(&op->flight);
    queue_init(&op->ready);
    op->slot = slot;
    op->id = ++client->sequence << SLOT_BITS | slot;
    op->request = request;
    op->internal = internal;
    op->statuses = statuses;
    op->status_count = status_count;
    op->submitted_ns = clock_ns();
    op->completion.size = sizeof op->completion;
    op->completion.op = op->id;
    op->completion.kind = public_kind(request);
    if (!internal) {
        client->user_ops++;
    }
    return op;
}

static void op_free(struct kveik_client *client, struct op *op)
{
    KVEIK_ASSERT(op->id != 0);
    if (!op->internal) {
        KVEIK_ASSERT(client->user_ops > 0);
        client->user_ops--;
    }
    queue_remove(&op->flight);
    queue_remove(&op->ready);
    heap_free(op->statuses);
    heap_free(op->json);
    op->statuses = NULL;
    op->json = NULL;
    op->id = 0;
    queue_push_back(&client->free, &op->ready);
}

void op_discard(struct kveik_client *client, struct op *op)
{
    KVEIK_ASSERT(queue_empty(&op->flight) && !op->done);
    op_free(client, op);
}

void op_launch(struct kveik_client *client, struct op *op, uint32_t timeout_ms)
{
    op->epoch = client->connection.epoch;
    op->give_up_ms = op->submitted_ns / 1000000u + timeout_ms + ANSWER_GRACE_MS;
    queue_push_back(&client->flight, &op->flight);
    client_wake_at(client, op->give_up_ms);
}

struct op *op_find(const struct kveik_client *client, uint64_t id)
{
    uint64_t slot = id & SLOT_MASK;
    if (id == 0 || slot >= client->op_count || client->ops[slot]->id != id) {
        return NULL;
    }
    return client->ops[slot];
}

static void copy_text(char *out, size_t bytes, const char *text)
{
    size_t length = strnlen(text, bytes - 1);
    (void)memcpy(out, text, length);
    out[length] = '\0';
}

void op_finish(struct kveik_client *client, struct op *op, int status, const char *text)
{
    if (op->done) {
        return;
    }
    op->done = true;
    op->completion.status = status;
    op->completion.latency_us = (clock_ns() - op->submitted_ns) / 1000;
    if (status < 0) {
        bool worded = text != NULL && text[0] != '\0';
        copy_text(op->completion.text, sizeof op->completion.text,
                  worded ? text : status_text(status));
    }
    if (!op->internal && !op->taken && op->waiters == 0) {
        queue_push_back(&client->ready, &op->ready);
    }
    client->progress = true;
}

static void free_if_over(struct kveik_client *client, struct op *op)
{
    if (op->answered && op->taken) {
        op_free(client, op);
    }
}

void op_answered(struct kveik_client *client, struct op *op)
{
    KVEIK_ASSERT(op->done);
    op->answered = true;
    queue_remove(&op->flight);
    free_if_over(client, op);
}

void op_forget(struct kveik_client *client, struct op *op)
{
    op->taken = true;
    queue_remove(&op->ready);
    free_if_over(client, op);
}

void op_take(struct kveik_client *client, struct op *op, struct kveik_completion *completion_out)
{
    KVEIK_ASSERT(op->done && !op->taken);
    if (completion_out != NULL) {
        op->completion.statuses = op->statuses;
        op->completion.status_count = op->status_count;
        op->statuses = NULL; /* the caller's until kveik_completion_finish() */
        (void)give_struct(&op->completion, sizeof op->completion, completion_out);
    }
    op_forget(client, op);
}

/* How a request ends that nobody answered. A push whose deadline the daemon keeps by our own clock
 * can no longer get into the cache, so its pages are free for new contents; a pull may still write
 * to its pages. */
static int expired_status(const struct kveik_client *client, const struct op *op)
{
    bool kept = (client->connection.capabilities & MSG_CAPABILITY_CLOCK) != 0;
    return op->request == MSG_PUSH && kept ? ST_DEADLINE : ST_STUCK;
}

void op_expire(struct kveik_client *client, uint64_t now_ms)
{
    uint64_t next_ms = UINT64_MAX;
    queue_foreach_safe (item, &client->flight) {
        struct op *op = CONTAINER_OF(item, struct op, flight);
        if (op->done) {
            continue; /* given up before: stays until the late answer or the end of the connection
                       */
        }
        if (op->give_up_ms <= now_ms) {
            int status = expired_status(client, op);
            if (op->statuses != NULL) {
                (void)memset(op->statuses, status, op->status_count);
            }
            op_finish(client, op, status, NULL);
        } else if (op->give_up_ms < next_ms) {
            next_ms = op->give_up_ms;
        }
    }
    if (next_ms != UINT64_MAX) {
        client_wake_at(client, next_ms);
    }
}

void op_end_all(struct kveik_client *client, int status, const char *text)
{
    queue_foreach_safe (item, &client->flight) {
        struct op *op = CONTAINER_OF(item, struct op, flight);
        /* a quiesce asks for exactly what the end of the connection gives: quiet pages */
        int own = op->request == MSG_QUIESCE ? ST_OK : status;
        if (!op->done && op->statuses != NULL) {
            (void)memset(op->statuses, own, op->status_count);
        }
        op_finish(client, op, own, text);
        op_answered(client, op);
    }
}

void ops_finish(struct kveik_client *client)
{
    for (uint32_t i = 0; i < client->op_count; i++) {
        heap_free(client->ops[i]->statuses);
        heap_free(client->ops[i]->json);
        heap_free(client->ops[i]);
    }
    heap_free(client->ops);
    client->ops = NULL;
    client->op_count = 0;
}

static bool is_done(const struct kveik_client *client, const void *arg)
{
    (void)client;
    return ((const struct op *)arg)->done;
}

int op_await(struct kveik_client *client, struct op *op, struct error *error)
{
    op->waiters++;
    while (client_await(client, is_done, op, op->give_up_ms) != ST_OK) {
        op_expire(client, clock_ms()); /* ends it, if the thread that watches the timer is late */
    }
    op->waiters--;
    int status = op->completion.status;
    return status >= 0 ? status : error_set(error, status, "%s", op->completion.text);
}
