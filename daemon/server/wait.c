/*
 * Requests that wait for the disk. A pull's items are in its order; each run of them that is there
 * goes to the copy engine while the ones behind are still read, one job at a time. Deadlines of
 * what waits are watched here: a read that takes longer is not waited for, its bytes stay for the
 * next.
 */
#include "base/clock.h"
#include "base/heap.h"
#include "daemon/server/state.h"

static void on_wait_tick(uv_timer_t *timer)
{
    struct server *server = CONTAINER_OF(timer, struct server, wait_timer);
    uint64_t now = clock_ms();
    queue_foreach_safe (item, &server->waiting) {
        struct server_request *request = CONTAINER_OF(item, struct server_request, waiting_link);
        bool nothing_left = request->copying && request->item_next == request->item_count;
        if (request->deadline_ms > now || nothing_left) { /* its job knows the deadline itself */
            continue;
        }
        if (request->persist) {
            struct core_event event = {.kind = EVENT_CANCEL,
                                       .session = request->session->number,
                                       .request = request->number,
                                       .u.cancel.status = ST_DEADLINE};
            request_unwatch(request);
            server_step(server, &event, NULL);
            break; /* the step may have ended others: the next tick sees to them */
        }
        request_stop(request, ST_DEADLINE);
    }
    server_drain(server);
    if (queue_empty(&server->waiting)) {
        (void)uv_timer_stop(timer);
    }
}

int wait_init(struct server *server)
{
    queue_init(&server->waiting);
    return uv_timer_init(&server->loop, &server->wait_timer) == 0 ? ST_OK : ST_IO;
}

void request_watch(struct server_request *request)
{
    struct server *server = request->session->server;
    if (request->waiting) {
        return;
    }
    if (queue_empty(&server->waiting)) {
        (void)uv_timer_start(&server->wait_timer, on_wait_tick, WAIT_TICK_MS, WAIT_TICK_MS);
    }
    request->waiting = true;
    queue_push_back(&server->waiting, &request->waiting_link);
}

void request_unwatch(struct server_request *request)
{
    if (request->waiting) {
        request->waiting = false;
        queue_remove(&request->waiting_link);
    }
}

/* Nothing more is waited for. */
static void waits_leave(struct server_request *request)
{
    for (uint32_t i = request->item_next; i < request->item_count; i++) {
        if (request->waits[i].pending) {
            request->waits[i].pending = false;
            queue_remove(&request->waits[i].link);
        }
    }
    request->item_next = request->item_count;
}

static void finish(struct server_request *request)
{
    request_unwatch(request);
    waits_leave(request);
    request_submit(request, 0, 0);
}

void request_wait(struct server_request *request)
{
    struct server *server = request->session->server;
    for (uint32_t i = 0; i < request->item_count; i++) {
        uint32_t load = request->copies[i].load;
        request->waits[i] =
            (struct server_wait){.request = request, .pending = load != CORE_NO_LOAD};
        if (load != CORE_NO_LOAD) {
            queue_push_back(&server->loads[load].waits, &request->waits[i].link);
        }
    }
    request_watch(request);
    request_advance(request);
}

void request_advance(struct server_request *request)
{
    if (request->copying) {
        return;
    }
    while (request->item_next < request->item_count && request->waits[request->item_next].missed) {
        request_mark_missed(request, &request->copies[request->item_next++]);
    }
    uint32_t first = request->item_next;
    uint32_t end = first;
    while (end < request->item_count && !request->waits[end].pending &&
           !request->waits[end].missed) {
        end++;
    }
    if (end > first) {
        request->item_next = end;
        request_submit(request, first, end - first);
    } else if (first == request->item_count) {
        finish(request);
    }
}

bool request_over(struct server_request *request)
{
    if (request->waits == NULL) {
        return true;
    }
    bool good = request->job.status == ST_OK && request->failed == ST_OK;
    if (good && request->item_next < request->item_count) {
        request_advance(request);
        return false;
    }
    waits_leave(request);
    request_unwatch(request);
    return true;
}

void request_stop(struct server_request *request, int status)
{
    if (request->copying && request->item_next == request->item_count) {
        copy_cancel(&request->job);
        return;
    }
    if (request->failed == ST_OK) {
        request->failed = status;
    }
    if (request->copying) {
        copy_cancel(&request->job);
        waits_leave(request);
        request_unwatch(request);
    } else if (request->waits != NULL) {
        finish(request);
    }
}

void load_ended(struct queue *waits, int status)
{
    for (struct queue *item; (item = queue_pop_front(waits)) != NULL;) {
        struct server_wait *wait = CONTAINER_OF(item, struct server_wait, link);
        wait->pending = false;
        wait->missed = status != ST_OK;
        request_advance(wait->request);
    }
}
