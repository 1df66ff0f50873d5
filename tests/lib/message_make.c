#include "tests/lib/message_make.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

struct maker {
    struct rng *rng;
    uint32_t items_max;
    struct msg_arena *arena;
};

static uint32_t between(struct maker *maker, uint32_t min, uint32_t max)
{
    return min + (uint32_t)rng_below(maker->rng, (uint64_t)max - min + 1);
}

static bool coin(struct maker *maker)
{
    return rng_below(maker->rng, 2) == 1;
}

static void *take(struct maker *maker, size_t bytes)
{
    void *memory = msg_arena_take(maker->arena, bytes);
    KVEIK_ASSERT(memory != NULL);
    return memory;
}

static uint8_t *noise(struct maker *maker, size_t bytes)
{
    uint8_t *out = take(maker, bytes);
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (uint8_t)rng_next(maker->rng);
    }
    return out;
}

static char *word(struct maker *maker, uint32_t min, uint32_t max)
{
    uint32_t length = between(maker, min, max);
    char *out = take(maker, length + 1);
    for (uint32_t i = 0; i < length; i++) {
        out[i] = (char)between(maker, ' ', '~');
    }
    out[length] = '\0';
    return out;
}

static struct msg_bytes name_bytes(struct maker *maker, uint32_t max)
{
    const char *text = word(maker, 1, max);
    return (struct msg_bytes){.data = (const uint8_t *)text, .bytes = (uint32_t)strlen(text)};
}

static const uint32_t *numbers(struct maker *maker, uint32_t count)
{
    uint32_t *out = take(maker, count * sizeof *out);
    for (uint32_t i = 0; i < count; i++) {
        out[i] = (uint32_t)rng_next(maker->rng);
    }
    return out;
}

static int32_t any_status(struct maker *maker)
{
    return (int32_t)between(maker, 0, 24) - 20;
}

static void make_hello(struct maker *maker, struct msg *msg)
{
    uint32_t token_bytes = between(maker, 0, MSG_TOKEN_MAX);
    uint32_t version = between(maker, 1, 9);
    msg->u.hello =
        (struct msg_hello){.version_min = version,
                           .version_max = version + between(maker, 0, 9),
                           .client = word(maker, 0, 80),
                           .instance_id = name_bytes(maker, MSG_INSTANCE_MAX),
                           .token = {.data = noise(maker, token_bytes), .bytes = token_bytes},
                           .capabilities = rng_next(maker->rng),
                           .instance_lease_bytes = rng_next(maker->rng),
                           .clock_ns = rng_next(maker->rng)};
}

static void make_hello_reply(struct maker *maker, struct msg *msg)
{
    struct msg_hello_reply *reply = &msg->u.hello_reply;
    *reply = (struct msg_hello_reply){.version = between(maker, 1, 9),
                                      .session_id = rng_next(maker->rng),
                                      .capabilities = rng_next(maker->rng),
                                      .frame_bytes_max = between(maker, 4096, UINT32_MAX),
                                      .requests_max = between(maker, 1, UINT32_MAX),
                                      .regions_max = between(maker, 1, UINT32_MAX),
                                      .layouts_max = between(maker, 1, UINT32_MAX),
                                      .keys_max = between(maker, 1, UINT32_MAX),
                                      .daemon = word(maker, 0, 80),
                                      .instance_id = name_bytes(maker, MSG_INSTANCE_MAX)};
    (void)memcpy(reply->boot_id, noise(maker, sizeof reply->boot_id), sizeof reply->boot_id);
}

static void make_group(struct maker *maker, bool opaque, struct space_group *group)
{
    *group = (struct space_group){.rule = between(maker, GROUP_EVERY, GROUP_STATE),
                                  .layer_count = between(maker, 1, LAYOUT_LAYERS_MAX),
                                  .head_count = between(maker, 1, LAYOUT_HEADS_MAX),
                                  .kind_count = between(maker, 1, LAYOUT_KINDS_MAX),
                                  .opaque = opaque};
    group->window_tokens = group->rule == GROUP_WINDOW ? between(maker, 1, UINT32_MAX) : 0;
    for (uint32_t kind = 0; !opaque && kind < group->kind_count; kind++) {
        group->kind_elements[kind] = between(maker, 1, LAYOUT_ELEMENTS_MAX);
    }
}

