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
    space->shape_first = NONE;
    space->tenant_prev = NONE;
    space->tenant_next = tenant_at(core, tenant)->space_first;
    if (space->tenant_next != NONE) {
        space_at(core, space->tenant_next)->tenant_prev = number;
    }
    tenant_at(core, tenant)->space_first = number;
    space->used = true;
    return number;
}

static void space_unlink(struct core *core, const struct space *space)
{
    if (space->tenant_prev != NONE) {
        space_at(core, space->tenant_prev)->tenant_next = space->tenant_next;
    } else {
        tenant_at(core, space->tenant)->space_first = space->tenant_next;
    }
    if (space->tenant_next != NONE) {
        space_at(core, space->tenant_next)->tenant_prev = space->tenant_prev;
    }
}

static bool groups_equal(const struct space *space, const struct core_event *event)
{
    bool equal = space->group_count == event->u.space.group_count;
    for (uint32_t g = 0; equal && g < space->group_count; g++) {
        const struct core_group *a = &space->groups[g];
        const struct core_group *b = &event->u.space.groups[g];
        equal = a->rule == b->rule && a->window_tokens == b->window_tokens &&
                a->layer_count == b->layer_count && a->head_count == b->head_count;
    }
    return equal;
}

static void admission_set(struct core *core, struct space *space, uint32_t admission)
{
    if (admission == CORE_ADMIT_DEFAULT || admission > CORE_ADMIT_NEVER) {
        admission = core->limits.disk.admission;
    }
    core->disk.eviction_spaces -= space->admission == CORE_ADMIT_EVICTION ? 1 : 0;
    core->disk.eviction_spaces += admission == CORE_ADMIT_EVICTION ? 1 : 0;
    space->admission = admission;
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
    if (!groups_equal(space, event)) {
        action->status = ST_MISMATCH;
        action->text = "a space of this id is registered with other groups";
        return;
    }
    if (!session_has_space(core, event->session, number)) {
        space->sessions++;
        int status = handle_add(core, event->session, number);
        if (status != ST_OK) {
            space->sessions--;
            space_give_unused(core, number);
            action->status = status;
            action->text = "too many spaces and shapes of one session";
            return;
        }
    }
    space->quota_bytes = event->u.space.quota_bytes; /* whoever registers last decides */
    admission_set(core, space, event->u.space.admission);
}

void space_give_unused(struct core *core, uint32_t number)
{
    struct space *space = space_at(core, number);
    if (space->used && space->sessions == 0 && space->parts == 0 && space->shapes == 0) {
        space_unlink(core, space);
        core->disk.eviction_spaces -= space->admission == CORE_ADMIT_EVICTION ? 1 : 0;
        space->used = false;
        slots_give(&core->spaces, number);
    }
}

/* Into the lists of its space and its class. */
static void shape_link(struct core *core, uint32_t number)
{
    struct shape *shape = shape_at(core, number);
    uint32_t *of_space = &space_at(core, shape->space)->shape_first;
    uint32_t *of_class = &core->slabs.classes[shape->class].shape_first;
    shape->space_prev = NONE;
    shape->space_next = *of_space;
    shape->class_prev = NONE;
    shape->class_next = *of_class;
    if (shape->space_next != NONE) {
        shape_at(core, shape->space_next)->space_prev = number;
    }
    if (shape->class_next != NONE) {
        shape_at(core, shape->class_next)->class_prev = number;
    }
    *of_space = number;
    *of_class = number;
}

static void shape_unlink(struct core *core, const struct shape *shape)
{
    if (shape->space_prev != NONE) {
        shape_at(core, shape->space_prev)->space_next = shape->space_next;
    } else {
        space_at(core, shape->space)->shape_first = shape->space_next;
    }
    if (shape->space_next != NONE) {
        shape_at(core, shape->space_next)->space_prev = shape->space_prev;
    }
    if (shape->class_prev != NONE) {
        shape_at(core, shape->class_prev)->class_next = shape->class_next;
    } else {
        core->slabs.classes[shape->class].shape_first = shape->class_next;
    }
    if (shape->class_next != NONE) {
        shape_at(core, shape->class_next)->class_prev = shape->class_prev;
    }
}

void shape_give_unused(struct core *core, uint32_t number)
{
    struct shape *shape = shape_at(core, number);
    if (!shape->used || shape->sessions > 0 || shape->parts > 0) {
        return;
    }
    KVEIK_ASSERT(shape->lru_old == NONE && shape->idle_parts == 0);
    shape_unlink(core, shape);
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
        evict_unused_classes(core);
        class = slabs_class_take(&core->slabs, event->u.shape.bytes);
    }
    if (class == NONE) {
        return;
    }
    uint32_t number = slots_take(&core->shapes);
    uint32_t handle = number | HANDLE_SHAPE;
    if (number == NONE || handle_add(core, event->session, handle) != ST_OK) {
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
                                             .lru_old = NONE,
                                             .lru_new = NONE,
                                             .used = true};
    space_at(core, event->u.shape.space)->shapes++;
    shape_link(core, number);
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
    action->status = handle_add(core, event->session, number | HANDLE_SHAPE);
    if (action->status != ST_OK) {
        action->text = "too many spaces and shapes of one session";
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
    struct tenant *tenant = tenant_use(core, event->u.tenant_quota.tenant);
    tenant->quota_bytes = event->u.tenant_quota.bytes;
    tenant->disk_quota_bytes = event->u.tenant_quota.disk_bytes;
}

struct tenant *tenant_use(struct core *core, uint32_t number)
{
    struct tenant *tenant = tenant_at(core, number);
    if (!tenant->used) {
        *tenant = (struct tenant){.space_first = NONE, .used = true};
    }
    return tenant;
}
