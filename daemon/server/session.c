/* Sessions: from hello to the last freed byte, and what message goes where. */
#include <string.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/heap.h"
#include "daemon/server/state.h"

/* ---- refusing -------------------------------------------------------------------------------- */

void session_refuse(struct server_session *session, const struct msg *msg, int status,
                    const char *text)
{
    struct msg reply = {.request_id = msg->request_id};
    if (msg->kind == MSG_LOOKUP) {
        reply.kind = MSG_LOOKUP_REPLY;
        reply.u.lookup_reply = (struct msg_lookup_reply){.status = status, .text = text};
    } else if (msg->kind == MSG_REGISTER_SPACE) {
        reply.kind = MSG_SPACE_REPLY;
        reply.u.space_reply = (struct msg_space_reply){.status = status, .text = text};
    } else if (msg->kind == MSG_EXPORT_MEMORY || msg->kind == MSG_DROP_MEMORY ||
               msg->kind == MSG_REGISTER_LAYOUT || msg->kind == MSG_DROP_LAYOUT) {
        reply.kind = MSG_HANDLE_REPLY;
        reply.u.handle_reply = (struct msg_handle_reply){.status = status, .text = text};
    } else {
        reply.kind = MSG_COMPLETION;
        reply.u.completion = (struct msg_completion){.status = status, .text = text};
    }
    engine_send(session->conn, &reply);
}

/* ---- hello ----------------------------------------------------------------------------------- */

static void session_release_memory(struct server_session *session)
{
    heap_free(session->copy_regions);
    heap_free(session->regions);
    heap_free(session->layouts);
    heap_free(session->spaces);
    heap_free(session->stale_shapes);
    heap_free(session);
}

static struct server_session *session_create(struct server *server, struct engine_conn *conn)
{
    struct server_session *session = heap_calloc(1, sizeof *session);
    if (session == NULL) {
        return NULL;
    }
    session->copy_regions = heap_calloc(SESSION_REGIONS_MAX, sizeof *session->copy_regions);
    session->regions = heap_calloc(SESSION_REGIONS_MAX, sizeof *session->regions);
    session->layouts = heap_calloc(SESSION_LAYOUTS_MAX, sizeof *session->layouts);
    session->spaces = heap_calloc(SESSION_SPACES_MAX, sizeof *session->spaces);
    session->stale_shapes =
        heap_calloc(SESSION_LAYOUTS_MAX * LAYOUT_SHAPES_MAX, sizeof *session->stale_shapes);
    if (session->copy_regions == NULL || session->regions == NULL || session->layouts == NULL ||
        session->spaces == NULL || session->stale_shapes == NULL) {
        session_release_memory(session);
        return NULL;
    }
    session->server = server;
    session->conn = conn;
    queue_init(&session->requests);
    queue_init(&session->waiters);
    const struct engine_peer *peer = engine_conn_peer(conn);
    session->memory = (struct copy_memory){.regions = session->copy_regions, .pidfd = -1};
    session->remote = (struct copy_memory){
        .regions = session->copy_regions, .pid = peer->pid, .pidfd = peer->pidfd};
    return session;
}

/* Whether the client's clock can be ours: read before the hello came, and not long before. One of
 * another time namespace differs by more, or lies ahead. One that lies a little behind makes
 * deadlines pass early, which costs a push and nothing else. */
static bool clock_is_ours(const struct msg_hello *hello)
{
    uint64_t now_ns = clock_ns();
    return (hello->capabilities & MSG_CAPABILITY_CLOCK) != 0 && hello->clock_ns != 0 &&
           hello->clock_ns <= now_ns && now_ns - hello->clock_ns < HELLO_AGE_MS * 1000000ull;
}

static void hello_reply(struct server_session *session, const struct msg *msg)
{
    const struct server *server = session->server;
    struct msg reply = {
        .request_id = msg->request_id,
        .kind = MSG_HELLO_REPLY,
        .u.hello_reply = {.version = MSG_VERSION,
                          .session_id = engine_conn_number(session->conn),
                          .capabilities = session->same_clock ? MSG_CAPABILITY_CLOCK : 0,
                          .frame_bytes_max = FRAME_PAYLOAD_MAX,
                          .requests_max = server->settings->session_requests_max,
                          .regions_max = SESSION_REGIONS_MAX,
                          .layouts_max = SESSION_LAYOUTS_MAX,
                          .keys_max = MSG_KEYS_MAX,
                          .daemon = "kveikd " KVEIK_VERSION,
                          .instance_id = msg->u.hello.instance_id}};
    (void)memcpy(reply.u.hello_reply.boot_id, server->boot_id, MSG_BOOT_ID_BYTES);
    engine_send(session->conn, &reply);
}

