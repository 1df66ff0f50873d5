/*
 * A seeded simulation of the core: random histories of many sessions against a plain model.
 *
 * The model (sim_model.c) knows prompts as paths in a tree of grains and keeps a record for every
 * part that it saw pushed; what is held, and how long a hit is, it works out cell by cell from the
 * words of the design. The pool (sim_pool.c) is real memory in which every layer, head and grain of
 * a part has a cell: written when a push's copies end well, compared when a pull's do. The world
 * (sim_world.c, sim_ops.c) makes the events and carries out the actions.
 */
#ifndef KVEIK_TESTS_SIM_H
#define KVEIK_TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/rng.h"
#include "daemon/core/state.h"

enum {
    SIM_SESSIONS = 16,
    SIM_REQUESTS = 40,
    SIM_INSTANCES = 6,
    SIM_TENANTS = 3,
    SIM_KINDS = 3,
    SIM_SPACES = SIM_TENANTS * SIM_KINDS,
    SIM_NODES = 700,
    SIM_DEPTH_MAX = 100,
    SIM_RECORDS = 9000,
    SIM_SHAPES = 256,
    SIM_LEASES = 48,
    SIM_PINS = 6,
    SIM_GROUPS = 2,
    SIM_LAYERS = 4,
    SIM_HEADS = 4,
    SIM_RUNS = 4,
    SIM_CELL_BYTES = 8,
    SIM_UNIT_BYTES = 512, /* slots are multiples of this */
};

#define SIM_CHECK(condition)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            sim_fail(__FILE__, __LINE__, #condition);                                              \
        }                                                                                          \
    } while (0)

_Noreturn void sim_fail(const char *file, int line, const char *condition);

struct sim_disk_config {
    uint32_t segments; /* 0: no disk */
    uint32_t segment_bytes;
    uint32_t stores;
    uint32_t loads;
    uint32_t queue;
    uint32_t store_bytes;
    uint32_t load_bytes;
    uint32_t admission;
    bool faults;
};

struct sim_config {
    const char *name;
    uint64_t pool_bytes;
    uint64_t granule_bytes;
    uint32_t kinds;   /* of spaces, from the first */
    uint32_t tenants; /* in use */
    bool ranks;       /* tensor and pipeline splits */
    bool sizes;       /* blocks of 1, 8 and 32 grains */
    bool faults;      /* slabs that cannot be had */
    bool quotas;
    bool pins;
    bool leases;
    uint32_t high_percent;
    uint32_t low_percent;
    uint32_t keys_max;
    uint32_t blocks_max;
    uint32_t parts_max;
    uint64_t lease_bytes_max;
    uint32_t history; /* operations of one history */
    struct sim_disk_config disk;
};

/* A grain of some prompt: a node of the prompt tree. */
struct sim_node {
    uint32_t parent; /* NONE: the first grain */
    uint32_t depth;  /* grains from the root to here, this one included */
    uint32_t tokens; /* valid */
    uint8_t key[CORE_KEY_BYTES];
};

struct sim_shape {
    bool used;
    uint32_t handle;
    uint32_t space;
    uint32_t group;
    uint32_t grains;
    struct core_ranges ranges;
    uint64_t bytes;
};

/* One part that the core holds. */
struct sim_record {
    bool used;
    bool ready;
    bool all_keys;
    bool fresh; /* of the step under way */
    uint32_t space;
    uint32_t group;
    uint32_t shape; /* in sim.shapes */
    uint32_t part;  /* the core's number */
    uint32_t last;  /* node */
    uint32_t grains;
    uint32_t readers;
    uint32_t cells; /* layers and heads, a bit each */
    uint64_t offset;
};

/* Where a node's key is found: records, and the grain's place in each. */
struct sim_place {
    uint16_t record;
    uint16_t grain;
};

struct sim_places {
    struct sim_place *items;
    uint32_t count;
    uint32_t room;
};

struct sim_session {
    bool open;
    bool closing;
    uint32_t instance; /* in sim.instances */
    uint32_t tenant;
    uint32_t space; /* in sim.spaces; NONE: not registered */
    uint32_t space_handle;
    uint32_t grains; /* of its blocks */
    uint32_t tp, tp_rank, pp, pp_rank;
    uint32_t shapes[SIM_GROUPS]; /* in sim.shapes; NONE */
};

