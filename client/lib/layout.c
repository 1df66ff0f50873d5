/* Layouts: checked, proved disjoint, tested on real pages if the engine helps, registered. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/heap.h"
#include "client/lib/client.h"
#include "client/lib/selftest.h"

/* ---- registering ----------------------------------------------------------------------------- */

/* The message, with the session's numbers; planes in heap memory that the caller frees. */
static int layout_message(const struct kveik_client *client, const struct client_layout *layout,
                          struct msg *msg, struct error *error)
{
    const struct client_space *space = table_get(&client->spaces, layout->space);
    uint32_t count = layout->layout.layer_count * layout->layout.kind_count;
    struct layout_plane *planes = heap_alloc(count * sizeof *planes);
    if (planes == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct client_region *region =
            table_get(&client->regions, layout->layout.planes[i].region);
        planes[i] = layout->layout.planes[i];
        planes[i].region = region != NULL ? region->remote : UINT32_MAX;
    }
    *msg = (struct msg){.kind = MSG_REGISTER_LAYOUT,
                        .u.register_layout = {.space = space->remote,
                                              .group = layout->group,
                                              .layout = layout->layout,
                                              .plane_count = count}};
    msg->u.register_layout.layout.planes = planes;
    return ST_OK;
}

static void on_layout_again(struct kveik_client *client, struct op *op, const struct msg *msg)
{
    struct client_layout *layout = op->object;
    layout->status = msg->kind == MSG_HANDLE_REPLY ? msg->u.handle_reply.status : ST_PROTOCOL;
    if (layout->status == ST_OK) {
        layout->remote = msg->u.handle_reply.handle;
    }
    client->registering--;
    op_forget(client, op);
}

int layout_send(struct kveik_client *client, struct client_layout *layout, struct error *error)
{
    struct msg msg;
    int status = layout_message(client, layout, &msg, error);
    if (status != ST_OK) {
        return status;
    }
    struct op *op = op_create(client, 0, NULL, CALL_TIMEOUT_MS);
    if (op == NULL) {
        status = error_set(error, ST_NO_MEMORY, "out of memory");
    } else {
        op->on_reply = on_layout_again;
        op->object = layout;
        client->registering++;
        msg.request_id = op->id;
        status = client_send(client, &msg, NULL, 0, error);
    }
    heap_free(msg.u.register_layout.layout.planes);
    return status;
}

/* ---- checking -------------------------------------------------------------------------------- */

static int layout_geometry(const struct kveik_client *client, const struct kveik_layout *from,
                           struct client_layout *to, struct error *error)
{
    const struct client_space *space = table_get(&client->spaces, from->space);
    if (space == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "layout: no space %u", from->space);
    }
    if (from->group >= space->space.group_count) {
        return error_set(error, ST_MISMATCH, "layout: the space has %u groups, there is no %u",
                         space->space.group_count, from->group);
    }
    const struct space_group *group = &space->space.groups[from->group];
    if (from->layer_count == 0 || from->layer_count > group->layer_count ||
        from->layer_begin > group->layer_count - from->layer_count || from->head_count == 0 ||
        from->head_count > group->head_count ||
        from->head_begin > group->head_count - from->head_count) {
        return error_set(
            error, ST_MISMATCH,
            "layout: layers [%u, +%u) or heads [%u, +%u) outside the group's %u and %u",
            from->layer_begin, from->layer_count, from->head_begin, from->head_count,
            group->layer_count, group->head_count);
    }
    to->space = from->space;
    to->group = from->group;
    to->layout =
        (struct layout){.page_tokens = from->page_tokens,
                        .page_count = from->page_count,
                        .layer_begin = from->layer_begin,
                        .layer_count = from->layer_count,
                        .head_begin = from->head_begin,
                        .head_count = from->head_count,
                        .kind_count = group->kind_count,
                        .element_bytes = group->opaque ? 1 : space_dtype_bytes(space->space.dtype),
                        .opaque = group->opaque,
                        .planes = to->layout.planes};
    for (uint32_t k = 0; k < group->kind_count; k++) {
        to->layout.kind_elements[k] =
            group->opaque ? (uint32_t)from->page_bytes : group->kind_elements[k];
    }
    return ST_OK;
}

static int layout_planes(struct client_layout *to, const struct kveik_layout *from,
                         struct error *error)
{
    uint32_t count = to->layout.layer_count * to->layout.kind_count;
    to->layout.planes = heap_alloc(count * sizeof *to->layout.planes);
    if (to->layout.planes == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        to->layout.planes[i] =
            (struct layout_plane){.region = from->planes[i].region,
                                  .offset = from->planes[i].offset,
                                  .page_stride = from->planes[i].page_stride,
                                  .token_stride = from->planes[i].token_stride,
                                  .head_stride = from->planes[i].head_stride,
                                  .element_stride = from->planes[i].element_stride};
    }
    return ST_OK;
}

static int layout_check_all(const struct kveik_client *client, const struct client_layout *layout,
                            struct error *error)
{
    uint32_t count = client->regions.count;
    uint64_t *bytes = heap_calloc(count + 1, sizeof *bytes);
    if (bytes == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct client_region *region = client->regions.items[i];
        bytes[i] = region != NULL ? region->bytes : 0;
    }
    int status = layout_check(&layout->layout, bytes, count, error);
    heap_free(bytes);
    return status != ST_OK ? status : layout_check_disjoint(&layout->layout, error);
}

