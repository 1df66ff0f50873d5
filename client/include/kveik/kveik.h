/*
 * libkveik: an engine's way to the KV cache daemon of its node.
 *
 * An engine connects, says what its KV means (a space), exports the memory that holds it, says how
 * the pages lie there (a layout), and then pushes pages under keys, looks prompts up, and pulls
 * what is held into pages of its own. The daemon moves the bytes; this library only talks.
 *
 *     kveik_connect -> kveik_space_register -> kveik_memory_export -> kveik_layout_register
 *     kveik_hash_tokens -> kveik_lookup -> kveik_pull -> (compute the rest) -> kveik_push
 *
 * Rules that hold for every function:
 *   - Returns KVEIK_OK (0), a positive code that is good news, or a negative code. A function with
 *     a `struct kveik_error *` fills it on errors, with one line that says what was wrong and what
 *     would be right; pass NULL if you do not care.
 *   - Nothing blocks longer than the time-out it was given, and nothing ever hangs: with the daemon
 *     down, calls return KVEIK_E_UNAVAILABLE at once, and the library reconnects by itself,
 *     registering spaces, memory and layouts again. Handles stay valid over a reconnect.
 *   - Everything is thread-safe. There is no global state: several clients in one process are
 *     normal. After fork() the child must not use the parent's client (KVEIK_E_FORKED); it may
 *     connect one of its own.
 *   - Structs begin with their size, so that they can grow: initialise them with the macro of their
 *     name (KVEIK_OPTIONS_INIT and so on), which sets `size` and zeroes the rest.
 *   - Inputs are copied before a function returns, except the KV memory itself: from submit to
 *     completion the pages of a request belong to the daemon. A completion means that no copy
 *     touches them any more, whatever its status, except KVEIK_E_STUCK; and a push that ended with
 *     KVEIK_E_DEADLINE may still be read, but nothing of it is kept: its pages can be reused.
 *   - Units are in the names: bytes, tokens, pages, _ms, _us.
 */
#ifndef KVEIK_KVEIK_H
#define KVEIK_KVEIK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KVEIK_API __attribute__((visibility("default")))
#else
#define KVEIK_API
#endif

#define KVEIK_KEY_BYTES    32 /* a key, never truncated */
#define KVEIK_GRAIN_TOKENS 16 /* the step at which keys chain, the same for all engines */

/* ---- status codes --------------------------------------------------------------------------- */

enum kveik_status {
    KVEIK_OK = 0,
    KVEIK_MISS = 1,            /* not in the cache */
    KVEIK_HELD = 2,            /* already in the cache: nothing was copied */
    KVEIK_PENDING = 3,         /* still under way */
    KVEIK_E_INVALID = -1,      /* an argument is wrong */
    KVEIK_E_NO_MEMORY = -2,    /* out of memory */
    KVEIK_E_IO = -3,           /* a system call failed */
    KVEIK_E_PROTOCOL = -4,     /* the other side broke the protocol */
    KVEIK_E_VERSION = -5,      /* library and daemon have no protocol version in common */
    KVEIK_E_NO_SPACE = -6,     /* the tier is full of blocks in use */
    KVEIK_E_QUOTA = -7,        /* a quota (space, tenant, instance) is used up */
    KVEIK_E_DEADLINE = -8,     /* the deadline passed first */
    KVEIK_E_CANCELLED = -9,    /* cancelled, or quiesced */
    KVEIK_E_UNKNOWN_ID = -10,  /* no such handle, lease or request */
    KVEIK_E_LOST = -11,        /* the connection went away under the request */
    KVEIK_E_UNAVAILABLE = -12, /* the daemon is not reachable now */
    KVEIK_E_BUSY = -13,        /* too many requests in flight: reap completions first */
    KVEIK_E_UNSUPPORTED = -14, /* not possible on this machine or in this build */
    KVEIK_E_PERMISSION = -15,  /* the system or the daemon refuses */
    KVEIK_E_MEMORY = -16,      /* engine memory could not be read or written */
    KVEIK_E_LIMIT = -17,       /* a limit was exceeded; the text names it */
    KVEIK_E_CORRUPT = -18,     /* stored bytes are damaged: treat as a miss */
    KVEIK_E_SHUTDOWN = -19,    /* the daemon is shutting down */
    KVEIK_E_MISMATCH = -20,    /* layout and space do not match, or the self-test failed */
    KVEIK_E_FORKED = -21,      /* this client belongs to the parent process */
    KVEIK_E_STUCK = -22,       /* the daemon does not answer; a copy may still touch the pages until
                                  kveik_quiesce() succeeds or the connection is replaced */
    KVEIK_E_INTERNAL = -23     /* a bug; please report the text */
};

