/* Every limit, one over. The encoder and the decoder ask the same check. */
#include <string.h>

#include "tests/lib/check_main.h"
#include "tests/lib/message_make.h"

static struct msg_arena making;
static struct msg_arena encoding;

static void open_arenas(void)
{
    ck_assert_int_eq(msg_arena_init(&making, MSG_ARENA_BYTES_MAX), ST_OK);
    ck_assert_int_eq(msg_arena_init(&encoding, MSG_ARENA_BYTES_MAX), ST_OK);
}

static void close_arenas(void)
{
    msg_arena_finish(&making);
    msg_arena_finish(&encoding);
}

static void expect_refused(const struct msg *msg, int status, const char *word)
{
    struct error error = {0};
    const void *payload = NULL;
    uint32_t bytes = 0;
    msg_arena_reset(&encoding);
    int got = msg_encode(msg, &encoding, &payload, &bytes, &error);
    ck_assert_msg(got == status, "%s: %d %s", word, got, error.text);
    ck_assert_msg(strstr(error.text, word) != NULL, "%s is not in: %s", word, error.text);
}

/* Makes a good message, breaks it in one place, expects the refusal. */
#define REFUSED(name, status, word, change)                                                        \
    do {                                                                                           \
        struct rng rng = {.state = 5};                                                             \
        static struct msg msg;                                                                     \
        msg_arena_reset(&making);                                                                  \
        message_make(&rng, name, 3, &making, &msg);                                                \
        change;                                                                                    \
        expect_refused(&msg, status, word);                                                        \
    } while (0)

/* Makes the layout opaque, with pages of 1 MiB, two kinds and the head strides of the first and the
 * last plane; those between have the first's. */
static void spoil_opaque(struct msg *msg, uint64_t first, uint64_t last)
{
    static struct layout_plane planes[4];
    struct msg_register_layout *body = &msg->u.register_layout;
    body->plane_count = ARRAY_COUNT(planes);
    body->layout.opaque = true;
    body->layout.element_bytes = 1;
    body->layout.layer_count = 2;
    body->layout.head_begin = 0;
    body->layout.kind_count = 2;
    body->layout.kind_elements[0] = 1 << 20;
    body->layout.kind_elements[1] = 1 << 20;
    body->layout.planes = planes;
    for (size_t i = 0; i < ARRAY_COUNT(planes); i++) {
        planes[i] = (struct layout_plane){.head_stride = i + 1 < ARRAY_COUNT(planes) ? first : last,
                                          .element_stride = 1};
    }
}

START_TEST(limits_hold_in_setup_messages)
    {
        REFUSED(MSG_HELLO, ST_PROTOCOL, "version", msg.u.hello.version_min = 0);
        REFUSED(MSG_HELLO, ST_PROTOCOL, "version",
                msg.u.hello.version_max = msg.u.hello.version_min - 1);
        REFUSED(MSG_HELLO, ST_PROTOCOL, "instance_id", msg.u.hello.instance_id.bytes = 0);
        REFUSED(MSG_HELLO, ST_LIMIT, "instance_id",
                msg.u.hello.instance_id.bytes = MSG_INSTANCE_MAX + 1);
        REFUSED(MSG_HELLO, ST_LIMIT, "token", msg.u.hello.token.bytes = MSG_TOKEN_MAX + 1);
        REFUSED(MSG_HELLO, ST_PROTOCOL, "control", msg.u.hello.client = "a\nb");
        REFUSED(MSG_HELLO, ST_PROTOCOL, "request_id", msg.request_id = 0);
        REFUSED(MSG_NOTICE, ST_PROTOCOL, "request_id", msg.request_id = 1);
        REFUSED(MSG_HELLO_REPLY, ST_PROTOCOL, "version", msg.u.hello_reply.version = 0);
        REFUSED(MSG_HELLO_REPLY, ST_PROTOCOL, "requests_max", msg.u.hello_reply.requests_max = 0);
        REFUSED(MSG_REGISTER_SPACE, ST_PROTOCOL, "dtype", msg.u.register_space.dtype = 77);
        REFUSED(MSG_EXPORT_MEMORY, ST_PROTOCOL, "kind", msg.u.export_memory.kind = 3);
        REFUSED(MSG_EXPORT_MEMORY, ST_PROTOCOL, "bytes", msg.u.export_memory.bytes = 0);
        REFUSED(MSG_EXPORT_MEMORY, ST_PROTOCOL, "overflows",
                msg.u.export_memory.bytes = UINT64_MAX);
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "page_tokens",
                msg.u.register_layout.layout.page_tokens = 0);
        REFUSED(MSG_REGISTER_LAYOUT, ST_LIMIT, "page_tokens",
                msg.u.register_layout.layout.page_tokens = LAYOUT_PAGE_TOKENS_MAX + 1);
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "page_count",
                msg.u.register_layout.layout.page_count = 0);
        REFUSED(MSG_REGISTER_LAYOUT, ST_LIMIT, "group", msg.u.register_layout.group = 16);
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "heads",
                msg.u.register_layout.layout.head_count = 0);
        REFUSED(MSG_REGISTER_LAYOUT, ST_LIMIT, "layers",
                msg.u.register_layout.layout.layer_begin = LAYOUT_LAYERS_MAX);
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "planes", msg.u.register_layout.plane_count++);
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "head_stride", spoil_opaque(&msg, 5, 0));
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "head_stride", spoil_opaque(&msg, 0, 5));
        REFUSED(MSG_REGISTER_LAYOUT, ST_LIMIT, "page_bytes of all heads", {
            spoil_opaque(&msg, 5, 5);
            msg.u.register_layout.layout.head_count = LAYOUT_HEADS_MAX;
        });
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "differs", {
            spoil_opaque(&msg, 0, 0);
            msg.u.register_layout.layout.kind_elements[1]++;
        });
        REFUSED(MSG_REGISTER_LAYOUT, ST_PROTOCOL, "page_bytes", {
            spoil_opaque(&msg, 0, 0);
            (void)memset(msg.u.register_layout.layout.kind_elements, 0,
                         sizeof msg.u.register_layout.layout.kind_elements);
        });
        REFUSED(MSG_PROBE, ST_PROTOCOL, "bytes", msg.u.probe.bytes = 0);
        REFUSED(MSG_PROBE, ST_LIMIT, "bytes", msg.u.probe.bytes = MSG_PROBE_BYTES_MAX + 1);
        REFUSED(MSG_HANDLE_REPLY, ST_PROTOCOL, "status", msg.u.handle_reply.status = 128);
    }
