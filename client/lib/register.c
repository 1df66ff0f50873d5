/*
 * What is registered, and registering it again with every new connection: spaces, then regions,
 * then layouts, one at a time, since the later ones name the numbers of the earlier.
 */
#include <string.h>
#include <sys/prctl.h>

#include "base/assert.h"
#include "base/heap.h"
#include "client/lib/client.h"

/* ---- sending --------------------------------------------------------------------------------- */

struct op *register_send_space(struct kveik_client *client, const struct client_space *space,
                               struct error *error)
{
    struct op *op = op_create(client, MSG_REGISTER_SPACE, true, 0, error);
    if (op == NULL) {
        return NULL;
    }
    struct msg msg = {.kind = MSG_REGISTER_SPACE, .u.register_space = space->space};
    return request_send(client, op, &msg, REGISTER_TIMEOUT_MS, error) == ST_OK ? op : NULL;
}

/* Under Yama a process may be read and written only by whom it allows; where Yama is not there, the
 * kernel does not know the call. */
static void allow_daemon(const struct kveik_client *client)
{
    if (client->connection.peer_pid > 0) {
        (void)prctl(PR_SET_PTRACER, (unsigned long)client->connection.peer_pid, 0, 0, 0);
    }
}

struct op *register_send_region(struct kveik_client *client, const struct client_region *region,
                                struct error *error)
{
    struct op *op = op_create(client, MSG_EXPORT_MEMORY, true, 0, error);
    if (op == NULL) {
        return NULL;
    }
    struct msg msg = {.kind = MSG_EXPORT_MEMORY};
    if (region->mode == KVEIK_MEMORY_CROSS) {
        allow_daemon(client);
        msg.u.export_memory = (struct msg_export_memory){
            .kind = MEMORY_PROCESS, .bytes = region->bytes, .address = (uintptr_t)region->address};
    } else {
        msg.u.export_memory = (struct msg_export_memory){
            .kind = MEMORY_MEMFD, .bytes = region->bytes, .file_offset = region->file_offset};
    }
    msg.request_id = op->id;
    int status = connection_send(client, &msg, region->memfd, error);
    if (status != ST_OK) {
        op_discard(client, op);
        return NULL;
    }
    op_launch(client, op, EXPORT_TIMEOUT_MS);
    return op;
}

/* The planes with the session's numbers of their regions, in the arena. NULL: *error. */
static struct layout_plane *session_planes(struct kveik_client *client,
                                           const struct client_layout *layout, uint32_t count,
                                           struct error *error)
{
    struct layout_plane *planes = msg_arena_take(&client->out, count * sizeof *planes);
    if (planes == NULL) {
        (void)error_set(error, ST_NO_MEMORY, "no memory for %u planes", count);
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        planes[i] = layout->layout.planes[i];
        const struct client_region *region = handles_get(&client->regions, planes[i].region);
        if (region == NULL || !register_usable(client, &region->object, "region", error)) {
            (void)error_set(error, ST_UNKNOWN_ID, "plane %u: no such region", i);
            msg_arena_reset(&client->out);
            return NULL;
        }
        planes[i].region = region->object.number;
    }
    return planes;
}

struct op *register_send_layout(struct kveik_client *client, const struct client_layout *layout,
                                struct error *error)
{
    const struct client_space *space = layout->private_space != NULL
                                           ? layout->private_space
                                           : handles_get(&client->spaces, layout->space);
    if (space == NULL) {
        (void)error_set(error, ST_UNKNOWN_ID, "no such space");
        return NULL;
    }
    if (!register_usable(client, &space->object, "space", error)) {
        return NULL;
    }
    uint32_t count = layout->layout.layer_count * layout->layout.kind_count;
    struct layout_plane *planes = session_planes(client, layout, count, error);
    if (planes == NULL) {
        return NULL;
    }
    struct op *op = op_create(client, MSG_REGISTER_LAYOUT, true, 0, error);
    if (op == NULL) {
        msg_arena_reset(&client->out);
        return NULL;
    }
    struct msg msg = {.kind = MSG_REGISTER_LAYOUT,
                      .u.register_layout = {.space = space->object.number,
                                            .group = layout->group,
                                            .layout = layout->layout,
                                            .plane_count = count}};
    msg.u.register_layout.layout.planes = planes;
    return request_send(client, op, &msg, REGISTER_TIMEOUT_MS, error) == ST_OK ? op : NULL;
}