static void make_space(struct maker *maker, struct msg *msg)
{
    struct space *space = &msg->u.register_space;
    *space = (struct space){.dtype = between(maker, SPACE_F32, SPACE_F64),
                            .has_rope = coin(maker),
                            .group_count = between(maker, 1, SPACE_GROUPS_MAX),
                            .isolation_bytes = between(maker, 0, SPACE_FINGERPRINT_MAX),
                            .quota_bytes = rng_next(maker->rng),
                            .admission = between(maker, 0, SPACE_ADMIT_NEVER)};
    (void)snprintf(space->model, sizeof space->model, "%s", word(maker, 1, SPACE_NAME_BYTES - 1));
    (void)snprintf(space->revision, sizeof space->revision, "%s",
                   word(maker, 0, SPACE_NAME_BYTES - 1));
    if (space->has_rope) {
        (void)memcpy(space->rope_id, noise(maker, sizeof space->rope_id), sizeof space->rope_id);
    }
    bool opaque = coin(maker);
    for (uint32_t i = 0; i < space->group_count; i++) {
        make_group(maker, opaque && i == 0, &space->groups[i]);
    }
    if (opaque) {
        space->fingerprint_bytes = between(maker, 1, SPACE_FINGERPRINT_MAX);
        (void)memcpy(space->fingerprint, noise(maker, space->fingerprint_bytes),
                     space->fingerprint_bytes);
    }
    (void)memcpy(space->isolation, noise(maker, space->isolation_bytes), space->isolation_bytes);
}

static void make_space_reply(struct maker *maker, struct msg *msg)
{
    struct msg_space_reply *reply = &msg->u.space_reply;
    *reply = (struct msg_space_reply){.status = any_status(maker),
                                      .text = word(maker, 0, MSG_TEXT_MAX),
                                      .space = between(maker, 0, UINT32_MAX)};
    if (reply->status == ST_OK) {
        (void)memcpy(reply->space_id, noise(maker, SPACE_ID_BYTES), SPACE_ID_BYTES);
    }
}

static void make_export(struct maker *maker, struct msg *msg)
{
    bool memfd = coin(maker);
    msg->u.export_memory =
        (struct msg_export_memory){.kind = memfd ? MEMORY_MEMFD : MEMORY_PROCESS,
                                   .bytes = 1 + rng_next(maker->rng) / 4,
                                   .file_offset = memfd ? rng_next(maker->rng) / 4 : 0,
                                   .address = memfd ? 0 : 1 + rng_next(maker->rng) / 4};
}

static void make_layout(struct maker *maker, struct msg *msg)
{
    struct msg_register_layout *body = &msg->u.register_layout;
    bool opaque = coin(maker);
    bool apart = opaque && coin(maker);
    *body = (struct msg_register_layout){
        .space = between(maker, 0, UINT32_MAX),
        .group = between(maker, 0, SPACE_GROUPS_MAX - 1),
        .layout = {.page_tokens = between(maker, 1, LAYOUT_PAGE_TOKENS_MAX),
                   .page_count = between(maker, 1, UINT32_MAX),
                   .layer_begin = between(maker, 0, 100),
                   .layer_count = between(maker, 1, maker->items_max),
                   .head_begin = between(maker, 0, 100),
                   .head_count = between(maker, 1, 100),
                   .kind_count = between(maker, 1, LAYOUT_KINDS_MAX),
                   .element_bytes = opaque ? 1 : 0,
                   .opaque = opaque}};
    struct layout *layout = &body->layout;
    uint32_t page_bytes = between(maker, 1, apart ? INT32_MAX / 100 : INT32_MAX);
    for (uint32_t kind = 0; opaque && kind < layout->kind_count; kind++) {
        layout->kind_elements[kind] = page_bytes;
    }
    body->plane_count = layout->layer_count * layout->kind_count;
    layout->planes = take(maker, body->plane_count * sizeof *layout->planes);
    for (uint32_t i = 0; i < body->plane_count; i++) {
        layout->planes[i] = (struct layout_plane){.region = between(maker, 0, UINT32_MAX),
                                                  .offset = rng_next(maker->rng),
                                                  .page_stride = rng_next(maker->rng),
                                                  .token_stride = rng_next(maker->rng),
                                                  .head_stride = rng_next(maker->rng),
                                                  .element_stride = rng_next(maker->rng)};
        if (opaque) { /* all planes of one way */
            layout->planes[i].head_stride = apart ? layout->planes[i].head_stride | 1 : 0;
        }
    }
}

