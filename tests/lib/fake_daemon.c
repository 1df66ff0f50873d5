#include "tests/lib/fake_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "proto/frame.h"

/* Memory comes from malloc(), not from the heap hook: the faults are for the library. */

enum { CONNS_MAX = 16, THINGS_MAX = 64, HELD_MAX = 4096, GRAINS_MAX = 4096 };

struct fake_region {
    bool used;
    uint32_t kind;
    uint8_t *base;
    uint64_t bytes;
    void *mapping;
    size_t mapping_bytes;
};

struct fake_layout {
    bool used;
    struct layout layout; /* owns its planes */
};

struct fake_conn {
    int socket;
    struct frame_reader reader;
    struct frame_writer writer;
    struct space spaces[THINGS_MAX];
    uint32_t space_count;
    struct fake_region regions[THINGS_MAX];
    struct fake_layout layouts[THINGS_MAX];
};

struct fake_grain {
    uint8_t key[MSG_KEY_BYTES];
    uint8_t *data;
    size_t bytes;
};

struct held {
    uint32_t conn;
    uint64_t request_id;
    enum msg_kind kind;
    uint32_t statuses;
};

struct fake_daemon {
    pthread_t thread;
    pthread_mutex_t mutex;
    char path[108];
    int listener;
    int wake;
    bool stopping;
    bool deaf;
    bool miscount;
    bool lie;
    enum fake_hello hello;
    uint64_t hold;
    uint64_t refuse;
    int refusal;
    uint32_t memory_kinds;
    uint32_t requests_max;
    uint8_t boot_id[MSG_BOOT_ID_BYTES];
    uint64_t counts[MSG_KIND_COUNT];
    uint64_t leases;
    struct fake_conn *conns[CONNS_MAX];
    struct held held[HELD_MAX];
    uint32_t held_count;
    struct fake_grain grains[GRAINS_MAX];
    uint32_t grain_count;
    struct msg_arena in;
    struct msg_arena out;
};

/* ---- connections ----------------------------------------------------------------------------- */

static void region_drop(struct fake_region *region)
{
    if (region->mapping != NULL) {
        (void)munmap(region->mapping, region->mapping_bytes);
    }
    *region = (struct fake_region){0};
}

static void conn_close(struct fake_daemon *daemon, uint32_t index)
{
    struct fake_conn *conn = daemon->conns[index];
    if (conn == NULL) {
        return;
    }
    for (uint32_t i = 0; i < THINGS_MAX; i++) {
        region_drop(&conn->regions[i]);
        free(conn->layouts[i].layout.planes);
    }
    frame_reader_finish(&conn->reader);
    frame_writer_finish(&conn->writer);
    (void)close(conn->socket);
    free(conn);
    daemon->conns[index] = NULL;
}

static void conn_accept(struct fake_daemon *daemon)
{
    int socket = accept4(daemon->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket < 0) {
        return;
    }
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        if (daemon->conns[i] == NULL) {
            struct fake_conn *conn = calloc(1, sizeof *conn);
            KVEIK_ASSERT(conn != NULL);
            conn->socket = socket;
            frame_writer_init(&conn->writer, FRAME_QUEUE_MAX);
            while (frame_reader_init(&conn->reader, FRAME_PAYLOAD_MAX) != ST_OK) {
                /* a fault that was meant for the library */
            }
            daemon->conns[i] = conn;
            return;
        }
    }
    (void)close(socket);
}

static void send_msg(struct fake_daemon *daemon, uint32_t index, const struct msg *msg)
{
    const void *payload = NULL;
    uint32_t bytes = 0;
    int status = ST_NO_MEMORY;
    struct fake_conn *conn = daemon->conns[index];
    if (conn == NULL) {
        return;
    }
    struct error error = {0};
    while (status == ST_NO_MEMORY) {
        msg_arena_reset(&daemon->out);
        status = msg_encode(msg, &daemon->out, &payload, &bytes, &error);
    }
    KVEIK_ASSERT(status == ST_OK);
    do {
        status = frame_write(&conn->writer, conn->socket, payload, bytes, NULL, 0);
    } while (status == ST_NO_MEMORY);
}

