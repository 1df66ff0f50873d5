/*
 * The core decides: what is where, who holds it, what to evict, what to copy. It is pure: no clock,
 * no I/O, no thread. Time, sizes and chance arrive in events; answers leave as actions; memory is
 * reserved when the core is created and committed step by step, so nothing ever rehashes or moves.
 *
 * The owner calls core_step() with one event at a time and carries out the actions in order. The
 * arrays that actions point to are the core's and valid until the next step.
 *
 * What the owner promises: session and request numbers are its own slot numbers, below the limits,
 * not reused before the core said so (ACTION_SESSION_CLOSED; a request ends with ACTION_REPLY).
 * Everything that comes from clients (keys, counts, ranges, leases) is checked here.
 *
 * … of its disk: it settles the places of ACTION_STOREs in their order, fresh parts and survivors
 * apart, and goes on to another segment only when it is done with the one before; the last free
 * segment is for survivors. Nothing arrives in a segment that it said was lost. At start the disk
 * is not writable (EVENT_DISK_STATE) until all that was found is restored.
 */
#ifndef KVEIK_CORE_H
#define KVEIK_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/layout.h"

enum {
    CORE_KEY_BYTES = 32,
    CORE_NONE_TENANT = 0, /* the default tenant */
    CORE_INSTANCE_MAX = 64,
    CORE_GROUPS_MAX = 16,
    CORE_ORIGINS_MAX = 16,
    CORE_CLASSES_MAX = 64,       /* different slot sizes in use at once */
    CORE_WANTS_MAX = 64,         /* of one lookup */
    CORE_HANDLES_MAX = 1024,     /* spaces and shapes of one session */
    CORE_PARTS_A_GRAIN_MAX = 32, /* parts of one group that may be put together for one grain */
};

enum core_rule { CORE_EVERY = 1, CORE_WINDOW = 2, CORE_STATE = 3 };

/* When parts of a space go to disk. */
enum core_admission {
    CORE_ADMIT_DEFAULT = 0,    /* as the limits say */
    CORE_ADMIT_AT_ONCE = 1,    /* as soon as they were pushed */
    CORE_ADMIT_SECOND_USE = 2, /* when they are used again */
    CORE_ADMIT_EVICTION = 3,   /* before they leave the CPU tier */
    CORE_ADMIT_NEVER = 4,
};

/* The disk tier; all zero: there is none. */
struct core_disk_limits {
    uint32_t segments_max;    /* numbers that segments may have: 0 .. segments_max - 1, <= 65535 */
    uint32_t stores_max;      /* writes in flight, moves between segments too */
    uint32_t loads_max;       /* reads in flight */
    uint32_t queue_max;       /* parts waiting to be written; more are not, and counted */
    uint64_t store_bytes_max; /* payload of writes in flight */
    uint64_t load_bytes_max;  /* payload of reads that lookups begin ahead of pulls */
    uint32_t admission;       /* enum core_admission, of spaces that do not say */
};

struct core_limits {
    uint64_t pool_bytes;    /* multiple of granule_bytes: most memory in slabs at once */
    uint64_t granule_bytes; /* slabs are multiples of this */
    uint64_t keys_max;      /* grain keys in the index */
    uint32_t blocks_max;
    uint32_t parts_max;
    uint32_t sessions_max;
    uint32_t requests_max;
    uint32_t instances_max;
    uint32_t spaces_max;
    uint32_t shapes_max;
    uint32_t leases_max;
    uint32_t tenants_max;
    uint64_t instance_lease_bytes_max; /* leased at once by one instance */
    uint32_t high_percent; /* eviction begins above this share of pool_bytes in parts … */
    uint32_t low_percent;  /* … and goes down to this; 100, 100: only when space is asked for */
    uint64_t hash_seed;    /* random: keys come from clients */
    uint32_t verifies_max; /* parts found in memory that are verified at once; 0: none are taken */
    struct core_disk_limits disk;
};

struct core_ranges {
    uint32_t layer_begin;
    uint32_t layer_count;
    uint32_t head_begin;
    uint32_t head_count;
};

struct core_group {
    uint32_t rule; /* enum core_rule */
    uint32_t window_tokens;
    uint32_t layer_count;
    uint32_t head_count;
};

