/*
 * What is found on disk at start goes to the core: spaces and shapes as if a session had registered
 * them, then every part. The session is ours and ends with each kind: what has parts stays.
 */
#include <string.h>

#include "base/heap.h"
#include "daemon/server/state.h"

struct restore {
    struct server *server;
    uint32_t kind_max;
    struct {
        bool asked;
        uint32_t shape; /* the core's */
    } * kinds;          /* by the disk tier's number */
};

struct restore *restore_create(struct server *server)
{
    struct restore *restore = heap_calloc(1, sizeof *restore);
    if (restore != NULL) {
        restore->server = server;
    }
    return restore;
}

void restore_destroy(struct restore *restore)
{
    if (restore != NULL) {
        heap_free(restore->kinds);
        heap_free(restore);
    }
}

static bool kinds_reserve(struct restore *restore, uint32_t kind)
{
    if (kind < restore->kind_max) {
        return true;
    }
    uint32_t count = kind < 64 ? 128 : 2 * kind;
    void *grown = heap_calloc(count, sizeof *restore->kinds);
    if (grown == NULL) {
        return false;
    }
    if (restore->kinds != NULL) {
        (void)memcpy(grown, restore->kinds, restore->kind_max * sizeof *restore->kinds);
    }
    heap_free(restore->kinds);
    restore->kinds = grown;
    restore->kind_max = count;
    return true;
}

static struct core_event event_of(const struct disk_entry *entry, uint32_t shape)
{
    const struct disk_part *part = &entry->part;
    return (struct core_event){
        .kind = EVENT_RESTORE,
        .u.restore = {.shape = shape,
                      .keys = part->keys,
                      .key_count = part->key_count,
                      .grains = part->grains,
                      .tail_tokens = part->tail_tokens,
                      .parent = part->parent,
                      .origin = part->origin,
                      .origin_bytes = part->origin_bytes,
                      .place = {.segment = entry->place.segment, .offset = entry->place.offset},
                      .seal = entry->seal}};
}

static bool restored(struct server *server, const struct core_event *event)
{
    struct core_action answer = {0};
    server_step(server, event, &answer);
    return answer.status == ST_OK;
}

/* The core's shape for a kind, registered by the session; NO_HANDLE: refused. */
static uint32_t shape_register(struct server *server, uint32_t session,
                               const struct kind_space *space, const struct kind_form *form)
{
    struct core_event event = {.kind = EVENT_SPACE,
                               .session = session,
                               .u.space = {.id = space->id,
                                           .group_count = space->group_count,
                                           .groups = space->groups,
                                           .quota_bytes = space->quota_bytes,
                                           .admission = space->admission}};
    struct core_action answer = {0};
    server_step(server, &event, &answer);
    if (answer.status != ST_OK) {
        return NO_HANDLE;
    }
    uint32_t core_space = answer.handle;
    if (space_text_keep(server, core_space, space) != ST_OK) {
        return NO_HANDLE;
    }
    uint32_t known = server_shape_find(server, core_space, form->group, form->grains, &form->form);
    if (known != NO_HANDLE) { /* it has parts already, found elsewhere */
        return known;
    }
    event = (struct core_event){.kind = EVENT_SHAPE,
                                .session = session,
                                .u.shape = {.space = core_space,
                                            .group = form->group,
                                            .grains = form->grains,
                                            .ranges = {.layer_begin = form->form.layer_begin,
                                                       .layer_count = form->form.layer_count,
                                                       .head_begin = form->form.head_begin,
                                                       .head_count = form->form.head_count},
                                            .bytes = form->form.part_bytes}};
    server_step(server, &event, &answer);
    if (answer.status != ST_OK) {
        return NO_HANDLE;
    }
    server->shapes[answer.handle] = (struct server_shape){.used = true,
                                                          .core_space = core_space,
                                                          .group = form->group,
                                                          .grains = form->grains,
                                                          .form = form->form,
                                                          .kind = NO_HANDLE};
    return answer.handle;
}

bool restore_as(struct server *server, const struct kind_space *space, const struct kind_form *form,
                struct core_event *event, uint32_t *shape_out)
{
    uint32_t session = server->session_free[server->session_free_count - 1];
    struct core_event step = {.kind = EVENT_SESSION_OPEN,
                              .session = session,
                              .u.session_open = {.instance_id = (const uint8_t *)"kveikd",
                                                 .instance_id_bytes = 6,
                                                 .tenant = space->tenant}};
    struct core_action answer = {0};
    server_step(server, &step, &answer);
    if (answer.status != ST_OK) {
        return false;
    }
    uint32_t shape = shape_register(server, session, space, form);
    event->u.restore.shape = shape;
    bool good = shape != NO_HANDLE && restored(server, event);
    if (good) {
        *shape_out = shape;
    }
    step = (struct core_event){.kind = EVENT_SESSION_CLOSE, .session = session};
    server_step(server, &step, NULL);
    return good;
}

/* The first part of a kind. */
static bool restore_first(struct restore *restore, const struct disk_entry *entry)
{
    struct server *server = restore->server;
    struct kind_space space;
    struct kind_form form;
    uint32_t shape = NO_HANDLE;
    struct core_event event = event_of(entry, NO_HANDLE);
    if (!kind_space_decode(entry->kind.space, entry->kind.space_bytes, &space) ||
        !kind_form_decode(entry->kind.form, entry->kind.form_bytes, &form) ||
        form.form.part_bytes != entry->bytes ||
        !restore_as(server, &space, &form, &event, &shape)) {
        return false;
    }
    server->shapes[shape].kind = entry->part.kind;
    restore->kinds[entry->part.kind].asked = true;
    restore->kinds[entry->part.kind].shape = shape;
    return true;
}

bool restore_entry(void *ctx, const struct disk_entry *entry)
{
    struct restore *restore = ctx;
    uint32_t kind = entry->part.kind;
    if (!kinds_reserve(restore, kind)) {
        return false;
    }
    if (!restore->kinds[kind].asked) {
        return restore_first(restore, entry);
    }
    uint32_t shape = restore->kinds[kind].shape;
    struct core_event event = event_of(entry, shape);
    return restore->server->shapes[shape].form.part_bytes == entry->bytes &&
           restored(restore->server, &event);
}