static void on_hello(struct server *server, struct engine_conn *conn, const struct msg *msg)
{
    const struct msg_hello *hello = &msg->u.hello;
    if (server->stopping) {
        engine_end(conn, ST_SHUTDOWN, "the daemon is shutting down");
        return;
    }
    if (hello->version_min > MSG_VERSION || hello->version_max < MSG_VERSION) {
        engine_end(conn, ST_VERSION,
                   "the client speaks protocol versions %u to %u, this daemon speaks %d",
                   hello->version_min, hello->version_max, MSG_VERSION);
        return;
    }
    if (hello->token.bytes != 0) {
        engine_end(conn, ST_PERMISSION,
                   "the token names no tenant: none are configured, connect without a token");
        return;
    }
    struct server_session *session =
        server->session_free_count == 0 ? NULL : session_create(server, conn);
    if (session == NULL) {
        engine_end(conn, ST_LIMIT, "too many sessions (sessions-max) or out of memory");
        return;
    }
    session->number = server->session_free[--server->session_free_count];
    server->sessions[session->number] = session;
    struct core_event event = {.kind = EVENT_SESSION_OPEN,
                               .session = session->number,
                               .u.session_open = {.instance_id = hello->instance_id.data,
                                                  .instance_id_bytes = hello->instance_id.bytes,
                                                  .tenant = CORE_NONE_TENANT,
                                                  .lease_bytes_max = hello->instance_lease_bytes}};
    struct core_action answer = {0};
    server_step(server, &event, &answer);
    if (answer.status != ST_OK) {
        server->sessions[session->number] = NULL;
        server->session_free[server->session_free_count++] = session->number;
        session_release_memory(session);
        engine_end(conn, answer.status, "%s", answer.text);
        return;
    }
    engine_conn_set_user(conn, session);
    session->same_clock = clock_is_ours(hello);
    log_write(
        server->log, LOG_LEVEL_INFO, "server", "session %llu opened: %s, pid %d, instance %.*s",
        (unsigned long long)engine_conn_number(conn), hello->client, engine_conn_peer(conn)->pid,
        (int)hello->instance_id.bytes, (const char *)hello->instance_id.data);
    hello_reply(session, msg);
}

/* ---- spaces ---------------------------------------------------------------------------------- */

/* SHA-256("kveik/namespace/1" | tenant's salt | space id): no client can name another's. */
static int namespace_of(const struct server *server, const uint8_t id[SPACE_ID_BYTES],
                        uint8_t out[DIGEST_BYTES])
{
    struct digest *digest = digest_create();
    if (digest == NULL) {
        return ST_NO_MEMORY;
    }
    static const char mark[] = "kveik/namespace/1";
    digest_begin(digest);
    digest_add(digest, mark, sizeof mark - 1);
    digest_add(digest, server->salt, sizeof server->salt);
    digest_add(digest, id, SPACE_ID_BYTES);
    digest_end(digest, out);
    digest_destroy(digest);
    return ST_OK;
}

/* Notes what the space is, for the disk. */
static int space_describe(struct server *server, uint32_t core_space,
                          const struct core_event *event, const struct space *space)
{
    struct kind_space kind = {.tenant = CORE_NONE_TENANT,
                              .admission = event->u.space.admission,
                              .quota_bytes = event->u.space.quota_bytes,
                              .group_count = event->u.space.group_count};
    (void)memcpy(kind.id, event->u.space.id, sizeof kind.id);
    (void)memcpy(kind.groups, event->u.space.groups, kind.group_count * sizeof kind.groups[0]);
    (void)memcpy(kind.model, space->model, sizeof kind.model);
    (void)memcpy(kind.revision, space->revision, sizeof kind.revision);
    return space_text_keep(server, core_space, &kind);
}

static int space_enter(struct server_session *session, const struct msg *msg, const uint8_t *name,
                       uint32_t *handle_out, const char **text_out)
{
    const struct space *space = &msg->u.register_space;
    struct core_group groups[SPACE_GROUPS_MAX];
    for (uint32_t g = 0; g < space->group_count; g++) {
        groups[g] = (struct core_group){.rule = space->groups[g].rule,
                                        .window_tokens = space->groups[g].window_tokens,
                                        .layer_count = space->groups[g].layer_count,
                                        .head_count = space->groups[g].head_count};
    }
    struct core_event event = {.kind = EVENT_SPACE,
                               .session = session->number,
                               .u.space = {.id = name,
                                           .group_count = space->group_count,
                                           .groups = groups,
                                           .quota_bytes = space->quota_bytes,
                                           .admission = space->admission}};
    struct core_action answer = {0};
    server_step(session->server, &event, &answer);
    *text_out = answer.text;
    if (answer.status != ST_OK) {
        return answer.status;
    }
    if (space_describe(session->server, answer.handle, &event, space) != ST_OK) {
        *text_out = "out of memory for the space";
        return ST_NO_MEMORY;
    }
    uint32_t unused = NO_HANDLE;
    for (uint32_t i = SESSION_SPACES_MAX; i-- > 0;) {
        if (session->spaces[i].used && session->spaces[i].core_space == answer.handle) {
            *handle_out = i; /* registered before */
            return ST_OK;
        }
        unused = session->spaces[i].used ? unused : i;
    }
    if (unused == NO_HANDLE) {
        event = (struct core_event){
            .kind = EVENT_SPACE_DROP, .session = session->number, .u.handle.handle = answer.handle};
        server_step(session->server, &event, &answer); /* or it would be held all the same */
        *text_out = "too many spaces in this session";
        return ST_LIMIT;
    }
    session->spaces[unused] = (struct server_space){
        .used = true, .core_space = answer.handle, .space = msg->u.register_space};
    *handle_out = unused;
    return ST_OK;
}

