/*
 * Quiesce: an engine needs its pages back at once. Requests on them are cancelled (a copy under way
 * ends its chunk first); the answer is sent when no copy touches the pages any more. Dropping a
 * layout is the same for all of its pages, and then the layout goes.
 */
#include <string.h>

#include "base/heap.h"
#include "daemon/server/state.h"

struct waiter {
    struct queue link;
    uint64_t request_id;
    uint64_t sequence; /* requests that came later do not count */
    uint32_t layout;
    bool drop;
    uint32_t page_count; /* 0: all pages */
    uint32_t pages[];
};

static bool touches(const struct server_request *request, const struct server_layout *layout,
                    const struct waiter *waiter)
{
    if (request->sequence > waiter->sequence) {
        return false;
    }
    for (uint32_t r = 0; r < request->run_count; r++) {
        const struct server_run *run = &request->runs[r];
        if (run->layout != layout) {
            continue;
        }
        if (waiter->page_count == 0) {
            return true;
        }
        for (uint32_t i = 0; i < run->page_count; i++) {
            for (uint32_t p = 0; p < waiter->page_count; p++) {
                if (run->pages[i] == waiter->pages[p]) {
                    return true;
                }
            }
        }
    }
    return false;
}

static bool quiet(const struct server_session *session, const struct waiter *waiter)
{
    const struct server_layout *layout = &session->layouts[waiter->layout];
    queue_foreach (item, &session->requests) {
        if (touches(CONTAINER_OF(item, struct server_request, link), layout, waiter)) {
            return false;
        }
    }
    return true;
}

static void answer(struct server_session *session, struct waiter *waiter)
{
    struct msg msg = {.request_id = waiter->request_id};
    if (waiter->drop) {
        layout_free(&session->layouts[waiter->layout]);
        msg.kind = MSG_HANDLE_REPLY;
        msg.u.handle_reply = (struct msg_handle_reply){.text = "", .handle = waiter->layout};
    } else {
        msg.kind = MSG_COMPLETION;
        msg.u.completion = (struct msg_completion){.text = ""};
    }
    queue_remove(&waiter->link);
    session->waiter_count--;
    engine_send(session->conn, &msg);
    heap_free(waiter);
}

void session_wake_waiters(struct server_session *session)
{
    queue_foreach_safe (item, &session->waiters) {
        struct waiter *waiter = CONTAINER_OF(item, struct waiter, link);
        if (quiet(session, waiter)) {
            answer(session, waiter);
        }
    }
}

void session_free_waiters(struct server_session *session)
{
    for (struct queue *item; (item = queue_pop_front(&session->waiters)) != NULL;) {
        heap_free(CONTAINER_OF(item, struct waiter, link));
    }
}

/* Cancels what is in the way. Cancelling may end requests, which wakes this waiter too. */
static void cancel_touching(struct server_session *session, const struct server_layout *layout,
                            const struct waiter *waiter)
{
    queue_foreach (item, &session->requests) {
        struct server_request *request = CONTAINER_OF(item, struct server_request, link);
        if (touches(request, layout, waiter) && request->copying) {
            copy_cancel(&request->job);
        }
    }
}

static void wait_for(struct server_session *session, const struct msg *msg, uint32_t layout,
                     const struct msg_quiesce *pages)
{
    uint32_t page_count = pages != NULL && pages->pages != NULL ? pages->page_count : 0;
    struct waiter *waiter = session->waiter_count >= session->server->settings->session_requests_max
                                ? NULL
                                : heap_alloc(sizeof *waiter + page_count * sizeof waiter->pages[0]);
    if (waiter == NULL) {
        session_refuse(session, msg, ST_NO_MEMORY, "quiesce: the daemon is out of memory");
        return;
    }
    *waiter = (struct waiter){.request_id = msg->request_id,
                              .sequence = session->sequence,
                              .layout = layout,
                              .drop = msg->kind == MSG_DROP_LAYOUT,
                              .page_count = page_count};
    if (page_count > 0) {
        (void)memcpy(waiter->pages, pages->pages, page_count * sizeof waiter->pages[0]);
    }
    queue_push_back(&session->waiters, &waiter->link);
    session->waiter_count++;
    session->layouts[layout].dropping = session->layouts[layout].dropping || waiter->drop;
    cancel_touching(session, &session->layouts[layout], waiter);
    session_wake_waiters(session);
}

void session_quiesce(struct server_session *session, const struct msg *msg)
{
    const struct msg_quiesce *quiesce = &msg->u.quiesce;
    if (session_layout(session, quiesce->layout) == NULL) {
        session_refuse(session, msg, ST_UNKNOWN_ID, "quiesce: no such layout in this session");
        return;
    }
    wait_for(session, msg, quiesce->layout, quiesce);
}

void session_drop_layout(struct server_session *session, const struct msg *msg)
{
    if (session_layout(session, msg->u.drop_layout.handle) == NULL) {
        session_refuse(session, msg, ST_UNKNOWN_ID, "no such layout in this session");
        return;
    }
    wait_for(session, msg, msg->u.drop_layout.handle, NULL);
}