/* A constant English text for a status. */
KVEIK_API const char *kveik_status_text(int status);

struct kveik_error {
    int status;
    char text[256];
};

/* "0.1.0" */
KVEIK_API const char *kveik_version(void);

/* ---- connection ----------------------------------------------------------------------------- */

typedef struct kveik_client kveik_client;

struct kveik_options {
    size_t size;
    const char *socket_path; /* NULL: $KVEIK_SOCKET, else $XDG_RUNTIME_DIR/kveik/engine.sock, else
                                /run/kveik/engine.sock (/tmp/kveik-UID/engine.sock for users) */
    const char *instance;    /* names the engine, 1..64 bytes; the processes of one engine give the
                                same; NULL: one of its own for this client */
    const char *client_name; /* for the daemon's log, such as "vllm 0.11 worker 3"; may be NULL */
    const void *token;       /* names the tenant; NULL: the default tenant */
    size_t token_bytes;
    uint32_t connect_timeout_ms;   /* of the first connection; 0: 1000 */
    uint32_t reconnect_backoff_ms; /* between attempts while the daemon is away; 0: 50, doubling to
                                      at most 200 */
    uint32_t requests_max;         /* in flight; 0: what the daemon allows */
    bool wait_for_daemon; /* true: kveik_connect() succeeds with the daemon down, and goes on */
};
#define KVEIK_OPTIONS_INIT                                                                         \
    {                                                                                              \
        .size = sizeof(struct kveik_options)                                                       \
    }

KVEIK_API int kveik_connect(const struct kveik_options *options, kveik_client **client_out,
                            struct kveik_error *error);

/* Ends the session; requests in flight end with KVEIK_E_CANCELLED first. Exported memory stays
 * mapped and is the caller's again. Accepts NULL. */
KVEIK_API void kveik_close(kveik_client *client);

/* The first half of kveik_close(): ends the session and the requests, and wakes whoever waits, but
 * frees nothing: calls go on to be answered, with KVEIK_E_CANCELLED or KVEIK_E_UNAVAILABLE. For
 * programs whose threads may be about to call while another closes: shut down, see them return,
 * close. Accepts NULL. */
KVEIK_API void kveik_shutdown(kveik_client *client);

struct kveik_info {
    size_t size;
    bool connected;
    uint32_t protocol_version;
    uint8_t boot_id[16]; /* another id: another daemon, with another memory */
    uint64_t session_id;
    uint64_t reconnects; /* times the connection was replaced */
    uint32_t requests_max;
    uint32_t keys_max; /* of one request */
    char daemon[64];
    char instance[65];
};
#define KVEIK_INFO_INIT                                                                            \
    {                                                                                              \
        .size = sizeof(struct kveik_info)                                                          \
    }

/* Never blocks. Tries to reconnect first if the connection is down and the back-off has passed. */
KVEIK_API int kveik_info(kveik_client *client, struct kveik_info *info_out);

/* ---- what the KV means ---------------------------------------------------------------------- */

enum kveik_dtype {
    KVEIK_F32 = 1,
    KVEIK_BF16 = 2,
    KVEIK_F16 = 3,
    KVEIK_F8_E4M3 = 4,
    KVEIK_F8_E5M2 = 5,
    KVEIK_I8 = 6,
    KVEIK_U8 = 7,
    KVEIK_F64 = 8
};

