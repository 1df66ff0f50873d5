/* Operations in flight, and what becomes of them. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "client/lib/client.h"

static struct queue *bucket_of(struct kveik_client *client, uint64_t id)
{
    return &client->ops[id % OP_BUCKETS];
}

struct op *op_create(struct kveik_client *client, uint32_t kind, void *user, uint32_t deadline_ms)
{
    struct op *op = heap_calloc(1, sizeof *op);
    if (op == NULL) {
        return NULL;
    }
    op->id = ++client->ids;
    op->submitted_ns = clock_ns();
    op->stuck_ms = op->submitted_ns / 1000000u + deadline_ms + OP_GRACE_MS;
    op->completion.op = op->id;
    op->completion.kind = kind;
    op->completion.user = user;
    queue_push_back(bucket_of(client, op->id), &op->link);
    client->in_flight += kind != 0 ? 1 : 0;
    client_timer(client, op->stuck_ms + 1);
    return op;
}

void op_free(struct op *op)
{
    heap_free(op->statuses);
    heap_free(op->json);
    heap_free(op);
}

void op_forget(struct kveik_client *client, struct op *op)
{
    queue_remove(&op->link);
    client->in_flight -= op->completion.kind != 0 ? 1 : 0;
    op_free(op);
}

static void event_signal(struct kveik_client *client)
{
    if (client->event_used && !client->event_signaled) {
        uint64_t one = 1;
        client->event_signaled = write(client->event, &one, sizeof one) == (ssize_t)sizeof one;
    }
}

static void event_clear(struct kveik_client *client)
{
    uint64_t count = 0;
    if (client->event_signaled && read(client->event, &count, sizeof count) > 0) {
        client->event_signaled = false;
    }
}

/* Takes the operation out of flight; whoever waits for it frees it, or kveik_poll() hands it on. */
static void op_end(struct kveik_client *client, struct op *op)
{
    queue_remove(&op->link);
    op->done = true;
    op->completion.latency_us = (clock_ns() - op->submitted_ns) / 1000u;
    client->in_flight -= op->completion.kind != 0 ? 1 : 0;
    if (!op->claimed) {
        queue_push_back(&client->done, &op->link);
    }
    if (client->waiters > 1 || (client->waiters == 1 && !op->claimed)) {
        (void)pthread_cond_broadcast(&client->changed);
    }
}

void op_finish(struct kveik_client *client, struct op *op, int status, const char *text)
{
    op->completion.status = status;
    if (status < 0) {
        (void)snprintf(op->completion.text, sizeof op->completion.text, "%s",
                       text[0] != '\0' ? text : status_text(status));
    }
    op_end(client, op);
}

/* ---- answers --------------------------------------------------------------------------------- */

static struct op *op_find(struct kveik_client *client, uint64_t id)
{
    struct queue *bucket = bucket_of(client, id);
    queue_foreach (item, bucket) {
        struct op *op = CONTAINER_OF(item, struct op, link);
        if (op->id == id) {
            return op;
        }
    }
    return NULL;
}

static void on_lookup_reply(struct kveik_client *client, struct op *op,
                            const struct msg_lookup_reply *reply)
{
    struct kveik_completion *completion = &op->completion;
    completion->hit_keys = reply->hit_keys;
    completion->hit_tokens = reply->hit_tokens;
    completion->hit_bytes = reply->hit_bytes;
    completion->lease = reply->lease;
    completion->expected_us = reply->expected_us;
    for (uint32_t i = 0; i < reply->origin_count && i < KVEIK_ORIGINS_MAX; i++) {
        struct kveik_origin *origin = &completion->origins[completion->origin_count++];
        (void)snprintf(origin->instance, sizeof origin->instance, "%.*s",
                       (int)reply->origins[i].instance_id.bytes,
                       (const char *)reply->origins[i].instance_id.data);
        origin->keys = reply->origins[i].keys;
    }
    op_finish(client, op, reply->status, reply->text);
}

static void on_completion(struct kveik_client *client, struct op *op,
                          const struct msg_completion *reply)
{
    int status = reply->status;
    if (reply->status_count > 0) {
        op->statuses = heap_alloc(reply->status_count);
        if (op->statuses != NULL) {
            (void)memcpy(op->statuses, reply->statuses, reply->status_count);
            op->completion.status_count = reply->status_count;
        } else {
            status = ST_NO_MEMORY;
        }
    }
    op->completion.bytes = reply->bytes;
    op_finish(client, op, status, reply->text);
}

static bool answers(const struct op *op, enum msg_kind kind)
{
    if (op->completion.kind == KVEIK_OP_LOOKUP) {
        return kind == MSG_LOOKUP_REPLY;
    }
    return kind == MSG_COMPLETION;
}

int op_dispatch(struct kveik_client *client, const struct msg *msg, struct error *error)
{
    struct op *op = op_find(client, msg->request_id);
    if (op == NULL) {
        return ST_OK; /* late: it counted as stuck, or was a cancel that nobody waits for */
    }
    if (op->on_reply != NULL) {
        op->on_reply(client, op, msg);
        return ST_OK;
    }
    if (!answers(op, msg->kind)) {
        return error_set(error, ST_PROTOCOL, "the daemon answered a request with %s",
                         msg_kind_name(msg->kind));
    }
    if (msg->kind == MSG_LOOKUP_REPLY) {
        on_lookup_reply(client, op, &msg->u.lookup_reply);
    } else {
        on_completion(client, op, &msg->u.completion);
    }
    return ST_OK;
}

