/*
 * What a message may say: one function a kind, over the plain structs, so that both directions
 * refuse the same things. Handles, page numbers and geometry are checked where they are known.
 */
#include <stddef.h>
#include <string.h>

#include "base/assert.h"
#include "proto/message_internal.h"

/* Totals over the runs of one request. */
struct totals {
    uint64_t keys;
    uint64_t pages;
};

static int check_text(const char *field, const char *text, size_t bytes_max, struct error *error)
{
    size_t length = text == NULL ? 0 : strnlen(text, bytes_max + 1);
    if (length > bytes_max) {
        return error_set(error, ST_LIMIT, "%s is longer than %zu bytes", field, bytes_max);
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f) {
            return error_set(error, ST_PROTOCOL, "%s has a control character at byte %zu", field,
                             i);
        }
    }
    return ST_OK;
}

/* The id is shown to people and kept as text: 1 to MSG_INSTANCE_MAX bytes without controls. */
static int check_instance(const char *field, struct msg_bytes id, struct error *error)
{
    if (id.bytes == 0 || id.bytes > MSG_INSTANCE_MAX) {
        return error_set(error, id.bytes == 0 ? ST_PROTOCOL : ST_LIMIT,
                         "%s has %u bytes, must be 1 to %d", field, id.bytes, MSG_INSTANCE_MAX);
    }
    for (uint32_t i = 0; i < id.bytes; i++) {
        if (id.data[i] < 0x20 || id.data[i] == 0x7f) {
            return error_set(error, ST_PROTOCOL, "%s has a control character at byte %u", field, i);
        }
    }
    return ST_OK;
}

/* Statuses travel as int8 in lists; the same range everywhere. */
static int check_status(const char *field, int32_t status, struct error *error)
{
    if (status < INT8_MIN || status > INT8_MAX) {
        return error_set(error, ST_PROTOCOL, "%s %d is out of range", field, status);
    }
    return ST_OK;
}

static int check_deadline(const char *field, uint32_t deadline_ms, struct error *error)
{
    if (deadline_ms > MSG_DEADLINE_MS_MAX) {
        return error_set(error, ST_LIMIT, "%s: deadline of %u ms, at most %d", field, deadline_ms,
                         MSG_DEADLINE_MS_MAX);
    }
    return ST_OK;
}

static int check_range(const char *field, uint64_t value, uint64_t min, uint64_t max,
                       struct error *error)
{
    if (value < min || value > max) {
        return error_set(error, value > max ? ST_LIMIT : ST_PROTOCOL,
                         "%s is %llu, must be %llu to %llu", field, (unsigned long long)value,
                         (unsigned long long)min, (unsigned long long)max);
    }
    return ST_OK;
}

/* A number that must lie in [min, max]. */
struct bounded {
    const char *field;
    uint64_t value;
    uint64_t min;
    uint64_t max;
};

static int check_ranges(const struct bounded *fields, size_t count, struct error *error)
{
    int status = ST_OK;
    for (size_t i = 0; i < count && status == ST_OK; i++) {
        status = check_range(fields[i].field, fields[i].value, fields[i].min, fields[i].max, error);
    }
    return status;
}

/* A share of the model: its group, and spans [begin, begin + count) of layers and heads. */
static int check_want(const char *message, const struct msg_want *want, struct error *error)
{
    const struct {
        const char *field;
        uint32_t begin;
        uint32_t count;
        uint32_t max;
    } spans[] = {{"layers", want->layer_begin, want->layer_count, LAYOUT_LAYERS_MAX},
                 {"heads", want->head_begin, want->head_count, LAYOUT_HEADS_MAX}};
    if (want->group >= SPACE_GROUPS_MAX) {
        return error_set(error, ST_LIMIT, "%s: group is %u, must be 0 to %d", message, want->group,
                         SPACE_GROUPS_MAX - 1);
    }
    for (size_t i = 0; i < ARRAY_COUNT(spans); i++) {
        uint32_t count = spans[i].count;
        if (count == 0) {
            return error_set(error, ST_PROTOCOL, "%s: %s: none", message, spans[i].field);
        }
        if (count > spans[i].max || spans[i].begin > spans[i].max - count) {
            return error_set(error, ST_LIMIT, "%s: %s: %u from %u on, at most %u", message,
                             spans[i].field, count, spans[i].begin, spans[i].max);
        }
    }
    return ST_OK;
}