enum kveik_rule {
    KVEIK_RULE_EVERY = 1,  /* full attention: a hit of n tokens needs every block up to n */
    KVEIK_RULE_WINDOW = 2, /* sliding window: only the blocks of the last window_tokens */
    KVEIK_RULE_STATE = 3   /* recurrent: only the state at n */
};

enum { KVEIK_KINDS_MAX = 4, KVEIK_GROUPS_MAX = 16 };

/* Layers that live alike. Layers are numbered from 0 within their group. */
struct kveik_group {
    uint32_t rule;          /* enum kveik_rule */
    uint32_t window_tokens; /* with KVEIK_RULE_WINDOW */
    uint32_t layer_count;
    uint32_t head_count; /* KV heads of the whole model, not of one rank */
    uint32_t kind_count; /* planes a layer: 2 for K and V, 1 for latent caches */
    uint32_t kind_elements[KVEIK_KINDS_MAX]; /* a head and token of each plane; opaque: 0 */
    bool opaque; /* pages are packed in a private way; see fingerprint and struct kveik_plane */
};

/* When blocks of a space go to the daemon's disk. */
enum kveik_admission {
    KVEIK_ADMIT_DEFAULT = 0,    /* as the daemon is set: disk-admission */
    KVEIK_ADMIT_AT_ONCE = 1,    /* as soon as they were pushed */
    KVEIK_ADMIT_SECOND_USE = 2, /* when they are used again */
    KVEIK_ADMIT_EVICTION = 3,   /* before they leave memory */
    KVEIK_ADMIT_NEVER = 4       /* unless kveik_persist() asks */
};

struct kveik_space {
    size_t size;
    const char *model;      /* the weights' name or hash: other weights must give another string */
    const char *revision;   /* may be NULL */
    uint32_t dtype;         /* enum kveik_dtype, of the cache */
    const uint8_t *rope_id; /* 32 bytes: SHA-256 of the rotary parameters; NULL: no rotary */
    uint32_t group_count;
    const struct kveik_group *groups;
    const void *fingerprint; /* of private packing (engine build, ISA, page size, whole pages or
                                heads apart); with opaque */
    size_t fingerprint_bytes;
    const void *isolation; /* spaces with other bytes here share nothing; usually NULL */
    size_t isolation_bytes;
    uint64_t quota_bytes; /* hold at most so much of this space; 0: no bound of its own */
    uint32_t admission;   /* enum kveik_admission: when its blocks go to disk; whoever registers
                             last decides, as with the quota */
};
#define KVEIK_SPACE_INIT                                                                           \
    {                                                                                              \
        .size = sizeof(struct kveik_space)                                                         \
    }

KVEIK_API int kveik_space_register(kveik_client *client, const struct kveik_space *space,
                                   uint32_t *space_out, struct kveik_error *error);

/* ---- the memory that holds it --------------------------------------------------------------- */

enum kveik_memory_mode {
    KVEIK_MEMORY_AUTO = 0,   /* the first of the following that works */
    KVEIK_MEMORY_SHARED = 1, /* a mapping of a memfd (kveik_memory_allocate, or memfd given) */
    KVEIK_MEMORY_ADOPT = 2,  /* private memory: its pages are replaced, in place and with their
                                contents, by a sealed memfd that the daemon can map */
    KVEIK_MEMORY_CROSS = 3   /* the daemon copies across processes (process_vm_readv/writev) */
};

struct kveik_memory_options {
    size_t size;
    uint32_t mode; /* enum kveik_memory_mode */
    int memfd;     /* with SHARED: the file that is mapped at `address`; ignored elsewhere. It
                      stays the caller's, and is sealed against shrinking and growing if it is not
                      yet. 0: unknown */
    uint64_t memfd_offset; /* of `address` in that file */
    bool small_pages;      /* do not ask for huge pages */
};
#define KVEIK_MEMORY_OPTIONS_INIT                                                                  \
    {                                                                                              \
        .size = sizeof(struct kveik_memory_options)                                                \
    }

/* Fresh zeroed memory that can be exported without a copy: a sealed memfd, huge pages asked for.
 * Freed by kveik_memory_free(), which also ends its exports; what is not freed before kveik_close()
 * stays mapped until the process ends. */
