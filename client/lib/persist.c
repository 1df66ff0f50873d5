/* Persist: an answer when named blocks are on stable storage. */
#include <stdio.h>

#include "client/lib/client.h"
#include "client/lib/submit.h"
#include "kveik/kveik.h"

static int build_persist(struct kveik_client *client, const struct kveik_persist *persist,
                         struct msg *msg, struct error *error)
{
    const struct client_space *space = handles_get(&client->spaces, persist->space);
    if (space == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "space %u is not registered", persist->space);
    }
    if (!register_usable(client, &space->object, "space", error)) {
        return error->status;
    }
    if (persist->keys == NULL || persist->key_count == 0 ||
        persist->key_count > client->connection.keys_max) {
        return error_set(error, ST_INVALID, "%u keys in one request, must be 1 to %u",
                         persist->key_count, client->connection.keys_max);
    }
    if (persist->key_tokens % GRAIN_TOKENS != 0 ||
        persist->key_tokens > BLOCK_GRAINS_MAX * GRAIN_TOKENS) {
        return error_set(error, ST_INVALID,
                         "key_tokens is %u, must be a multiple of %d, at most %d",
                         persist->key_tokens, GRAIN_TOKENS, BLOCK_GRAINS_MAX * GRAIN_TOKENS);
    }
    if (persist->tail_tokens > GRAIN_TOKENS) {
        return error_set(error, ST_INVALID, "tail_tokens is %u, at most %d", persist->tail_tokens,
                         GRAIN_TOKENS);
    }
    msg->kind = MSG_PERSIST;
    msg->u.persist = (struct msg_persist){
        .space = space->object.number,
        .keys = persist->keys,
        .key_count = persist->key_count,
        .key_grains = persist->key_tokens == 0 ? 1 : persist->key_tokens / GRAIN_TOKENS,
        .tail_tokens = persist->tail_tokens != 0 ? persist->tail_tokens : GRAIN_TOKENS,
        .deadline_ms = persist->deadline_ms != 0 ? persist->deadline_ms : PUSH_DEADLINE_MS};
    return ST_OK;
}

struct op *submit_persist(struct kveik_client *client, const struct kveik_persist *persist,
                          struct submit *submit, struct error *error)
{
    struct kveik_persist ours;
    struct msg msg = {.kind = MSG_NONE};
    if (take_struct(&ours, sizeof ours, persist, "KVEIK_PERSIST_INIT", error) != ST_OK ||
        connection_ready(client, error) != ST_OK) {
        return NULL;
    }
    if (ours.deadline_ms > MSG_DEADLINE_MS_MAX) {
        (void)error_set(error, ST_INVALID, "deadline_ms is %u, at most %d", ours.deadline_ms,
                        MSG_DEADLINE_MS_MAX);
        return NULL;
    }
    if (build_persist(client, &ours, &msg, error) != ST_OK) {
        return NULL;
    }
    submit->timeout_ms = msg.u.persist.deadline_ms;
    return submit_send(client, &msg, submit, ours.key_count, error);
}
