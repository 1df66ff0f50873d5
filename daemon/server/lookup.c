/* Requests without copies: lookups, releases, cancels, persists. From checked message to core
 * event, and from the core's answer to the client's, in one step. */
#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "daemon/server/state.h"

static void lookup_reply(struct server_session *session, uint64_t request_id,
                         const struct core_action *answer)
{
    struct msg_origin origins[CORE_ORIGINS_MAX];
    for (uint32_t i = 0; i < answer->origin_count; i++) {
        origins[i] =
            (struct msg_origin){.instance_id = {.data = answer->origins[i].instance_id,
                                                .bytes = answer->origins[i].instance_id_bytes},
                                .keys = answer->origins[i].keys};
    }
    const struct server *server = session->server;
    double us = (double)answer->hit_bytes / server->bytes_per_us;
    if (answer->hit_disk_bytes > 0) {
        us += (double)answer->hit_disk_bytes / server->disk_bytes_per_us;
    }
    struct msg msg = {.request_id = request_id,
                      .kind = MSG_LOOKUP_REPLY,
                      .u.lookup_reply = {.status = answer->status,
                                         .text = answer->text != NULL ? answer->text : "",
                                         .hit_keys = answer->hit_keys,
                                         .hit_tokens = answer->hit_tokens,
                                         .lease = answer->lease,
                                         .expected_us = (uint64_t)us,
                                         .hit_bytes = answer->hit_bytes,
                                         .origins = origins,
                                         .origin_count = answer->origin_count}};
    engine_send(session->conn, &msg);
}

void session_lookup(struct server_session *session, const struct msg *msg)
{
    const struct msg_lookup *lookup = &msg->u.lookup;
    if (lookup->space >= SESSION_SPACES_MAX || !session->spaces[lookup->space].used) {
        session_refuse(session, msg, ST_UNKNOWN_ID, "lookup: no such space in this session");
        return;
    }
    struct core_want *wants = NULL;
    if (lookup->want_count > 0) {
        wants = heap_calloc(lookup->want_count, sizeof *wants);
        if (wants == NULL) {
            session_refuse(session, msg, ST_NO_MEMORY, "lookup: the daemon is out of memory");
            return;
        }
    }
    for (uint32_t i = 0; i < lookup->want_count; i++) {
        wants[i] = (struct core_want){.group = lookup->wants[i].group,
                                      .ranges = {.layer_begin = lookup->wants[i].layer_begin,
                                                 .layer_count = lookup->wants[i].layer_count,
                                                 .head_begin = lookup->wants[i].head_begin,
                                                 .head_count = lookup->wants[i].head_count}};
    }
    struct core_event event = {.kind = EVENT_LOOKUP,
                               .session = session->number,
                               .u.lookup = {.space = session->spaces[lookup->space].core_space,
                                            .keys = lookup->keys,
                                            .key_count = lookup->key_count,
                                            .key_grains = lookup->key_grains,
                                            .tail_tokens = lookup->tail_tokens,
                                            .step_grains = lookup->step_grains,
                                            .wants = wants,
                                            .want_count = lookup->want_count,
                                            .lease = lookup->lease,
                                            .origins = lookup->origins}};
    struct core_action answer = {0};
    server_step(session->server, &event, &answer);
    lookup_reply(session, msg->request_id, &answer);
    heap_free(wants);
}

void request_persisting(struct server_request *request, const struct core_action *action)
{
    if (action->status_count > 0) {
        request->statuses = heap_alloc(action->status_count);
        if (request->statuses != NULL) {
            (void)memcpy(request->statuses, action->statuses, action->status_count);
            request->status_count = action->status_count;
        }
    }
    request_watch(request);
}

void session_persist(struct server_session *session, const struct msg *msg)
{
    const struct msg_persist *persist = &msg->u.persist;
    if (persist->space >= SESSION_SPACES_MAX || !session->spaces[persist->space].used) {
        session_refuse(session, msg, ST_UNKNOWN_ID, "persist: no such space in this session");
        return;
    }
    struct server_request *request = request_take(session, msg->request_id);
    if (request == NULL) {
        return;
    }
    request->persist = true;
    request->began_ns = clock_ns();
    request->deadline_ms = clock_ms() + (persist->deadline_ms != 0 ? persist->deadline_ms
                                                                   : (uint32_t)DEADLINE_DEFAULT_MS);
    struct core_event event = {.kind = EVENT_PERSIST,
                               .session = session->number,
                               .request = request->number,
                               .u.persist = {.space = session->spaces[persist->space].core_space,
                                             .keys = persist->keys,
                                             .key_count = persist->key_count,
                                             .key_grains = persist->key_grains,
                                             .tail_tokens = persist->tail_tokens}};
    server_step(session->server, &event, NULL);
}

void session_release(struct server_session *session, const struct msg *msg)
{
    struct core_event event = {
        .kind = EVENT_RELEASE, .session = session->number, .u.release.lease = msg->u.release.lease};
    struct core_action answer = {0};
    server_step(session->server, &event, &answer);
    session_complete(session, msg->request_id, answer.status, answer.text);
}

void session_cancel(struct server_session *session, const struct msg *msg)
{
    queue_foreach (item, &session->requests) {
        struct server_request *request = CONTAINER_OF(item, struct server_request, link);
        if (request->request_id == msg->u.cancel.target) {
            struct core_event event = {
                .kind = EVENT_CANCEL, .session = session->number, .request = request->number};
            server_step(session->server, &event, NULL);
            session_complete(session, msg->request_id, ST_OK, NULL);
            return;
        }
    }
    session_complete(session, msg->request_id, ST_UNKNOWN_ID, "cancel: no such request in flight");
}