/* A request copies in one way. When some planes lie in memory that could not be shared, the others
 * are reached by cross-memory copies too. */
static int layout_one_way(struct kveik_client *client, struct client_layout *layout,
                          struct error *error)
{
    uint32_t count = layout->layout.layer_count * layout->layout.kind_count;
    uint32_t cross = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct client_region *region =
            table_get(&client->regions, layout->layout.planes[i].region);
        cross += region->mode == KVEIK_MEMORY_CROSS ? 1 : 0;
    }
    for (uint32_t i = 0; cross > 0 && cross < count && i < count; i++) {
        uint32_t number = layout->layout.planes[i].region;
        const struct client_region *region = table_get(&client->regions, number);
        if (region->mode == KVEIK_MEMORY_CROSS) {
            continue;
        }
        uint32_t shadow = 0;
        int status = region_shadow(client, number, &shadow, error);
        if (status != ST_OK) {
            return status;
        }
        for (uint32_t p = i; p < count; p++) {
            if (layout->layout.planes[p].region == number) {
                layout->layout.planes[p].region = shadow;
            }
        }
    }
    return ST_OK;
}

/* ---- the public functions -------------------------------------------------------------------- */

static void layout_free(struct client_layout *layout)
{
    heap_free(layout->layout.planes);
    heap_free(layout);
}

static int layout_enter(struct kveik_client *client, struct client_layout *layout,
                        uint32_t *handle_out, struct error *error)
{
    struct msg msg;
    int status = layout_message(client, layout, &msg, error);
    if (status != ST_OK) {
        return status;
    }
    struct call_answer answer;
    status = client_call(client, &msg, NULL, 0, &answer);
    heap_free(msg.u.register_layout.layout.planes);
    if (status == ST_UNAVAILABLE && client->wait_for_daemon) {
        layout->status = ST_UNAVAILABLE;
    } else if (status != ST_OK) {
        return error_set(error, status, "layout: %s", answer.text);
    } else {
        layout->remote = answer.handle;
    }
    status = table_add(&client->layouts, layout, handle_out);
    return status == ST_OK ? ST_OK : error_set(error, status, "out of memory");
}

static int layout_register(struct kveik_client *client, const struct kveik_layout *from,
                           struct client_layout *layout, uint32_t *handle_out, struct error *error)
{
    int status = layout_geometry(client, from, layout, error);
    status = status != ST_OK ? status : layout_planes(layout, from, error);
    status = status != ST_OK ? status : layout_check_all(client, layout, error);
    status = status != ST_OK ? status : layout_one_way(client, layout, error);
    return status != ST_OK ? status : layout_enter(client, layout, handle_out, error);
}

int kveik_layout_register(kveik_client *client, const struct kveik_layout *layout,
                          uint32_t *layout_out, struct kveik_error *error)
{
    if (layout == NULL || layout->size != sizeof *layout || layout->planes == NULL ||
        layout_out == NULL || (layout->fill == NULL) != (layout->check == NULL)) {
        return error_say(error, ST_INVALID,
                         "layout: initialise it with KVEIK_LAYOUT_INIT, give planes, layout_out, "
                         "and both callbacks or none");
    }
    struct client_layout *own = heap_calloc(1, sizeof *own);
    if (own == NULL) {
        return error_say(error, ST_NO_MEMORY, "out of memory");
    }
    struct error cause = {0};
    int status = client_lock(client);
    if (status == ST_OK) {
        status = layout_register(client, layout, own, layout_out, &cause);
        client_unlock(client);
    } else {
        (void)error_set(&cause, status, "%s", status_text(status));
    }
    if (status != ST_OK) {
        layout_free(own);
        return error_out(error, &cause);
    }
    if (layout->fill != NULL && own->status == ST_OK) {
        status = layout_selftest(client, layout, own, *layout_out, &cause);
        if (status != ST_OK) {
            (void)kveik_layout_drop(client, *layout_out, CALL_TIMEOUT_MS, NULL);
            return error_out(error, &cause);
        }
    }
    return ST_OK;
}

int kveik_layout_drop(kveik_client *client, uint32_t layout, uint32_t timeout_ms,
                      struct kveik_error *error)
{
    (void)timeout_ms; /* the daemon cancels what is under way; a call's own time-out bounds it */
    int status = client_lock(client);
    if (status != ST_OK) {
        return error_say(error, status, "%s", status_text(status));
    }
    struct client_layout *own = table_get(&client->layouts, layout);
    struct call_answer answer = {.status = ST_UNKNOWN_ID, .text = "no such layout"};
    if (own != NULL) {
        struct msg msg = {.kind = MSG_DROP_LAYOUT, .u.drop_layout.handle = own->remote};
        status = client_call(client, &msg, NULL, 0, &answer);
        if (status != ST_STUCK) { /* without a connection nothing of it is left over there */
            table_clear(&client->layouts, layout);
            layout_free(own);
            answer.status = ST_OK;
        }
    }
    client_unlock(client);
    return answer.status == ST_OK ? ST_OK
                                  : error_say(error, answer.status, "layout: %s", answer.text);
}

void layouts_free(struct kveik_client *client)
{
    for (uint32_t i = 0; i < client->layouts.count; i++) {
        if (client->layouts.items[i] != NULL) {
            layout_free(client->layouts.items[i]);
        }
    }
    heap_free(client->layouts.items);
}