KVEIK_API int kveik_memory_allocate(kveik_client *client, size_t bytes, void **address_out,
                                    struct kveik_error *error);
KVEIK_API void kveik_memory_free(kveik_client *client, void *address);

/* Exports [address, address + bytes). Call it while no other thread writes there (ADOPT replaces
 * the pages; the whole pages at both ends are adopted with it; a child forked later shares them
 * with its parent instead of having a copy). The memory must stay mapped until
 * kveik_memory_drop() or kveik_close() has returned. mode_out (may be NULL): the way that was
 * taken. */
KVEIK_API int kveik_memory_export(kveik_client *client, void *address, size_t bytes,
                                  const struct kveik_memory_options *options, uint32_t *region_out,
                                  uint32_t *mode_out, struct kveik_error *error);

/* Returns when no copy touches the region any more; layouts that lie in it are dropped with it.
 * KVEIK_E_STUCK: not within timeout_ms, and the region is still registered. Adopted memory keeps
 * its contents and stays usable. */
KVEIK_API int kveik_memory_drop(kveik_client *client, uint32_t region, uint32_t timeout_ms,
                                struct kveik_error *error);

/* ---- how the pages lie in it ---------------------------------------------------------------- */

/* One plane (a kind of a layer): element e of head h of token t of page p lies at
 * offset + p*page_stride + t*token_stride + h*head_stride + e*element_stride in its region. All of
 * them are bytes; h counts from 0 within the layout, so h = 0 is the model's head_begin.
 *
 * Pages of opaque groups are bytes in an order that only the engine knows: token_stride and
 * element_stride are ignored. head_stride says which of two ways they are cut, the same for all
 * planes of a layout:
 *
 *   head_stride == 0  Whole pages. Page p is the page_bytes bytes at offset + p*page_stride; they
 *                     belong to all heads of the layout at once (ranks may count as heads). Only
 *                     layouts with the same head_begin and head_count share them.
 *   head_stride != 0  Heads apart, also where head_count is 1. Head h's share of page p is the
 *                     page_bytes bytes at offset + p*page_stride + h*head_stride, and what is in
 *                     them depends on no other head. Layouts share every head that they have in
 *                     common: any degree of tensor parallelism with any other.
 *
 * Both ways ask for the same page_tokens and page_bytes in all layouts that share, and leave it
 * open how layers are cut. The two never share with each other, and what one has pushed stands in
 * the other's way: give their spaces different fingerprints. */
struct kveik_plane {
    uint32_t region;
    uint64_t offset;
    uint64_t page_stride;
    uint64_t token_stride;
    uint64_t head_stride;
    uint64_t element_stride;
};

/* The engine's own indexing, for the self-test: write, or compare, `bytes` bytes of the element
 * run (all elements of one head and token; opaque: token is 0, and the run is one head's share of
 * the page, or, with head 0, the whole page) of one plane. `layer` and `head` count from 0 within
 * the layout, as in `planes`. `check` returns 0 when they are equal. Called only during
 * kveik_layout_register(), on its thread. */
typedef void (*kveik_fill_cb)(void *arg, uint32_t layer, uint32_t kind, uint32_t page,
                              uint32_t token, uint32_t head, const void *data, size_t bytes);
typedef int (*kveik_check_cb)(void *arg, uint32_t layer, uint32_t kind, uint32_t page,
                              uint32_t token, uint32_t head, const void *data, size_t bytes);

struct kveik_layout {
    size_t size;
    uint32_t space;
    uint32_t group;
    uint32_t page_tokens;
    uint32_t page_count;
    uint32_t layer_begin; /* the share of the model that this process keeps */
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
    const struct kveik_plane *planes; /* [layer][kind]: layer_count * kind_count of them */
    uint64_t page_bytes; /* opaque groups: bytes of one plane's page, of all its heads together, or
                            with heads apart of one head's share (struct kveik_plane): 1 to 2^31-1,
                            and below 2^32 for all heads. Other groups: 0 */
    kveik_fill_cb fill;  /* both or neither: with them, registration proves the layout: a pattern */
    kveik_check_cb check; /* is written by `fill`, moved by the daemon to another page, and checked
                             there. Pages 0 and 1 are used and restored. */
    void *callback_arg;
};
#define KVEIK_LAYOUT_INIT                                                                          \
    {                                                                                              \
        .size = sizeof(struct kveik_layout)                                                        \
    }