static int check_run_count(const char *field, uint32_t run_count, struct error *error)
{
    return check_range(field, run_count, 1, MSG_RUNS_MAX, error);
}

static int check_totals(const char *field, const struct totals *totals, struct error *error)
{
    if (totals->keys > MSG_KEYS_MAX) {
        return error_set(error, ST_LIMIT, "%s: more than %d keys", field, MSG_KEYS_MAX);
    }
    if (totals->pages > MSG_PAGES_MAX) {
        return error_set(error, ST_LIMIT, "%s: more than %d pages", field, MSG_PAGES_MAX);
    }
    return ST_OK;
}

static int check_pages(const char *field, uint32_t page_count, uint32_t page_token,
                       struct error *error)
{
    if (page_count == 0) {
        return error_set(error, ST_PROTOCOL, "%s: a run without pages", field);
    }
    if (page_token >= LAYOUT_PAGE_TOKENS_MAX) {
        return error_set(error, ST_PROTOCOL, "%s: page_token %u is beyond any page", field,
                         page_token);
    }
    return ST_OK;
}

static int check_hello(const struct msg_hello *hello, struct error *error)
{
    if (hello->version_min == 0 || hello->version_max < hello->version_min) {
        return error_set(error, ST_PROTOCOL, "hello: versions %u to %u", hello->version_min,
                         hello->version_max);
    }
    int status = check_text("hello: client", hello->client, MSG_TEXT_MAX, error);
    if (status != ST_OK) {
        return status;
    }
    status = check_instance("hello: instance_id", hello->instance_id, error);
    if (status != ST_OK) {
        return status;
    }
    return check_range("hello: token bytes", hello->token.bytes, 0, MSG_TOKEN_MAX, error);
}

static int check_hello_reply(const struct msg_hello_reply *reply, struct error *error)
{
    const struct bounded fields[] = {
        {"hello_reply: version", reply->version, 1, UINT32_MAX},
        {"hello_reply: frame_bytes_max", reply->frame_bytes_max, 4096, UINT32_MAX},
        {"hello_reply: requests_max", reply->requests_max, 1, UINT32_MAX},
        {"hello_reply: regions_max", reply->regions_max, 1, UINT32_MAX},
        {"hello_reply: layouts_max", reply->layouts_max, 1, UINT32_MAX},
        {"hello_reply: keys_max", reply->keys_max, 1, UINT32_MAX},
    };
    int status = check_ranges(fields, ARRAY_COUNT(fields), error);
    status = status != ST_OK
                 ? status
                 : check_text("hello_reply: daemon", reply->daemon, MSG_TEXT_MAX, error);
    return status != ST_OK ? status
                           : check_instance("hello_reply: instance_id", reply->instance_id, error);
}

static int check_register_space(const struct space *space, struct error *error)
{
    return space_check(space, error) == ST_OK ? ST_OK : ST_PROTOCOL;
}

static int check_export_memory(const struct msg_export_memory *export, struct error *error)
{
    if (export->kind != MEMORY_MEMFD && export->kind != MEMORY_PROCESS) {
        return error_set(error, ST_PROTOCOL, "export_memory: kind %u is unknown", export->kind);
    }
    if (export->bytes == 0) {
        return error_set(error, ST_PROTOCOL, "export_memory: no bytes");
    }
    /* file offsets are signed, user addresses far below the top: no sum may pass 2^63 */
    uint64_t begin = export->kind == MEMORY_MEMFD ? export->file_offset : export->address;
    if (export->bytes > INT64_MAX || begin > (uint64_t)INT64_MAX - export->bytes) {
        return error_set(error, ST_PROTOCOL, "export_memory: the range overflows");
    }
    if (export->kind == MEMORY_PROCESS ? export->address == 0 || export->file_offset != 0
                                       : export->address != 0) {
        return error_set(error, ST_PROTOCOL, "export_memory: %s",
                         export->kind == MEMORY_PROCESS
                             ? "cross-process memory has an address and no file offset"
                             : "a shared file has no address");
    }
    return ST_OK;
}