/* ---- events ---------------------------------------------------------------------------------- */

enum core_event_kind {
    EVENT_SESSION_OPEN,
    EVENT_SESSION_CLOSE,
    EVENT_SPACE,
    EVENT_SHAPE,
    EVENT_PUSH,
    EVENT_LOOKUP,
    EVENT_PULL,
    EVENT_COPY_DONE,
    EVENT_CANCEL,
    EVENT_RELEASE,
    EVENT_PIN,
    EVENT_SLAB_FAILED,
    EVENT_TENANT_QUOTA,
    EVENT_SHAPE_USE,  /* u.handle: the session uses a shape that exists; answered ACTION_SHAPE */
    EVENT_SHAPE_DROP, /* u.handle: … and no longer; answered ACTION_SHAPE */
    EVENT_SPACE_DROP, /* u.handle: … a space no longer; answered ACTION_SPACE */
    EVENT_PERSIST,    /* answered when the named blocks are durable; ACTION_WAIT until then */
    EVENT_RESTORE,    /* a part found on disk, or in memory, at start; answered ACTION_RESTORED */
    EVENT_STORE_DONE,
    EVENT_LOAD_DONE,
    EVENT_COMMITTED,
    EVENT_SEGMENT_LOST,
    EVENT_DISK_STATE,
    EVENT_RESTORE_SLAB, /* a slab that a planned restart kept; before all else, answered
                           ACTION_RESTORED with what memory it is */
    EVENT_RESTORE_END,  /* no slab and no part in memory comes any more: what is in none is free */
    EVENT_VERIFY,       /* begin to verify so many parts that were found in memory */
};

struct core_push_run {
    uint32_t shape;
    const uint8_t *keys; /* of every grain, or of every block's last */
    uint32_t key_count;
    uint32_t block_count;
    uint32_t tail_tokens;  /* valid tokens of the last block, >= 1 */
    const uint8_t *parent; /* key of the grain before the run; NULL: not known, or the root */
};

/* Where a part lies on disk. */
struct core_place {
    uint32_t segment;
    uint32_t offset; /* in units of the owner's */
};

struct core_want {
    uint32_t group;
    struct core_ranges ranges;
};

struct core_pull_run {
    struct core_want want;
    const uint8_t *keys;
    uint32_t key_count;
    uint32_t key_grains;
    uint32_t tail_tokens; /* valid tokens of the last grain */
};