static void session_register_space(struct server_session *session, const struct msg *msg)
{
    struct msg reply = {.request_id = msg->request_id, .kind = MSG_SPACE_REPLY};
    struct msg_space_reply *answer = &reply.u.space_reply;
    uint8_t name[DIGEST_BYTES];
    const char *text = NULL;
    answer->status = space_id(&msg->u.register_space, answer->space_id);
    if (answer->status == ST_OK) {
        answer->status = namespace_of(session->server, answer->space_id, name);
    }
    if (answer->status == ST_OK) {
        answer->status = space_enter(session, msg, name, &answer->space, &text);
    }
    answer->text = text != NULL ? text : "";
    engine_send(session->conn, &reply);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void dispatch(struct server_session *session, struct msg *msg, int *descriptors,
                     uint32_t descriptor_count)
{
    static void (*const handlers[MSG_KIND_COUNT])(struct server_session *, const struct msg *) = {
        [MSG_REGISTER_SPACE] = session_register_space,
        [MSG_DROP_MEMORY] = session_drop_memory,
        [MSG_REGISTER_LAYOUT] = session_register_layout,
        [MSG_DROP_LAYOUT] = session_drop_layout,
        [MSG_PUSH] = session_push,
        [MSG_LOOKUP] = session_lookup,
        [MSG_PULL] = session_pull,
        [MSG_PERSIST] = session_persist,
        [MSG_RELEASE] = session_release,
        [MSG_QUIESCE] = session_quiesce,
        [MSG_CANCEL] = session_cancel,
        [MSG_STATUS_REQUEST] = session_status,
        [MSG_PROBE] = session_probe,
    };
    if (msg->request_id == 0) {
        engine_end(session->conn, ST_PROTOCOL, "%s with request id 0", msg_kind_name(msg->kind));
    } else if (msg->kind == MSG_EXPORT_MEMORY) {
        session_export_memory(session, msg, descriptors, descriptor_count);
    } else if (descriptor_count != 0) {
        engine_end(session->conn, ST_PROTOCOL, "%s with descriptors", msg_kind_name(msg->kind));
    } else if (handlers[msg->kind] == NULL) {
        engine_end(session->conn, ST_PROTOCOL, "%s is not a client's message",
                   msg_kind_name(msg->kind));
    } else if (session->server->stopping && (msg->kind == MSG_PUSH || msg->kind == MSG_PULL ||
                                             msg->kind == MSG_LOOKUP || msg->kind == MSG_PERSIST)) {
        session_refuse(session, msg, ST_SHUTDOWN, "the daemon is shutting down");
    } else {
        handlers[msg->kind](session, msg);
    }
}

void server_on_message(void *ctx, struct engine_conn *conn, struct msg *msg, int *descriptors,
                       uint32_t descriptor_count)
{
    struct server *server = ctx;
    KVEIK_CHECK_OBJ(server, SERVER_MAGIC);
    if (msg->kind == MSG_HELLO) {
        on_hello(server, conn, msg);
    } else {
        dispatch(engine_conn_user(conn), msg, descriptors, descriptor_count);
    }
}

/* ---- the end --------------------------------------------------------------------------------- */

void server_on_ended(void *ctx, struct engine_conn *conn)
{
    struct server *server = ctx;
    struct server_session *session = engine_conn_user(conn);
    if (session == NULL) { /* it never got as far as a session */
        engine_close(conn);
        return;
    }
    KVEIK_ASSERT(!session->closing);
    session->closing = true;
    session_free_waiters(session);
    struct core_event event = {.kind = EVENT_SESSION_CLOSE, .session = session->number};
    server_step(server, &event, NULL);
}

void session_try_free(struct server_session *session)
{
    if (!session->core_closed || session->populating > 0 || session->probing > 0) {
        return;
    }
    struct server *server = session->server;
    KVEIK_ASSERT(session->request_count == 0);
    session_free_memory(session);
    engine_close(session->conn);
    server->sessions[session->number] = NULL;
    server->session_free[server->session_free_count++] = session->number;
    session_release_memory(session);
}
