/* Requests that copy: begin, end, cancel. */
#include "daemon/core/state.h"

struct request *request_begin(struct core *core, const struct core_event *event, bool push)
{
    struct request *request = request_at(core, event->request);
    struct session *session = session_at(core, event->session);
    KVEIK_ASSERT(request->state == REQUEST_NONE && session->open && !session->closing);
    *request = (struct request){.state = REQUEST_COPYING,
                                .session = event->session,
                                .prev = NONE,
                                .next = session->requests,
                                .push = push};
    list_init(&request->parts);
    if (session->requests != NONE) {
        request_at(core, session->requests)->prev = event->request;
    }
    session->requests = event->request;
    session->request_count++;
    core->request_count++;
    return request;
}

/* Unlinks the request; its parts were settled, its lease is released if the pull said so. */
void request_end(struct core *core, uint32_t number)
{
    struct request *request = request_at(core, number);
    struct session *session = session_at(core, request->session);
    KVEIK_ASSERT(request->state != REQUEST_NONE && session->request_count > 0);
    if (request->prev != NONE) {
        request_at(core, request->prev)->next = request->next;
    } else {
        session->requests = request->next;
    }
    if (request->next != NONE) {
        request_at(core, request->next)->prev = request->prev;
    }
    if (request->release_lease != 0) {
        (void)lease_release(core, session->instance, request->release_lease);
    }
    list_free(core, &request->parts);
    session->request_count--;
    core->request_count--;
    request->state = REQUEST_NONE;
}

static void commit_part(struct core *core, uint32_t part)
{
    part_ready(core, part);
    store_pushed(core, part);
    part_unref(core, part);
    core->counters.push_blocks++;
}

static void abort_part(struct core *core, uint32_t part)
{
    part_unref(core, part);
    part_drop(core, part);
    core->counters.push_failed++;
}

static const char *failure_text(int status)
{
    switch (status) {
    case ST_MEMORY:
        return "the engine's memory could not be read or written";
    case ST_DEADLINE:
        return "the deadline passed before it was done";
    case ST_CANCELLED:
        return "cancelled";
    default:
        return "the copies failed";
    }
}

void step_copy_done(struct core *core, const struct core_event *event)
{
    struct request *request = request_at(core, event->request);
    KVEIK_ASSERT(request->state != REQUEST_NONE && request->session == event->session);
    int status = event->u.copy_done.status;
    if (request->push) {
        list_visit(core, &request->parts, status == ST_OK ? commit_part : abort_part);
    } else {
        list_visit(core, &request->parts, part_unref);
    }
    request_end(core, event->request);
    (void)reply_add(core, event->session, event->request, status,
                    status == ST_OK ? NULL : failure_text(status));
    struct session *session = session_at(core, event->session);
    if (session->closing && session->request_count == 0) {
        session_finish(core, event->session);
    }
}

void step_cancel(struct core *core, const struct core_event *event)
{
    struct request *request = request_at(core, event->request);
    if (request->state == REQUEST_PERSISTING && request->session == event->session) {
        int status = event->u.cancel.status != ST_OK ? event->u.cancel.status : ST_CANCELLED;
        persist_end(core, event->request, status, failure_text(status));
    } else if (request->state == REQUEST_COPYING && request->session == event->session) {
        request->state = REQUEST_DOOMED;
        struct core_action *action = action_add(core, ACTION_CANCEL_COPY);
        action->session = event->session;
        action->request = event->request;
    }
}