struct core_event {
    enum core_event_kind kind;
    uint32_t session;
    uint32_t request; /* slot number of the owner's request table */
    union {
        struct {
            const uint8_t *instance_id;
            uint32_t instance_id_bytes;
            uint32_t tenant;
            uint64_t lease_bytes_max; /* 0: the limit */
        } session_open;
        struct {
            const uint8_t *id; /* 32 bytes: the space's, already mixed with the tenant's salt */
            uint32_t group_count;
            const struct core_group *groups;
            uint64_t quota_bytes;
            uint32_t admission; /* enum core_admission */
        } space;
        struct {
            uint32_t space;
            uint32_t group;
            uint32_t grains; /* of a block */
            struct core_ranges ranges;
            uint64_t bytes; /* of a part */
        } shape;
        struct {
            uint32_t space;
            const struct core_push_run *runs;
            uint32_t run_count;
        } push;
        struct {
            uint32_t space;
            const uint8_t *keys;
            uint32_t key_count;
            uint32_t key_grains;
            uint32_t tail_tokens;
            uint32_t step_grains;          /* hits are multiples of this; 0, 1: of a key */
            const struct core_want *wants; /* none: all of every group */
            uint32_t want_count;
            bool lease;
            bool origins;
        } lookup;
        struct {
            uint32_t space;
            const struct core_pull_run *runs;
            uint32_t run_count;
            uint64_t lease; /* 0: none; one that the instance does not hold: ST_UNKNOWN_ID */
            bool release_lease;
        } pull;
        struct {
            int status; /* of the copies of `request`; only OK makes pushed parts readable */
        } copy_done;
        struct {
            uint64_t lease;
        } release;
        struct {
            uint32_t space;
            const uint8_t *keys;
            uint32_t key_count;
            bool on;
        } pin;
        struct {
            /* as in ACTION_COMMIT. Nothing more is put there; ACTION_DECOMMIT follows when the
             * last part is gone, at once when none is there; it cancels a commit that failed */
            uint64_t offset;
        } slab_failed;
        struct {
            uint32_t tenant;
            uint64_t bytes;      /* in the CPU tier; 0: none */
            uint64_t disk_bytes; /* on disk; 0: none */
        } tenant_quota;
        struct {
            int status; /* a persist ends with it; copies end as they end */
        } cancel;
        struct {
            uint32_t space;
            const uint8_t *keys;
            uint32_t key_count;
            uint32_t key_grains;
            uint32_t tail_tokens;
        } persist;
        struct {
            uint32_t shape;
            const uint8_t *keys; /* of every grain, or of the last */
            uint32_t key_count;
            uint32_t grains;
            uint32_t tail_tokens;  /* valid tokens of the last grain */
            const uint8_t *parent; /* may be NULL */
            const uint8_t *origin;
            uint32_t origin_bytes;
            bool in_memory; /* at `offset`, in a restored slab; else on disk at `place`. A part that
                               was found on disk before is in memory, too, then */
            uint64_t offset;
            struct core_place place;
            uint64_t seal;
        } restore;
        struct {
            uint64_t slot_bytes;
            uint64_t offset;
        } restore_slab;
        struct {
            bool forget; /* what was found in memory is not to be believed after all */
        } restore_end;
        struct {
            uint32_t count;
        } verify;
        struct {
            uint32_t store;
            int status; /* OK: it can be read from `place` */
            struct core_place place;
            uint64_t seal;
            uint32_t epoch; /* durable once this is committed */
        } store_done;
        struct {
            uint32_t load;
            int status; /* OK; CORRUPT, IO: the part is given up; else it stays on disk. Verified in
                           place: OK; CORRUPT: its memory is given up; else it is verified later */
        } load_done;
        struct {
            uint32_t epoch;
        } committed;
        struct {
            uint32_t segment; /* nothing in it counts any more; answered ACTION_SEGMENT_FREE */
        } segment_lost;
        struct {
            uint32_t segments_max; /* segments that there is room for */
            bool readable;         /* false: what is on disk only is not found */
            bool writable;         /* false: nothing is written or freed; what waits, waits */
        } disk_state;
        struct {
            uint32_t handle;
        } handle;
    } u;
};

/* ---- actions --------------------------------------------------------------------------------- */

enum core_action_kind {
    ACTION_SESSION_OPENED, /* status */
    ACTION_SESSION_CLOSED, /* everything the session had is gone; its number is free */
    ACTION_SPACE,          /* status, handle */
    ACTION_SHAPE,          /* status, handle */
    ACTION_SHAPE_FREED,    /* handle: no part and no session uses the shape any more */
    ACTION_COMMIT,         /* make slab memory usable, before anything is copied there */
    ACTION_DECOMMIT,       /* give slab memory back; nothing touches it any more */
    ACTION_COPY,           /* carry out copies, then send EVENT_COPY_DONE */
    ACTION_CANCEL_COPY,    /* hurry: the request's copies are not wanted any more */
    ACTION_REPLY,          /* the request is answered and its number is free */
    ACTION_WAIT,           /* the request (persist) waits; statuses are its keys' so far */
    ACTION_RESTORED,       /* status: OK, or why the entry is not wanted */
    ACTION_STORE,          /* write or move a part, then send EVENT_STORE_DONE */
    ACTION_LOAD,           /* read a part, or verify it in place, then send EVENT_LOAD_DONE */
    ACTION_FORGET,         /* the part at `place` is not wanted any more */
    ACTION_SEGMENT_FREE,   /* handle: the segment; nothing in it is wanted or in use */
    ACTION_SYNC,           /* someone waits for what was written: commit soon */
};

/* One part to fill or to read. */
struct core_copy {
    uint32_t run;
    uint32_t shape;
    uint64_t offset;     /* of the part in the pool */
    uint32_t run_token;  /* first token, counted in the run */
    uint32_t part_token; /* first token, counted in the part */
    uint32_t tokens;
    struct core_ranges ranges; /* layers and heads to copy */
    uint32_t load;             /* not before this load has ended well; CORE_NO_LOAD: at once */
};