/* Checks that planes lie inside their regions and share no byte, runs the self-test if callbacks
 * are given. KVEIK_E_MISMATCH says which plane, page, token and head are wrong. */
KVEIK_API int kveik_layout_register(kveik_client *client, const struct kveik_layout *layout,
                                    uint32_t *layout_out, struct kveik_error *error);
KVEIK_API int kveik_layout_drop(kveik_client *client, uint32_t layout, uint32_t timeout_ms,
                                struct kveik_error *error);

/* ---- keys ----------------------------------------------------------------------------------- */

/* What else than tokens decides the KV from `position` on: an adapter, an image, a salt. */
struct kveik_extra {
    uint32_t position; /* token of the prompt; 0 for whatever holds for all of it */
    const void *data;
    size_t bytes; /* at most 1024 */
};

/* Keys of all grains of `tokens`: key i names tokens [0, 16 (i + 1)). A partial last grain gets a
 * key of its own. keys_out holds (token_count + 15) / 16 keys of 32 bytes. Extras are sorted by
 * position. parent: the key of the grain before (then tokens begin on a grain boundary and
 * positions count from there), or NULL for the beginning of a prompt.
 *
 *   root  = SHA-256("kveik/prefix/1")
 *   key_i = SHA-256(key_{i-1} | u16 tokens | u16 bytes of extras | u32 token... | extras)
 *   one extra = u32 position in the grain | u32 bytes | data     (all little-endian) */
KVEIK_API int kveik_hash_tokens(const uint8_t *parent, const uint32_t *tokens, size_t token_count,
                                const struct kveik_extra *extras, size_t extra_count,
                                uint8_t *keys_out);

/* The same with a reused context, for callers that hash often. One thread at a time. */
typedef struct kveik_hasher kveik_hasher;
KVEIK_API kveik_hasher *kveik_hasher_create(void);
KVEIK_API void kveik_hasher_destroy(kveik_hasher *hasher);
KVEIK_API int kveik_hasher_tokens(kveik_hasher *hasher, const uint8_t *parent,
                                  const uint32_t *tokens, size_t token_count,
                                  const struct kveik_extra *extras, size_t extra_count,
                                  uint8_t *keys_out);

/* ---- requests ------------------------------------------------------------------------------- */

/* Consecutive blocks of one sequence, to push. Blocks are named by the key of their last grain. */
struct kveik_push_run {
    uint32_t layout;
    uint32_t block_count;
    uint32_t block_tokens;     /* a multiple of 16, at most 4096 */
    uint32_t tail_tokens;      /* valid tokens of the last block; 0: full */
    const uint8_t *parent_key; /* key of the grain before; NULL: the run begins the prompt */
    const uint8_t *keys;       /* every grain's key: prefixes of a block can hit. Or one a block */
    uint32_t key_count;
    const uint32_t *tokens; /* ids of all valid tokens, or NULL */
    const uint32_t *pages;  /* pages that hold the tokens, in order */
    uint32_t page_count;
    uint32_t page_token; /* the first token's place in pages[0] */
};

struct kveik_push {
    size_t size;
    const struct kveik_push_run *runs;
    uint32_t run_count;
    uint32_t deadline_ms; /* 0: 10 s */
};
#define KVEIK_PUSH_INIT                                                                            \
    {                                                                                              \
        .size = sizeof(struct kveik_push)                                                          \
    }

/* A part of the model that an asker needs; none: all of it. */
struct kveik_want {
    uint32_t group;
    uint32_t layer_begin;
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
};