void ops_fail_all(struct kveik_client *client, int status, const char *text)
{
    for (uint32_t b = 0; b < OP_BUCKETS; b++) {
        queue_foreach_safe (item, &client->ops[b]) {
            struct op *op = CONTAINER_OF(item, struct op, link);
            if (op->object != NULL) { /* a registration on the connection that is gone */
                op_forget(client, op);
            } else {
                op_finish(client, op, status >= 0 ? ST_LOST : status, text);
            }
        }
    }
    if (!queue_empty(&client->done)) {
        event_signal(client);
    }
}

void ops_expire(struct kveik_client *client, uint64_t now_ms)
{
    if (now_ms < client->expire_ms) {
        return;
    }
    uint64_t next = now_ms + OP_GRACE_MS;
    for (uint32_t b = 0; b < OP_BUCKETS; b++) {
        queue_foreach_safe (item, &client->ops[b]) {
            struct op *op = CONTAINER_OF(item, struct op, link);
            if (op->stuck_ms <= now_ms && op->object == NULL) {
                op_finish(client, op, ST_STUCK, "the daemon did not answer in time");
            } else if (op->stuck_ms < next) {
                next = op->stuck_ms;
            }
        }
    }
    client->expire_ms = next;
    if (client->in_flight > 0) {
        client_timer(client, next + 1);
    }
    if (!queue_empty(&client->done)) {
        event_signal(client);
    }
}

/* ---- handing over ---------------------------------------------------------------------------- */

static void hand_over(struct op *op, struct kveik_completion *out)
{
    if (out != NULL) {
        size_t size = out->size;
        *out = op->completion;
        out->size = size;
        out->statuses = op->statuses;
        op->statuses = NULL;
    }
    op_free(op);
}

static struct op *done_pop(struct kveik_client *client)
{
    struct queue *item = queue_pop_front(&client->done);
    if (queue_empty(&client->done)) {
        event_clear(client);
    } else {
        event_signal(client);
    }
    return item == NULL ? NULL : CONTAINER_OF(item, struct op, link);
}

static bool completion_good(const struct kveik_completion *completion)
{
    return completion != NULL && completion->size == sizeof *completion;
}

int kveik_poll(kveik_client *client, struct kveik_completion *completion_out)
{
    if (!completion_good(completion_out)) {
        return ST_INVALID;
    }
    int status = client_lock(client);
    if (status != ST_OK) {
        return status;
    }
    if (queue_empty(&client->done)) {
        client_pump(client);
    }
    struct op *op = done_pop(client);
    if (op != NULL) {
        hand_over(op, completion_out);
    }
    client_unlock(client);
    return op != NULL ? ST_OK : ST_PENDING;
}

static int wait_any(struct kveik_client *client, uint64_t until_ms, struct kveik_completion *out)
{
    for (;;) {
        client_pump(client);
        struct op *op = done_pop(client);
        if (op != NULL) {
            hand_over(op, out);
            return ST_OK;
        }
        if (clock_ms() >= until_ms) {
            return ST_PENDING;
        }
        client_sleep(client, until_ms);
    }
}

static struct op *done_find(struct kveik_client *client, uint64_t id)
{
    queue_foreach (item, &client->done) {
        struct op *op = CONTAINER_OF(item, struct op, link);
        if (op->id == id) {
            return op;
        }
    }
    return NULL;
}

int op_wait(struct kveik_client *client, struct op *op, uint64_t until_ms)
{
    while (!op->done) {
        client_pump(client);
        if (op->done) {
            break;
        }
        if (clock_ms() >= until_ms) {
            return ST_PENDING;
        }
        client_sleep(client, until_ms);
    }
    return ST_OK;
}

static int wait_one(struct kveik_client *client, uint64_t id, uint64_t until_ms,
                    struct kveik_completion *out)
{
    struct op *op = done_find(client, id);
    if (op != NULL) {
        queue_remove(&op->link);
        if (queue_empty(&client->done)) {
            event_clear(client);
        }
        hand_over(op, out);
        return ST_OK;
    }
    op = op_find(client, id);
    if (op == NULL || op->claimed || op->completion.kind == 0) {
        return ST_UNKNOWN_ID;
    }
    op->claimed = true;
    int status = op_wait(client, op, until_ms);
    if (status == ST_OK) {
        hand_over(op, out);
    } else {
        op->claimed = false;
    }
    return status;
}

int kveik_wait(kveik_client *client, uint64_t op, uint32_t timeout_ms,
               struct kveik_completion *completion_out)
{
    if (!completion_good(completion_out)) {
        return ST_INVALID;
    }
    int status = client_lock(client);
    if (status != ST_OK) {
        return status;
    }
    uint64_t until = clock_ms() + timeout_ms;
    client->waiters++;
    status = op == 0 ? wait_any(client, until, completion_out)
                     : wait_one(client, op, until, completion_out);
    client->waiters--;
    client_unlock(client);
    return status;
}

void kveik_completion_finish(struct kveik_completion *completion)
{
    if (completion != NULL && completion->statuses != NULL) {
        union {
            const int8_t *shown;
            int8_t *owned;
        } statuses = {.shown = completion->statuses};
        heap_free(statuses.owned);
        completion->statuses = NULL;
        completion->status_count = 0;
    }
}
