/* From the core's actions to I/O, and from completions back to events. */
#include "base/clock.h"
#include "daemon/server/state.h"

static struct server_request *request_of(struct server *server, const struct core_action *action)
{
    return &server->requests[action->request];
}

static void commit_slab(struct server *server, const struct core_action *action, uint64_t *failed)
{
    struct error error = {0};
    if (pool_commit(server->pool, action->offset, action->bytes, &error) != ST_OK) {
        log_write(server->log, LOG_LEVEL_ERROR, "server",
                  "the CPU tier could not grow by %llu bytes: %s",
                  (unsigned long long)action->bytes, error.text);
        *failed = action->offset;
    }
}

/* A slab whose memory could not be had: tell the core, and fail the copies of this step. */
static void fail_copies(struct server *server, const struct core_actions *actions)
{
    for (uint32_t i = 0; i < actions->count; i++) {
        if (actions->items[i].kind == ACTION_COPY) {
            request_of(server, &actions->items[i])->failed = ST_NO_MEMORY;
        }
    }
}

static void carry_out(struct server *server, const struct core_action *action)
{
    switch (action->kind) {
    case ACTION_SESSION_CLOSED:
        if (server->sessions[action->session] == NULL) {
            break; /* our own, of a restore */
        }
        server->sessions[action->session]->core_closed = true;
        session_try_free(server->sessions[action->session]);
        break;
    case ACTION_SHAPE_FREED:
        server->shapes[action->handle].used = false;
        break;
    case ACTION_DECOMMIT:
        if (pool_committed(server->pool, action->offset)) { /* not one that could not be had */
            pool_decommit(server->pool, action->offset, action->bytes);
        }
        break;
    case ACTION_COPY:
        request_copy(request_of(server, action), action);
        break;
    case ACTION_CANCEL_COPY:
        request_stop(request_of(server, action), ST_CANCELLED);
        break;
    case ACTION_REPLY:
        request_reply(request_of(server, action), action);
        break;
    case ACTION_WAIT:
        request_persisting(request_of(server, action), action);
        break;
    case ACTION_STORE:
        disk_store(server, action);
        break;
    case ACTION_LOAD:
        if (action->verify) {
            verify_load(server, action);
        } else {
            disk_load(server, action);
        }
        break;
    case ACTION_FORGET:
    case ACTION_SEGMENT_FREE:
        disk_drop(server, action);
        break;
    case ACTION_SYNC:
        disk_sync(server->disk);
        break;
    case ACTION_RESTORED:
    case ACTION_COMMIT:
    case ACTION_SESSION_OPENED:
    case ACTION_SPACE:
    case ACTION_SHAPE:
    default:
        break;
    }
}

static void step_once(struct server *server, const struct core_event *event,
                      struct core_action *answer_out)
{
    struct core_actions actions;
    core_step(server->core, event, &actions);
    uint64_t *failed = server->failed_slabs;
    uint32_t failed_count = 0;
    for (uint32_t i = 0; i < actions.count; i++) {
        const struct core_action *action = &actions.items[i];
        if (action->kind == ACTION_COMMIT) {
            uint64_t offset = UINT64_MAX;
            commit_slab(server, action, &offset);
            if (offset != UINT64_MAX) {
                KVEIK_ASSERT(failed_count < server->pool_bytes / POOL_GRANULE_BYTES);
                failed[failed_count++] = offset;
                fail_copies(server, &actions);
            }
        }
        if (answer_out != NULL &&
            (action->kind == ACTION_SPACE || action->kind == ACTION_SHAPE ||
             action->kind == ACTION_SESSION_OPENED || action->kind == ACTION_RESTORED ||
             action->kind == ACTION_REPLY)) {
            *answer_out = *action;
            if (action->kind == ACTION_REPLY) {
                continue; /* the caller answers */
            }
        }
        carry_out(server, action);
    }
    for (uint32_t i = 0; i < failed_count; i++) {
        struct core_event broken = {.kind = EVENT_SLAB_FAILED, .u.slab_failed.offset = failed[i]};
        core_step(server->core, &broken, &actions);
        for (uint32_t a = 0; a < actions.count; a++) {
            carry_out(server, &actions.items[a]);
        }
    }
}

/* How the copies of a request ended. What a push read behind its deadline is not kept: the client
 * may have written there since (see MSG_CAPABILITY_CLOCK). */
static int copies_status(const struct server_request *request, const struct copy_job *job)
{
    if (request->failed != ST_OK) {
        return request->failed;
    }
    bool late = request->push && job->status == ST_OK && clock_ms() >= request->deadline_ms;
    return late ? ST_DEADLINE : job->status;
}

static void apply_finished(struct server *server, struct copy_job *job)
{
    struct server_request *request = job->owner;
    request->copying = false;
    request->copied_bytes += job->bytes;
    server->copied_bytes[request->push] += job->bytes;
    uint64_t us = (clock_ns() - request->began_ns) / 1000u + 1;
    if (job->status == ST_OK && job->bytes >= (1u << 20)) {
        double speed = (double)job->bytes / (double)us;
        server->bytes_per_us += (speed - server->bytes_per_us) / 16.0;
    }
    if (!request_over(request)) {
        return;
    }
    struct core_event event = {.kind = EVENT_COPY_DONE,
                               .session = request->session->number,
                               .request = request->number,
                               .u.copy_done.status = copies_status(request, job)};
    step_once(server, &event, NULL);
}

/* Steps may end copies inline, which make steps of their own: one after the other, so that the
 * arrays of a step's actions are used up before the next. */
void server_drain(struct server *server)
{
    for (struct queue *item; (item = queue_pop_front(&server->finished)) != NULL;) {
        apply_finished(server, CONTAINER_OF(item, struct copy_job, link));
    }
}

void server_step(struct server *server, const struct core_event *event,
                 struct core_action *answer_out)
{
    step_once(server, event, answer_out);
    if (answer_out == NULL) {
        server_drain(server);
    }
}

void server_reap(struct server *server)
{
    for (struct copy_job *job; (job = copy_reap(server->copies)) != NULL;) {
        apply_finished(server, job);
        server_drain(server);
    }
}
