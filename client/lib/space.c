/* Spaces: registered, and registered again on every new connection. */
#include "proto/space.h"

#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "client/lib/client.h"

static int name_copy(char *to, const char *from, const char *what, struct error *error)
{
    if (from == NULL) {
        to[0] = '\0';
        return ST_OK;
    }
    if (strlen(from) >= SPACE_NAME_BYTES) {
        return error_set(error, ST_INVALID, "%s: at most %d bytes", what, SPACE_NAME_BYTES - 1);
    }
    (void)memcpy(to, from, strlen(from) + 1);
    return ST_OK;
}

static int groups_copy(struct space *to, const struct kveik_space *from, struct error *error)
{
    if (from->groups == NULL || from->group_count == 0 || from->group_count > SPACE_GROUPS_MAX) {
        return error_set(error, ST_INVALID, "groups: give 1 to %d", SPACE_GROUPS_MAX);
    }
    to->group_count = from->group_count;
    for (uint32_t g = 0; g < from->group_count; g++) {
        const struct kveik_group *group = &from->groups[g];
        to->groups[g] = (struct space_group){.rule = group->rule,
                                             .window_tokens = group->window_tokens,
                                             .layer_count = group->layer_count,
                                             .head_count = group->head_count,
                                             .kind_count = group->kind_count,
                                             .opaque = group->opaque};
        for (uint32_t k = 0; k < LAYOUT_KINDS_MAX && k < group->kind_count; k++) {
            to->groups[g].kind_elements[k] = group->kind_elements[k];
        }
    }
    return ST_OK;
}

static int space_copy(struct space *to, const struct kveik_space *from, struct error *error)
{
    if (from->fingerprint_bytes > SPACE_FINGERPRINT_MAX ||
        from->isolation_bytes > SPACE_FINGERPRINT_MAX) {
        return error_set(error, ST_INVALID, "fingerprint and isolation: at most %d bytes each",
                         SPACE_FINGERPRINT_MAX);
    }
    int status = name_copy(to->model, from->model, "model", error);
    status = status != ST_OK ? status : name_copy(to->revision, from->revision, "revision", error);
    status = status != ST_OK ? status : groups_copy(to, from, error);
    if (status != ST_OK) {
        return status;
    }
    to->dtype = from->dtype;
    to->quota_bytes = from->quota_bytes;
    if (from->rope_id != NULL) {
        (void)memcpy(to->rope_id, from->rope_id, sizeof to->rope_id);
        to->has_rope = true;
    }
    if (from->fingerprint_bytes > 0) {
        (void)memcpy(to->fingerprint, from->fingerprint, from->fingerprint_bytes);
        to->fingerprint_bytes = (uint32_t)from->fingerprint_bytes;
    }
    if (from->isolation_bytes > 0) {
        (void)memcpy(to->isolation, from->isolation, from->isolation_bytes);
        to->isolation_bytes = (uint32_t)from->isolation_bytes;
    }
    return space_check(to, error);
}

static void on_space_again(struct kveik_client *client, struct op *op, const struct msg *msg)
{
    struct client_space *space = op->object;
    space->status = msg->kind == MSG_SPACE_REPLY ? msg->u.space_reply.status : ST_PROTOCOL;
    if (space->status == ST_OK) {
        space->remote = msg->u.space_reply.space;
    }
    client->registering--;
    op_forget(client, op);
}

int space_send(struct kveik_client *client, struct client_space *space, struct error *error)
{
    struct op *op = op_create(client, 0, NULL, CALL_TIMEOUT_MS);
    if (op == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    op->on_reply = on_space_again;
    op->object = space;
    client->registering++;
    struct msg msg = {
        .request_id = op->id, .kind = MSG_REGISTER_SPACE, .u.register_space = space->space};
    return client_send(client, &msg, NULL, 0, error);
}

/* With the lock held. With the daemon away (wait_for_daemon) the space is kept for later. */
static int space_register(struct kveik_client *client, struct client_space *space,
                          uint32_t *handle_out, struct error *error)
{
    /* it enters the table, which new connections register, once the daemon took it */
    struct msg msg = {.kind = MSG_REGISTER_SPACE, .u.register_space = space->space};
    struct call_answer answer;
    int status = client_call(client, &msg, NULL, 0, &answer);
    if (status == ST_UNAVAILABLE && client->wait_for_daemon) {
        space->status = ST_UNAVAILABLE;
        status = ST_OK;
    } else if (status == ST_OK) {
        space->remote = answer.handle;
        (void)memcpy(space->id, answer.space_id, sizeof space->id);
    }
    if (status != ST_OK) {
        return error_set(error, status, "space: %s", answer.text);
    }
    status = table_add(&client->spaces, space, handle_out);
    return status == ST_OK ? ST_OK : error_set(error, status, "out of memory");
}

int kveik_space_register(kveik_client *client, const struct kveik_space *space, uint32_t *space_out,
                         struct kveik_error *error)
{
    if (space == NULL || space->size != sizeof *space || space_out == NULL) {
        return error_say(error, ST_INVALID, "space: initialise it with KVEIK_SPACE_INIT");
    }
    struct client_space *own = heap_calloc(1, sizeof *own);
    if (own == NULL) {
        return error_say(error, ST_NO_MEMORY, "out of memory");
    }
    struct error cause = {0};
    int status = space_copy(&own->space, space, &cause);
    if (status == ST_OK) {
        status = client_lock(client);
        if (status != ST_OK) {
            (void)error_set(&cause, status, "%s", status_text(status));
        } else {
            status = space_register(client, own, space_out, &cause);
            client_unlock(client);
        }
    }
    if (status != ST_OK) {
        heap_free(own);
        return error_out(error, &cause);
    }
    return ST_OK;
}