/* ---- the store ------------------------------------------------------------------------------- */

static struct fake_grain *grain_find(struct fake_daemon *daemon, const uint8_t *key)
{
    for (uint32_t i = 0; i < daemon->grain_count; i++) {
        if (memcmp(daemon->grains[i].key, key, MSG_KEY_BYTES) == 0) {
            return &daemon->grains[i];
        }
    }
    return NULL;
}

/* A run as pushes and pulls have it. */
struct fake_run {
    const struct layout *layout;
    const struct fake_region *regions;
    const uint32_t *pages;
    uint32_t page_token;
};

static size_t token_bytes(const struct layout *layout)
{
    size_t bytes = 0;
    for (uint32_t kind = 0; kind < layout->kind_count; kind++) {
        bytes += (size_t)layout->kind_elements[kind] * layout->element_bytes *
                 (layout->opaque ? 1 : layout->head_count);
    }
    return bytes * layout->layer_count;
}

/* One token of all planes (opaque: the page that it begins) to or from `data`. */
static uint8_t *copy_token(const struct fake_run *run, uint32_t token, uint8_t *data, bool push)
{
    const struct layout *layout = run->layout;
    uint32_t at = run->page_token + token;
    uint64_t page = run->pages[at / layout->page_tokens];
    uint32_t inside = at % layout->page_tokens;
    if (layout->opaque && inside != 0) {
        return data;
    }
    for (uint32_t plane = 0; plane < layout->layer_count * layout->kind_count; plane++) {
        const struct layout_plane *p = &layout->planes[plane];
        uint32_t elements = layout->kind_elements[plane % layout->kind_count];
        for (uint32_t head = 0; head < (layout->opaque ? 1 : layout->head_count); head++) {
            for (uint32_t e = 0; e < elements; e++) {
                uint8_t *memory = run->regions[p->region].base + p->offset + page * p->page_stride +
                                  inside * p->token_stride + head * p->head_stride +
                                  e * p->element_stride;
                (void)memcpy(push ? data : memory, push ? memory : data, layout->element_bytes);
                data += layout->element_bytes;
            }
        }
    }
    return data;
}

static uint64_t run_push(struct fake_daemon *daemon, const struct fake_run *run,
                         const struct msg_push_run *in)
{
    uint32_t per_key =
        in->key_count == in->block_count ? in->block_grains * GRAIN_TOKENS : GRAIN_TOKENS;
    uint64_t moved = 0;
    for (uint32_t k = 0; k < in->key_count; k++) {
        const uint8_t *key = in->keys + (size_t)k * MSG_KEY_BYTES;
        if (grain_find(daemon, key) != NULL || daemon->grain_count == GRAINS_MAX) {
            continue;
        }
        struct fake_grain *grain = &daemon->grains[daemon->grain_count++];
        (void)memcpy(grain->key, key, MSG_KEY_BYTES);
        grain->data = calloc(per_key, token_bytes(run->layout));
        KVEIK_ASSERT(grain->data != NULL);
        uint8_t *end = grain->data;
        for (uint32_t t = k * per_key; t < (k + 1) * per_key && t < in->token_count; t++) {
            end = copy_token(run, t, end, true);
        }
        grain->bytes = (size_t)(end - grain->data);
        moved += grain->bytes;
    }
    return moved;
}

