/* kveik_layout_register() and kveik_layout_drop(): geometry, registration, the self-test's frame.
 */
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "client/lib/client.h"
#include "kveik/kveik.h"

void client_layout_destroy(struct client_layout *layout)
{
    if (layout != NULL) {
        heap_free(layout->layout.planes);
        heap_free(layout);
    }
}

/* ---- building -------------------------------------------------------------------------------- */

static int check_share(const struct kveik_layout *in, const struct space_group *group,
                       struct error *error)
{
    if (in->layer_count == 0 || in->layer_begin > group->layer_count ||
        in->layer_count > group->layer_count - in->layer_begin) {
        return error_set(error, ST_MISMATCH, "layout: layers [%u, +%u), the group has %u",
                         in->layer_begin, in->layer_count, group->layer_count);
    }
    if (in->head_count == 0 || in->head_begin > group->head_count ||
        in->head_count > group->head_count - in->head_begin) {
        return error_set(error, ST_MISMATCH, "layout: heads [%u, +%u), the group has %u",
                         in->head_begin, in->head_count, group->head_count);
    }
    if (group->opaque ? in->page_bytes == 0 || in->page_bytes > INT32_MAX : in->page_bytes != 0) {
        return error_set(error, ST_MISMATCH,
                         "layout: page_bytes is %llu; opaque groups have 1 to %d, others 0",
                         (unsigned long long)in->page_bytes, INT32_MAX);
    }
    if (in->planes == NULL) {
        return error_set(error, ST_INVALID, "layout: no planes");
    }
    if ((in->fill == NULL) != (in->check == NULL)) {
        return error_set(error, ST_INVALID, "layout: fill and check go together");
    }
    return ST_OK;
}

static void take_shape(const struct kveik_layout *in, const struct space *space,
                       const struct space_group *group, struct layout *out)
{
    *out = (struct layout){.page_tokens = in->page_tokens,
                           .page_count = in->page_count,
                           .layer_begin = in->layer_begin,
                           .layer_count = in->layer_count,
                           .head_begin = in->head_begin,
                           .head_count = in->head_count,
                           .kind_count = group->kind_count,
                           .element_bytes = group->opaque ? 1 : space_dtype_bytes(space->dtype),
                           .opaque = group->opaque};
    for (uint32_t kind = 0; kind < group->kind_count; kind++) {
        out->kind_elements[kind] =
            group->opaque ? (uint32_t)in->page_bytes : group->kind_elements[kind];
    }
}

/* An opaque plane is a page of bytes, or a head's share of one: what strides they have inside is
 * nobody's business. */
static struct layout_plane plane_of(const struct kveik_plane *in, bool opaque)
{
    return (struct layout_plane){.region = in->region,
                                 .offset = in->offset,
                                 .page_stride = in->page_stride,
                                 .token_stride = opaque ? 0 : in->token_stride,
                                 .head_stride = in->head_stride,
                                 .element_stride = opaque ? 1 : in->element_stride};
}