#define CORE_NO_LOAD UINT32_MAX

/* What goes to disk with a part. Pointers are the core's, valid until the next step. */
struct core_stored {
    const uint8_t *keys;
    uint32_t key_count;
    uint32_t grains;
    uint32_t tail_tokens;
    const uint8_t *parent;
    const uint8_t *origin;
    uint32_t origin_bytes;
    bool move;     /* from `place`, not from memory */
    bool survivor; /* it was on disk already */
};

struct core_origin {
    uint8_t instance_id[CORE_INSTANCE_MAX];
    uint32_t instance_id_bytes;
    uint32_t keys;
};

struct core_action {
    enum core_action_kind kind;
    uint32_t session;
    uint32_t request;
    int status;
    uint32_t handle;
    uint64_t offset; /* commit, decommit; store, load: of the part in the pool */
    uint64_t bytes;
    uint32_t job;                     /* store, load: its number */
    struct core_place place;          /* load, forget; store: when it is moved */
    bool verify;                      /* load: its bytes lie at `offset` already, and have `seal` if
                                         they are good; no disk is involved */
    uint64_t seal;                    /* load; store: when it is moved */
    const struct core_stored *stored; /* store; handle is the shape */
    const uint8_t *key;               /* load: the last of the part's block, for logs */
    /* copy (push: a status a block, pull: a status a key), reply without copies likewise */
    const struct core_copy *copies;
    uint32_t copy_count;
    const int8_t *statuses;
    uint32_t status_count;
    /* reply to a lookup */
    uint32_t hit_keys;
    uint32_t hit_tokens;
    uint64_t hit_bytes;
    uint64_t hit_disk_bytes; /* of these, on disk only so far */
    uint64_t lease;
    const struct core_origin *origins;
    uint32_t origin_count;
    const char *text; /* constant; why, when status is an error */
};

struct core_actions {
    const struct core_action *items;
    uint32_t count;
};

/* ---- numbers --------------------------------------------------------------------------------- */

/* X(name, help): counters, ever growing */
#define CORE_COUNTER_TABLE(X)                                                                      \
    X(lookups, "lookups answered")                                                                 \
    X(lookup_keys, "keys asked for in lookups")                                                    \
    X(lookup_hit_keys, "leading keys found")                                                       \
    X(pushes, "pushes answered")                                                                   \
    X(push_blocks, "blocks pushed and stored")                                                     \
    X(push_held, "blocks pushed that were already held")                                           \
    X(push_refused, "blocks refused for want of space or quota")                                   \
    X(push_failed, "blocks whose copy failed or was cancelled")                                    \
    X(pulls, "pulls answered")                                                                     \
    X(pull_keys, "keys pulled")                                                                    \
    X(pull_missed_keys, "keys pulled for that were not held")                                      \
    X(evicted_space, "parts evicted to make space")                                                \
    X(evicted_quota, "parts evicted to keep a quota")                                              \
    X(evicted_watermark, "parts evicted to get below the watermark")                               \
    X(evicted_slab, "parts evicted to hand a slab to another size")                                \
    X(slabs_committed, "slabs taken from the system")                                              \
    X(slabs_decommitted, "slabs given back to the system")                                         \
    X(demoted, "parts that left the CPU tier and stay on disk")                                    \
    X(stored, "parts written to disk")                                                             \
    X(store_dropped, "parts not written: too many were waiting, or they left before their turn")   \
    X(store_quota, "parts not written: the tenant's disk quota is used up")                        \
    X(store_failed, "parts whose write failed")                                                    \
    X(persist_busy, "keys not persisted: too much waited for the disk")                            \
    X(moved, "parts moved out of a segment before it was freed")                                   \
    X(reclaimed_segments, "segments freed to make room")                                           \
    X(reclaimed_parts, "parts that went with their segment")                                       \
    X(lost_parts, "parts that went with a segment that was lost")                                  \
    X(loads, "parts read from disk")                                                               \
    X(load_ahead, "of these, begun by a lookup")                                                   \
    X(load_corrupt, "parts given up: their bytes did not fit their checksum")                      \
    X(load_failed, "parts given up or not read: the disk failed")                                  \
    X(load_refused, "keys missed: no space or no place to read them to")                           \
    X(restored, "parts found on disk at start")                                                    \
    X(reattached, "parts found in memory at start")                                                \
    X(verified, "of these, found to have their checksum")                                          \
    X(verify_corrupt, "of these, given up: their bytes did not fit their checksum")