static uint64_t run_pull(struct fake_daemon *daemon, const struct fake_run *run,
                         const struct msg_pull_run *in, int8_t *statuses)
{
    uint32_t per_key = in->key_grains * GRAIN_TOKENS;
    uint32_t tokens = in->key_count * per_key - GRAIN_TOKENS + in->tail_tokens;
    uint64_t moved = 0;
    for (uint32_t k = 0; k < in->key_count; k++) {
        struct fake_grain *grain = grain_find(daemon, in->keys + (size_t)k * MSG_KEY_BYTES);
        statuses[k] = grain != NULL ? ST_OK : ST_MISS;
        uint8_t *at = grain != NULL ? grain->data : NULL;
        for (uint32_t t = k * per_key; at != NULL && t < (k + 1) * per_key && t < tokens; t++) {
            if ((size_t)(at - grain->data) >= grain->bytes) {
                break;
            }
            at = copy_token(run, t, at, false);
        }
        moved += grain != NULL ? grain->bytes : 0;
    }
    return moved;
}

/* ---- requests -------------------------------------------------------------------------------- */

static void on_push(struct fake_daemon *daemon, struct fake_conn *conn, const struct msg *msg,
                    struct msg *reply, int8_t *statuses)
{
    for (uint32_t r = 0; r < msg->u.push.run_count; r++) {
        const struct msg_push_run *in = &msg->u.push.runs[r];
        struct fake_run run = {.layout = &conn->layouts[in->layout].layout,
                               .regions = conn->regions,
                               .pages = in->pages,
                               .page_token = in->page_token};
        KVEIK_ASSERT(in->layout < THINGS_MAX && conn->layouts[in->layout].used);
        reply->u.completion.bytes += run_push(daemon, &run, in);
        (void)memset(statuses + reply->u.completion.status_count, ST_OK, in->block_count);
        reply->u.completion.status_count += in->block_count;
    }
}

static void on_pull(struct fake_daemon *daemon, struct fake_conn *conn, const struct msg *msg,
                    struct msg *reply, int8_t *statuses)
{
    for (uint32_t r = 0; r < msg->u.pull.run_count; r++) {
        const struct msg_pull_run *in = &msg->u.pull.runs[r];
        struct fake_run run = {.layout = &conn->layouts[in->layout].layout,
                               .regions = conn->regions,
                               .pages = in->pages,
                               .page_token = in->page_token};
        KVEIK_ASSERT(in->layout < THINGS_MAX && conn->layouts[in->layout].used);
        reply->u.completion.bytes +=
            run_pull(daemon, &run, in, statuses + reply->u.completion.status_count);
        reply->u.completion.status_count += in->key_count;
    }
}

static void on_lookup(struct fake_daemon *daemon, const struct msg *msg, struct msg *reply)
{
    const struct msg_lookup *lookup = &msg->u.lookup;
    uint32_t hits = 0;
    while (hits < lookup->key_count &&
           grain_find(daemon, lookup->keys + (size_t)hits * MSG_KEY_BYTES) != NULL) {
        hits++;
    }
    static struct msg_origin origin = {
        .instance_id = {.data = (const uint8_t *)"fake", .bytes = 4}};
    origin.keys = hits;
    reply->kind = MSG_LOOKUP_REPLY;
    reply->u.lookup_reply =
        (struct msg_lookup_reply){.hit_keys = hits,
                                  .hit_tokens = hits * lookup->key_grains * GRAIN_TOKENS,
                                  .lease = lookup->lease ? ++daemon->leases : 0,
                                  .origins = &origin,
                                  .origin_count = lookup->origins && hits > 0 ? 1 : 0};
}

