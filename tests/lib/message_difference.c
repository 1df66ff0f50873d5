#include <string.h>

#include "tests/lib/message_make.h"

#define SAME(field)                                                                                \
    if (a->field != b->field) {                                                                    \
        return #field;                                                                             \
    }
#define SAME_TEXT(field)                                                                           \
    if (strcmp(a->field, b->field) != 0) {                                                         \
        return #field;                                                                             \
    }

static bool same(const void *a, const void *b, size_t bytes)
{
    if (bytes == 0) {
        return true;
    }
    return a != NULL && b != NULL ? memcmp(a, b, bytes) == 0 : a == b;
}

static bool same_bytes(struct msg_bytes a, struct msg_bytes b)
{
    return a.bytes == b.bytes && same(a.data, b.data, a.bytes);
}

static const char *differ_hello(const struct msg_hello *a, const struct msg_hello *b)
{
    SAME(version_min)
    SAME(version_max)
    SAME_TEXT(client)
    SAME(capabilities)
    SAME(instance_lease_bytes)
    SAME(clock_ns)
    return same_bytes(a->instance_id, b->instance_id) && same_bytes(a->token, b->token) ? NULL
                                                                                        : "bytes";
}

static const char *differ_hello_reply(const struct msg_hello_reply *a,
                                      const struct msg_hello_reply *b)
{
    SAME(version)
    SAME(session_id)
    SAME(capabilities)
    SAME(frame_bytes_max)
    SAME(requests_max)
    SAME(regions_max)
    SAME(layouts_max)
    SAME(keys_max)
    SAME_TEXT(daemon)
    return same_bytes(a->instance_id, b->instance_id) &&
                   same(a->boot_id, b->boot_id, sizeof a->boot_id)
               ? NULL
               : "bytes";
}

static const char *differ_layout(const struct msg_register_layout *a,
                                 const struct msg_register_layout *b)
{
    SAME(space)
    SAME(group)
    SAME(plane_count)
    SAME(layout.page_tokens)
    SAME(layout.page_count)
    SAME(layout.layer_begin)
    SAME(layout.layer_count)
    SAME(layout.head_begin)
    SAME(layout.head_count)
    SAME(layout.kind_count)
    SAME(layout.element_bytes)
    SAME(layout.opaque)
    if (!same(a->layout.kind_elements, b->layout.kind_elements, sizeof a->layout.kind_elements)) {
        return "kind_elements";
    }
    for (uint32_t i = 0; i < a->plane_count; i++) {
        SAME(layout.planes[i].region)
        SAME(layout.planes[i].offset)
        SAME(layout.planes[i].page_stride)
        SAME(layout.planes[i].token_stride)
        SAME(layout.planes[i].head_stride)
        SAME(layout.planes[i].element_stride)
    }
    return NULL;
}

static const char *differ_push(const struct msg_push *a, const struct msg_push *b)
{
    SAME(run_count)
    SAME(deadline_ms)
    SAME(sent_ns)
    for (uint32_t i = 0; i < a->run_count; i++) {
        SAME(runs[i].layout)
        SAME(runs[i].key_count)
        SAME(runs[i].block_count)
        SAME(runs[i].block_grains)
        SAME(runs[i].tail_tokens)
        SAME(runs[i].token_count)
        SAME(runs[i].page_count)
        SAME(runs[i].page_token)
        const struct msg_push_run *x = &a->runs[i];
        const struct msg_push_run *y = &b->runs[i];
        if (!same(x->parent_key, y->parent_key, x->parent_key == NULL ? 0 : MSG_KEY_BYTES) ||
            (x->parent_key == NULL) != (y->parent_key == NULL) ||
            !same(x->keys, y->keys, (size_t)x->key_count * MSG_KEY_BYTES) ||
            (x->tokens == NULL) != (y->tokens == NULL) ||
            !same(x->tokens, y->tokens, x->tokens == NULL ? 0 : (size_t)x->token_count * 4) ||
            !same(x->pages, y->pages, (size_t)x->page_count * 4)) {
            return "lists of a push run";
        }
    }
    return NULL;
}

static const char *differ_lookup(const struct msg_lookup *a, const struct msg_lookup *b)
{
    SAME(space)
    SAME(key_count)
    SAME(key_grains)
    SAME(tail_tokens)
    SAME(want_count)
    SAME(lease)
    SAME(origins)
    SAME(deadline_ms)
    SAME(step_grains)
    return same(a->keys, b->keys, (size_t)a->key_count * MSG_KEY_BYTES) &&
                   same(a->wants, b->wants, a->want_count * sizeof *a->wants)
               ? NULL
               : "lists of a lookup";
}

static const char *differ_lookup_reply(const struct msg_lookup_reply *a,
                                       const struct msg_lookup_reply *b)
{
    SAME(status)
    SAME_TEXT(text)
    SAME(hit_keys)
    SAME(hit_tokens)
    SAME(lease)
    SAME(expected_us)
    SAME(hit_bytes)
    SAME(origin_count)
    for (uint32_t i = 0; i < a->origin_count; i++) {
        SAME(origins[i].keys)
        if (!same_bytes(a->origins[i].instance_id, b->origins[i].instance_id)) {
            return "origins";
        }
    }
    return NULL;
}

