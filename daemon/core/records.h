/*
 * The core's records; only files of this folder see them. What is done with them: state.h.
 *
 * A part's life (one part = one representation of block x group x layers x heads):
 *
 *      ABSENT --push admitted--> FILLING --copies done--> READY --evicted--> (ABSENT)
 *        |                          |                     |   ^
 *        |                          +--- copy failed      |   +--- read well ---------+
 *        |                               --> (ABSENT)     |                           |
 *        |                                                +--evicted, on disk--> STORED --wanted--+
 *        +--restored at start------------------------------------------------------^  |           |
 *                                                                  not read now    |  |           v
 *        (ABSENT) <--last let go-- FAILED <--bytes damaged or lost-----------------+--+------
 * LOADING
 *
 * A FILLING part fails only when no copy touches it any more; a LOADING one when no read does.
 * FILLING, LOADING, READY and UNVERIFIED parts have a slot. A part that a planned restart found in
 * memory is UNVERIFIED: as good as READY to lookups, idle or leased or evicted like it, but nobody
 * sees its bytes before they were compared with their checksum:
 *
 *      (ABSENT, STORED) --found in memory--> UNVERIFIED --wanted--> LOADING --good--> READY
 *                                                                      |
 *                                          STORED, or FAILED <--bad----+
 *
 * That LOADING (PART_VERIFYING) reads memory and no disk. Whether a part is on disk is a flag
 * beside its state: READY and LOADING parts are in memory and may be on disk, STORED ones are on
 * disk only. Writing back (PART_WRITING) is a reference like a lease: what is written is not
 * evicted meanwhile.
 *
 * READY parts with references (leases, copies under way) are never evicted: only parts that nobody
 * refers to and that are not pinned are in the LRU lists, one list a shape, so that the oldest part
 * of a size, of a space or of all is found without walking past parts in use. A request's life:
 *
 *      (none) --push/pull admitted--> COPYING --EVENT_COPY_DONE--> (answered)
 *                                        |                             ^
 *                                        +--cancel, session closed--> DOOMED --EVENT_COPY_DONE--+
 */
#ifndef KVEIK_CORE_RECORDS_H
#define KVEIK_CORE_RECORDS_H

#include "base/assert.h"
#include "base/vm.h"
#include "daemon/core/core.h"
#include "daemon/core/keys.h"
#include "daemon/core/slab.h"
#include "daemon/core/slots.h"
#include "daemon/core/table.h"

enum { CORE_MAGIC = 0x4b636f72 };

/* X(name): part states; moves in part_move() */
#define PART_STATE_TABLE(X)                                                                        \
    X(ABSENT) X(FILLING) X(READY) X(STORED) X(LOADING) X(FAILED) X(UNVERIFIED)

enum part_state {
#define X(name) PART_##name,
    PART_STATE_TABLE(X)
#undef X
};

enum request_state { REQUEST_NONE, REQUEST_COPYING, REQUEST_DOOMED, REQUEST_PERSISTING };

enum {
    PART_PINNED = 1,
    PART_IN_LRU = 2,       /* READY: of its shape's list; STORED: of the core's */
    PART_ON_DISK = 4,      /* disk_part_at() says where */
    PART_WRITING = 8,      /* a store is under way */
    PART_QUEUED = 16,      /* … or will be, when its turn comes */
    PART_QUEUE_LATER = 64, /* VERIFYING: to be queued when it is found good */
    PART_VERIFYING = 32,   /* LOADING: its bytes are in the slot and are compared with its seal */
};