static void make_push(struct maker *maker, struct msg *msg)
{
    struct msg_push *push = &msg->u.push;
    *push = (struct msg_push){.run_count = between(maker, 1, maker->items_max),
                              .deadline_ms = between(maker, 0, MSG_DEADLINE_MS_MAX),
                              .sent_ns = rng_next(maker->rng)};
    push->runs = take(maker, push->run_count * sizeof *push->runs);
    for (uint32_t i = 0; i < push->run_count; i++) {
        struct msg_push_run *run = &push->runs[i];
        *run = (struct msg_push_run){.layout = between(maker, 0, UINT32_MAX),
                                     .parent_key = coin(maker) ? noise(maker, 32) : NULL,
                                     .block_count = between(maker, 1, maker->items_max),
                                     .block_grains = between(maker, 1, 8),
                                     .page_count = between(maker, 1, maker->items_max),
                                     .page_token = between(maker, 0, 100)};
        run->tail_tokens = between(maker, 1, run->block_grains * GRAIN_TOKENS);
        run->key_count = coin(maker) ? run->block_count : msg_push_run_grains(run);
        run->keys = noise(maker, (size_t)run->key_count * MSG_KEY_BYTES);
        run->token_count = msg_push_run_tokens(run);
        run->tokens = coin(maker) ? numbers(maker, run->token_count) : NULL;
        run->pages = numbers(maker, run->page_count);
    }
}

static void make_lookup(struct maker *maker, struct msg *msg)
{
    struct msg_lookup *lookup = &msg->u.lookup;
    *lookup = (struct msg_lookup){.space = between(maker, 0, UINT32_MAX),
                                  .key_count = between(maker, 1, maker->items_max),
                                  .key_grains = between(maker, 1, BLOCK_GRAINS_MAX),
                                  .tail_tokens = between(maker, 1, GRAIN_TOKENS),
                                  .want_count = between(maker, 0, 4),
                                  .lease = coin(maker),
                                  .origins = coin(maker),
                                  .deadline_ms = between(maker, 0, MSG_DEADLINE_MS_MAX),
                                  .step_grains = between(maker, 1, 4096)};
    lookup->keys = noise(maker, (size_t)lookup->key_count * MSG_KEY_BYTES);
    lookup->wants = take(maker, lookup->want_count * sizeof *lookup->wants);
    for (uint32_t i = 0; i < lookup->want_count; i++) {
        lookup->wants[i] = (struct msg_want){.group = between(maker, 0, SPACE_GROUPS_MAX - 1),
                                             .layer_begin = between(maker, 0, 99),
                                             .layer_count = between(maker, 1, 99),
                                             .head_begin = between(maker, 0, 99),
                                             .head_count = between(maker, 1, 99)};
    }
}

static void make_lookup_reply(struct maker *maker, struct msg *msg)
{
    struct msg_lookup_reply *reply = &msg->u.lookup_reply;
    *reply = (struct msg_lookup_reply){.status = any_status(maker),
                                       .text = word(maker, 0, MSG_TEXT_MAX),
                                       .hit_keys = between(maker, 0, MSG_KEYS_MAX),
                                       .hit_tokens = between(maker, 0, UINT32_MAX),
                                       .lease = rng_next(maker->rng),
                                       .expected_us = rng_next(maker->rng),
                                       .hit_bytes = rng_next(maker->rng),
                                       .origin_count = between(maker, 0, MSG_ORIGINS_MAX)};
    reply->origins = take(maker, reply->origin_count * sizeof *reply->origins);
    for (uint32_t i = 0; i < reply->origin_count; i++) {
        reply->origins[i] = (struct msg_origin){.instance_id = name_bytes(maker, MSG_INSTANCE_MAX),
                                                .keys = between(maker, 0, UINT32_MAX)};
    }
}

static void make_pull(struct maker *maker, struct msg *msg)
{
    struct msg_pull *pull = &msg->u.pull;
    *pull = (struct msg_pull){.run_count = between(maker, 1, maker->items_max),
                              .deadline_ms = between(maker, 0, MSG_DEADLINE_MS_MAX),
                              .lease = rng_next(maker->rng),
                              .release_lease = coin(maker)};
    pull->runs = take(maker, pull->run_count * sizeof *pull->runs);
    for (uint32_t i = 0; i < pull->run_count; i++) {
        struct msg_pull_run *run = &pull->runs[i];
        *run = (struct msg_pull_run){.layout = between(maker, 0, UINT32_MAX),
                                     .key_count = between(maker, 1, maker->items_max),
                                     .key_grains = between(maker, 1, BLOCK_GRAINS_MAX),
                                     .tail_tokens = between(maker, 1, GRAIN_TOKENS),
                                     .page_count = between(maker, 1, maker->items_max),
                                     .page_token = between(maker, 0, 100)};
        run->keys = noise(maker, (size_t)run->key_count * MSG_KEY_BYTES);
        run->pages = numbers(maker, run->page_count);
    }
}

