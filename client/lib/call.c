/* The library's own requests: sent, waited for, answered in a struct. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "client/lib/client.h"

struct call_extra {
    const int *descriptors;
    uint32_t count;
    uint32_t timeout_ms;
};

static void on_call_reply(struct kveik_client *client, struct op *op, const struct msg *msg)
{
    int status = ST_PROTOCOL;
    const char *text = "the daemon answered with another kind of message";
    if (msg->kind == MSG_HANDLE_REPLY) {
        status = msg->u.handle_reply.status;
        text = msg->u.handle_reply.text;
        op->handle = msg->u.handle_reply.handle;
    } else if (msg->kind == MSG_SPACE_REPLY) {
        status = msg->u.space_reply.status;
        text = msg->u.space_reply.text;
        op->handle = msg->u.space_reply.space;
        (void)memcpy(op->space_id, msg->u.space_reply.space_id, sizeof op->space_id);
    } else if (msg->kind == MSG_COMPLETION) {
        status = msg->u.completion.status;
        text = msg->u.completion.text;
    } else if (msg->kind == MSG_STATUS_REPLY) {
        op->json = heap_strdup(msg->u.status_reply.json);
        status = op->json != NULL ? ST_OK : ST_NO_MEMORY;
        text = "";
    }
    op_finish(client, op, status, text);
}

static int answer_of(struct op *op, struct call_answer *answer)
{
    answer->status = op->completion.status;
    (void)snprintf(answer->text, sizeof answer->text, "%s", op->completion.text);
    answer->handle = op->handle;
    (void)memcpy(answer->space_id, op->space_id, sizeof answer->space_id);
    answer->json = op->json;
    op->json = NULL;
    op_free(op);
    return answer->status;
}

static int call_within(struct kveik_client *client, struct msg *msg, const struct call_extra *extra,
                       struct call_answer *answer_out)
{
    struct error error = {0};
    *answer_out = (struct call_answer){0};
    int status = client_ready(client, &error);
    struct op *op = status == ST_OK ? op_create(client, 0, NULL, extra->timeout_ms) : NULL;
    if (status == ST_OK && op == NULL) {
        status = error_set(&error, ST_NO_MEMORY, "out of memory");
    }
    if (op != NULL) {
        op->claimed = true;
        op->on_reply = on_call_reply;
        msg->request_id = op->id;
        status = client_send(client, msg, extra->descriptors, extra->count, &error);
        if (status != ST_OK && !op->done) {
            op_forget(client, op);
        } else if (status != ST_OK) {
            op_free(op);
        }
    }
    if (status != ST_OK || op == NULL) {
        answer_out->status = status;
        (void)snprintf(answer_out->text, sizeof answer_out->text, "%s", error.text);
        return status;
    }
    client->waiters++;
    /* ends by itself: every operation counts as stuck in the end */
    (void)op_wait(client, op, UINT64_MAX / 2);
    client->waiters--;
    return answer_of(op, answer_out);
}

int client_call(struct kveik_client *client, struct msg *msg, const int *descriptors,
                uint32_t descriptor_count, struct call_answer *answer_out)
{
    struct call_extra extra = {
        .descriptors = descriptors, .count = descriptor_count, .timeout_ms = CALL_TIMEOUT_MS};
    return call_within(client, msg, &extra, answer_out);
}

int kveik_daemon_status(kveik_client *client, uint32_t timeout_ms, char **json_out,
                        struct kveik_error *error)
{
    if (json_out == NULL) {
        return error_say(error, ST_INVALID, "json_out: give a place for the text");
    }
    int status = client_lock(client);
    if (status != ST_OK) {
        return error_say(error, status, "%s", status_text(status));
    }
    struct msg msg = {.kind = MSG_STATUS_REQUEST};
    struct call_extra extra = {.timeout_ms = timeout_ms};
    struct call_answer answer;
    status = call_within(client, &msg, &extra, &answer);
    client_unlock(client);
    if (status != ST_OK) {
        return error_say(error, status, "status: %s", answer.text);
    }
    *json_out = answer.json;
    return ST_OK;
}

void kveik_text_free(char *text)
{
    heap_free(text);
}
