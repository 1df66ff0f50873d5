/* Spaces, shapes and tenants: registered by sessions, kept while sessions or parts need them. */
#include <string.h>

#include "daemon/core/state.h"

enum { NUMBERS_MAX = 65536 /* parts and blocks name spaces and shapes in 16 bits */ };

static uint32_t space_find(const struct core *core, const struct core_event *event, uint32_t tenant)
{
    for (uint32_t i = 0; i < core->spaces.high; i++) {
        const struct space *space = space_at(core, i);
        if (space->used && space->tenant == tenant &&
            memcmp(space->id, event->u.space.id, CORE_KEY_BYTES) == 0) {
            return i;
        }
    }
    return NONE;
}

static uint32_t space_take(struct core *core, const struct core_event *event)
{
    uint32_t tenant = instance_at(core, session_at(core, event->session)->instance)->tenant;
    uint32_t number = space_find(core, event, tenant);
    if (number != NONE) {
        return number;
    }
    number = slots_take(&core->spaces);
    if (number == NONE) {
        return NONE;
    }
    struct space *space = space_at(core, number);
    (void)memcpy(space->id, event->u.space.id, CORE_KEY_BYTES);
    space->tenant = tenant;
    space->group_count = event->u.space.group_count;
    (void)memcpy(space->groups, event->u.space.groups,
                 event->u.space.group_count * sizeof space->groups[0]);
    space->lru_old = NONE;
    space->lru_new = NONE;
    space->used = true;
    return number;
}

void step_space(struct core *core, const struct core_event *event)
{
    KVEIK_ASSERT(event->u.space.group_count >= 1 && event->u.space.group_count <= CORE_GROUPS_MAX);
    struct core_action *action = action_add(core, ACTION_SPACE);
    action->session = event->session;
    action->request = event->request;
    uint32_t number = space_take(core, event);
    if (number == NONE) {
        action->status = ST_LIMIT;
        action->text = "too many spaces in use";
        return;
    }
    action->handle = number;
    struct space *space = space_at(core, number);
    if (!session_has_space(core, event->session, number)) {
        space->sessions++;
        if (list_add(core, &session_at(core, event->session)->handles, number) != ST_OK) {
            space->sessions--;
            space_give_unused(core, number);
            action->status = ST_NO_MEMORY;
            return;
        }
    }
    space->quota_bytes = event->u.space.quota_bytes; /* whoever registers last decides */
}

void space_give_unused(struct core *core, uint32_t number)
{
    struct space *space = space_at(core, number);
    if (space->used && space->sessions == 0 && space->parts == 0 && space->shapes == 0) {
        space->used = false;
        slots_give(&core->spaces, number);
    }
}

void shape_give_unused(struct core *core, uint32_t number)
{
    struct shape *shape = shape_at(core, number);
    if (!shape->used || shape->sessions > 0 || shape->parts > 0) {
        return;
    }
    shape->used = false;
    uint32_t space = shape->space;
    slabs_class_give(&core->slabs, shape->class);
    slots_give(&core->shapes, number);
    struct core_action *action = action_add(core, ACTION_SHAPE_FREED);
    action->handle = number;
    KVEIK_ASSERT(space_at(core, space)->shapes > 0);
    space_at(core, space)->shapes--;
    space_give_unused(core, space);
}

static const char *shape_refusal(const struct core *core, const struct core_event *event)
{
    if (!session_has_space(core, event->session, event->u.shape.space)) {
        return "this session registered no such space";
    }
    const struct space *space = space_at(core, event->u.shape.space);
    if (event->u.shape.group >= space->group_count) {
        return "the space has no such group";
    }
    const struct core_group *group = &space->groups[event->u.shape.group];
    struct core_ranges all = {.layer_count = group->layer_count, .head_count = group->head_count};
    if (event->u.shape.ranges.layer_count == 0 || event->u.shape.ranges.head_count == 0 ||
        !ranges_inside(&event->u.shape.ranges, &all)) {
        return "layers or heads outside the group";
    }
    if (event->u.shape.grains == 0 || event->u.shape.grains > BLOCK_GRAINS_MAX) {
        return "a block has 1 to 256 grains";
    }
    return NULL;
}

/* Every event makes a new shape, even for ranges and sizes that exist: which stored form a handle
 * means is the owner's knowledge. It keeps equal forms together, and asks with EVENT_SHAPE_USE when
 * another session needs a form that has a handle already. */
