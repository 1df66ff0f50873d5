/* kveik_space_register(). */
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "client/lib/client.h"
#include "kveik/kveik.h"

static int take_name(const char *field, const char *name, char out[SPACE_NAME_BYTES],
                     struct error *error)
{
    size_t length = name == NULL ? 0 : strnlen(name, SPACE_NAME_BYTES);
    if (length == SPACE_NAME_BYTES) {
        return error_set(error, ST_INVALID, "space: %s is longer than %d bytes", field,
                         SPACE_NAME_BYTES - 1);
    }
    if (length > 0) {
        (void)memcpy(out, name, length);
    }
    return ST_OK;
}

static int take_bytes(const char *field, const void *data, size_t bytes,
                      uint8_t out[SPACE_FINGERPRINT_MAX], struct error *error)
{
    if (bytes > SPACE_FINGERPRINT_MAX || (data == NULL && bytes > 0)) {
        return error_set(error, ST_INVALID, "space: %s of %zu bytes, at most %d", field, bytes,
                         SPACE_FINGERPRINT_MAX);
    }
    if (bytes > 0) {
        (void)memcpy(out, data, bytes);
    }
    return ST_OK;
}

static int take_groups(const struct kveik_space *in, struct space *out, struct error *error)
{
    if (in->groups == NULL || in->group_count == 0 || in->group_count > SPACE_GROUPS_MAX) {
        return error_set(error, ST_INVALID, "space: %u groups, must be 1 to %d", in->group_count,
                         SPACE_GROUPS_MAX);
    }
    out->group_count = in->group_count;
    for (uint32_t i = 0; i < in->group_count; i++) {
        const struct kveik_group *group = &in->groups[i];
        out->groups[i] = (struct space_group){.rule = group->rule,
                                              .window_tokens = group->window_tokens,
                                              .layer_count = group->layer_count,
                                              .head_count = group->head_count,
                                              .kind_count = group->kind_count,
                                              .opaque = group->opaque};
        (void)memcpy(out->groups[i].kind_elements, group->kind_elements,
                     sizeof group->kind_elements);
    }
    return ST_OK;
}

static int space_of(const struct kveik_space *in, struct space *out, struct error *error)
{
    *out = (struct space){
        .dtype = in->dtype, .quota_bytes = in->quota_bytes, .admission = in->admission};
    int status = take_name("model", in->model, out->model, error);
    if (status == ST_OK) {
        status = take_name("revision", in->revision, out->revision, error);
    }
    if (status == ST_OK) {
        status = take_groups(in, out, error);
    }
    if (status == ST_OK) {
        status = take_bytes("fingerprint", in->fingerprint, in->fingerprint_bytes, out->fingerprint,
                            error);
        out->fingerprint_bytes = (uint32_t)in->fingerprint_bytes;
    }
    if (status == ST_OK) {
        status = take_bytes("isolation", in->isolation, in->isolation_bytes, out->isolation, error);
        out->isolation_bytes = (uint32_t)in->isolation_bytes;
    }
    if (in->rope_id != NULL) {
        out->has_rope = true;
        (void)memcpy(out->rope_id, in->rope_id, sizeof out->rope_id);
    }
    return status != ST_OK ? status : space_check(out, error);
}

int space_offer(struct kveik_client *client, struct client_space *space, struct error *error)
{
    int status = connection_ready(client, error);
    if (status != ST_OK) {
        return status;
    }
    struct op *op = register_send_space(client, space, error);
    if (op == NULL) {
        return error->status;
    }
    status = op_await(client, op, error);
    space->object.number = op->number;
    space->object.epoch = op->epoch;
    space->object.status = status;
    if (status == ST_OK && memcmp(op->space_id, space->id, sizeof space->id) != 0) {
        /* the two sides do not mean the same by the same words */
        status = error_set(error, ST_MISMATCH, "the daemon computes another id for the space");
    }
    op_forget(client, op);
    return status;
}

/* The same space again is the same handle. */
static const struct client_space *find_same(const struct kveik_client *client,
                                            const struct client_space *space)
{
    for (uint32_t slot = 0; slot < client->spaces.capacity; slot++) {
        const struct client_space *held = handles_at(&client->spaces, slot);
        if (held != NULL && memcmp(held->id, space->id, sizeof space->id) == 0 &&
            held->space.quota_bytes == space->space.quota_bytes &&
            held->space.admission == space->space.admission) {
            return held;
        }
    }
    return NULL;
}

int kveik_space_register(kveik_client *client, const struct kveik_space *space, uint32_t *space_out,
                         struct kveik_error *error_out)
{
    struct error error = {0};
    struct kveik_space ours;
    int status = space_out == NULL ? ST_INVALID : client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct client_space *made = heap_calloc(1, sizeof *made);
    status = made == NULL ? ST_NO_MEMORY
                          : take_struct(&ours, sizeof ours, space, "KVEIK_SPACE_INIT", &error);
    if (status == ST_OK) {
        status = space_of(&ours, &made->space, &error);
    }
    if (status == ST_OK) {
        status = space_id(&made->space, made->id);
    }
    const struct client_space *same = status == ST_OK ? find_same(client, made) : NULL;
    if (same != NULL) {
        *space_out = same->object.handle;
        heap_free(made);
        return client_return(client, ST_OK, NULL, error_out);
    }
    if (status == ST_OK) {
        status = space_offer(client, made, &error);
    }
    if (status == ST_OK) {
        status = register_keep(client, &client->spaces, &made->object, &error);
    }
    if (status != ST_OK) {
        heap_free(made);
    } else {
        *space_out = made->object.handle;
    }
    return client_return(client, status, &error, error_out);
}