static void make_quiesce(struct maker *maker, struct msg *msg)
{
    uint32_t pages = between(maker, 0, maker->items_max);
    msg->u.quiesce = (struct msg_quiesce){.layout = between(maker, 0, UINT32_MAX),
                                          .pages = pages > 0 ? numbers(maker, pages) : NULL,
                                          .page_count = pages};
}

static void make_completion(struct maker *maker, struct msg *msg)
{
    uint32_t count = between(maker, 0, maker->items_max);
    msg->u.completion = (struct msg_completion){.status = any_status(maker),
                                                .text = word(maker, 0, MSG_TEXT_MAX),
                                                .statuses = (const int8_t *)noise(maker, count),
                                                .status_count = count,
                                                .bytes = rng_next(maker->rng)};
}

static void make_persist(struct maker *maker, struct msg *msg)
{
    msg->u.persist = (struct msg_persist){.space = between(maker, 0, UINT32_MAX),
                                          .key_count = between(maker, 1, maker->items_max),
                                          .key_grains = between(maker, 1, BLOCK_GRAINS_MAX),
                                          .tail_tokens = between(maker, 1, GRAIN_TOKENS),
                                          .deadline_ms = between(maker, 0, MSG_DEADLINE_MS_MAX)};
    msg->u.persist.keys = noise(maker, (size_t)msg->u.persist.key_count * MSG_KEY_BYTES);
}

static void make_small(struct maker *maker, enum msg_kind kind, struct msg *msg)
{
    uint32_t number = between(maker, 1, UINT32_MAX);
    switch ((int)kind) {
    case MSG_DROP_MEMORY:
        msg->u.drop_memory.handle = number;
        break;
    case MSG_DROP_LAYOUT:
        msg->u.drop_layout.handle = number;
        break;
    case MSG_RELEASE:
        msg->u.release.lease = number;
        break;
    case MSG_CANCEL:
        msg->u.cancel.target = number;
        break;
    case MSG_STATUS_REQUEST:
        msg->u.status_request.detail = number;
        break;
    case MSG_PROBE:
        msg->u.probe = (struct msg_probe){.region = number,
                                          .offset_from = rng_next(maker->rng) / 2,
                                          .offset_to = rng_next(maker->rng) / 2,
                                          .bytes = between(maker, 1, MSG_PROBE_BYTES_MAX)};
        break;
    case MSG_HANDLE_REPLY:
        msg->u.handle_reply = (struct msg_handle_reply){
            .status = any_status(maker), .text = word(maker, 0, MSG_TEXT_MAX), .handle = number};
        break;
    case MSG_STATUS_REPLY:
        msg->u.status_reply.json = word(maker, 0, 500);
        break;
    case MSG_NOTICE:
        msg->u.notice = (struct msg_notice){.kind = between(maker, 1, 2),
                                            .status = any_status(maker),
                                            .text = word(maker, 0, MSG_TEXT_MAX)};
        msg->request_id = 0;
        break;
    default:
        KVEIK_UNREACHABLE("every kind has a maker");
    }
}

void message_make(struct rng *rng, enum msg_kind kind, uint32_t items_max, struct msg_arena *arena,
                  struct msg *msg_out)
{
    static void (*const makers[MSG_KIND_COUNT])(struct maker *, struct msg *) = {
        [MSG_HELLO] = make_hello,
        [MSG_HELLO_REPLY] = make_hello_reply,
        [MSG_REGISTER_SPACE] = make_space,
        [MSG_SPACE_REPLY] = make_space_reply,
        [MSG_EXPORT_MEMORY] = make_export,
        [MSG_REGISTER_LAYOUT] = make_layout,
        [MSG_PUSH] = make_push,
        [MSG_LOOKUP] = make_lookup,
        [MSG_LOOKUP_REPLY] = make_lookup_reply,
        [MSG_PULL] = make_pull,
        [MSG_QUIESCE] = make_quiesce,
        [MSG_PERSIST] = make_persist,
        [MSG_COMPLETION] = make_completion,
    };
    struct maker maker = {.rng = rng, .items_max = items_max, .arena = arena};
    (void)memset(msg_out, 0, sizeof *msg_out);
    msg_out->request_id = 1 + rng_next(rng) / 2;
    msg_out->kind = kind;
    if (makers[kind] != NULL) {
        makers[kind](&maker, msg_out);
    } else {
        make_small(&maker, kind, msg_out);
    }
}