/* ---- one after the other --------------------------------------------------------------------- */

static struct object *first_unregistered(const struct kveik_client *client,
                                         const struct handles *table)
{
    for (uint32_t slot = 0; slot < table->capacity; slot++) {
        struct object *object = handles_at(table, slot);
        if (object != NULL && object->epoch != client->connection.epoch) {
            return object;
        }
    }
    return NULL;
}

/* NULL with `object_out` set: it could not be sent; both NULL: nothing is left. */
static struct op *send_next(struct kveik_client *client, struct object **object_out,
                            struct error *error)
{
    /* an object is the first member of what the table holds */
    *object_out = first_unregistered(client, &client->spaces);
    if (*object_out != NULL) {
        return register_send_space(client, (struct client_space *)(void *)*object_out, error);
    }
    *object_out = first_unregistered(client, &client->regions);
    if (*object_out != NULL) {
        return register_send_region(client, (struct client_region *)(void *)*object_out, error);
    }
    *object_out = first_unregistered(client, &client->layouts);
    if (*object_out != NULL) {
        return register_send_layout(client, (struct client_layout *)(void *)*object_out, error);
    }
    return NULL;
}

void register_next(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    while (connection->state == STATE_REGISTERING && connection->registering == 0) {
        struct error error = {0};
        struct object *object = NULL;
        struct op *op = send_next(client, &object, &error);
        if (object == NULL) {
            connection_is_ready(client);
            return;
        }
        if (op != NULL) {
            op->taken = true; /* nobody waits for it: register_answered() takes what it says */
            connection->registering = op->id;
            connection->registering_handle = object->handle;
        } else {
            object->epoch = connection->epoch;
            object->status = error.status != ST_OK ? error.status : ST_UNAVAILABLE;
        }
    }
}

static struct handles *handles_of(struct kveik_client *client, enum msg_kind request)
{
    if (request == MSG_REGISTER_SPACE) {
        return &client->spaces;
    }
    return request == MSG_EXPORT_MEMORY ? &client->regions : &client->layouts;
}

void register_undo(struct kveik_client *client, enum msg_kind request, uint32_t number)
{
    if (request == MSG_EXPORT_MEMORY) {
        struct msg msg = {.kind = MSG_DROP_MEMORY, .u.drop_memory.handle = number};
        request_forgotten(client, &msg);
    } else if (request == MSG_REGISTER_LAYOUT) {
        struct msg msg = {.kind = MSG_DROP_LAYOUT, .u.drop_layout.handle = number};
        request_forgotten(client, &msg);
    }
}

void register_answered(struct kveik_client *client, const struct op *op)
{
    struct connection *connection = &client->connection;
    KVEIK_ASSERT(connection->registering == op->id);
    connection->registering = 0;
    struct object *object =
        handles_get(handles_of(client, op->request), connection->registering_handle);
    if (object != NULL) {
        object->number = op->number;
        object->status = op->completion.status;
        object->epoch = connection->epoch;
    } else if (op->completion.status == ST_OK) {
        register_undo(client, op->request, op->number); /* dropped meanwhile */
    }
    register_next(client);
}

int register_keep(struct kveik_client *client, struct handles *table, struct object *object,
                  struct error *error)
{
    int status = ST_OK;
    object->handle = handles_add(table, object, &status);
    if (status != ST_OK) {
        return error_set(error, status, "at most %u of these", table->capacity_max);
    }
    if (object->epoch != client->connection.epoch && client->connection.state == STATE_READY) {
        client->connection.state = STATE_REGISTERING; /* the daemon changed meanwhile */
        register_next(client);
    }
    return ST_OK;
}

bool register_usable(const struct kveik_client *client, const struct object *object,
                     const char *what, struct error *error)
{
    if (object->epoch != client->connection.epoch) {
        (void)error_set(error, ST_UNAVAILABLE, "the %s is not registered with the new daemon yet",
                        what);
        return false;
    }
    if (object->status != ST_OK) {
        (void)error_set(error, object->status, "the new daemon refused the %s: %s", what,
                        status_text(object->status));
        return false;
    }
    return true;
}