void step_shape(struct core *core, const struct core_event *event)
{
    struct core_action *action = action_add(core, ACTION_SHAPE);
    action->session = event->session;
    action->request = event->request;
    action->status = ST_INVALID;
    action->text = shape_refusal(core, event);
    if (action->text != NULL) {
        return;
    }
    action->status = ST_LIMIT;
    action->text = "a part is larger than the pool, or too many sizes are in use";
    uint32_t class = slabs_class_take(&core->slabs, event->u.shape.bytes);
    if (class == NONE) {
        return;
    }
    uint32_t number = slots_take(&core->shapes);
    uint32_t handle = number | HANDLE_SHAPE;
    if (number == NONE ||
        list_add(core, &session_at(core, event->session)->handles, handle) != ST_OK) {
        if (number != NONE) {
            slots_give(&core->shapes, number);
        }
        slabs_class_give(&core->slabs, class);
        action->text = "too many shapes in use";
        return;
    }
    *shape_at(core, number) = (struct shape){.space = event->u.shape.space,
                                             .group = event->u.shape.group,
                                             .grains = event->u.shape.grains,
                                             .class = class,
                                             .ranges = event->u.shape.ranges,
                                             .bytes = event->u.shape.bytes,
                                             .sessions = 1,
                                             .used = true};
    space_at(core, event->u.shape.space)->shapes++;
    action->status = ST_OK;
    action->text = NULL;
    action->handle = number;
}

void step_shape_use(struct core *core, const struct core_event *event)
{
    uint32_t number = event->u.handle.handle;
    struct core_action *action = action_add(core, ACTION_SHAPE);
    action->session = event->session;
    action->request = event->request;
    action->handle = number;
    if (number >= core->shapes.high || !shape_at(core, number)->used ||
        !session_has_space(core, event->session, shape_at(core, number)->space)) {
        action->status = ST_UNKNOWN_ID;
        action->text = "no such shape in a space that this session registered";
        return;
    }
    if (session_has_shape(core, event->session, number)) {
        return; /* one reference a session is enough */
    }
    struct list *handles = &session_at(core, event->session)->handles;
    if (list_add(core, handles, number | HANDLE_SHAPE) != ST_OK) {
        action->status = ST_NO_MEMORY;
        return;
    }
    shape_at(core, number)->sessions++;
}

static void handle_drop(struct core *core, const struct core_event *event, uint32_t handle,
                        enum core_action_kind kind)
{
    struct core_action *action = action_add(core, kind);
    action->session = event->session;
    action->request = event->request;
    action->handle = event->u.handle.handle;
    if ((event->u.handle.handle & HANDLE_SHAPE) != 0 ||
        !list_remove(core, &session_at(core, event->session)->handles, handle)) {
        action->status = ST_UNKNOWN_ID;
        action->text = "this session has no such handle";
        return;
    }
    handle_give(core, handle);
}

void step_shape_drop(struct core *core, const struct core_event *event)
{
    handle_drop(core, event, event->u.handle.handle | HANDLE_SHAPE, ACTION_SHAPE);
}

void step_space_drop(struct core *core, const struct core_event *event)
{
    handle_drop(core, event, event->u.handle.handle, ACTION_SPACE);
}

void step_tenant_quota(struct core *core, const struct core_event *event)
{
    struct tenant *tenant = tenant_at(core, event->u.tenant_quota.tenant);
    tenant->quota_bytes = event->u.tenant_quota.bytes;
    tenant->used = true;
}

void step_pin(struct core *core, const struct core_event *event)
{
    if (!session_has_space(core, event->session, event->u.pin.space)) {
        (void)reply_add(core, event->session, event->request, ST_INVALID,
                        "pin: this session registered no such space");
        return;
    }
    const struct space *space = space_at(core, event->u.pin.space);
    uint32_t hit = 0;
    for (uint32_t i = 0; i < event->u.pin.key_count; i++) {
        bool all = true;
        for (uint32_t g = 0; g < space->group_count; g++) {
            struct core_want want = {.group = g,
                                     .ranges = {.layer_count = space->groups[g].layer_count,
                                                .head_count = space->groups[g].head_count}};
            struct asked asked = {.key = event->u.pin.keys + (size_t)i * CORE_KEY_BYTES,
                                  .space = event->u.pin.space,
                                  .grains = 1,
                                  .tail_tokens = GRAIN_TOKENS};
            asked.hash = core_hash(core, asked.space, asked.key);
            struct cover cover;
            if (!find_cover(core, &asked, &want, &cover)) {
                all = false;
                continue;
            }
            for (uint32_t p = 0; p < cover.count; p++) {
                part_pin(core, cover.pieces[p].part, event->u.pin.on);
            }
        }
        hit += all ? 1 : 0;
    }
    struct core_action *reply = reply_add(core, event->session, event->request, ST_OK, NULL);
    reply->hit_keys = hit;
}
