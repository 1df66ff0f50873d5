/*
 * The engine protocol's messages as plain structs, and the checked conversion: what msg_decode()
 * accepts has passed every check that needs no state (counts, lengths, ranges, packing); whoever
 * uses it still checks handles, page numbers and geometry against what was registered.
 *
 * This is the trust boundary: any bytes may come in. Memory is bounded by the arena, nothing
 * recurses, and every refusal says what was wrong.
 */
#ifndef KVEIK_PROTO_MESSAGE_H
#define KVEIK_PROTO_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/layout.h"
#include "proto/space.h"

enum {
    MSG_VERSION = 1,
    MSG_KEY_BYTES = 32,
    MSG_KEYS_MAX = 65536,   /* keys of one request, all runs together */
    MSG_PAGES_MAX = 262144, /* pages of one request */
    MSG_RUNS_MAX = 1024,
    MSG_INSTANCE_MAX = 64,
    MSG_TOKEN_MAX = 256,
    MSG_TEXT_MAX = 256,
    MSG_BOOT_ID_BYTES = 16,
    MSG_WANTS_MAX = 64,
    MSG_ORIGINS_MAX = 16,
    MSG_PROBE_BYTES_MAX = 4096,
    MSG_ARENA_BYTES_MAX = 16 * 1024 * 1024,
    MSG_DEADLINE_MS_MAX = 600000,
};

/* X(ENUM, field) in the order of the oneof */
#define MSG_TABLE(X)                                                                               \
    X(HELLO, hello)                                                                                \
    X(REGISTER_SPACE, register_space)                                                              \
    X(EXPORT_MEMORY, export_memory)                                                                \
    X(DROP_MEMORY, drop_memory)                                                                    \
    X(REGISTER_LAYOUT, register_layout)                                                            \
    X(DROP_LAYOUT, drop_layout)                                                                    \
    X(PUSH, push)                                                                                  \
    X(LOOKUP, lookup)                                                                              \
    X(PULL, pull)                                                                                  \
    X(RELEASE, release)                                                                            \
    X(QUIESCE, quiesce)                                                                            \
    X(CANCEL, cancel)                                                                              \
    X(STATUS_REQUEST, status_request)                                                              \
    X(PROBE, probe)                                                                                \
    X(PERSIST, persist)                                                                            \
    X(HELLO_REPLY, hello_reply)                                                                    \
    X(SPACE_REPLY, space_reply)                                                                    \
    X(HANDLE_REPLY, handle_reply)                                                                  \
    X(LOOKUP_REPLY, lookup_reply)                                                                  \
    X(COMPLETION, completion)                                                                      \
    X(STATUS_REPLY, status_reply)                                                                  \
    X(NOTICE, notice)

enum msg_kind {
    MSG_NONE,
#define X(name, field) MSG_##name,
    MSG_TABLE(X)
#undef X
        MSG_KIND_COUNT
};

enum memory_kind {
    MEMORY_MEMFD = 1,   /* a sealed memfd beside the message */
    MEMORY_PROCESS = 2, /* the client's own address range, by cross-memory copy */
};

enum notice_kind {
    NOTICE_GOING_DOWN = 1,    /* finish what is in flight; then reconnect */
    NOTICE_SESSION_ENDED = 2, /* the daemon ends this session, with the reason */
};

/* A counted byte string in the arena or in the caller's memory. */
struct msg_bytes {
    const uint8_t *data;
    uint32_t bytes;
};

/* What both sides can do: bits of the hello's capabilities. */
enum {
    /* Both have the same monotonic clock, so a push's deadline counts from its sending, and a push
     * whose copies end behind it is not kept: when the client has given it up, no byte that it
     * writes to the pages from then on can get into the cache. */
    MSG_CAPABILITY_CLOCK = 1 << 0,
};

struct msg_hello {
    uint32_t version_min;
    uint32_t version_max;
    const char *client;
    struct msg_bytes instance_id; /* 1 .. MSG_INSTANCE_MAX bytes */
    struct msg_bytes token;       /* 0 .. MSG_TOKEN_MAX */
    uint64_t capabilities;
    uint64_t instance_lease_bytes;
    uint64_t clock_ns; /* the client's CLOCK_MONOTONIC; 0: not said */
};

struct msg_hello_reply {
    uint32_t version;
    uint8_t boot_id[MSG_BOOT_ID_BYTES];
    uint64_t session_id;
    uint64_t capabilities;
    uint32_t frame_bytes_max;
    uint32_t requests_max;
    uint32_t regions_max;
    uint32_t layouts_max;
    uint32_t keys_max;
    const char *daemon;
    struct msg_bytes instance_id;
};

struct msg_space_reply {
    int32_t status;
    const char *text;
    uint32_t space;
    uint8_t space_id[SPACE_ID_BYTES];
};

struct msg_export_memory {
    uint32_t kind; /* enum memory_kind */
    uint64_t bytes;
    uint64_t file_offset;
    uint64_t address;
};

struct msg_drop {
    uint32_t handle; /* region or layout */
};

struct msg_register_layout {
    uint32_t space;
    uint32_t group;
    struct layout layout; /* element_bytes 0: the receiver fills it from the space; opaque:
                             kind_elements = page_bytes; planes in the arena */
    uint32_t plane_count;
};

struct msg_handle_reply {
    int32_t status;
    const char *text;
    uint32_t handle;
};

