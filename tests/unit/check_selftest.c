/* Layouts: what their geometry must be, and the proof by the engine's own indexing. */
#include "tests/lib/client_fixture.h"

/* An engine that keeps [layer][kind][page][token][head][element], or thinks so. */
struct engine {
    struct fixture *fix;
    bool wrong_token; /* swaps two tokens when it writes */
    bool wrong_read;
    uint32_t fills;
    uint32_t checks;
    uint32_t heads; /* of opaque pages: shares of each */
    uint32_t of_head[FIX_HEADS];
};

static uint8_t *place(const struct engine *engine, uint32_t layer, uint32_t kind, uint32_t page,
                      uint32_t token, uint32_t head)
{
    return engine->fix->memory + (size_t)(layer * 2 + kind) * FIX_PLANE +
           (size_t)(page * FIX_PAGE_TOKENS + token) * FIX_ROW + (size_t)head * FIX_ELEMENTS * 2;
}

/* NOLINTNEXTLINE(readability-function-size): the interface's callback has these parameters */
static void fill(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                 uint32_t head, const void *data, size_t bytes)
{
    struct engine *engine = arg;
    engine->fills++;
    token = engine->wrong_token && token < 2 ? 1 - token : token;
    (void)memcpy(place(engine, layer, kind, page, token, head), data, bytes);
}

/* NOLINTNEXTLINE(readability-function-size): the interface's callback has these parameters */
static int check(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                 uint32_t head, const void *data, size_t bytes)
{
    struct engine *engine = arg;
    engine->checks++;
    token = engine->wrong_read && token < 2 ? 1 - token : token;
    return memcmp(place(engine, layer, kind, page, token, head), data, bytes);
}

static void mark_memory(struct fixture *fix)
{
    for (size_t i = 0; i < FIX_BYTES; i++) {
        fix->memory[i] = (uint8_t)(i * 13 + i / 256);
    }
}

static void open_memory(struct fixture *fix)
{
    fix_start(fix);
    fix_connect(fix);
    fix_space(fix);
    fix_memory(fix);
    mark_memory(fix);
}

static void expect_untouched(const struct fixture *fix)
{
    for (size_t i = 0; i < FIX_BYTES; i++) {
        if (fix->memory[i] != (uint8_t)(i * 13 + i / 256)) {
            ck_abort_msg("byte %zu was not put back", i);
        }
    }
}

static int try_layout(struct fixture *fix, struct engine *engine, struct kveik_layout *layout)
{
    engine->fix = fix;
    layout->fill = fill;
    layout->check = check;
    layout->callback_arg = engine;
    return kveik_layout_register(fix->client, layout, &fix->layout, &fix->error);
}

START_TEST(a_right_layout_is_proved_and_memory_put_back)
    {
        struct fixture fix;
        struct engine engine = {0};
        open_memory(&fix);
        struct kveik_layout layout = fix_layout(&fix);
        MUST(&fix, try_layout(&fix, &engine, &layout));
        ck_assert_uint_eq(engine.fills, FIX_PLANES * FIX_PAGE_TOKENS * FIX_HEADS);
        ck_assert_uint_eq(engine.checks, engine.fills);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_PUSH), 1);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_PULL), 1);
        expect_untouched(&fix);
        fix_close(&fix);
    }
END_TEST

START_TEST(wrong_strides_are_found_and_named)
    {
        struct fixture fix;
        open_memory(&fix);
        struct engine engine = {.wrong_token = true};
        struct kveik_layout layout = fix_layout(&fix);
        ck_assert_int_eq(try_layout(&fix, &engine, &layout), KVEIK_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "layer 0 kind 0 page 0 token 0 head 0"));
        expect_untouched(&fix);
        engine = (struct engine){.wrong_read = true};
        ck_assert_int_eq(try_layout(&fix, &engine, &layout), KVEIK_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "page 1 token 0"));
        expect_untouched(&fix);
        engine = (struct engine){0};
        fix.planes[3].head_stride = FIX_ELEMENTS * 2 * FIX_PAGE_TOKENS; /* head-major: not so */
        fix.planes[3].token_stride = FIX_ELEMENTS * 2;
        ck_assert_int_eq(try_layout(&fix, &engine, &layout), KVEIK_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "layer 1 kind 1"));
        expect_untouched(&fix);
        fix_close(&fix);
    }
END_TEST

START_TEST(a_full_daemon_does_not_hinder)
    {
        struct fixture fix;
        struct engine engine = {0};
        open_memory(&fix);
        struct kveik_layout layout = fix_layout(&fix);
        fake_daemon_refuse(fix.daemon, KIND(PUSH), ST_NO_SPACE);
        MUST(&fix, try_layout(&fix, &engine, &layout));
        fake_daemon_refuse(fix.daemon, KIND(PUSH), ST_IO);
        ck_assert_int_eq(try_layout(&fix, &engine, &layout), KVEIK_E_IO);
        expect_untouched(&fix);
        fix_close(&fix);
    }
