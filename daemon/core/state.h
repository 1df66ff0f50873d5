/*
 * The core's inner state; only files of this folder see it.
 *
 * A part's life (one part = one representation of block x group x layers x heads in the CPU tier):
 *
 *      ABSENT --push admitted--> FILLING --copies done--> READY --evicted--> (ABSENT)
 *                                   |                       |
 *                                   +--- copy failed -------+--> (ABSENT), slot free at once:
 *                                                                a FILLING part fails only when no
 *                                                                copy touches it any more
 *
 * READY parts with references (leases, copies under way) are never evicted: only parts that nobody
 * refers to and that are not pinned are in the LRU lists, one list a shape, so that the oldest part
 * of a size, of a space or of all is found without walking past parts in use. A request's life:
 *
 *      (none) --push/pull admitted--> COPYING --EVENT_COPY_DONE--> (answered)
 *                                        |                             ^
 *                                        +--cancel, session closed--> DOOMED --EVENT_COPY_DONE--+
 */
#ifndef KVEIK_CORE_STATE_H
#define KVEIK_CORE_STATE_H

#include "base/assert.h"
#include "base/vm.h"
#include "daemon/core/core.h"
#include "daemon/core/keys.h"
#include "daemon/core/slab.h"
#include "daemon/core/slots.h"
#include "daemon/core/table.h"

enum { CORE_MAGIC = 0x4b636f72 };

/* X(name): part states; moves in part_move() */
#define PART_STATE_TABLE(X) X(ABSENT) X(FILLING) X(READY)

enum part_state {
#define X(name) PART_##name,
    PART_STATE_TABLE(X)
#undef X
};

enum request_state { REQUEST_NONE, REQUEST_COPYING, REQUEST_DOOMED };

enum { PART_PINNED = 1, PART_IN_LRU = 2 };

struct part {
    uint32_t block;
    uint32_t next;     /* of the same block */
    uint32_t slot;     /* in the class of its shape */
    uint32_t refs;     /* leases and copies */
    uint32_t lru_prev; /* of the shape, towards the least recently used */
    uint32_t lru_next;
    uint16_t shape;
    uint16_t origin; /* who pushed it */
    uint8_t state;   /* enum part_state */
    uint8_t flags;
    uint16_t unused;
    uint64_t tick; /* when it came into the LRU list: orders parts across shapes */
};

struct block {
    uint32_t keys; /* number of its first key */
    uint32_t parts;
    uint16_t space;
    uint8_t grains_less_one;
    uint8_t keys_less_one; /* all grains' keys, or one: the last grain's */
    uint8_t tail_tokens;   /* valid tokens of the last grain */
    uint8_t unused[3];
};

_Static_assert(sizeof(struct part) == 40, "parts count: 40 bytes each");
_Static_assert(sizeof(struct block) == 16, "blocks count: 16 bytes each");

/* Layers of a group and heads of a part, its size and class: shared by all parts of the kind. */
struct shape {
    uint32_t space;
    uint32_t group;
    uint32_t grains;
    uint32_t class;
    struct core_ranges ranges;
    uint64_t bytes;
    uint32_t parts;
    uint32_t sessions;
    uint32_t lru_old; /* the least recently used part that nobody refers to */
    uint32_t lru_new;
    uint32_t idle_parts; /* in the LRU list */
    uint32_t space_prev; /* shapes of the space */
    uint32_t space_next;
    uint32_t class_prev; /* shapes of the class */
    uint32_t class_next;
    bool used;
};

struct space {
    uint8_t id[CORE_KEY_BYTES];
    uint32_t tenant;
    uint32_t group_count;
    struct core_group groups[CORE_GROUPS_MAX];
    uint64_t quota_bytes;
    uint64_t used_bytes; /* slot bytes of its parts */
    uint32_t parts;
    uint32_t sessions;
    uint32_t shapes;
    uint32_t shape_first;
    uint32_t tenant_prev; /* spaces of the tenant */
    uint32_t tenant_next;
    bool used;
};

struct tenant {
    uint64_t used_bytes;
    uint64_t quota_bytes;
    uint32_t space_first;
    bool used;
};

/* Who pushed: kept as long as an instance or a part refers to it. */
struct origin {
    uint8_t id[CORE_INSTANCE_MAX];
    uint32_t id_bytes;
    uint32_t tenant;
    uint32_t refs;
};

struct instance {
    uint32_t origin;
    uint32_t tenant;
    uint32_t sessions;
    uint32_t leases; /* first of its leases */
    uint64_t lease_bytes;
    uint64_t lease_bytes_max;
    bool used;
};

