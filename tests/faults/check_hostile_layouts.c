/*
 * Opaque layouts that libkveik would never send: the daemon checks the places of heads by itself,
 * and heads that lie in each other, which it lets through, cost it nothing.
 */
#include <string.h>
#include <unistd.h>

#include <check.h>

#include "base/heap.h"
#include "tests/lib/check_main.h"
#include "tests/lib/daemon.h"
#include "tests/lib/raw.h"

enum { REGION_BYTES = 1 << 20, HEADS = 8, PAGES = 4, SHARE = 4096, MANY_HEADS = LAYOUT_HEADS_MAX };

static struct daemon kveikd;
static struct raw raw;
static uint64_t ids = 100;

/* An opaque group of one layer and kind; 1 MiB in region 0. */
static void setup(void)
{
    static const char *const arguments[] = {"--cpu-bytes", "64MiB", "--log-level", "warn", NULL};
    daemon_init(&kveikd);
    ck_assert(daemon_start(&kveikd, arguments));
    ck_assert(raw_connect(&raw, kveikd.socket));
    ck_assert(raw_hello(&raw, "hostile"));
    struct msg msg = {.request_id = ++ids,
                      .kind = MSG_REGISTER_SPACE,
                      .u.register_space = {.model = "packed",
                                           .dtype = SPACE_U8,
                                           .group_count = 1,
                                           .groups = {{.rule = GROUP_EVERY,
                                                       .layer_count = 1,
                                                       .head_count = MANY_HEADS,
                                                       .kind_count = 1,
                                                       .opaque = true}},
                                           .fingerprint = "p",
                                           .fingerprint_bytes = 1}};
    struct msg answer = {0};
    ck_assert(raw_call(&raw, &msg, &answer));
    ck_assert_int_eq(answer.u.space_reply.status, ST_OK);
    int fd = raw_memfd(REGION_BYTES);
    ck_assert_int_eq(raw_export(&raw, fd, REGION_BYTES), 0);
    (void)close(fd);
}

static void teardown(void)
{
    raw_close(&raw);
    ck_assert_int_eq(daemon_stop(&kveikd), 0);
    daemon_finish(&kveikd);
}

/* The status of registering; the handle is in *handle_out. */
static int offer(struct layout layout, struct layout_plane plane, uint32_t *handle_out)
{
    layout.layer_count = 1;
    layout.kind_count = 1;
    layout.element_bytes = 1;
    layout.opaque = true;
    layout.planes = &plane;
    struct msg msg = {.request_id = ++ids,
                      .kind = MSG_REGISTER_LAYOUT,
                      .u.register_layout = {.layout = layout, .plane_count = 1}};
    struct msg answer = {0};
    ck_assert(raw_call(&raw, &msg, &answer));
    ck_assert_int_eq(answer.kind, MSG_HANDLE_REPLY);
    *handle_out = answer.u.handle_reply.handle;
    return answer.u.handle_reply.status;
}

START_TEST(heads_outside_the_region_are_refused)
    {
        uint32_t handle = 0;
        const struct layout shape = {.page_tokens = GRAIN_TOKENS,
                                     .page_count = PAGES,
                                     .head_count = HEADS,
                                     .kind_elements = {SHARE}};
        const uint64_t page = (uint64_t)HEADS * SHARE;
        const uint64_t most = (REGION_BYTES - SHARE - (PAGES - 1) * page) / (HEADS - 1);
        const struct layout_plane good = {
            .page_stride = page, .head_stride = most, .element_stride = 1};
        ck_assert_int_eq(offer(shape, good, &handle), ST_OK);
        const uint64_t wrong[] = {most + 1, REGION_BYTES, UINT64_MAX / 8, UINT64_MAX / 7,
                                  UINT64_MAX};
        for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
            struct layout_plane bad = good;
            bad.head_stride = wrong[i];
            ck_assert_int_eq(offer(shape, bad, &handle), ST_INVALID);
        }
        struct layout_plane bad = good;
        bad.token_stride = 1;
        ck_assert_int_eq(offer(shape, bad, &handle), ST_INVALID);
    }
END_TEST

/* One block from these pages; the status of the block, or of the request if that failed. */
static int push(uint32_t layout, uint32_t block_grains, const uint32_t *pages, uint32_t page_count)
{
    uint8_t key[MSG_KEY_BYTES] = {(uint8_t)block_grains};
    struct msg msg;
    struct msg answer = {0};
    struct msg_push_run run;
    raw_push(&msg, &run, ++ids, key);
    run.layout = layout;
    run.block_grains = block_grains;
    run.tail_tokens = block_grains * GRAIN_TOKENS;
    run.token_count = run.tail_tokens;
    run.pages = pages;
    run.page_count = page_count;
    ck_assert(raw_call(&raw, &msg, &answer));
    int status = answer.u.completion.status;
    return status != ST_OK ? status : answer.u.completion.statuses[0];
}

START_TEST(heads_in_each_other_are_harmless)
    {
        static const uint32_t pages[GRAIN_TOKENS * BLOCK_GRAINS_MAX];
        uint32_t handle = 0;
        struct layout shape = {
            .page_tokens = 1, .page_count = PAGES, .head_count = MANY_HEADS, .kind_elements = {16}};
        const struct layout_plane plane = {.page_stride = 1, .head_stride = 1, .element_stride = 1};
        ck_assert_int_eq(offer(shape, plane, &handle), ST_OK);
        ck_assert_int_eq(push(handle, 1, pages, GRAIN_TOKENS), ST_OK);
        /* a block of 8 TiB, from 1 MiB */
        shape.kind_elements[0] = REGION_BYTES / 2;
        ck_assert_int_eq(offer(shape, plane, &handle), ST_OK);
        ck_assert_int_ne(push(handle, BLOCK_GRAINS_MAX, pages, ARRAY_COUNT(pages)), ST_OK);
        ck_assert_int_ne(push(handle, 1, pages, GRAIN_TOKENS), ST_OK);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {heads_outside_the_region_are_refused,
                                  heads_in_each_other_are_harmless};
    struct check_suite suite = {.name = "hostile_layouts",
                                .tests = tests,
                                .count = ARRAY_COUNT(tests),
                                .setup = setup,
                                .teardown = teardown};
    return check_run(&suite);
}
