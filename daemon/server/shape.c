/* Stored forms are interned: parts of one kind share one shape, whoever pushed them. */
#include <string.h>

#include "daemon/server/state.h"

/* Field by field: padding bytes of the structs mean nothing. */
static bool same_form(const struct stored_form *a, const struct stored_form *b)
{
    bool same = a->block_tokens == b->block_tokens && a->cell_tokens == b->cell_tokens &&
                a->layer_begin == b->layer_begin && a->layer_count == b->layer_count &&
                a->head_begin == b->head_begin && a->head_count == b->head_count &&
                a->kind_count == b->kind_count && a->element_bytes == b->element_bytes &&
                a->opaque == b->opaque && a->part_bytes == b->part_bytes;
    for (uint32_t k = 0; same && k < a->kind_count; k++) {
        const struct stored_kind *x = &a->kinds[k];
        const struct stored_kind *y = &b->kinds[k];
        same = x->offset == y->offset && x->cell_stride == y->cell_stride &&
               x->token_stride == y->token_stride && x->head_stride == y->head_stride &&
               x->element_stride == y->element_stride && x->elements == y->elements;
    }
    return same;
}

uint32_t server_shape_find(const struct server *server, uint32_t core_space, uint32_t group,
                           uint32_t grains, const struct stored_form *form)
{
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    uint32_t left = gauges.shapes;
    for (uint32_t i = 0; left > 0 && i < SHAPES_MAX; i++) {
        const struct server_shape *shape = &server->shapes[i];
        if (!shape->used) {
            continue;
        }
        left--;
        if (shape->core_space == core_space && shape->group == group && shape->grains == grains &&
            same_form(&shape->form, form)) {
            return i;
        }
    }
    return NO_HANDLE;
}

static int shape_register(struct server_session *session, const struct server_layout *layout,
                          uint32_t grains, const struct stored_form *form, uint32_t *shape_out,
                          struct error *error)
{
    struct server *server = session->server;
    uint32_t core_space = session->spaces[layout->space].core_space;
    uint32_t known = server_shape_find(server, core_space, layout->group, grains, form);
    struct core_event event = {.kind = EVENT_SHAPE,
                               .session = session->number,
                               .u.shape = {.space = core_space,
                                           .group = layout->group,
                                           .grains = grains,
                                           .ranges = {.layer_begin = form->layer_begin,
                                                      .layer_count = form->layer_count,
                                                      .head_begin = form->head_begin,
                                                      .head_count = form->head_count},
                                           .bytes = form->part_bytes}};
    if (known != NO_HANDLE) {
        event = (struct core_event){
            .kind = EVENT_SHAPE_USE, .session = session->number, .u.handle.handle = known};
    }
    struct core_action answer = {0};
    server_step(server, &event, &answer);
    if (answer.status != ST_OK) {
        return error_set(error, answer.status, "push: %s", answer.text);
    }
    if (known == NO_HANDLE) { /* copy threads read what is known: it is not written again */
        server->shapes[answer.handle] = (struct server_shape){.used = true,
                                                              .core_space = core_space,
                                                              .group = layout->group,
                                                              .grains = grains,
                                                              .form = *form,
                                                              .kind = NO_HANDLE};
    }
    *shape_out = answer.handle;
    return ST_OK;
}

/* A shape is the session's once, however many of its layouts have it. */
static bool shape_needed(const struct server_session *session, uint32_t shape)
{
    for (uint32_t i = 0; i < SESSION_LAYOUTS_MAX; i++) {
        const struct server_layout *layout = &session->layouts[i];
        for (uint32_t s = 0; layout->used && s < layout->shape_count; s++) {
            if (layout->shapes[s].shape == shape) {
                return true;
            }
        }
    }
    return false;
}

/* Gives up what dropped layouts had. Not when they are dropped: that may be within a step. */
static void shapes_give(struct server_session *session)
{
    while (session->stale_count > 0) {
        uint32_t shape = session->stale_shapes[--session->stale_count];
        if (!shape_needed(session, shape)) {
            struct core_event event = {
                .kind = EVENT_SHAPE_DROP, .session = session->number, .u.handle.handle = shape};
            struct core_action answer = {0};
            server_step(session->server, &event, &answer);
        }
    }
}

void server_shapes_stale(struct server_session *session, const struct server_layout *layout)
{
    for (uint32_t i = 0; i < layout->shape_count; i++) {
        /* room for all: a layout gets shapes only after the stale ones were given up */
        KVEIK_ASSERT(session->stale_count < SESSION_LAYOUTS_MAX * LAYOUT_SHAPES_MAX);
        session->stale_shapes[session->stale_count++] = layout->shapes[i].shape;
    }
}

int server_shape_for(struct server_session *session, struct server_layout *layout, uint32_t grains,
                     uint32_t *shape_out, struct error *error)
{
    for (uint32_t i = 0; i < layout->shape_count; i++) {
        if (layout->shapes[i].grains == grains) {
            *shape_out = layout->shapes[i].shape;
            return ST_OK;
        }
    }
    if (layout->shape_count == LAYOUT_SHAPES_MAX) {
        return error_set(error, ST_LIMIT, "push: at most %d block sizes from one layout",
                         LAYOUT_SHAPES_MAX);
    }
    shapes_give(session);
    struct stored_form form;
    int status = stored_form_of(&layout->layout, grains, &form, error);
    if (status == ST_OK) {
        status = shape_register(session, layout, grains, &form, shape_out, error);
    }
    if (status == ST_OK) {
        layout->shapes[layout->shape_count].grains = grains;
        layout->shapes[layout->shape_count].shape = *shape_out;
        layout->shape_count++;
    }
    return status;
}