struct kveik_lookup {
    size_t size;
    uint32_t space;
    const uint8_t *keys; /* from the prompt's first grain on */
    uint32_t key_count;
    uint32_t key_tokens;  /* tokens from key to key: 16 (0 means 16), or the size of blocks: then
                             only blocks of at least that size are found */
    uint32_t tail_tokens; /* valid tokens of the last grain; 0: 16 */
    uint32_t step_tokens; /* cut the hit to a multiple of this (your page size); 0: no cut */
    const struct kveik_want *wants;
    uint32_t want_count;
    bool lease;   /* keep what was found readable until kveik_release() or the instance is gone */
    bool origins; /* also say which instances pushed it */
    uint32_t deadline_ms; /* 0: 1 s */
};
#define KVEIK_LOOKUP_INIT                                                                          \
    {                                                                                              \
        .size = sizeof(struct kveik_lookup)                                                        \
    }

struct kveik_pull_run {
    uint32_t layout;
    const uint8_t *keys; /* consecutive, as in the lookup */
    uint32_t key_count;
    uint32_t key_tokens;  /* 0: 16 */
    uint32_t tail_tokens; /* valid tokens of the last grain; 0: 16 */
    const uint32_t *pages;
    uint32_t page_count;
    uint32_t page_token;
};

struct kveik_pull {
    size_t size;
    const struct kveik_pull_run *runs;
    uint32_t run_count;
    uint32_t deadline_ms; /* after this you would rather compute; 0: 10 s */
    uint64_t lease;       /* of the lookup, or 0 */
    bool release_lease;   /* release it when the pull completes */
};
#define KVEIK_PULL_INIT                                                                            \
    {                                                                                              \
        .size = sizeof(struct kveik_pull)                                                          \
    }

/* Blocks that must outlive the daemon: they go to disk whatever the admission of their space, and
 * the request completes when their bytes and their entries are on stable storage. Statuses are one
 * a key: OK, MISS (not held for all layers and heads), E_BUSY (blocks of more than half
 * of the daemon's memory wait for the disk). The
 * whole is E_UNSUPPORTED without a disk tier, E_IO when some could not be written, E_DEADLINE when
 * the disk was too slow: they may be written yet. */
struct kveik_persist {
    size_t size;
    uint32_t space;
    const uint8_t *keys; /* as in a lookup */
    uint32_t key_count;
    uint32_t key_tokens;  /* 0: 16 */
    uint32_t tail_tokens; /* valid tokens of the last grain; 0: 16 */
    uint32_t deadline_ms; /* 0: 10 s */
};
#define KVEIK_PERSIST_INIT                                                                         \
    {                                                                                              \
        .size = sizeof(struct kveik_persist)                                                       \
    }

enum kveik_op_kind {
    KVEIK_OP_PUSH = 1,
    KVEIK_OP_LOOKUP = 2,
    KVEIK_OP_PULL = 3,
    KVEIK_OP_RELEASE = 4,
    KVEIK_OP_QUIESCE = 5,
    KVEIK_OP_PERSIST = 6
};

enum { KVEIK_ORIGINS_MAX = 16 };

struct kveik_origin {
    char instance[65];
    uint32_t keys;
};

/* What became of one request. */
struct kveik_completion {
    size_t size;
    uint64_t op;         /* the id that submit gave */
    void *user;          /* the pointer that submit got */
    uint32_t kind;       /* enum kveik_op_kind */
    int status;          /* of the whole: KVEIK_OK even when single blocks missed */
    uint64_t bytes;      /* payload moved */
    uint64_t latency_us; /* submit to completion */
    /* push: one status a block (OK, HELD, E_NO_SPACE, ...); pull: one a key (OK, MISS, ...).
     * Belongs to the library until kveik_completion_finish(). */
    const int8_t *statuses;
    uint32_t status_count;
    /* lookup */
    uint32_t hit_keys;
    uint32_t hit_tokens;
    uint64_t hit_bytes;
    uint64_t lease;       /* 0: none */
    uint64_t expected_us; /* what pulling the hit is expected to take */
    struct kveik_origin origins[KVEIK_ORIGINS_MAX];
    uint32_t origin_count;
    char text[256]; /* why, when status is an error */
};
#define KVEIK_COMPLETION_INIT                                                                      \
    {                                                                                              \
        .size = sizeof(struct kveik_completion)                                                    \
    }