struct core_counters {
#define X(name, help) uint64_t name;
    CORE_COUNTER_TABLE(X)
#undef X
};

struct core_gauges {
    uint32_t sessions;
    uint32_t instances;
    uint32_t spaces;
    uint32_t shapes;
    uint32_t blocks;
    uint32_t parts;
    uint32_t leases;
    uint32_t requests;
    uint64_t keys;
    uint64_t part_bytes;   /* payload of all parts */
    uint64_t slot_bytes;   /* what they take in slabs */
    uint64_t slab_bytes;   /* committed */
    uint64_t leased_bytes; /* a part leased twice counts twice */
    uint64_t pinned_bytes;
    uint32_t disk_parts;       /* parts on disk, whether in memory too or not */
    uint32_t stored_parts;     /* of these, on disk only */
    uint64_t disk_bytes;       /* payload of parts on disk */
    uint32_t segments;         /* in use */
    uint32_t stores;           /* in flight */
    uint32_t loads;            /* in flight */
    uint32_t queued;           /* waiting to be written */
    uint32_t unverified;       /* found in memory at start and not verified yet */
    uint32_t verifies;         /* of the loads: in place */
    uint64_t index_bytes;      /* memory committed for the index */
    uint64_t index_live_bytes; /* of it in use: keys, blocks, parts, table, slots */
};

struct core_tenant {
    uint64_t used_bytes;
    uint64_t quota_bytes;
    uint64_t disk_bytes;
    uint64_t disk_quota_bytes;
};

/* ---- the interface --------------------------------------------------------------------------- */

struct core;

/* ST_OK; ST_INVALID with the limit in words; ST_NO_MEMORY. */
int core_create(const struct core_limits *limits, struct core **core_out, struct error *error);

/* Accepts NULL. */
void core_destroy(struct core *core);

void core_step(struct core *core, const struct core_event *event, struct core_actions *actions_out);

void core_counters(const struct core *core, struct core_counters *counters_out);
void core_gauges(const struct core *core, struct core_gauges *gauges_out);

/* false: no such tenant yet. */
bool core_tenant(const struct core *core, uint32_t tenant, struct core_tenant *tenant_out);

/* ---- what a planned restart keeps: pointers are valid during the call ---- */

struct core_kept_slab {
    uint64_t slot_bytes;
    uint64_t offset;
    uint64_t bytes;
};

struct core_kept_part {
    uint32_t shape;
    uint32_t space;
    const uint8_t *keys;
    uint32_t key_count;
    uint32_t grains;
    uint32_t tail_tokens;
    const uint8_t *parent; /* NULL: not kept */
    const uint8_t *origin;
    uint32_t origin_bytes;
    uint64_t offset;
    uint64_t bytes;
    bool sealed; /* `seal` is known: the part is on disk, or is unverified still */
    uint64_t seal;
};

/* Return false to end the walk, with ST_CANCELLED. */
typedef bool (*core_slab_cb)(void *ctx, const struct core_kept_slab *slab);
typedef bool (*core_part_cb)(void *ctx, const struct core_kept_part *part);

/* Slabs with parts in them, by ascending offset. ST_OK, ST_CANCELLED. */
int core_each_slab(const struct core *core, core_slab_cb visit, void *ctx);

/* Parts whose bytes are all in memory, by their last use, oldest first; pinned ones come last.
 * ST_OK, ST_CANCELLED, ST_NO_MEMORY. */
int core_each_part(const struct core *core, core_part_cb visit, void *ctx);

/* What a part of so many bytes takes in the pool: no other part lies in these. */
uint64_t core_room_bytes(uint64_t part_bytes);

/* Address space that slab offsets may reach: reserve this much. */
uint64_t core_reserve_bytes(const struct core_limits *limits);

/* Walks everything and asserts every invariant: leases and copies equal the references of parts,
 * slots used + free = total, bytes by tenant and space add up, every table entry leads to its key.
 * Slow; for tests and the simulator. */
void core_check(const struct core *core);

#endif