END_TEST

START_TEST(limits_hold_in_data_messages)
    {
        REFUSED(MSG_PUSH, ST_PROTOCOL, "runs", msg.u.push.run_count = 0);
        REFUSED(MSG_PUSH, ST_LIMIT, "runs", msg.u.push.run_count = MSG_RUNS_MAX + 1);
        REFUSED(MSG_PUSH, ST_PROTOCOL, "block_grains", msg.u.push.runs[0].block_grains = 0);
        REFUSED(MSG_PUSH, ST_LIMIT, "block_grains",
                msg.u.push.runs[0].block_grains = BLOCK_GRAINS_MAX + 1);
        REFUSED(MSG_PUSH, ST_PROTOCOL, "block_count", msg.u.push.runs[0].block_count = 0);
        REFUSED(MSG_PUSH, ST_LIMIT, "block_count",
                msg.u.push.runs[0].block_count = MSG_KEYS_MAX + 1);
        REFUSED(MSG_PUSH, ST_PROTOCOL, "tail", msg.u.push.runs[0].tail_tokens = 0);
        REFUSED(MSG_PUSH, ST_LIMIT, "tail", msg.u.push.runs[0].tail_tokens = 4097);
        REFUSED(MSG_PUSH, ST_PROTOCOL, "keys", msg.u.push.runs[0].key_count += 100);
        REFUSED(MSG_PUSH, ST_PROTOCOL, "token", msg.u.push.runs[0].token_count++);
        REFUSED(MSG_PUSH, ST_PROTOCOL, "pages", msg.u.push.runs[0].page_count = 0);
        REFUSED(MSG_PUSH, ST_LIMIT, "pages", msg.u.push.runs[0].page_count = MSG_PAGES_MAX + 1);
        REFUSED(MSG_PUSH, ST_PROTOCOL, "page_token",
                msg.u.push.runs[0].page_token = LAYOUT_PAGE_TOKENS_MAX);
        REFUSED(MSG_PUSH, ST_LIMIT, "deadline", msg.u.push.deadline_ms = MSG_DEADLINE_MS_MAX + 1);
        REFUSED(MSG_LOOKUP, ST_PROTOCOL, "keys", msg.u.lookup.key_count = 0);
        REFUSED(MSG_LOOKUP, ST_LIMIT, "keys", msg.u.lookup.key_count = MSG_KEYS_MAX + 1);
        REFUSED(MSG_LOOKUP, ST_PROTOCOL, "key_grains", msg.u.lookup.key_grains = 0);
        REFUSED(MSG_LOOKUP, ST_PROTOCOL, "key_grains",
                msg.u.lookup.key_grains = BLOCK_GRAINS_MAX + 1);
        REFUSED(MSG_LOOKUP, ST_PROTOCOL, "tail", msg.u.lookup.tail_tokens = 17);
        REFUSED(MSG_LOOKUP, ST_LIMIT, "wants", msg.u.lookup.want_count = MSG_WANTS_MAX + 1);
        REFUSED(MSG_LOOKUP, ST_PROTOCOL, "step", msg.u.lookup.step_grains = 0);
        REFUSED(MSG_PULL, ST_PROTOCOL, "runs", msg.u.pull.run_count = 0);
        REFUSED(MSG_PULL, ST_PROTOCOL, "keys", msg.u.pull.runs[0].key_count = 0);
        REFUSED(MSG_PULL, ST_LIMIT, "keys", msg.u.pull.runs[0].key_count = MSG_KEYS_MAX + 1);
        REFUSED(MSG_PULL, ST_PROTOCOL, "pages", msg.u.pull.runs[0].page_count = 0);
        REFUSED(MSG_RELEASE, ST_PROTOCOL, "lease", msg.u.release.lease = 0);
        REFUSED(MSG_CANCEL, ST_PROTOCOL, "cancel", msg.u.cancel.target = 0);
        REFUSED(MSG_QUIESCE, ST_LIMIT, "pages", msg.u.quiesce.page_count = MSG_PAGES_MAX + 1);
        REFUSED(MSG_COMPLETION, ST_PROTOCOL, "status", msg.u.completion.status = -129);
        REFUSED(MSG_COMPLETION, ST_LIMIT, "statuses",
                msg.u.completion.status_count = MSG_KEYS_MAX + 1);
        REFUSED(MSG_LOOKUP_REPLY, ST_LIMIT, "origins",
                msg.u.lookup_reply.origin_count = MSG_ORIGINS_MAX + 1);
        REFUSED(MSG_LOOKUP_REPLY, ST_LIMIT, "hit_keys",
                msg.u.lookup_reply.hit_keys = MSG_KEYS_MAX + 1);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {limits_hold_in_setup_messages, limits_hold_in_data_messages};
    const struct check_suite suite = {.name = "message_check",
                                      .tests = tests,
                                      .count = ARRAY_COUNT(tests),
                                      .setup = open_arenas,
                                      .teardown = close_arenas};
    return check_run(&suite);
}