/* Frees what the completion points to. Accepts a zeroed one. */
KVEIK_API void kveik_completion_finish(struct kveik_completion *completion);

/* Submit: sends at once, never waits. `user` comes back in the completion. op_out may be NULL.
 * KVEIK_E_BUSY: requests_max in flight. KVEIK_E_UNAVAILABLE: no daemon now. */
KVEIK_API int kveik_submit_push(kveik_client *client, const struct kveik_push *push, void *user,
                                uint64_t *op_out, struct kveik_error *error);
KVEIK_API int kveik_submit_lookup(kveik_client *client, const struct kveik_lookup *lookup,
                                  void *user, uint64_t *op_out, struct kveik_error *error);
KVEIK_API int kveik_submit_pull(kveik_client *client, const struct kveik_pull *pull, void *user,
                                uint64_t *op_out, struct kveik_error *error);
KVEIK_API int kveik_submit_persist(kveik_client *client, const struct kveik_persist *persist,
                                   void *user, uint64_t *op_out, struct kveik_error *error);
KVEIK_API int kveik_submit_release(kveik_client *client, uint64_t lease, void *user,
                                   uint64_t *op_out, struct kveik_error *error);
/* Completes once no copy touches these pages (pages NULL: the whole layout): not yet begun requests
 * on them are cancelled, begun ones end first. */
KVEIK_API int kveik_submit_quiesce(kveik_client *client, uint32_t layout, const uint32_t *pages,
                                   uint32_t page_count, void *user, uint64_t *op_out,
                                   struct kveik_error *error);

/* The next finished request that nobody waits for by id. KVEIK_OK, or KVEIK_PENDING if there is
 * none. Never blocks. Also does the library's work: reads answers, reconnects, runs deadlines. */
KVEIK_API int kveik_poll(kveik_client *client, struct kveik_completion *completion_out);

/* Waits for any request, or (op != 0) for that one. KVEIK_OK, KVEIK_PENDING when timeout_ms passed
 * first, KVEIK_E_UNKNOWN_ID. Several threads may wait at once. */
KVEIK_API int kveik_wait(kveik_client *client, uint64_t op, uint32_t timeout_ms,
                         struct kveik_completion *completion_out);

/* Asks the daemon to stop a request; it still completes, with KVEIK_E_CANCELLED or as it ended. */
KVEIK_API int kveik_cancel(kveik_client *client, uint64_t op);

/* A descriptor that is readable when kveik_poll() has something to do; the same for the client's
 * whole life, over reconnects. For epoll, poll, libuv, asyncio. Do not read or close it. */
KVEIK_API int kveik_event_fd(kveik_client *client);

/* Blocking conveniences: submit and wait. completion_out is filled on every way out and finished by
 * the caller; a request that could not be submitted has op 0, its status and the reason.
 * kveik_quiesce() returns KVEIK_E_STUCK when timeout_ms passed first. */
KVEIK_API int kveik_push(kveik_client *client, const struct kveik_push *push,
                         struct kveik_completion *completion_out);
KVEIK_API int kveik_lookup(kveik_client *client, const struct kveik_lookup *lookup,
                           struct kveik_completion *completion_out);
KVEIK_API int kveik_pull(kveik_client *client, const struct kveik_pull *pull,
                         struct kveik_completion *completion_out);
KVEIK_API int kveik_persist(kveik_client *client, const struct kveik_persist *persist,
                            struct kveik_completion *completion_out);
KVEIK_API int kveik_release(kveik_client *client, uint64_t lease);
KVEIK_API int kveik_quiesce(kveik_client *client, uint32_t layout, const uint32_t *pages,
                            uint32_t page_count, uint32_t timeout_ms);

/* The daemon's state as one JSON object (what `kveik status --json` prints). Freed by the caller
 * with kveik_text_free(). */
KVEIK_API int kveik_daemon_status(kveik_client *client, uint32_t timeout_ms, char **json_out,
                                  struct kveik_error *error);
KVEIK_API void kveik_text_free(char *text);

#ifdef __cplusplus
}
#endif

#endif