static void on_export(struct fake_daemon *daemon, struct fake_conn *conn, const struct msg *msg,
                      struct frame *frame, struct msg_handle_reply *reply)
{
    const struct msg_export_memory *export = &msg->u.export_memory;
    uint32_t number = 0;
    while (number < THINGS_MAX && conn->regions[number].used) {
        number++;
    }
    if ((daemon->memory_kinds >> export->kind & 1) == 0 || number == THINGS_MAX) {
        reply->status = ST_UNSUPPORTED;
        return;
    }
    struct fake_region *region = &conn->regions[number];
    *region = (struct fake_region){.used = true, .kind = export->kind, .bytes = export->bytes};
    if (export->kind == MEMORY_PROCESS) {
        union {
            uint64_t number;
            uint8_t *pointer;
        } address = {.number = export->address};
        region->base = address.pointer;
    } else {
        KVEIK_ASSERT(frame->descriptor_count == 1);
        uint64_t before = export->file_offset % 4096;
        off_t hole = lseek(frame->descriptors[0], (off_t) export->file_offset, SEEK_HOLE);
        KVEIK_ASSERT((uint64_t)hole >= export->file_offset + export->bytes);
        int seals = fcntl(frame->descriptors[0], F_GET_SEALS);
        KVEIK_ASSERT((seals & F_SEAL_SHRINK) != 0);
        region->mapping_bytes = before + export->bytes;
        region->mapping = mmap(NULL, region->mapping_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                               frame->descriptors[0], (off_t)(export->file_offset - before));
        KVEIK_ASSERT(region->mapping != MAP_FAILED);
        region->base = (uint8_t *)region->mapping + before;
    }
    reply->handle = number;
}

static void on_layout(struct fake_conn *conn, const struct msg *msg, struct msg_handle_reply *reply)
{
    const struct msg_register_layout *body = &msg->u.register_layout;
    uint32_t number = 0;
    while (number < THINGS_MAX && conn->layouts[number].used) {
        number++;
    }
    if (number == THINGS_MAX) {
        reply->status = ST_LIMIT;
        return;
    }
    KVEIK_ASSERT(body->space < conn->space_count);
    const struct space *space = &conn->spaces[body->space];
    const struct space_group *group = &space->groups[body->group];
    struct layout *layout = &conn->layouts[number].layout;
    conn->layouts[number].used = true;
    *layout = body->layout;
    if (!layout->opaque) {
        layout->element_bytes = space_dtype_bytes(space->dtype);
        (void)memcpy(layout->kind_elements, group->kind_elements, sizeof group->kind_elements);
    }
    layout->planes = malloc(body->plane_count * sizeof *layout->planes);
    KVEIK_ASSERT(layout->planes != NULL);
    (void)memcpy(layout->planes, body->layout.planes, body->plane_count * sizeof *layout->planes);
    for (uint32_t i = 0; i < body->plane_count; i++) {
        KVEIK_ASSERT(layout->planes[i].region < THINGS_MAX &&
                     conn->regions[layout->planes[i].region].used);
    }
    reply->handle = number;
}

static int on_drop(struct fake_conn *conn, const struct msg *msg)
{
    uint32_t number = msg->u.drop_memory.handle;
    if (number >= THINGS_MAX) {
        return ST_UNKNOWN_ID;
    }
    if (msg->kind == MSG_DROP_LAYOUT) {
        free(conn->layouts[number].layout.planes);
        conn->layouts[number] = (struct fake_layout){0};
        return ST_OK;
    }
    for (uint32_t l = 0; l < THINGS_MAX; l++) {
        const struct layout *layout = &conn->layouts[l].layout;
        for (uint32_t i = 0; conn->layouts[l].used && i < layout->layer_count * layout->kind_count;
             i++) {
            if (layout->planes[i].region == number) {
                return ST_INVALID; /* as the daemon: layouts first */
            }
        }
    }
    region_drop(&conn->regions[number]);
    return ST_OK;
}

static void on_space(struct fake_conn *conn, const struct msg *msg, struct msg *reply)
{
    KVEIK_ASSERT(conn->space_count < THINGS_MAX);
    reply->kind = MSG_SPACE_REPLY;
    reply->u.space_reply = (struct msg_space_reply){.space = conn->space_count};
    conn->spaces[conn->space_count++] = msg->u.register_space;
    while (space_id(&msg->u.register_space, reply->u.space_reply.space_id) != ST_OK) {
        /* a fault that was meant for the library */
    }
}

