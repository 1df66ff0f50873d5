/* Answers: from messages to completions. */
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "client/lib/client.h"

/* Whether an answer of this kind may follow the request. */
static bool fits(enum msg_kind request, enum msg_kind answer)
{
    switch ((int)request) {
    case MSG_REGISTER_SPACE:
        return answer == MSG_SPACE_REPLY;
    case MSG_EXPORT_MEMORY:
    case MSG_DROP_MEMORY:
    case MSG_REGISTER_LAYOUT:
    case MSG_DROP_LAYOUT:
        return answer == MSG_HANDLE_REPLY;
    case MSG_LOOKUP:
        return answer == MSG_LOOKUP_REPLY;
    case MSG_STATUS_REQUEST: /* refused by a completion */
        return answer == MSG_STATUS_REPLY || answer == MSG_COMPLETION;
    default:
        return answer == MSG_COMPLETION;
    }
}

/* Statuses one by one, or none at all with an error that holds for each. */
static bool take_statuses(struct op *op, const struct msg_completion *answer)
{
    if (op->status_count == 0) {
        return true;
    }
    if (answer->status_count == op->status_count) {
        (void)memcpy(op->statuses, answer->statuses, op->status_count);
        return true;
    }
    if (answer->status_count == 0 && answer->status < 0) {
        (void)memset(op->statuses, answer->status, op->status_count);
        return true;
    }
    return false;
}

static void on_completion(struct kveik_client *client, struct op *op,
                          const struct msg_completion *answer)
{
    if (!op->done && !take_statuses(op, answer)) {
        connection_broken(client, "a completion with too few or too many statuses");
        return;
    }
    op->completion.bytes = answer->bytes;
    op_finish(client, op, answer->status, answer->text);
    op_answered(client, op);
}

static void take_origins(struct kveik_completion *completion, const struct msg_lookup_reply *reply)
{
    KVEIK_ASSERT(reply->origin_count <= KVEIK_ORIGINS_MAX);
    completion->origin_count = reply->origin_count;
    for (uint32_t i = 0; i < reply->origin_count; i++) {
        struct kveik_origin *origin = &completion->origins[i];
        (void)memcpy(origin->instance, reply->origins[i].instance_id.data,
                     reply->origins[i].instance_id.bytes);
        origin->instance[reply->origins[i].instance_id.bytes] = '\0';
        origin->keys = reply->origins[i].keys;
    }
}

static void on_lookup_reply(struct kveik_client *client, struct op *op,
                            const struct msg_lookup_reply *reply)
{
    if (op->done && reply->lease != 0) {
        /* too late for whoever asked: nobody else knows of the lease */
        struct msg msg = {.kind = MSG_RELEASE, .u.release.lease = reply->lease};
        request_forgotten(client, &msg);
    } else if (!op->done) {
        struct kveik_completion *completion = &op->completion;
        completion->hit_keys = reply->hit_keys;
        completion->hit_tokens = reply->hit_tokens;
        completion->hit_bytes = reply->hit_bytes;
        completion->lease = reply->lease;
        completion->expected_us = reply->expected_us;
        take_origins(completion, reply);
    }
    op_finish(client, op, reply->status, reply->text);
    op_answered(client, op);
}

/* The answer to a registration or a drop. `late`: whoever asked has given up. */
static void on_number(struct kveik_client *client, struct op *op, int status, uint32_t number,
                      const char *text)
{
    bool late = op->done;
    op->number = number;
    op_finish(client, op, status, text);
    if (client->connection.registering == op->id) {
        register_answered(client, op);
    } else if (late && status == ST_OK) {
        register_undo(client, op->request, number);
    }
    op_answered(client, op);
}

static void on_status_reply(struct kveik_client *client, struct op *op,
                            const struct msg_status_reply *reply)
{
    if (!op->done) {
        op->json = heap_strdup(reply->json);
    }
    op_finish(client, op, op->json != NULL ? ST_OK : ST_NO_MEMORY, NULL);
    op_answered(client, op);
}

void complete_message(struct kveik_client *client, const struct msg *msg)
{
    struct op *op = op_find(client, msg->request_id);
    if (op == NULL || op->answered) {
        return; /* nobody asks any more, such as for the answer to a cancel */
    }
    if (!fits(op->request, msg->kind)) {
        connection_broken(client, "an answer of another kind than the request");
        return;
    }
    switch ((int)msg->kind) {
    case MSG_COMPLETION:
        on_completion(client, op, &msg->u.completion);
        break;
    case MSG_LOOKUP_REPLY:
        on_lookup_reply(client, op, &msg->u.lookup_reply);
        break;
    case MSG_SPACE_REPLY:
        (void)memcpy(op->space_id, msg->u.space_reply.space_id, SPACE_ID_BYTES);
        on_number(client, op, msg->u.space_reply.status, msg->u.space_reply.space,
                  msg->u.space_reply.text);
        break;
    case MSG_HANDLE_REPLY:
        on_number(client, op, msg->u.handle_reply.status, msg->u.handle_reply.handle,
                  msg->u.handle_reply.text);
        break;
    case MSG_STATUS_REPLY:
        on_status_reply(client, op, &msg->u.status_reply);
        break;
    default:
        KVEIK_UNREACHABLE("fits() lets no other answer through");
    }
}

void kveik_completion_finish(struct kveik_completion *completion)
{
    if (completion != NULL) {
        union {
            const int8_t *given;
            void *ours;
        } statuses = {.given = completion->statuses};
        heap_free(statuses.ours);
        completion->statuses = NULL;
        completion->status_count = 0;
    }
}