END_TEST

/* Pages of other sizes than blocks can have: partial blocks, several blocks, odd pages. */
START_TEST(pages_of_many_sizes)
    {
        static const uint32_t sizes[] = {1, 4, 8, 16, 24, 48, 64, 100, 7};
        for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
            struct fixture fix;
            open_memory(&fix);
            struct kveik_layout layout = fix_layout(&fix);
            layout.page_tokens = sizes[i];
            layout.page_count = 2;
            for (uint32_t plane = 0; plane < FIX_PLANES; plane++) {
                fix.planes[plane].page_stride = (uint64_t)sizes[i] * FIX_ROW;
            }
            struct engine engine = {.fix = &fix};
            layout.fill = NULL;
            MUST(&fix, kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error));
            MUST(&fix, kveik_layout_drop(fix.client, fix.layout, 1000, &fix.error));
            if (sizes[i] == FIX_PAGE_TOKENS) {
                MUST(&fix, try_layout(&fix, &engine, &layout));
            }
            expect_untouched(&fix);
            fix_close(&fix);
        }
    }
END_TEST

enum { OPAQUE_PAGE = 512, OPAQUE_SHARE = 250 };

/* The engine's page is OPAQUE_PAGE bytes of its own, filled and checked whole, or, where heads are
 * apart, a share of OPAQUE_SHARE bytes for each, one behind the other. */
static uint8_t *opaque_place(const struct engine *engine, uint32_t layer, uint32_t kind,
                             uint32_t page, uint32_t head)
{
    return engine->fix->memory + (size_t)(layer * 2 + kind) * FIX_PLANE +
           (size_t)page * OPAQUE_PAGE + (size_t)head * OPAQUE_SHARE;
}

static void count_head(struct engine *engine, uint32_t token, uint32_t head, size_t bytes)
{
    ck_assert_uint_eq(token, 0);
    ck_assert_uint_lt(head, engine->heads);
    ck_assert_uint_eq(bytes, engine->heads == 1 ? OPAQUE_PAGE : OPAQUE_SHARE);
    engine->of_head[head]++;
}

/* NOLINTNEXTLINE(readability-function-size): the interface's callback has these parameters */
static void fill_opaque(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                        uint32_t head, const void *data, size_t bytes)
{
    struct engine *engine = arg;
    engine->fills++;
    count_head(engine, token, head, bytes);
    (void)memcpy(opaque_place(engine, layer, kind, page, head), data, bytes);
}

/* NOLINTNEXTLINE(readability-function-size): the interface's callback has these parameters */
static int check_opaque(void *arg, uint32_t layer, uint32_t kind, uint32_t page, uint32_t token,
                        uint32_t head, const void *data, size_t bytes)
{
    struct engine *engine = arg;
    engine->checks++;
    count_head(engine, token, head, bytes);
    head = engine->wrong_read ? 1 - head : head;
    return memcmp(opaque_place(engine, layer, kind, page, head), data, bytes);
}

static void open_opaque(struct fixture *fix)
{
    fix_start(fix);
    fix_connect(fix);
    fix_memory(fix);
    struct kveik_group group = fix_group();
    group.opaque = true;
    group.kind_elements[0] = 0;
    group.kind_elements[1] = 0;
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = "opaque";
    space.dtype = KVEIK_U8;
    space.group_count = 1;
    space.groups = &group;
    space.fingerprint = "engine 1";
    space.fingerprint_bytes = 8;
    MUST(fix, kveik_space_register(fix->client, &space, &fix->space, &fix->error));
    mark_memory(fix);
}

/* head_stride 0: whole pages. */
static struct kveik_layout opaque_layout(struct fixture *fix, struct engine *engine,
                                         uint64_t head_stride)
{
    struct kveik_layout layout = fix_layout(fix);
    *engine = (struct engine){.fix = fix, .heads = head_stride == 0 ? 1 : FIX_HEADS};
    layout.page_bytes = head_stride == 0 ? OPAQUE_PAGE : OPAQUE_SHARE;
    layout.fill = fill_opaque;
    layout.check = check_opaque;
    layout.callback_arg = engine;
    for (uint32_t i = 0; i < FIX_PLANES; i++) { /* token and element strides mean nothing */
        fix->planes[i].page_stride = OPAQUE_PAGE;
        fix->planes[i].head_stride = head_stride;
    }
    return layout;
}

START_TEST(opaque_pages_are_proved_whole)
    {
        struct fixture fix;
        struct engine engine;
        open_opaque(&fix);
        struct kveik_layout layout = opaque_layout(&fix, &engine, 0);
        MUST(&fix, kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error));
        ck_assert_uint_eq(engine.fills, FIX_PLANES);
        ck_assert_uint_eq(engine.checks, FIX_PLANES);
        expect_untouched(&fix);
        fix_close(&fix);
    }
END_TEST

