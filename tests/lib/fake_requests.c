/* What the fake daemon does with requests. Memory comes from malloc(), not from the heap hook: the
 * faults are for the library. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "tests/lib/fake_state.h"

void fake_region_drop(struct fake_region *region)
{
    if (region->mapping != NULL) {
        (void)munmap(region->mapping, region->mapping_bytes);
    }
    *region = (struct fake_region){0};
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
        bytes +=
            (size_t)layout->kind_elements[kind] * layout->element_bytes * layout_head_units(layout);
    }
    return bytes * layout->layer_count;
}

/* One token of all planes (opaque: the page that it begins, of all heads) to or from `data`. */
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
        for (uint32_t head = 0; head < layout_head_units(layout); head++) {
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
        KVEIK_ASSERT(per_key > 0 && token_bytes(run->layout) > 0);
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
    fake_region_drop(&conn->regions[number]);
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
void fake_answer_shape(enum msg_kind kind, int status, struct msg *reply)
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

void fake_carry_out(struct fake_daemon *daemon, struct fake_conn *conn, const struct msg *msg,
                    struct frame *frame, struct msg *reply)
{
    static int8_t statuses[MSG_KEYS_MAX + 1];
    fake_answer_shape(msg->kind, ST_OK, reply);
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