struct sim_run {
    uint32_t shape; /* push */
    struct core_want want;
    uint32_t grains; /* nodes */
    uint32_t nodes[SIM_DEPTH_MAX];
};

enum sim_pending { SIM_FREE, SIM_ASKED, SIM_COPYING, SIM_PERSISTING };

/* Of one copy: begun, to begin when its load has ended well, never to begin. */
enum sim_copy_state { SIM_COPY_BEGUN, SIM_COPY_WAITS, SIM_COPY_SKIPPED };

struct sim_request {
    enum sim_pending pending;
    bool push;
    bool cancelled;
    bool must_fail; /* a slab that it copies to could not be had */
    uint32_t session;
    uint32_t space;
    uint64_t release_lease;
    uint32_t run_count;
    struct sim_run runs[SIM_RUNS];
    struct core_copy *copies;
    uint32_t *copy_parts; /* the core's numbers */
    uint8_t *copy_states; /* enum sim_copy_state; persist: 1: it is or was durable */
    uint32_t copy_count;  /* persist: of copy_parts */
};

struct sim_lease {
    uint64_t id; /* 0: unused */
    uint32_t instance;
    uint32_t space;
    uint32_t key_grains;
    uint32_t key_count; /* of the hit */
    uint32_t keys[SIM_DEPTH_MAX];
    uint32_t first_needed[CORE_WANTS_MAX];
    uint32_t want_count;
    struct core_want wants[SIM_GROUPS];
    bool broken; /* the disk lost a part of it: not checked any more */
};

/* What lies at one place on disk; its offset is its number in the segment. */
struct sim_entry {
    bool written;
    bool forgotten;
    uint8_t *bytes;
    uint32_t size;
    uint64_t seal;
    uint32_t epoch;
    uint32_t part; /* the core's number */
    struct sim_record record;
    struct sim_shape shape;
    uint8_t keys[32 * CORE_KEY_BYTES];
    uint32_t key_count;
    uint32_t tail_tokens;
    uint8_t parent[CORE_KEY_BYTES];
    uint8_t origin[CORE_INSTANCE_MAX];
    uint32_t origin_bytes;
};

struct sim_segment {
    bool used;
    bool lost;
    uint32_t fill; /* bytes */
    struct sim_entry *entries;
    uint32_t count;
    uint32_t room;
};

enum { SIM_JOBS = 16, SIM_SEGMENTS = 64 };

/* A read or write under way, by the core's number. */
struct sim_job {
    bool used;
    bool move;
    bool must_fail; /* no room on disk; a slab that it reads into could not be had */
    uint64_t offset;
    uint64_t bytes;
    uint32_t part;
    struct core_place from; /* move, load */
    struct core_place to;   /* store */
};

struct sim_disk {
    struct sim_segment segments[SIM_SEGMENTS];
    uint32_t open[2]; /* fresh, survivors */
    uint32_t segments_max;
    bool readable;
    bool writable;
    bool fault; /* of the step under way */
    bool sync;
    uint32_t epoch; /* of what is written now */
    uint32_t committed;
    struct sim_job stores[SIM_JOBS];
    struct sim_job loads[SIM_JOBS];
};

struct sim_stats {
    uint64_t operations;
    uint64_t histories;
    uint64_t lookup_keys, hit_keys;
    uint64_t pull_keys, pull_missed;
    uint64_t pushed, held, no_space, quota;
    uint64_t evicted;
    uint64_t leases, cancels, failed_slabs, copies;
    uint64_t stored, moved, loaded, load_failures, segments_freed, persists, persisted, restarts,
        restored;
};

struct sim {
    const struct sim_config *config;
    struct rng rng;
    struct core *core;
    uint64_t hash_seed;
    struct core_actions actions;
    uint64_t check_every;
    bool verbose;
    uint64_t step;
    struct sim_node nodes[SIM_NODES];
    uint32_t recent[8]; /* prompts asked for lately */
    struct sim_places places[SIM_SPACES][SIM_NODES];
    struct sim_shape shapes[SIM_SHAPES];
    struct sim_record records[SIM_RECORDS];
    uint32_t record_count;
    uint32_t record_high;
    uint32_t *part_record; /* by the core's part number */
    uint32_t instance_sessions[SIM_INSTANCES];
    uint32_t space_handles[SIM_SPACES];
    struct sim_session sessions[SIM_SESSIONS];
    struct sim_request requests[SIM_REQUESTS];
    struct sim_lease leases[SIM_LEASES];
    uint64_t old_leases[8];
    uint32_t pins[SIM_PINS]; /* nodes */
    uint32_t pin_space;
    uint64_t evicted_before;
    struct core_action answer; /* the reply or copy of the step's own request */
    bool answered;
    uint64_t failed_slab; /* offset of a commit that failed and is not yet told; UINT64_MAX */
    struct {
        uint8_t *memory;
        uint64_t bytes;
        uint8_t *committed; /* a granule: 0 no, 1 yes, 2 failed */
        uint16_t *readers;  /* a unit */
        uint8_t *writers;   /* a unit */
    } pool;
    struct sim_disk disk;
    struct sim_stats stats;
};