static const char *differ_pull(const struct msg_pull *a, const struct msg_pull *b)
{
    SAME(run_count)
    SAME(deadline_ms)
    SAME(lease)
    SAME(release_lease)
    for (uint32_t i = 0; i < a->run_count; i++) {
        SAME(runs[i].layout)
        SAME(runs[i].key_count)
        SAME(runs[i].key_grains)
        SAME(runs[i].tail_tokens)
        SAME(runs[i].page_count)
        SAME(runs[i].page_token)
        if (!same(a->runs[i].keys, b->runs[i].keys, (size_t)a->runs[i].key_count * MSG_KEY_BYTES) ||
            !same(a->runs[i].pages, b->runs[i].pages, (size_t)a->runs[i].page_count * 4)) {
            return "lists of a pull run";
        }
    }
    return NULL;
}

static const char *differ_completion(const struct msg_completion *a, const struct msg_completion *b)
{
    SAME(status)
    SAME_TEXT(text)
    SAME(status_count)
    SAME(bytes)
    return same(a->statuses, b->statuses, a->status_count) ? NULL : "statuses";
}

/* Field by field: structs have holes that nobody sets. */
static const char *differ_space(const struct space *a, const struct space *b)
{
    SAME_TEXT(model)
    SAME_TEXT(revision)
    SAME(dtype)
    SAME(has_rope)
    SAME(group_count)
    SAME(fingerprint_bytes)
    SAME(isolation_bytes)
    SAME(quota_bytes)
    SAME(admission)
    for (uint32_t i = 0; i < a->group_count; i++) {
        SAME(groups[i].rule)
        SAME(groups[i].window_tokens)
        SAME(groups[i].layer_count)
        SAME(groups[i].head_count)
        SAME(groups[i].kind_count)
        SAME(groups[i].opaque)
        if (!same(a->groups[i].kind_elements, b->groups[i].kind_elements,
                  sizeof a->groups[i].kind_elements)) {
            return "kind_elements";
        }
    }
    return same(a->rope_id, b->rope_id, sizeof a->rope_id) &&
                   same(a->fingerprint, b->fingerprint, a->fingerprint_bytes) &&
                   same(a->isolation, b->isolation, a->isolation_bytes)
               ? NULL
               : "bytes of a space";
}

static const char *differ_small(const struct msg *a, const struct msg *b)
{
    switch ((int)a->kind) {
    case MSG_REGISTER_SPACE:
        return differ_space(&a->u.register_space, &b->u.register_space);
    case MSG_SPACE_REPLY:
        SAME(u.space_reply.status)
        SAME_TEXT(u.space_reply.text)
        SAME(u.space_reply.space)
        return same(a->u.space_reply.space_id, b->u.space_reply.space_id, SPACE_ID_BYTES)
                   ? NULL
                   : "space_id";
    case MSG_EXPORT_MEMORY:
        SAME(u.export_memory.kind)
        SAME(u.export_memory.bytes)
        SAME(u.export_memory.file_offset)
        SAME(u.export_memory.address)
        return NULL;
    case MSG_HANDLE_REPLY:
        SAME(u.handle_reply.status)
        SAME_TEXT(u.handle_reply.text)
        SAME(u.handle_reply.handle)
        return NULL;
    case MSG_QUIESCE:
        SAME(u.quiesce.layout)
        SAME(u.quiesce.page_count)
        return same(a->u.quiesce.pages, b->u.quiesce.pages, (size_t)a->u.quiesce.page_count * 4)
                   ? NULL
                   : "pages";
    case MSG_PERSIST:
        SAME(u.persist.space)
        SAME(u.persist.key_grains)
        SAME(u.persist.tail_tokens)
        SAME(u.persist.deadline_ms)
        SAME(u.persist.key_count)
        return same(a->u.persist.keys, b->u.persist.keys, (size_t)a->u.persist.key_count * 32)
                   ? NULL
                   : "keys";
    case MSG_PROBE:
        SAME(u.probe.region)
        SAME(u.probe.offset_from)
        SAME(u.probe.offset_to)
        SAME(u.probe.bytes)
        return NULL;
    case MSG_STATUS_REPLY:
        SAME_TEXT(u.status_reply.json)
        return NULL;
    case MSG_NOTICE:
        SAME(u.notice.kind)
        SAME(u.notice.status)
        SAME_TEXT(u.notice.text)
        return NULL;
    case MSG_RELEASE:
    case MSG_CANCEL:
        SAME(u.release.lease)
        return NULL;
    default: /* drops, status_request: one u32 */
        SAME(u.drop_memory.handle)
        return NULL;
    }
}

const char *message_difference(const struct msg *a, const struct msg *b)
{
    SAME(kind)
    SAME(request_id)
    switch ((int)a->kind) {
    case MSG_HELLO:
        return differ_hello(&a->u.hello, &b->u.hello);
    case MSG_HELLO_REPLY:
        return differ_hello_reply(&a->u.hello_reply, &b->u.hello_reply);
    case MSG_REGISTER_LAYOUT:
        return differ_layout(&a->u.register_layout, &b->u.register_layout);
    case MSG_PUSH:
        return differ_push(&a->u.push, &b->u.push);
    case MSG_LOOKUP:
        return differ_lookup(&a->u.lookup, &b->u.lookup);
    case MSG_LOOKUP_REPLY:
        return differ_lookup_reply(&a->u.lookup_reply, &b->u.lookup_reply);
    case MSG_PULL:
        return differ_pull(&a->u.pull, &b->u.pull);
    case MSG_COMPLETION:
        return differ_completion(&a->u.completion, &b->u.completion);
    default:
        return differ_small(a, b);
    }
}
