/* Sessions, and the instances and origins that they belong to. */
#include <string.h>

#include "daemon/core/state.h"

uint32_t origin_take(struct core *core, const uint8_t *id, uint32_t bytes, uint32_t tenant)
{
    uint32_t number = slots_take(&core->origins);
    if (number != NONE) {
        struct origin *origin = origin_at(core, number);
        (void)memcpy(origin->id, id, bytes);
        origin->id_bytes = bytes;
        origin->tenant = tenant;
        origin->refs = 1;
    }
    return number;
}

void origin_give(struct core *core, uint32_t number)
{
    struct origin *origin = origin_at(core, number);
    KVEIK_ASSERT(origin->refs > 0);
    if (--origin->refs == 0) {
        slots_give(&core->origins, number);
    }
}

static uint32_t instance_find(const struct core *core, const struct core_event *event)
{
    for (uint32_t i = 0; i < core->instances.high; i++) {
        const struct instance *instance = instance_at(core, i);
        if (!instance->used || instance->tenant != event->u.session_open.tenant) {
            continue;
        }
        const struct origin *origin = origin_at(core, instance->origin);
        if (origin->id_bytes == event->u.session_open.instance_id_bytes &&
            memcmp(origin->id, event->u.session_open.instance_id, origin->id_bytes) == 0) {
            return i;
        }
    }
    return NONE;
}

static uint32_t instance_take(struct core *core, const struct core_event *event)
{
    uint32_t number = instance_find(core, event);
    if (number != NONE) {
        return number;
    }
    number = slots_take(&core->instances);
    if (number == NONE) {
        return NONE;
    }
    uint32_t origin =
        origin_take(core, event->u.session_open.instance_id,
                    event->u.session_open.instance_id_bytes, event->u.session_open.tenant);
    if (origin == NONE) {
        slots_give(&core->instances, number);
        return NONE;
    }
    uint64_t limit = core->limits.instance_lease_bytes_max;
    uint64_t asked = event->u.session_open.lease_bytes_max;
    *instance_at(core, number) =
        (struct instance){.origin = origin,
                          .tenant = event->u.session_open.tenant,
                          .leases = NONE,
                          .lease_bytes_max = asked != 0 && asked < limit ? asked : limit,
                          .used = true};
    return number;
}

void step_session_open(struct core *core, const struct core_event *event)
{
    struct session *session = session_at(core, event->session);
    KVEIK_ASSERT(!session->open);
    KVEIK_ASSERT(event->u.session_open.instance_id_bytes <= CORE_INSTANCE_MAX);
    struct core_action *action = action_add(core, ACTION_SESSION_OPENED);
    action->session = event->session;
    uint32_t instance =
        event->u.session_open.tenant < core->limits.tenants_max ? instance_take(core, event) : NONE;
    if (instance == NONE) {
        action->status = ST_LIMIT;
        action->text =
            "too many tenants or instances, or too many names of past instances still in use";
        return;
    }
    instance_at(core, instance)->sessions++;
    *session = (struct session){.instance = instance, .requests = NONE, .open = true};
    list_init(&session->handles);
    (void)tenant_use(core, event->u.session_open.tenant);
    core->session_count++;
}

void handle_give(struct core *core, uint32_t handle)
{
    if ((handle & HANDLE_SHAPE) != 0) {
        shape_at(core, handle & ~HANDLE_SHAPE)->sessions--;
        shape_give_unused(core, handle & ~HANDLE_SHAPE);
    } else {
        space_at(core, handle)->sessions--;
        space_give_unused(core, handle);
    }
}

void session_finish(struct core *core, uint32_t number)
{
    struct session *session = session_at(core, number);
    KVEIK_ASSERT(session->open && session->request_count == 0);
    list_visit(core, &session->handles, handle_give);
    list_free(core, &session->handles);
    struct instance *instance = instance_at(core, session->instance);
    KVEIK_ASSERT(instance->sessions > 0);
    if (--instance->sessions == 0) {
        lease_drop_all(core, session->instance);
        origin_give(core, instance->origin);
        instance->used = false;
        slots_give(&core->instances, session->instance);
    }
    session->open = false;
    core->session_count--;
    struct core_action *action = action_add(core, ACTION_SESSION_CLOSED);
    action->session = number;
}

void step_session_close(struct core *core, const struct core_event *event)
{
    struct session *session = session_at(core, event->session);
    KVEIK_ASSERT(session->open && !session->closing);
    session->closing = true;
    for (uint32_t n = session->requests; n != NONE;) {
        struct request *request = request_at(core, n);
        uint32_t number = n;
        n = request->next;
        if (request->state == REQUEST_PERSISTING) {
            persist_end(core, number, ST_LOST, "the session is gone");
            continue;
        }
        request->state = REQUEST_DOOMED;
        struct core_action *action = action_add(core, ACTION_CANCEL_COPY);
        action->session = event->session;
        action->request = number;
    }
    if (session->request_count == 0) {
        session_finish(core, event->session);
    }
}

int handle_add(struct core *core, uint32_t session, uint32_t handle)
{
    struct list *handles = &session_at(core, session)->handles;
    return handles->count >= CORE_HANDLES_MAX ? ST_LIMIT : list_add(core, handles, handle);
}

bool session_has_space(const struct core *core, uint32_t session, uint32_t space)
{
    return space < core->spaces.high && space_at(core, space)->used &&
           list_has(core, &session_at(core, session)->handles, space);
}

bool session_has_shape(const struct core *core, uint32_t session, uint32_t shape)
{
    return shape < core->shapes.high && shape_at(core, shape)->used &&
           list_has(core, &session_at(core, session)->handles, shape | HANDLE_SHAPE);
}
