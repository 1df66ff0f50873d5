/* A fake daemon and a client that is connected to it, with memory and a small layout. */
#ifndef KVEIK_TESTS_LIB_CLIENT_FIXTURE_H
#define KVEIK_TESTS_LIB_CLIENT_FIXTURE_H

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "kveik/kveik.h"
#include "tests/lib/check_main.h"
#include "tests/lib/fake_daemon.h"

enum {
    FIX_PAGES = 16,
    FIX_PAGE_TOKENS = 16,
    FIX_LAYERS = 2,
    FIX_HEADS = 2,
    FIX_ELEMENTS = 8,
    FIX_ROW = FIX_HEADS * FIX_ELEMENTS * 2,
    FIX_PLANE = FIX_PAGES * FIX_PAGE_TOKENS * FIX_ROW,
    FIX_PLANES = FIX_LAYERS * 2,
    FIX_BYTES = FIX_PLANES * FIX_PLANE,
};

struct fixture {
    char path[64];
    struct fake_daemon *daemon;
    kveik_client *client;
    struct kveik_error error;
    uint32_t space;
    uint32_t region;
    uint32_t layout;
    uint8_t *memory;
    struct kveik_plane planes[FIX_PLANES];
};

static inline void fix_path(struct fixture *fix)
{
    static int count;
    (void)snprintf(fix->path, sizeof fix->path, "/tmp/kveik-test-%d-%d.sock", (int)getpid(),
                   count++);
}

static inline void nap_ms(uint32_t ms)
{
    const struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000L};
    (void)nanosleep(&nap, NULL);
}

/* For checks with the library's text. */
#define MUST(fix, call)                                                                            \
    do {                                                                                           \
        int must_status = (call);                                                                  \
        ck_assert_msg(must_status == KVEIK_OK, "%s: %d %s", #call, must_status,                    \
                      (fix)->error.text);                                                          \
    } while (0)

static inline struct kveik_options fix_options(const struct fixture *fix)
{
    struct kveik_options options = KVEIK_OPTIONS_INIT;
    options.socket_path = fix->path;
    options.instance = "test";
    options.reconnect_backoff_ms = 5;
    options.connect_timeout_ms = 10000; /* the fake daemon's thread may wait long for a core */
    return options;
}

static inline void fix_connect(struct fixture *fix)
{
    struct kveik_options options = fix_options(fix);
    MUST(fix, kveik_connect(&options, &fix->client, &fix->error));
}

static inline void fix_start(struct fixture *fix)
{
    (void)memset(fix, 0, sizeof *fix);
    fix_path(fix);
    fix->daemon = fake_daemon_start(fix->path);
}

static inline struct kveik_group fix_group(void)
{
    return (struct kveik_group){.rule = KVEIK_RULE_EVERY,
                                .layer_count = FIX_LAYERS,
                                .head_count = FIX_HEADS,
                                .kind_count = 2,
                                .kind_elements = {FIX_ELEMENTS, FIX_ELEMENTS}};
}

static inline void fix_space(struct fixture *fix)
{
    struct kveik_group group = fix_group();
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = "model";
    space.dtype = KVEIK_BF16;
    space.group_count = 1;
    space.groups = &group;
    MUST(fix, kveik_space_register(fix->client, &space, &fix->space, &fix->error));
}

static inline struct kveik_layout fix_layout(struct fixture *fix)
{
    for (uint32_t i = 0; i < FIX_PLANES; i++) {
        fix->planes[i] = (struct kveik_plane){.region = fix->region,
                                              .offset = (uint64_t)i * FIX_PLANE,
                                              .page_stride = FIX_PAGE_TOKENS * FIX_ROW,
                                              .token_stride = FIX_ROW,
                                              .head_stride = FIX_ELEMENTS * 2,
                                              .element_stride = 2};
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = fix->space;
    layout.page_tokens = FIX_PAGE_TOKENS;
    layout.page_count = FIX_PAGES;
    layout.layer_count = FIX_LAYERS;
    layout.head_count = FIX_HEADS;
    layout.planes = fix->planes;
    return layout;
}

static inline void fix_memory(struct fixture *fix)
{
    void *memory = NULL;
    MUST(fix, kveik_memory_allocate(fix->client, FIX_BYTES, &memory, &fix->error));
    fix->memory = memory;
    MUST(fix, kveik_memory_export(fix->client, memory, FIX_BYTES, NULL, &fix->region, NULL,
                                  &fix->error));
}

/* All of it. */
static inline void fix_open(struct fixture *fix)
{
    fix_start(fix);
    fix_connect(fix);
    fix_space(fix);
    fix_memory(fix);
    struct kveik_layout layout = fix_layout(fix);
    MUST(fix, kveik_layout_register(fix->client, &layout, &fix->layout, &fix->error));
}

static inline void fix_close(struct fixture *fix)
{
    if (fix->memory != NULL) {
        kveik_memory_free(fix->client, fix->memory);
    }
    kveik_close(fix->client);
    if (fix->daemon != NULL) {
        fake_daemon_stop(fix->daemon);
    }
}

/* Replaces the daemon by another process, so to say. */
static inline void fix_restart(struct fixture *fix)
{
    fake_daemon_stop(fix->daemon);
    fix->daemon = fake_daemon_start(fix->path);
}

static inline bool fix_is_connected(struct fixture *fix)
{
    struct kveik_info info = KVEIK_INFO_INIT;
    ck_assert_int_eq(kveik_info(fix->client, &info), KVEIK_OK);
    return info.connected;
}

/* Polls until the connection is as wanted; false after 5 s. */
static inline bool fix_await_connected(struct fixture *fix, bool wanted)
{
    for (int i = 0; i < 5000; i++) {
        if (fix_is_connected(fix) == wanted) {
            return true;
        }
        nap_ms(1);
    }
    return false;
}

/* A key that differs for each number. */
static inline void fix_keys(uint8_t *keys, uint32_t count, uint32_t number)
{
    (void)memset(keys, 0, (size_t)count * KVEIK_KEY_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        (void)memcpy(keys + (size_t)i * KVEIK_KEY_BYTES, &number, sizeof number);
        (void)memcpy(keys + (size_t)i * KVEIK_KEY_BYTES + 8, &i, sizeof i);
        keys[(size_t)i * KVEIK_KEY_BYTES + 31] = 1;
    }
}

static inline int fix_push(struct fixture *fix, const uint8_t *keys, uint32_t page,
                           uint64_t *op_out)
{
    struct kveik_push_run run = {.layout = fix->layout,
                                 .block_count = 1,
                                 .block_tokens = 16,
                                 .keys = keys,
                                 .key_count = 1,
                                 .pages = &page,
                                 .page_count = 1};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    push.deadline_ms = 300;
    return kveik_submit_push(fix->client, &push, fix, op_out, &fix->error);
}

static inline int fix_pull(struct fixture *fix, const uint8_t *keys, uint32_t page,
                           struct kveik_completion *done)
{
    struct kveik_pull_run run = {
        .layout = fix->layout, .keys = keys, .key_count = 1, .pages = &page, .page_count = 1};
    struct kveik_pull pull = KVEIK_PULL_INIT;
    pull.runs = &run;
    pull.run_count = 1;
    return kveik_pull(fix->client, &pull, done);
}

static inline bool fd_is_readable(int fd, int timeout_ms)
{
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    return poll(&wanted, 1, timeout_ms) == 1;
}

#define KIND(name) ((uint64_t)1 << MSG_##name)

#endif