/* A list of numbers in chunks: parts of a lease or request, handles of a session. */
enum { CHUNK_ITEMS = 30 };

struct chunk {
    uint32_t before; /* the chunk with earlier items */
    uint32_t count;
    uint32_t items[CHUNK_ITEMS];
};

struct list {
    uint32_t last; /* chunk */
    uint32_t count;
};

struct lease {
    uint64_t generation; /* with the slot number: the lease's id; never comes again */
    uint32_t instance;
    uint32_t prev; /* of the instance */
    uint32_t next;
    struct list parts;
    uint64_t bytes;
    bool used;
};

struct session {
    uint32_t instance;
    uint32_t requests; /* first of its requests */
    uint32_t request_count;
    struct list handles; /* spaces and, with HANDLE_SHAPE, shapes it registered */
    bool open;
    bool closing;
};

#define HANDLE_SHAPE 0x80000000u

struct request {
    enum request_state state;
    uint32_t session;
    uint32_t prev;
    uint32_t next;
    bool push;
    struct list parts;
    uint64_t release_lease; /* when the pull is done; 0: none */
    int doom;               /* status of a doomed request */
};

/* Arrays that actions point to, reset at every step. */
struct scratch {
    struct vm_array copies;
    uint32_t copy_count;
    struct vm_array statuses;
    uint32_t status_count;
    struct vm_array actions;
    uint32_t action_count;
    struct vm_array hits; /* uint32_t: parts found by a lookup, or held already in a push */
    uint32_t hit_count;
    struct vm_array ends;   /* uint32_t a key: hits up to and with this key */
    struct vm_array hashes; /* uint32_t a key */
    struct core_origin origins[CORE_ORIGINS_MAX];
};

struct core {
    uint32_t magic;
    struct core_limits limits;
    struct core_counters counters;
    struct keys keys;
    struct table table;
    struct slots blocks;
    struct slots parts;
    struct slots chunks;
    struct slabs slabs;
    struct vm_array sessions;
    struct vm_array requests;
    struct slots instances;
    struct slots origins;
    struct slots spaces;
    struct slots shapes;
    struct slots leases;
    struct vm_array tenants;
    uint64_t lease_generation;
    uint32_t session_count;
    uint32_t request_count;
    uint64_t tick;
    struct vm_array ages;    /* see lru.c */
    uint32_t age_leaves;     /* a power of two, at least shapes_max */
    uint32_t evictions_left; /* of this step: a lowered quota or watermark is reached in several */
    bool draining;           /* on the way from the high to the low watermark */
    uint64_t part_bytes;
    uint64_t slot_bytes;
    uint64_t leased_bytes;
    uint64_t pinned_bytes;
    struct scratch scratch;
};

/* A rectangle of layers and heads, and the part that gives it. */
struct cover_piece {
    uint32_t part;
    uint32_t grain; /* where the key's grain lies in the part's block */
    struct core_ranges ranges;
};

enum {
    COVER_PIECES_MAX = 64,
    STATUSES_MAX = 1 << 20, /* blocks of a push, keys of a lookup or pull */
    COPIES_MAX = 1 << 20,
};

struct cover {
    uint32_t count;
    struct cover_piece pieces[COVER_PIECES_MAX];
};

/* ---- accessors ------------------------------------------------------------------------------- */

static inline struct part *part_at(const struct core *core, uint32_t n)
{
    return (struct part *)core->parts.array.base + n;
}

static inline struct block *block_at(const struct core *core, uint32_t n)
{
    return (struct block *)core->blocks.array.base + n;
}

static inline struct shape *shape_at(const struct core *core, uint32_t n)
{
    return (struct shape *)core->shapes.array.base + n;
}

static inline struct space *space_at(const struct core *core, uint32_t n)
{
    return (struct space *)core->spaces.array.base + n;
}

static inline struct instance *instance_at(const struct core *core, uint32_t n)
{
    return (struct instance *)core->instances.array.base + n;
}

static inline struct origin *origin_at(const struct core *core, uint32_t n)
{
    return (struct origin *)core->origins.array.base + n;
}

static inline struct lease *lease_at(const struct core *core, uint32_t n)
{
    return (struct lease *)core->leases.array.base + n;
}

static inline struct session *session_at(const struct core *core, uint32_t n)
{
    KVEIK_ASSERT(n < core->limits.sessions_max);
    return (struct session *)core->sessions.base + n;
}