struct part {
    uint32_t block;
    uint32_t next;     /* of the same block */
    uint32_t slot;     /* in the class of its shape */
    uint32_t refs;     /* leases and copies */
    uint32_t lru_prev; /* of its list, towards the least recently used */
    uint32_t lru_next; /* LOADING: the number of its load */
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

/* Beside a part that is on disk: the array is as long as the parts', touched only with a disk. */
struct disk_part {
    uint64_t seal_segment; /* 48 bits of checksum above the segment's number */
    uint32_t offset;
    uint32_t prev; /* of the segment */
    uint32_t next;
    uint32_t epoch; /* durable once this is committed */
};

_Static_assert(sizeof(struct disk_part) == 24, "parts on disk count: 24 bytes more each");

/* A segment of the disk tier, by the owner's number:
 *
 *      FREE --a part was written there--> IN_USE --chosen--> RECLAIMING --empty, no reads--> FREE
 *                                            +-----lost-----> LOST --no reads, no moves-----> FREE
 */
enum segment_state { SEGMENT_FREE, SEGMENT_IN_USE, SEGMENT_RECLAIMING, SEGMENT_LOST };

struct segment {
    uint64_t live_bytes; /* payload of its parts */
    uint32_t part_first;
    uint32_t parts;
    uint32_t busy;   /* loads and moves that read it */
    uint64_t closed; /* writes up to this number may still be on their way to it */
    uint8_t state;
};

/* A part's write under way. */
struct store {
    uint64_t sequence; /* writes are numbered from 1 */
    uint32_t part;
    uint32_t source; /* segment that a move reads; NONE: from memory */
    bool move;       /* it is on disk already */
    bool evict;      /* leave the CPU tier when it is written */
    bool used;
};

/* A part's read under way, or its verification. */
struct load {
    uint32_t part;
    uint32_t segment; /* NONE: verified in place */
    bool used;
    bool wanted;    /* by someone since it began: it counts as used when it ends */
    uint32_t after; /* verified: the part before it in its LRU list, */
    uint64_t tick;  /* and its own tick there; 0: it was in none */
};

struct disk {
    struct core_disk_limits limits;
    bool on;
    bool readable;
    bool writable;
    bool full;             /* fresh parts found no segment: they wait until one is freed */
    uint32_t segments_max; /* room now */
    uint32_t segments_used;
    uint64_t segment_bytes; /* most that was in one: what a segment holds, as far as seen */
    uint32_t open[2];       /* segments that fresh parts and survivors were last written to; NONE */
    uint64_t open_sequence[2]; /* … by this write */
    uint32_t victim;           /* being reclaimed; NONE */
    uint32_t moves;            /* under way */
    uint64_t sequence;         /* of the write begun last */
    uint64_t move_credit;      /* bytes that may be moved for being hot */
    uint64_t hot_tick;         /* parts used since then are moved from the victim */
    uint64_t old_tick;         /* hardly any part was used last before */
    uint64_t chance;           /* of the sampling */
    uint32_t committed;        /* epoch */
    uint32_t parts;            /* on disk */
    uint32_t stored;           /* on disk only */
    uint64_t bytes;            /* payload of parts on disk */
    uint64_t store_bytes;      /* in flight */
    uint64_t leaving_bytes;    /* slots of parts that leave the CPU tier when they are written */
    uint64_t persist_bytes;    /* of parts that persisting requests refer to */
    uint64_t load_bytes;       /* without what is verified in place */
    uint32_t verifies;         /* of the loads */
    struct slots stores;
    struct slots loads;
    struct vm_array disk_parts; /* struct disk_part by part */
    struct vm_array segments;   /* struct segment */
    struct vm_array parents;    /* CORE_KEY_BYTES by block: cold, written once, read when stored */
    struct vm_array queue;      /* uint32_t parts, a ring */
    uint32_t queue_first;
    uint32_t queue_count;
    uint32_t stored_old; /* list of STORED parts that nobody refers to */
    uint32_t stored_new;
    uint32_t persisting;       /* list of requests */
    uint32_t eviction_spaces;  /* spaces whose parts are written before they are evicted */
    struct vm_array described; /* struct core_stored: of this step's ACTION_STOREs */
    uint32_t described_count;
};

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
    uint32_t admission;  /* enum core_admission, never DEFAULT */
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
    uint64_t disk_bytes;    /* payload of its parts on disk */
    uint64_t writing_bytes; /* of parts on their way there */
    uint64_t disk_quota_bytes;
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
    uint32_t persist_prev;  /* of requests that wait for the disk */
    uint32_t persist_next;
    bool persist_failed; /* a part of it could not be written */
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
    struct disk disk;
    struct vm_array seals; /* uint64_t by part: of UNVERIFIED and VERIFYING ones */
    uint32_t unverified;   /* parts that are not verified yet, or are just now */
    uint32_t verify_next;  /* parts below it were looked at by EVENT_VERIFY */
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

static inline struct disk_part *disk_part_at(const struct core *core, uint32_t n)
{
    return (struct disk_part *)core->disk.disk_parts.base + n;
}

static inline struct segment *segment_at(const struct core *core, uint32_t n)
{
    KVEIK_ASSERT(n < core->disk.limits.segments_max);
    return (struct segment *)core->disk.segments.base + n;
}

static inline uint32_t disk_segment(const struct disk_part *part)
{
    return (uint32_t)(part->seal_segment & 0xffffu);
}

static inline uint64_t disk_seal(const struct disk_part *part)
{
    return part->seal_segment >> 16;
}

static inline bool part_on_disk(const struct part *part)
{
    return (part->flags & PART_ON_DISK) != 0;
}

static inline bool part_has_slot(const struct part *part)
{
    return part->state == PART_FILLING || part->state == PART_READY ||
           part->state == PART_LOADING || part->state == PART_UNVERIFIED;
}

static inline bool part_verifying(const struct part *part)
{
    return (part->flags & PART_VERIFYING) != 0;
}

/* In memory, whether verified or not, and in no one's hands: it can be in its shape's LRU list. */
static inline bool part_resident(const struct part *part)
{
    return part->state == PART_READY || part->state == PART_UNVERIFIED;
}

/* Whether a pull has to begin a load first. */
static inline bool part_needs_load(const struct part *part)
{
    return part->state == PART_STORED || part->state == PART_UNVERIFIED;
}

/* Whether a lookup or pull may count on it. */
static inline bool part_readable(const struct core *core, const struct part *part)
{
    return part_resident(part) || part_verifying(part) ||
           ((part->state == PART_STORED || part->state == PART_LOADING) && core->disk.readable);
}

static inline uint64_t part_slot_bytes(const struct core *core, const struct part *part)
{
    return core->slabs.classes[shape_at(core, part->shape)->class].slot_bytes;
}

#endif