static void on_probe(const struct fake_daemon *daemon, struct fake_conn *conn,
                     const struct msg_probe *probe)
{
    const struct fake_region *region = &conn->regions[probe->region];
    KVEIK_ASSERT(probe->region < THINGS_MAX && region->used &&
                 probe->offset_from + probe->bytes <= region->bytes &&
                 probe->offset_to + probe->bytes <= region->bytes);
    if (!daemon->lie) {
        (void)memmove(region->base + probe->offset_to, region->base + probe->offset_from,
                      probe->bytes);
    }
}

/* The shape of the answer to a kind, with a status. */
static void answer_shape(enum msg_kind kind, int status, struct msg *reply)
{
    const char *text = status < 0 ? "the fake refuses" : "";
    switch ((int)kind) {
    case MSG_LOOKUP:
        reply->kind = MSG_LOOKUP_REPLY;
        reply->u.lookup_reply = (struct msg_lookup_reply){.status = status, .text = text};
        break;
    case MSG_REGISTER_SPACE:
        reply->kind = MSG_SPACE_REPLY;
        reply->u.space_reply = (struct msg_space_reply){.status = status, .text = text};
        break;
    case MSG_EXPORT_MEMORY:
    case MSG_DROP_MEMORY:
    case MSG_REGISTER_LAYOUT:
    case MSG_DROP_LAYOUT:
        reply->kind = MSG_HANDLE_REPLY;
        reply->u.handle_reply = (struct msg_handle_reply){.status = status, .text = text};
        break;
    default:
        reply->kind = MSG_COMPLETION;
        reply->u.completion = (struct msg_completion){.status = status, .text = text};
        break;
    }
}

static void carry_out(struct fake_daemon *daemon, struct fake_conn *conn, const struct msg *msg,
                      struct frame *frame, struct msg *reply)
{
    static int8_t statuses[MSG_KEYS_MAX + 1];
    answer_shape(msg->kind, ST_OK, reply);
    switch ((int)msg->kind) {
    case MSG_REGISTER_SPACE:
        on_space(conn, msg, reply);
        break;
    case MSG_EXPORT_MEMORY:
        on_export(daemon, conn, msg, frame, &reply->u.handle_reply);
        break;
    case MSG_REGISTER_LAYOUT:
        on_layout(conn, msg, &reply->u.handle_reply);
        break;
    case MSG_DROP_MEMORY:
    case MSG_DROP_LAYOUT:
        reply->u.handle_reply.status = on_drop(conn, msg);
        break;
    case MSG_LOOKUP:
        on_lookup(daemon, msg, reply);
        break;
    case MSG_PROBE:
        on_probe(daemon, conn, &msg->u.probe);
        break;
    case MSG_STATUS_REQUEST:
        reply->kind = MSG_STATUS_REPLY;
        reply->u.status_reply.json = "{\"fake\":true}";
        break;
    case MSG_PUSH:
    case MSG_PULL:
        reply->u.completion.statuses = statuses;
        (msg->kind == MSG_PUSH ? on_push : on_pull)(daemon, conn, msg, reply, statuses);
        reply->u.completion.status_count += daemon->miscount ? 1 : 0;
        break;
    default: /* release, quiesce, cancel: nothing to do */
        break;
    }
}

/* ---- hello ----------------------------------------------------------------------------------- */