static inline struct request *request_at(const struct core *core, uint32_t n)
{
    KVEIK_ASSERT(n < core->limits.requests_max);
    return (struct request *)core->requests.base + n;
}

static inline struct tenant *tenant_at(const struct core *core, uint32_t n)
{
    KVEIK_ASSERT(n < core->limits.tenants_max);
    return (struct tenant *)core->tenants.base + n;
}

static inline uint64_t part_slot_bytes(const struct core *core, const struct part *part)
{
    return core->slabs.classes[shape_at(core, part->shape)->class].slot_bytes;
}

/* ---- list.c ---------------------------------------------------------------------------------- */

void list_init(struct list *list);
int list_add(struct core *core, struct list *list, uint32_t item);
void list_free(struct core *core, struct list *list);
bool list_has(const struct core *core, const struct list *list, uint32_t item);

/* Takes one `item` out; the order of the others may change. False when there is none. */
bool list_remove(struct core *core, struct list *list, uint32_t item);

/* Calls visit(core, item) for every item, the last added first: what a request used is let go from
 * its end, so that a prefix's beginning is the last to be evicted. */
void list_visit(struct core *core, const struct list *list,
                void (*visit)(struct core *core, uint32_t item));

/* ---- part.c: blocks, parts, the LRU lists ------------------------------------------------------
 */

uint32_t core_hash(const struct core *core, uint32_t space, const uint8_t *key);

/* A block with these keys in the index; NONE when a limit is reached. */
uint32_t block_create(struct core *core, uint32_t space, const uint8_t *keys, uint32_t key_count,
                      uint32_t grains, uint32_t tail_tokens);
void block_drop(struct core *core, uint32_t number);

/* A FILLING part in `slot`, with one reference; NONE when a limit is reached. */
uint32_t part_create(struct core *core, uint32_t block, uint32_t shape, uint32_t slot,
                     uint32_t origin);

/* Removes a part without references from everything, its block with it when it was the last. */
void part_drop(struct core *core, uint32_t number);

void part_ready(struct core *core, uint32_t number);
void part_ref(struct core *core, uint32_t number);
void part_unref(struct core *core, uint32_t number);
void part_pin(struct core *core, uint32_t number, bool on);

/* ---- lru.c ------------------------------------------------------------------------------------
 */

int lru_init(struct core *core);

/* The most recently used from now on. */
void lru_enter(struct core *core, uint32_t number);
void lru_leave(struct core *core, uint32_t number);

/* Used just now; parts that are referred to or pinned are in no list: nothing happens. */
void part_touch(struct core *core, uint32_t number);

/* The least recently used part; NONE when there is none to evict. */
uint32_t lru_oldest(struct core *core);
uint32_t lru_oldest_of_space(const struct core *core, uint32_t space);
uint32_t lru_oldest_of_tenant(const struct core *core, uint32_t tenant);
uint32_t lru_oldest_of_class(const struct core *core, uint32_t class);

/* ---- evict.c ----------------------------------------------------------------------------------
 */

/* A slot for a part of `shape`, evicting what must go. ST_OK, ST_NO_SPACE, ST_QUOTA. */
int space_make(struct core *core, uint32_t shape, uint32_t *slot_out);

/* Room for one more part, block and run of keys, evicting what must go. */
bool records_make(struct core *core, uint32_t key_count);

/* Towards the low watermark when above the high one. */
void evict_to_watermark(struct core *core);

/* Gives an empty slab back. */
void give_slab_back(struct core *core, uint32_t class, uint32_t slab);

/* Gives the slabs of sizes that no shape uses back, so that other sizes can have their class. */
void evict_unused_classes(struct core *core);

/* ---- find.c -----------------------------------------------------------------------------------
 */

/* The grains that end with the one named by `key`. */
struct asked {
    const uint8_t *key;
    uint32_t hash;
    uint32_t hint; /* 1 + number of a key that may be it, looked at first; 0: none */
    uint32_t space;
    uint32_t grains;      /* so many, the last one `key` */
    uint32_t tail_tokens; /* valid tokens of the last one */
    bool filling;         /* parts still being filled count too */
};

/* As find_cover(), for one guess: the key of this number, if it is a key at all, in a block whose
 * first part does it alone. False proves nothing. */
bool find_guess(const struct core *core, const struct asked *asked, const struct core_want *want,
                uint32_t number, struct cover *cover_out);

/* Parts that together hold what is asked for, for the wanted group and ranges. True and *cover_out
 * when they do. */
bool find_cover(const struct core *core, const struct asked *asked, const struct core_want *want,
                struct cover *cover_out);