/* One page_bytes for all kinds, and one way of cutting for all planes: whole, or heads apart. */
static int check_opaque(const struct msg_register_layout *body, struct error *error)
{
    const struct layout *layout = &body->layout;
    for (uint32_t kind = 1; kind < layout->kind_count; kind++) {
        if (layout->kind_elements[kind] != layout->kind_elements[0]) {
            return error_set(error, ST_PROTOCOL,
                             "register_layout: page_bytes differs between kinds");
        }
    }
    for (uint32_t i = 1; i < body->plane_count; i++) {
        if ((layout->planes[i].head_stride != 0) != layout_heads_apart(layout)) {
            return error_set(error, ST_PROTOCOL,
                             "register_layout: some opaque planes have a head_stride, some none");
        }
    }
    uint64_t bytes = (uint64_t)layout_head_units(layout) * layout->kind_elements[0];
    return check_range("register_layout: page_bytes of all heads", bytes, 1, UINT32_MAX, error);
}

static int check_register_layout(const struct msg_register_layout *body, struct error *error)
{
    const struct layout *layout = &body->layout;
    const struct bounded fields[] = {
        {"register_layout: page_tokens", layout->page_tokens, 1, LAYOUT_PAGE_TOKENS_MAX},
        {"register_layout: page_count", layout->page_count, 1, UINT32_MAX},
    };
    const struct msg_want share = {.group = body->group,
                                   .layer_begin = layout->layer_begin,
                                   .layer_count = layout->layer_count,
                                   .head_begin = layout->head_begin,
                                   .head_count = layout->head_count};
    int status = check_ranges(fields, ARRAY_COUNT(fields), error);
    status = status != ST_OK ? status : check_want("register_layout", &share, error);
    if (status != ST_OK) {
        return status;
    }
    if (layout->kind_count == 0 || layout->kind_count > LAYOUT_KINDS_MAX ||
        body->plane_count != layout->layer_count * layout->kind_count) {
        return error_set(error, ST_PROTOCOL, "register_layout: %u planes for %u layers",
                         body->plane_count, layout->layer_count);
    }
    return layout->opaque ? check_opaque(body, error) : ST_OK;
}

static int check_push_run(const struct msg_push_run *run, struct error *error)
{
    const struct bounded fields[] = {
        {"push: block_grains", run->block_grains, 1, BLOCK_GRAINS_MAX},
        {"push: block_count", run->block_count, 1, MSG_KEYS_MAX},
        {"push: tail_tokens", run->tail_tokens, 1, (uint64_t)run->block_grains * GRAIN_TOKENS},
    };
    int status = check_ranges(fields, ARRAY_COUNT(fields), error);
    if (status != ST_OK) {
        return status;
    }
    uint32_t grains = msg_push_run_grains(run);
    if (run->key_count != grains && run->key_count != run->block_count) {
        return error_set(error, ST_PROTOCOL,
                         "push: %u keys; a run of %u blocks, %u grains needs one for each of the "
                         "one or the other",
                         run->key_count, run->block_count, grains);
    }
    if (run->token_count != msg_push_run_tokens(run)) {
        return error_set(error, ST_PROTOCOL, "push: %u token ids, the run has %u tokens",
                         run->token_count, msg_push_run_tokens(run));
    }
    return check_pages("push", run->page_count, run->page_token, error);
}

static int check_push(const struct msg_push *push, struct error *error)
{
    int status = check_run_count("push: runs", push->run_count, error);
    if (status != ST_OK) {
        return status;
    }
    struct totals totals = {0};
    for (uint32_t i = 0; i < push->run_count; i++) {
        status = check_push_run(&push->runs[i], error);
        if (status != ST_OK) {
            return status;
        }
        totals.keys += push->runs[i].key_count;
        totals.pages += push->runs[i].page_count;
    }
    status = check_totals("push", &totals, error);
    return status != ST_OK ? status : check_deadline("push", push->deadline_ms, error);
}