extern struct sim sim;

/* sim_model.c */
void model_build(void);
uint32_t model_path(uint32_t node, uint32_t *path_out); /* first grain first; its length */
uint32_t model_prompt(void);                            /* a node where a prompt ends */
uint32_t model_cells(const struct core_ranges *ranges);
bool model_held(uint32_t space, const struct core_want *want, uint32_t node, uint32_t key_grains,
                uint32_t tail_tokens, bool filling);
uint32_t model_hit(uint32_t space, const struct core_event *event, const uint32_t *keys,
                   const struct core_want *wants, uint32_t want_count);
uint32_t model_first_needed(const struct core_group *group, uint32_t tokens, uint32_t n,
                            uint32_t key_grains);
uint32_t model_add(const struct sim_record *record);
void model_remove(uint32_t number);
void model_observe_evictions(void);
bool model_record_held(const struct sim_record *record, bool filling);
void model_check_leases(const struct sim_record *gone);
const struct core_group *space_groups(uint32_t space, uint32_t *count_out);

/* sim_pool.c */
void pool_init(void);
void pool_finish(void);
void pool_commit(uint64_t offset, uint64_t bytes);
void pool_decommit(uint64_t offset, uint64_t bytes);
uint32_t pool_part(uint64_t offset);
void pool_begin(struct sim_request *request, const struct core_action *action);
void pool_end(struct sim_request *request, int status);
void pool_load_ended(uint32_t job, bool well); /* for copies that wait for it */
bool pool_waits(const struct sim_request *request);
void pool_shadow(uint64_t offset, uint64_t bytes, bool writes, int by);
bool pool_committed(uint64_t offset, uint64_t bytes, bool *failed_out);
const struct sim_shape *pool_shape(uint32_t handle);

/* sim_disk.c */
void disk_open(void);
void disk_close(void);
void disk_act(const struct core_action *action); /* store, load, forget, segment free, sync */
void disk_drain(void);                           /* everything under way ends */
void disk_random(void);
void disk_state(uint32_t segments, bool readable, bool writable);
struct sim_entry *disk_entry(struct core_place place);
void segment_clear(uint32_t number);

/* sim_persist.c */
void op_persist(struct sim_session *session, uint32_t number);
void persist_reply(struct sim_request *request, const struct core_action *action);
void persist_committed(void);
void persist_cancel(uint32_t number);

/* sim_restart.c */
void world_restart(void);

/* sim_world.c */
void world_core(void);
void world_open(const struct sim_config *config, uint64_t seed);
void world_close(void);
void world_step(const struct core_event *event);
uint32_t world_request(void); /* a free number, or NONE */
uint32_t pick(uint32_t bound);
bool chance(uint32_t percent);

/* sim_ops.c, sim_push.c, sim_read.c */
void op_random(void);
void op_open(void);
void op_session(uint32_t number, uint32_t instance);
uint32_t op_space_register(uint32_t number, uint32_t space);               /* its handle */
uint32_t op_shape_register(uint32_t number, const struct sim_shape *like); /* in sim.shapes */
void op_release(const struct sim_session *session, uint32_t number, const struct sim_lease *lease);
void op_push(struct sim_session *session, uint32_t number);
void op_push_one(struct sim_session *session, uint32_t number); /* and ends its copies */
void op_lookup(struct sim_session *session, uint32_t number);
void op_pull(struct sim_session *session, uint32_t number);
void op_complete(uint32_t number);
struct core_ranges session_ranges(const struct sim_session *session, uint32_t group);

/* sim_lru.c: one space, one size, no leases: the core's order equals a plain LRU list's. */
void lru_run(uint64_t seed, uint64_t operations);

#endif