struct msg_push_run {
    uint32_t layout;
    const uint8_t *parent_key; /* NULL: the root */
    const uint8_t *keys;       /* key_count * MSG_KEY_BYTES */
    uint32_t key_count;        /* of every grain, or of every block's last */
    uint32_t block_count;      /* >= 1 */
    uint32_t block_grains;     /* 1 .. BLOCK_GRAINS_MAX */
    uint32_t tail_tokens;   /* valid tokens of the last block, 1 .. block_grains * GRAIN_TOKENS */
    const uint32_t *tokens; /* NULL, or every valid token of the run */
    uint32_t token_count;   /* valid tokens of the run, whether ids are given or not */
    const uint32_t *pages;
    uint32_t page_count;
    uint32_t page_token;
};

struct msg_push {
    struct msg_push_run *runs;
    uint32_t run_count; /* >= 1 */
    uint32_t deadline_ms;
    uint64_t sent_ns; /* see MSG_CAPABILITY_CLOCK; 0: not said */
};

struct msg_want {
    uint32_t group;
    uint32_t layer_begin;
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
};

struct msg_lookup {
    uint32_t space;
    const uint8_t *keys;
    uint32_t key_count; /* >= 1 */
    uint32_t key_grains;
    uint32_t tail_tokens; /* valid tokens of the last grain, 1 .. GRAIN_TOKENS */
    struct msg_want *wants;
    uint32_t want_count;
    bool lease;
    bool origins;
    uint32_t deadline_ms;
    uint32_t step_grains; /* >= 1 */
};

struct msg_origin {
    struct msg_bytes instance_id;
    uint32_t keys;
};

struct msg_lookup_reply {
    int32_t status;
    const char *text;
    uint32_t hit_keys;
    uint32_t hit_tokens;
    uint64_t lease;
    uint64_t expected_us;
    uint64_t hit_bytes;
    struct msg_origin *origins;
    uint32_t origin_count;
};

struct msg_pull_run {
    uint32_t layout;
    const uint8_t *keys;
    uint32_t key_count; /* >= 1 */
    uint32_t key_grains;
    uint32_t tail_tokens; /* valid tokens of the last grain, 1 .. GRAIN_TOKENS */
    const uint32_t *pages;
    uint32_t page_count;
    uint32_t page_token;
};

struct msg_pull {
    struct msg_pull_run *runs;
    uint32_t run_count;
    uint32_t deadline_ms;
    uint64_t lease;
    bool release_lease;
};

struct msg_release {
    uint64_t lease;
};

struct msg_quiesce {
    uint32_t layout;
    const uint32_t *pages; /* NULL: all */
    uint32_t page_count;
};

struct msg_cancel {
    uint64_t target;
};

struct msg_probe {
    uint32_t region;
    uint64_t offset_from;
    uint64_t offset_to;
    uint32_t bytes;
};

struct msg_persist {
    uint32_t space;
    const uint8_t *keys;
    uint32_t key_count; /* >= 1 */
    uint32_t key_grains;
    uint32_t tail_tokens; /* valid tokens of the last grain, 1 .. GRAIN_TOKENS */
    uint32_t deadline_ms;
};

struct msg_completion {
    int32_t status;
    const char *text;
    const int8_t *statuses;
    uint32_t status_count;
    uint64_t bytes;
};

struct msg_status_request {
    uint32_t detail;
};

struct msg_status_reply {
    const char *json;
};

struct msg_notice {
    uint32_t kind; /* enum notice_kind */
    int32_t status;
    const char *text;
};

struct msg {
    uint64_t request_id;
    enum msg_kind kind;
    union {
        struct msg_hello hello;
        struct space register_space;
        struct msg_export_memory export_memory;
        struct msg_drop drop_memory;
        struct msg_register_layout register_layout;
        struct msg_drop drop_layout;
        struct msg_push push;
        struct msg_lookup lookup;
        struct msg_pull pull;
        struct msg_release release;
        struct msg_quiesce quiesce;
        struct msg_cancel cancel;
        struct msg_status_request status_request;
        struct msg_probe probe;
        struct msg_persist persist;
        struct msg_hello_reply hello_reply;
        struct msg_space_reply space_reply;
        struct msg_handle_reply handle_reply;
        struct msg_lookup_reply lookup_reply;
        struct msg_completion completion;
        struct msg_status_reply status_reply;
        struct msg_notice notice;
    } u;
};

/* Bump memory for decoding and encoding; bounded, reused from message to message. One thread. */
struct msg_arena {
    uint8_t *memory;
    size_t capacity;
    size_t used;
    size_t bytes_max;
    void *overflow; /* chunks beyond `capacity`, folded into it at reset */
    size_t wanted;
};

int msg_arena_init(struct msg_arena *arena, size_t bytes_max);
void msg_arena_reset(struct msg_arena *arena);
void msg_arena_finish(struct msg_arena *arena);

/* 16-byte aligned; NULL when the bound or the memory is reached. */
void *msg_arena_take(struct msg_arena *arena, size_t bytes);

/* Pointers in *msg_out point into the arena and are valid until it is reset.
 * ST_OK; ST_PROTOCOL or ST_LIMIT with the field in words; ST_NO_MEMORY. */
int msg_decode(const void *payload, size_t bytes, struct msg_arena *arena, struct msg *msg_out,
               struct error *error);

/* Encodes into the arena. The same checks as msg_decode(); a text beside a status is cut and
 * cleaned instead, so that a reason always reaches the other side. Absent texts may be NULL. */
int msg_encode(const struct msg *msg, struct msg_arena *arena, const void **payload_out,
               uint32_t *bytes_out, struct error *error);

/* "push", "lookup", …; for logs. */
const char *msg_kind_name(enum msg_kind kind);

/* Grains of a run, and its valid tokens. */
uint32_t msg_push_run_grains(const struct msg_push_run *run);
uint32_t msg_push_run_tokens(const struct msg_push_run *run);

#endif