static void on_hello(struct fake_daemon *daemon, uint32_t index, const struct msg *msg)
{
    struct msg reply = {.request_id = msg->request_id,
                        .kind = MSG_HELLO_REPLY,
                        .u.hello_reply = {.version = MSG_VERSION,
                                          .session_id = 1 + daemon->counts[MSG_HELLO],
                                          .frame_bytes_max = FRAME_PAYLOAD_MAX,
                                          .requests_max = daemon->requests_max,
                                          .regions_max = THINGS_MAX,
                                          .layouts_max = THINGS_MAX,
                                          .keys_max = MSG_KEYS_MAX,
                                          .daemon = "fake 1",
                                          .instance_id = msg->u.hello.instance_id}};
    (void)memcpy(reply.u.hello_reply.boot_id, daemon->boot_id, MSG_BOOT_ID_BYTES);
    struct fake_conn *conn = daemon->conns[index];
    switch (daemon->hello) {
    case FAKE_HELLO_SILENT:
        return;
    case FAKE_HELLO_VERSION:
        reply.u.hello_reply.version = MSG_VERSION + 1;
        break;
    case FAKE_HELLO_REFUSED:
        reply = (struct msg){
            .kind = MSG_NOTICE,
            .u.notice = {.kind = NOTICE_SESSION_ENDED, .status = ST_PERMISSION, .text = "no"}};
        break;
    case FAKE_HELLO_OTHER:
        answer_shape(MSG_PUSH, ST_OK, &reply);
        break;
    case FAKE_HELLO_GARBAGE:
        (void)send(conn->socket, "this is no frame at all", 23, MSG_NOSIGNAL);
        return;
    case FAKE_HELLO_NO_MESSAGE:
        (void)frame_write(&conn->writer, conn->socket, "\xff\xff\xff", 3, NULL, 0);
        return;
    case FAKE_HELLO_CUT:
    case FAKE_HELLO_GOOD:
        break;
    }
    if (daemon->hello != FAKE_HELLO_CUT) {
        send_msg(daemon, index, &reply);
    }
    if (daemon->hello == FAKE_HELLO_REFUSED || daemon->hello == FAKE_HELLO_CUT) {
        conn_close(daemon, index);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static uint32_t status_count(const struct msg *msg)
{
    uint32_t count = 0;
    for (uint32_t r = 0; msg->kind == MSG_PUSH && r < msg->u.push.run_count; r++) {
        count += msg->u.push.runs[r].block_count;
    }
    for (uint32_t r = 0; msg->kind == MSG_PULL && r < msg->u.pull.run_count; r++) {
        count += msg->u.pull.runs[r].key_count;
    }
    return count;
}

static void on_message(struct fake_daemon *daemon, uint32_t index, const struct msg *msg,
                       struct frame *frame)
{
    daemon->counts[msg->kind]++;
    if (msg->kind == MSG_HELLO) {
        on_hello(daemon, index, msg);
        return;
    }
    if ((daemon->hold >> msg->kind & 1) != 0) {
        KVEIK_ASSERT(daemon->held_count < HELD_MAX);
        daemon->held[daemon->held_count++] = (struct held){.conn = index,
                                                           .request_id = msg->request_id,
                                                           .kind = msg->kind,
                                                           .statuses = status_count(msg)};
        return;
    }
    struct msg reply = {.request_id = msg->request_id};
    if ((daemon->refuse >> msg->kind & 1) != 0) {
        answer_shape(msg->kind, daemon->refusal, &reply);
    } else {
        carry_out(daemon, daemon->conns[index], msg, frame, &reply);
    }
    send_msg(daemon, index, &reply);
}

static void conn_read(struct fake_daemon *daemon, uint32_t index)
{
    struct error error = {0};
    struct fake_conn *conn = daemon->conns[index];
    (void)frame_flush(&conn->writer, conn->socket);
    int status = frame_receive(&conn->reader, conn->socket, &error);
    if (status == ST_LOST) {
        conn_close(daemon, index);
        return;
    }
    while (daemon->conns[index] == conn) {
        struct frame frame;
        status = frame_next(&conn->reader, &frame, &error);
        if (status == ST_PENDING) {
            return;
        }
        KVEIK_ASSERT(status == ST_OK);
        struct msg msg;
        do {
            msg_arena_reset(&daemon->in);
            status = msg_decode(frame.payload, frame.payload_bytes, &daemon->in, &msg, &error);
        } while (status == ST_NO_MEMORY);
        KVEIK_ASSERT(status == ST_OK); /* the library says nothing that is refused */
        on_message(daemon, index, &msg, &frame);
        frame_finish(&frame);
    }
}

static void *run(void *arg)
{
    struct fake_daemon *daemon = arg;
    (void)pthread_mutex_lock(&daemon->mutex);
    while (!daemon->stopping) {
        struct pollfd polls[CONNS_MAX + 2] = {{.fd = daemon->wake, .events = POLLIN},
                                              {.fd = daemon->listener, .events = POLLIN}};
        for (uint32_t i = 0; i < CONNS_MAX; i++) {
            const struct fake_conn *conn = daemon->conns[i];
            polls[2 + i].fd = conn != NULL && !daemon->deaf ? conn->socket : -1;
            polls[2 + i].events = POLLIN;
            if (conn != NULL && conn->writer.queued_bytes > 0) {
                polls[2 + i].events |= POLLOUT;
            }
        }
        (void)pthread_mutex_unlock(&daemon->mutex);
        (void)poll(polls, CONNS_MAX + 2, 1000);
        (void)pthread_mutex_lock(&daemon->mutex);
        uint64_t count = 0;
        ssize_t ignored = read(daemon->wake, &count, sizeof count);
        (void)ignored;
        if (polls[1].revents != 0) {
            conn_accept(daemon);
        }
        for (uint32_t i = 0; i < CONNS_MAX; i++) {
            if (polls[2 + i].revents != 0 && daemon->conns[i] != NULL &&
                daemon->conns[i]->socket == polls[2 + i].fd) {
                conn_read(daemon, i);
            }
        }
    }
    (void)pthread_mutex_unlock(&daemon->mutex);
    return NULL;
}

struct fake_daemon *fake_daemon_start(const char *path)
{
    struct fake_daemon *daemon = calloc(1, sizeof *daemon);
    KVEIK_ASSERT(daemon != NULL && strlen(path) < sizeof daemon->path);
    (void)snprintf(daemon->path, sizeof daemon->path, "%s", path);
    daemon->memory_kinds = UINT32_MAX;
    daemon->requests_max = 1024;
    KVEIK_ASSERT(getrandom(daemon->boot_id, sizeof daemon->boot_id, 0) ==
                 (ssize_t)sizeof daemon->boot_id);
    (void)pthread_mutex_init(&daemon->mutex, NULL);
    int status = msg_arena_init(&daemon->in, MSG_ARENA_BYTES_MAX);
    KVEIK_ASSERT(status == ST_OK);
    status = msg_arena_init(&daemon->out, MSG_ARENA_BYTES_MAX);
    KVEIK_ASSERT(status == ST_OK);
    daemon->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    daemon->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    (void)unlink(path);
    int good = bind(daemon->listener, (const struct sockaddr *)&address, sizeof address);
    KVEIK_ASSERT(good == 0 && listen(daemon->listener, 64) == 0);
    good = pthread_create(&daemon->thread, NULL, run, daemon);
    KVEIK_ASSERT(good == 0);
    return daemon;
}

static void wake(struct fake_daemon *daemon)
{
    uint64_t one = 1;
    ssize_t ignored = write(daemon->wake, &one, sizeof one);
    (void)ignored;
}

static void lock(struct fake_daemon *daemon)
{
    (void)pthread_mutex_lock(&daemon->mutex);
}

static void unlock(struct fake_daemon *daemon)
{
    wake(daemon);
    (void)pthread_mutex_unlock(&daemon->mutex);
}

void fake_daemon_stop(struct fake_daemon *daemon)
{
    lock(daemon);
    daemon->stopping = true;
    unlock(daemon);
    (void)pthread_join(daemon->thread, NULL);
    (void)close(daemon->listener);
    (void)unlink(daemon->path);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        conn_close(daemon, i);
    }
    for (uint32_t i = 0; i < daemon->grain_count; i++) {
        free(daemon->grains[i].data);
    }
    msg_arena_finish(&daemon->in);
    msg_arena_finish(&daemon->out);
    (void)close(daemon->wake);
    (void)pthread_mutex_destroy(&daemon->mutex);
    free(daemon);
}

/* ---- misbehaviour ---------------------------------------------------------------------------- */

void fake_daemon_hello(struct fake_daemon *daemon, enum fake_hello hello)
{
    lock(daemon);
    daemon->hello = hello;
    unlock(daemon);
}

void fake_daemon_hold(struct fake_daemon *daemon, uint64_t kinds)
{
    lock(daemon);
    daemon->hold = kinds;
    unlock(daemon);
}

void fake_daemon_release(struct fake_daemon *daemon)
{
    static int8_t statuses[MSG_KEYS_MAX];
    lock(daemon);
    daemon->hold = 0;
    for (uint32_t i = 0; i < daemon->held_count; i++) {
        struct msg reply = {.request_id = daemon->held[i].request_id};
        answer_shape(daemon->held[i].kind, ST_OK, &reply);
        if (reply.kind == MSG_COMPLETION) {
            reply.u.completion.statuses = statuses;
            reply.u.completion.status_count = daemon->held[i].statuses;
        } else if (reply.kind == MSG_LOOKUP_REPLY) {
            reply.u.lookup_reply.lease = ++daemon->leases;
        } else if (reply.kind == MSG_SPACE_REPLY) {
            reply.u.space_reply.space_id[0] = 1;
        }
        send_msg(daemon, daemon->held[i].conn, &reply);
    }
    daemon->held_count = 0;
    unlock(daemon);
}

void fake_daemon_refuse(struct fake_daemon *daemon, uint64_t kinds, int status)
{
    lock(daemon);
    daemon->refuse = kinds;
    daemon->refusal = status;
    unlock(daemon);
}

void fake_daemon_miscount(struct fake_daemon *daemon, bool miscount)
{
    lock(daemon);
    daemon->miscount = miscount;
    unlock(daemon);
}

void fake_daemon_lie(struct fake_daemon *daemon, bool lie)
{
    lock(daemon);
    daemon->lie = lie;
    unlock(daemon);
}

void fake_daemon_memory(struct fake_daemon *daemon, uint32_t kinds)
{
    lock(daemon);
    daemon->memory_kinds = kinds;
    unlock(daemon);
}

void fake_daemon_requests_max(struct fake_daemon *daemon, uint32_t requests_max)
{
    lock(daemon);
    daemon->requests_max = requests_max;
    unlock(daemon);
}

void fake_daemon_cut(struct fake_daemon *daemon)
{
    lock(daemon);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        conn_close(daemon, i);
    }
    daemon->held_count = 0;
    unlock(daemon);
}