static int check_keys(const char *field, uint32_t key_count, uint32_t key_grains,
                      uint32_t tail_tokens, struct error *error)
{
    if (key_count == 0) {
        return error_set(error, ST_PROTOCOL, "%s: no keys", field);
    }
    if (key_count > MSG_KEYS_MAX) {
        return error_set(error, ST_LIMIT, "%s: more than %d keys", field, MSG_KEYS_MAX);
    }
    if (key_grains == 0 || key_grains > BLOCK_GRAINS_MAX) {
        return error_set(error, ST_PROTOCOL, "%s: key_grains is %u, must be 1 to %d", field,
                         key_grains, BLOCK_GRAINS_MAX);
    }
    if (tail_tokens == 0 || tail_tokens > GRAIN_TOKENS) {
        return error_set(error, ST_PROTOCOL, "%s: tail_tokens is %u, must be 1 to %d", field,
                         tail_tokens, GRAIN_TOKENS);
    }
    return ST_OK;
}

static int check_lookup(const struct msg_lookup *lookup, struct error *error)
{
    int status =
        check_keys("lookup", lookup->key_count, lookup->key_grains, lookup->tail_tokens, error);
    if (status != ST_OK) {
        return status;
    }
    status = check_range("lookup: wants", lookup->want_count, 0, MSG_WANTS_MAX, error);
    if (status != ST_OK) {
        return status;
    }
    for (uint32_t i = 0; i < lookup->want_count; i++) {
        status = check_want("lookup", &lookup->wants[i], error);
        if (status != ST_OK) {
            return status;
        }
    }
    status = check_range("lookup: step_grains", lookup->step_grains, 1,
                         LAYOUT_PAGE_TOKENS_MAX / GRAIN_TOKENS, error);
    return status != ST_OK ? status : check_deadline("lookup", lookup->deadline_ms, error);
}

static int check_lookup_reply(const struct msg_lookup_reply *reply, struct error *error)
{
    int status = check_status("lookup_reply: status", reply->status, error);
    if (status != ST_OK) {
        return status;
    }
    const struct bounded fields[] = {
        {"lookup_reply: hit_keys", reply->hit_keys, 0, MSG_KEYS_MAX},
        {"lookup_reply: origins", reply->origin_count, 0, MSG_ORIGINS_MAX},
    };
    status = check_ranges(fields, ARRAY_COUNT(fields), error);
    for (uint32_t i = 0; status == ST_OK && i < reply->origin_count; i++) {
        status = check_instance("lookup_reply: origin", reply->origins[i].instance_id, error);
    }
    return status;
}

static int check_pull(const struct msg_pull *pull, struct error *error)
{
    int status = check_run_count("pull: runs", pull->run_count, error);
    if (status != ST_OK) {
        return status;
    }
    struct totals totals = {0};
    for (uint32_t i = 0; i < pull->run_count; i++) {
        const struct msg_pull_run *run = &pull->runs[i];
        status = check_keys("pull", run->key_count, run->key_grains, run->tail_tokens, error);
        if (status != ST_OK) {
            return status;
        }
        status = check_pages("pull", run->page_count, run->page_token, error);
        if (status != ST_OK) {
            return status;
        }
        totals.keys += run->key_count;
        totals.pages += run->page_count;
    }
    status = check_totals("pull", &totals, error);
    return status != ST_OK ? status : check_deadline("pull", pull->deadline_ms, error);
}

static int check_release(const struct msg_release *release, struct error *error)
{
    return release->lease != 0 ? ST_OK : error_set(error, ST_PROTOCOL, "release: lease 0");
}

static int check_quiesce(const struct msg_quiesce *quiesce, struct error *error)
{
    return check_range("quiesce: pages", quiesce->page_count, 0, MSG_PAGES_MAX, error);
}

static int check_cancel(const struct msg_cancel *cancel, struct error *error)
{
    return cancel->target != 0 ? ST_OK : error_set(error, ST_PROTOCOL, "cancel: request 0");
}

static int check_probe(const struct msg_probe *probe, struct error *error)
{
    if (probe->offset_from > INT64_MAX || probe->offset_to > INT64_MAX) {
        return error_set(error, ST_PROTOCOL, "probe: the range overflows");
    }
    return check_range("probe: bytes", probe->bytes, 1, MSG_PROBE_BYTES_MAX, error);
}