/* The group exists and the ranges lie in it, not empty. */
bool want_valid(const struct core *core, uint32_t space, const struct core_want *want);

/* Counts from a client: sizes of grains and tail in bounds, and tokens that fit 32 bits. */
bool keys_valid(uint32_t key_count, uint32_t key_grains, uint32_t tail_tokens);

/* The block of as many grains and keys as `like` whose last grain is `key`, or NONE. */
uint32_t find_block(const struct core *core, const struct asked *asked, const struct block *like);

/* The way from a hash to a part, one cache miss each, to be gone ahead of time: bucket, key (its
 * number, or NONE: perhaps in the overflow bucket), block (its number, or NONE), part. Nothing
 * depends on what they find. */
void find_prefetch_bucket(const struct core *core, uint32_t hash);
uint32_t find_prefetch_key(const struct core *core, uint32_t hash);
uint32_t find_prefetch_overflow(const struct core *core, uint32_t hash);
uint32_t find_prefetch_block(const struct core *core, uint32_t key_number);
void find_prefetch_part(const struct core *core, uint32_t block);

/* Calls visit(core, part) for every part of every block that has the key. */
void find_each(struct core *core, const struct asked *asked,
               void (*visit)(struct core *core, uint32_t part));

/* `inner` is not empty and lies in `outer`; sums that wrap are outside. */
bool ranges_inside(const struct core_ranges *inner, const struct core_ranges *outer);

/* ---- steps, one file each ---------------------------------------------------------------------
 */

void step_session_open(struct core *core, const struct core_event *event);
void step_session_close(struct core *core, const struct core_event *event);
void step_space(struct core *core, const struct core_event *event);
void step_shape(struct core *core, const struct core_event *event);
void step_push(struct core *core, const struct core_event *event);
void step_lookup(struct core *core, const struct core_event *event);
void step_pull(struct core *core, const struct core_event *event);
void step_copy_done(struct core *core, const struct core_event *event);
void step_cancel(struct core *core, const struct core_event *event);
void step_release(struct core *core, const struct core_event *event);
void step_pin(struct core *core, const struct core_event *event);
void step_slab_failed(struct core *core, const struct core_event *event);
void step_tenant_quota(struct core *core, const struct core_event *event);
void step_shape_use(struct core *core, const struct core_event *event);
void step_shape_drop(struct core *core, const struct core_event *event);
void step_space_drop(struct core *core, const struct core_event *event);

/* ---- shared between them ----------------------------------------------------------------------
 */

/* A new action at the end of this step's list; zeroed but for its kind. */
struct core_action *action_add(struct core *core, enum core_action_kind kind);

/* ACTION_REPLY with status and text (constant, may be NULL). */
struct core_action *reply_add(struct core *core, uint32_t session, uint32_t request, int status,
                              const char *text);

struct core_copy *copy_add(struct core *core); /* NULL: out of memory */
int statuses_reserve(struct core *core, uint32_t count);
int8_t *statuses_at(struct core *core, uint32_t index);

/* Registers a request that copies; it holds the parts in `request->parts`. */
struct request *request_begin(struct core *core, const struct core_event *event, bool push);
void request_end(struct core *core, uint32_t number);

/* After the last request of a closing session. */
void session_finish(struct core *core, uint32_t number);

/* A lease on parts for the session's instance. ST_OK, ST_QUOTA, ST_LIMIT. */
int lease_create(struct core *core, uint32_t instance, const uint32_t *parts, uint32_t count,
                 uint64_t *id_out);
int lease_release(struct core *core, uint32_t instance, uint64_t id);
bool lease_known(const struct core *core, uint32_t instance, uint64_t id);
void lease_drop_all(struct core *core, uint32_t instance);

uint32_t origin_take(struct core *core, const uint8_t *id, uint32_t bytes, uint32_t tenant);
void origin_give(struct core *core, uint32_t number);

/* The tenant's record, usable from now on. */
struct tenant *tenant_use(struct core *core, uint32_t number);

void space_give_unused(struct core *core, uint32_t number);
void shape_give_unused(struct core *core, uint32_t number);

/* The space (the shape) exists, and the session registered it. */
bool session_has_space(const struct core *core, uint32_t session, uint32_t space);
bool session_has_shape(const struct core *core, uint32_t session, uint32_t shape);

/* Notes a handle of a session's. ST_OK, ST_LIMIT, ST_NO_MEMORY. */
int handle_add(struct core *core, uint32_t session, uint32_t handle);

/* Gives one of a session's handles back. */
void handle_give(struct core *core, uint32_t handle);

#endif
