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
    uint32_t layout;
    bool drop;
    uint32_t blocker_count;
    uint32_t blockers[]; /* numbers of the requests that it waits for */
};

enum { PAGES_SPAN_MAX = 1 << 26 };

/* The pages that are wanted back, as one bit each. Requests and pages may be many: nothing here may
 * cost the product of both. */
struct wanted {
    const struct server_layout *layout;
    bool all;
    uint32_t low;
    uint32_t span;
    uint8_t *bits;
};

static int wanted_init(struct wanted *wanted, const struct server_layout *layout,
                       const struct msg_quiesce *quiesce)
{
    uint32_t count = quiesce != NULL && quiesce->pages != NULL ? quiesce->page_count : 0;
    *wanted = (struct wanted){.layout = layout, .all = count == 0, .low = UINT32_MAX};
    uint32_t high = 0;
    for (uint32_t i = 0; i < count; i++) {
        wanted->low = quiesce->pages[i] < wanted->low ? quiesce->pages[i] : wanted->low;
        high = quiesce->pages[i] > high ? quiesce->pages[i] : high;
    }
    if (wanted->all || high - wanted->low >= PAGES_SPAN_MAX) {
        wanted->all = true; /* too far apart for bits: more is cancelled than need be */
        return ST_OK;
    }
    wanted->span = high - wanted->low + 1;
    wanted->bits = heap_calloc(wanted->span / 8 + 1, 1);
    if (wanted->bits == NULL) {
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bit = quiesce->pages[i] - wanted->low;
        wanted->bits[bit / 8] |= (uint8_t)(1u << bit % 8);
    }
    return ST_OK;
}

static bool touches(const struct server_request *request, const struct wanted *wanted)
{
    for (uint32_t r = 0; r < request->run_count; r++) {
        const struct server_run *run = &request->runs[r];
        if (run->layout != wanted->layout) {
            continue;
        }
        if (wanted->all) {
            return true;
        }
        for (uint32_t i = 0; i < run->page_count; i++) {
            uint32_t bit = run->pages[i] - wanted->low; /* wraps below: not in the span either */
            if (bit < wanted->span && (wanted->bits[bit / 8] >> bit % 8 & 1) != 0) {
                return true;
            }
        }
    }
    return false;
}

static void answer(struct server_session *session, struct waiter *waiter)
{
    struct msg msg = {.request_id = waiter->request_id};
    if (waiter->drop) {
        server_shapes_stale(session, &session->layouts[waiter->layout]);
        layout_free(session, &session->layouts[waiter->layout]);
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

void session_wake_waiters(struct server_session *session, uint32_t request)
{
    queue_foreach_safe (item, &session->waiters) {
        struct waiter *waiter = CONTAINER_OF(item, struct waiter, link);
        for (uint32_t i = 0; i < waiter->blocker_count; i++) {
            if (waiter->blockers[i] == request) {
                waiter->blockers[i] = waiter->blockers[--waiter->blocker_count];
                break;
            }
        }
        if (waiter->blocker_count == 0) {
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

/* Notes what is in the way, and cancels it. Requests that come later do not count. */
static void find_blockers(const struct server_session *session, const struct wanted *wanted,
                          struct waiter *waiter)
{
    queue_foreach (item, &session->requests) {
        struct server_request *request = CONTAINER_OF(item, struct server_request, link);
        if (touches(request, wanted)) {
            waiter->blockers[waiter->blocker_count++] = request->number;
            request_stop(request, ST_CANCELLED);
        }
    }
}

static void wait_for(struct server_session *session, const struct msg *msg, uint32_t layout,
                     const struct msg_quiesce *quiesce)
{
    if (session->waiter_count >= session->server->settings->session_requests_max) {
        session_refuse(session, msg, ST_LIMIT, "too many quiesces and drops wait in this session");
        return;
    }
    struct wanted wanted;
    struct waiter *waiter = NULL;
    if (wanted_init(&wanted, &session->layouts[layout], quiesce) == ST_OK) {
        waiter = heap_alloc(sizeof *waiter + session->request_count * sizeof waiter->blockers[0]);
    }
    if (waiter == NULL) {
        heap_free(wanted.bits);
        session_refuse(session, msg, ST_NO_MEMORY, "quiesce: the daemon is out of memory");
        return;
    }
    *waiter = (struct waiter){
        .request_id = msg->request_id, .layout = layout, .drop = msg->kind == MSG_DROP_LAYOUT};
    queue_push_back(&session->waiters, &waiter->link);
    session->waiter_count++;
    session->layouts[layout].dropping = session->layouts[layout].dropping || waiter->drop;
    find_blockers(session, &wanted, waiter);
    heap_free(wanted.bits);
    if (waiter->blocker_count == 0) {
        answer(session, waiter);
        return;
    }
    server_drain(session->server); /* what only waited for the disk is over at once */
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