void fake_daemon_deaf(struct fake_daemon *daemon, bool deaf)
{
    lock(daemon);
    daemon->deaf = deaf;
    unlock(daemon);
}

void fake_daemon_say(struct fake_daemon *daemon, const void *bytes, size_t count)
{
    lock(daemon);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        if (daemon->conns[i] != NULL) {
            (void)send(daemon->conns[i]->socket, bytes, count, MSG_NOSIGNAL);
        }
    }
    unlock(daemon);
}

void fake_daemon_notice(struct fake_daemon *daemon, enum notice_kind kind, int status)
{
    lock(daemon);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        struct msg msg = {.kind = MSG_NOTICE,
                          .u.notice = {.kind = kind, .status = status, .text = "as told"}};
        send_msg(daemon, i, &msg);
    }
    unlock(daemon);
}

uint64_t fake_daemon_count(struct fake_daemon *daemon, enum msg_kind kind)
{
    lock(daemon);
    uint64_t count = daemon->counts[kind];
    unlock(daemon);
    return count;
}

bool fake_daemon_await(struct fake_daemon *daemon, enum msg_kind kind, uint64_t count)
{
    for (int i = 0; i < 5000; i++) {
        if (fake_daemon_count(daemon, kind) >= count) {
            return true;
        }
        const struct timespec nap = {.tv_nsec = 1000000};
        (void)nanosleep(&nap, NULL);
    }
    return false;
}