static int build(const struct kveik_client *client, const struct kveik_layout *in,
                 struct client_layout *out, struct error *error)
{
    const struct client_space *space = handles_get(&client->spaces, in->space);
    if (space == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "layout: space %u is not registered", in->space);
    }
    if (in->group >= space->space.group_count) {
        return error_set(error, ST_MISMATCH, "layout: group %u, the space has %u", in->group,
                         space->space.group_count);
    }
    const struct space_group *group = &space->space.groups[in->group];
    int status = check_share(in, group, error);
    if (status != ST_OK) {
        return status;
    }
    out->space = in->space;
    out->group = in->group;
    take_shape(in, &space->space, group, &out->layout);
    uint32_t count = in->layer_count * group->kind_count;
    out->layout.planes = heap_alloc(count * sizeof *out->layout.planes);
    if (out->layout.planes == NULL) {
        return error_set(error, ST_NO_MEMORY, "layout: no memory for %u planes", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (handles_get(&client->regions, in->planes[i].region) == NULL) {
            return error_set(error, ST_UNKNOWN_ID, "layout: plane %u: region %u is not registered",
                             i, in->planes[i].region);
        }
        out->layout.planes[i] = plane_of(&in->planes[i], group->opaque);
    }
    return ST_OK;
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* The checks know regions by index: the slots of our table. */
static int check_geometry(const struct kveik_client *client, const struct layout *layout,
                          struct error *error)
{
    uint32_t count = layout->layer_count * layout->kind_count;
    uint32_t slots = client->regions.capacity;
    struct layout indexed = *layout;
    indexed.planes = heap_alloc(count * sizeof *indexed.planes);
    uint64_t *region_bytes = heap_calloc(slots, sizeof *region_bytes);
    int status = ST_NO_MEMORY;
    if (indexed.planes == NULL || region_bytes == NULL) {
        (void)error_set(error, status, "layout: out of memory");
        goto out;
    }
    for (uint32_t slot = 0; slot < slots; slot++) {
        const struct client_region *region = handles_at(&client->regions, slot);
        region_bytes[slot] = region != NULL ? region->bytes : 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        indexed.planes[i] = layout->planes[i];
        indexed.planes[i].region = handles_slot(layout->planes[i].region);
    }
    status = layout_check(&indexed, region_bytes, slots, error);
    if (status == ST_OK) {
        status = layout_check_disjoint(&indexed, error);
    }
out:
    heap_free(region_bytes);
    heap_free(indexed.planes);
    return status;
}

/* ---- registering ----------------------------------------------------------------------------- */

int layout_offer(struct kveik_client *client, struct client_layout *layout, struct error *error)
{
    int status = connection_ready(client, error);
    if (status != ST_OK) {
        return status;
    }
    struct op *op = register_send_layout(client, layout, error);
    if (op == NULL) {
        return error->status;
    }
    status = op_await(client, op, error);
    layout->object.number = op->number;
    layout->object.epoch = op->epoch;
    layout->object.status = status;
    op_forget(client, op);
    return status;
}

static int build_and_check(struct kveik_client *client, const struct kveik_layout *in,
                           struct client_layout *out, struct error *error)
{
    int status = build(client, in, out, error);
    return status != ST_OK ? status : check_geometry(client, &out->layout, error);
}

static int register_layout(struct kveik_client *client, const struct kveik_layout *in,
                           struct client_layout *made, struct error *error)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return status;
    }
    status = build_and_check(client, in, made, error);
    if (status == ST_OK) {
        status = connection_ready(client, error);
    }
    client_leave(client); /* the engine's callbacks run without the mutex */
    if (status == ST_OK && in->fill != NULL) {
        status = selftest_run(client, in, made, error);
    }
    if (status != ST_OK) {
        return status;
    }
    (void)client_enter(client);
    status = layout_offer(client, made, error);
    if (status == ST_OK) {
        status = register_keep(client, &client->layouts, &made->object, error);
        if (status != ST_OK) {
            register_undo(client, MSG_REGISTER_LAYOUT, made->object.number);
        }
    }
    client_leave(client);
    return status;
}

int kveik_layout_register(kveik_client *client, const struct kveik_layout *layout,
                          uint32_t *layout_out, struct kveik_error *error_out)
{
    struct error error = {0};
    struct kveik_layout ours;
    if (layout_out == NULL) {
        return report(ST_INVALID, NULL, error_out);
    }
    int status = take_struct(&ours, sizeof ours, layout, "KVEIK_LAYOUT_INIT", &error);
    struct client_layout *made = status == ST_OK ? heap_calloc(1, sizeof *made) : NULL;
    if (made == NULL) {
        return report(status == ST_OK ? ST_NO_MEMORY : status, &error, error_out);
    }
    status = register_layout(client, &ours, made, &error);
    if (status != ST_OK) {
        client_layout_destroy(made);
    } else {
        *layout_out = made->object.handle;
    }
    return report(status, &error, error_out);
}

int kveik_layout_drop(kveik_client *client, uint32_t layout, uint32_t timeout_ms,
                      struct kveik_error *error_out)
{
    int status = client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    struct error error = {0};
    struct client_layout *found = handles_get(&client->layouts, layout);
    if (found == NULL) {
        status = error_set(&error, ST_UNKNOWN_ID, "layout %u is not registered", layout);
        return client_return(client, status, &error, error_out);
    }
    status =
        register_drop(client, MSG_DROP_LAYOUT, &found->object, clock_ms() + timeout_ms, &error);
    found = handles_get(&client->layouts, layout); /* another thread may have been faster */
    if (status == ST_OK && found != NULL) {
        handles_remove(&client->layouts, layout);
        client_layout_destroy(found);
    }
    return client_return(client, status, &error, error_out);
}