START_TEST(opaque_heads_apart_are_proved_one_by_one)
    {
        struct fixture fix;
        struct engine engine;
        open_opaque(&fix);
        struct kveik_layout layout = opaque_layout(&fix, &engine, OPAQUE_SHARE);
        MUST(&fix, kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error));
        ck_assert_uint_eq(engine.fills, FIX_PLANES * FIX_HEADS);
        ck_assert_uint_eq(engine.checks, FIX_PLANES * FIX_HEADS);
        ck_assert_uint_eq(engine.of_head[0], 2 * FIX_PLANES);
        ck_assert_uint_eq(engine.of_head[1], 2 * FIX_PLANES);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_PUSH), 1);
        ck_assert_uint_eq(fake_daemon_count(fix.daemon, MSG_PULL), 1);
        expect_untouched(&fix);
        fix_close(&fix);
    }
END_TEST

START_TEST(wrong_heads_of_opaque_pages_are_found)
    {
        struct fixture fix;
        struct engine engine;
        open_opaque(&fix);
        /* the engine's shares have no gaps */
        struct kveik_layout layout = opaque_layout(&fix, &engine, OPAQUE_SHARE + 6);
        int status = kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error);
        ck_assert_int_eq(status, KVEIK_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "layer 0 kind 0 page 0 token 0 head 1"));
        mark_memory(&fix); /* what the engine wrote into the gaps nobody could know to put back */

        layout = opaque_layout(&fix, &engine, OPAQUE_SHARE);
        engine.wrong_read = true;
        status = kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error);
        ck_assert_int_eq(status, KVEIK_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "page 1 token 0 head 0"));
        expect_untouched(&fix);

        layout = opaque_layout(&fix, &engine, OPAQUE_SHARE);
        fix.planes[2].head_stride = 0;
        status = kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error);
        ck_assert_int_eq(status, KVEIK_E_INVALID);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "layer 1 kind 0: head_stride is 0"));

        layout = opaque_layout(&fix, &engine, OPAQUE_SHARE - 1);
        status = kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error);
        ck_assert_int_eq(status, KVEIK_E_MISMATCH);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "overlap"));

        layout = opaque_layout(&fix, &engine, FIX_BYTES);
        status = kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error);
        ck_assert_int_eq(status, KVEIK_E_INVALID);
        ck_assert_ptr_nonnull(strstr(fix.error.text, "ends at"));
        ck_assert_uint_eq(engine.fills, 0);
        fix_close(&fix);
    }
END_TEST

#define REFUSED(status, word, change)                                                              \
    do {                                                                                           \
        struct kveik_layout layout = fix_layout(&fix);                                             \
        change;                                                                                    \
        ck_assert_int_eq(kveik_layout_register(fix.client, &layout, &fix.layout, &fix.error),      \
                         status);                                                                  \
        ck_assert_msg(strstr(fix.error.text, word) != NULL, "%s: %s", #change, fix.error.text);    \
    } while (0)

START_TEST(wrong_geometry_is_refused)
    {
        struct fixture fix;
        open_memory(&fix);
        REFUSED(KVEIK_E_UNKNOWN_ID, "space", layout.space = 999);
        REFUSED(KVEIK_E_MISMATCH, "group", layout.group = 1);
        REFUSED(KVEIK_E_MISMATCH, "layers", layout.layer_count = 3);
        REFUSED(KVEIK_E_MISMATCH, "layers", layout.layer_count = 0);
        REFUSED(KVEIK_E_MISMATCH, "heads", layout.head_begin = 1);
        REFUSED(KVEIK_E_MISMATCH, "page_bytes", layout.page_bytes = 1);
        REFUSED(KVEIK_E_INVALID, "planes", layout.planes = NULL);
        REFUSED(KVEIK_E_INVALID, "fill", layout.fill = fill);
        REFUSED(KVEIK_E_INVALID, "page_tokens", layout.page_tokens = 0);
        REFUSED(KVEIK_E_INVALID, "ends at", layout.page_count = FIX_PAGES + 1);
        REFUSED(KVEIK_E_UNKNOWN_ID, "region", fix.planes[1].region = 4711);
        REFUSED(KVEIK_E_MISMATCH, "", fix.planes[1].offset = fix.planes[0].offset);
        REFUSED(KVEIK_E_MISMATCH, "", fix.planes[1].head_stride = 2);
        struct kveik_layout none = {.size = 0};
        ck_assert_int_eq(kveik_layout_register(fix.client, &none, &fix.layout, &fix.error),
                         KVEIK_E_INVALID);
        fix_close(&fix);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_right_layout_is_proved_and_memory_put_back,
                                  wrong_strides_are_found_and_named,
                                  a_full_daemon_does_not_hinder,
                                  pages_of_many_sizes,
                                  opaque_pages_are_proved_whole,
                                  opaque_heads_apart_are_proved_one_by_one,
                                  wrong_heads_of_opaque_pages_are_found,
                                  wrong_geometry_is_refused};
    return check_main("selftest", tests, ARRAY_COUNT(tests));
}