static int check_persist(const struct msg_persist *persist, struct error *error)
{
    int status =
        check_keys("persist", persist->key_count, persist->key_grains, persist->tail_tokens, error);
    return status != ST_OK ? status : check_deadline("persist", persist->deadline_ms, error);
}

static int check_completion(const struct msg_completion *completion, struct error *error)
{
    int status = check_status("completion: status", completion->status, error);
    if (status != ST_OK) {
        return status;
    }
    return check_range("completion: statuses", completion->status_count, 0, MSG_KEYS_MAX, error);
}

static int check_notice(const struct msg_notice *notice, struct error *error)
{
    /* kinds that a newer daemon may know are let through: a notice asks for nothing */
    return check_status("notice: status", notice->status, error);
}

static int check_request_id(const struct msg *msg, struct error *error)
{
    if ((msg->request_id == 0) != (msg->kind == MSG_NOTICE)) {
        return error_set(error, ST_PROTOCOL, "%s: request_id %llu", msg_kind_name(msg->kind),
                         (unsigned long long)msg->request_id);
    }
    return ST_OK;
}

int msg_check(const struct msg *msg, struct error *error)
{
    int status = check_request_id(msg, error);
    if (status != ST_OK) {
        return status;
    }
    switch (msg->kind) {
    case MSG_HELLO:
        return check_hello(&msg->u.hello, error);
    case MSG_REGISTER_SPACE:
        return check_register_space(&msg->u.register_space, error);
    case MSG_EXPORT_MEMORY:
        return check_export_memory(&msg->u.export_memory, error);
    case MSG_REGISTER_LAYOUT:
        return check_register_layout(&msg->u.register_layout, error);
    case MSG_PUSH:
        return check_push(&msg->u.push, error);
    case MSG_LOOKUP:
        return check_lookup(&msg->u.lookup, error);
    case MSG_PULL:
        return check_pull(&msg->u.pull, error);
    case MSG_RELEASE:
        return check_release(&msg->u.release, error);
    case MSG_QUIESCE:
        return check_quiesce(&msg->u.quiesce, error);
    case MSG_CANCEL:
        return check_cancel(&msg->u.cancel, error);
    case MSG_PERSIST:
        return check_persist(&msg->u.persist, error);
    case MSG_PROBE:
        return check_probe(&msg->u.probe, error);
    case MSG_HELLO_REPLY:
        return check_hello_reply(&msg->u.hello_reply, error);
    case MSG_SPACE_REPLY:
        return check_status("space_reply: status", msg->u.space_reply.status, error);
    case MSG_HANDLE_REPLY:
        return check_status("handle_reply: status", msg->u.handle_reply.status, error);
    case MSG_LOOKUP_REPLY:
        return check_lookup_reply(&msg->u.lookup_reply, error);
    case MSG_COMPLETION:
        return check_completion(&msg->u.completion, error);
    case MSG_NOTICE:
        return check_notice(&msg->u.notice, error);
    case MSG_DROP_MEMORY:
    case MSG_DROP_LAYOUT:
    case MSG_STATUS_REQUEST:
    case MSG_STATUS_REPLY:
        return ST_OK;
    case MSG_NONE:
    case MSG_KIND_COUNT:
        break;
    }
    return error_set(error, ST_PROTOCOL, "a message without a body");
}

int msg_check_reason(const struct msg *msg, struct error *error)
{
    const char *text = NULL;
    if (msg->kind == MSG_SPACE_REPLY) {
        text = msg->u.space_reply.text;
    } else if (msg->kind == MSG_HANDLE_REPLY) {
        text = msg->u.handle_reply.text;
    } else if (msg->kind == MSG_LOOKUP_REPLY) {
        text = msg->u.lookup_reply.text;
    } else if (msg->kind == MSG_COMPLETION) {
        text = msg->u.completion.text;
    } else if (msg->kind == MSG_NOTICE) {
        text = msg->u.notice.text;
    }
    return check_text("text", text, MSG_TEXT_MAX, error);
}
