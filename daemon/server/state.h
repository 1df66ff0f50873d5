/* The server's inner state; only files of this folder see it. Everything is the loop thread's. */
#ifndef KVEIK_SERVER_STATE_H
#define KVEIK_SERVER_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "base/assert.h"
#include "base/layout.h"
#include "base/log.h"
#include "base/queue.h"
#include "daemon/core/core.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/import.h"
#include "daemon/server/server.h"
#include "daemon/server/settings.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "storage/cpu/copy.h"
#include "storage/cpu/pool.h"
#include "storage/cpu/snapshot.h"
#include "storage/disk/disk.h"

enum {
    SERVER_MAGIC = 0x4b737276,
    SESSION_REGIONS_MAX = 1024,
    SESSION_LAYOUTS_MAX = 256,
    SESSION_SPACES_MAX = 32,
    SESSION_PROBES_MAX = 16,
    LAYOUT_SHAPES_MAX = 8, /* block sizes pushed from one layout */
    DEADLINE_DEFAULT_MS = 10000,
    HELLO_AGE_MS = 5000, /* a client's clock that is older than this at its hello is another one */
    STOP_TICK_MS = 20,
    SHAPES_MAX = 8192,
    SPACES_MAX = 4096,
    WAIT_TICK_MS = 5,
    DISK_TICK_MS = 100,
    DISK_STORES_MAX = 1024,
    DISK_LOADS_MAX = 1024,
    DISK_REAP_MAX = 256, /* events in one go, so that others have their turn */
    VERIFIES_MAX = 16384,
    KEY_TEXT_BYTES = 2 * CORE_KEY_BYTES + 1,
};

#define NO_HANDLE UINT32_MAX

struct server_region {
    bool used;
    uint32_t kind;   /* enum memory_kind */
    uint32_t probes; /* on workers */
    uint32_t planes; /* of layouts that lie here */
    struct import import;
};

struct server_layout {
    bool used;
    bool dropping;
    bool remote;    /* planes are reached by cross-memory copy */
    uint32_t space; /* the session's number */
    uint32_t group;
    struct layout layout; /* planes: our copy */
    uint32_t shape_count;
    struct {
        uint32_t grains;
        uint32_t shape;
    } shapes[LAYOUT_SHAPES_MAX];
};

struct server_space {
    bool used;
    uint32_t core_space;
    struct space space;
};

/* One connection that said hello. */
struct server_session {
    struct server *server;
    struct engine_conn *conn;
    uint32_t number; /* of the core */
    bool closing;
    bool core_closed;
    bool same_clock;     /* as the client: see MSG_CAPABILITY_CLOCK */
    uint32_t populating; /* regions that a worker enters into our page tables */
    uint32_t probing;    /* regions that a worker probes */
    uint32_t request_count;
    struct queue requests; /* server_request.link */
    struct queue waiters;  /* quiesce, drop */
    uint32_t waiter_count;
    struct copy_memory memory;        /* mapped regions */
    struct copy_memory remote;        /* regions in the engine's process */
    uint32_t region_high;             /* one above the highest number ever used */
    struct copy_region *copy_regions; /* SESSION_REGIONS_MAX */
    struct server_region *regions;    /* SESSION_REGIONS_MAX */
    struct server_layout *layouts;    /* SESSION_LAYOUTS_MAX */
    struct server_space *spaces;      /* SESSION_SPACES_MAX */
    uint32_t *stale_shapes;           /* of dropped layouts: SESSION_LAYOUTS_MAX times
                                         LAYOUT_SHAPES_MAX */
    uint32_t stale_count;
    struct log_limit limit;
};

/* An item of a pull that waits for a read from disk. */
struct server_wait {
    struct queue link; /* of the load */
    struct server_request *request;
    bool pending;
    bool missed; /* the read ended badly */
};

/* A push, pull or persist in flight. */
struct server_request {
    uint32_t number; /* of the core */
    struct server_session *session;
    struct queue link;
    uint64_t request_id;
    bool push;
    bool copying;
    uint64_t deadline_ms;
    uint64_t began_ns;
    uint32_t run_count;
    struct server_run *runs;
    uint32_t *pages; /* of all runs */
    struct copy_item *items;
    int8_t *statuses;
    uint32_t status_count;
    int failed; /* a status that ends the request whatever the copies say; 0: none */
    struct copy_job job;
    uint64_t copied_bytes;
    /* a pull of which something is read from disk: items go to the copy engine in order, each run
     * of them as soon as it is there; NULL: everything was there */
    struct server_wait *waits; /* item_count of them */
    struct core_copy *copies;  /* what the items stand for */
    uint32_t item_count;
    uint32_t item_next; /* not yet copied */
    bool persist;       /* waits in the core until its blocks are durable */
    bool waiting;       /* in server->waiting: its deadline is watched here */
    struct queue waiting_link;
};

/* One write to disk, by the core's number. */
struct server_store {
    struct disk_write write;
    struct queue link; /* of failed_stores */
};

/* One read from disk, or verification in memory, by the core's number. */
struct server_load {
    struct disk_read read;
    struct queue link; /* of failed_loads */
    struct queue waits;
    uint8_t key[CORE_KEY_BYTES];
    uint64_t began_ns;
    /* verified in place: `read` has its seal, size and how it went */
    struct server *server;
    bool verifying;
    uint64_t offset;
    uv_work_t work;
};

struct keep_loading; /* keep_load.c */

/* Memory that is kept over planned restarts. */
struct server_keep {
    bool file;         /* the pool lives in a file */
    bool attached;     /* what it held was taken over */
    bool fits;         /* an index was there that belongs to the file */
    bool gave_up;      /* it turned out to be unusable while it was taken */
    bool begun;        /* the index is gone: memory changes from now on */
    bool verified;     /* all that was taken was looked at */
    const char *place; /* the file, for people */
    char index_path[4096];
    char why[256]; /* why nothing was taken */
    uint64_t slabs;
    uint64_t slabs_dropped;
    uint64_t parts;
    uint64_t bytes;
    uint64_t dropped; /* parts that were refused: no place, a limit, a kind that is not known */
    uint64_t load_ms;
    struct keep_loading *loading; /* while starting */
    uv_timer_t timer;
};

struct server_run {
    struct server_layout *layout;
    const uint32_t *pages;
    uint32_t page_count; /* that copies may touch; the client may have named more */
    uint32_t page_token;
    uint32_t first_status;  /* of this run among the request's statuses */
    uint32_t status_tokens; /* tokens a status stands for */
};

/* A stored form that parts have; the index is the core's shape handle. */
struct server_shape {
    bool used;
    uint32_t core_space;
    uint32_t group;
    uint32_t grains;
    struct stored_form form;
    uint32_t kind; /* the disk tier's number for it; NO_HANDLE: not asked yet */
};

/* What a core's space is, to be kept with its parts on disk. */
struct server_space_text {
    uint8_t *blob; /* NULL: never registered */
    uint32_t bytes;
};

struct server {
    uint32_t magic;
    uv_loop_t loop;
    bool loop_ready;
    const struct settings *settings;
    struct log *log;
    char socket_path[128];
    uint8_t boot_id[MSG_BOOT_ID_BYTES];
    uint64_t began_ms;
    struct core *core;
    struct pool *pool;
    uint64_t pool_bytes;
    struct copy_engine *copies;
    struct engine *engine;
    uv_async_t copy_wake;
    uv_signal_t term;
    uv_signal_t interrupt;
    uv_timer_t stop_timer;
    bool stopping;
    bool stopped;
    uint32_t stop_ticks;
    uint32_t load_count;              /* of loads */
    uint32_t descriptors_max;         /* regions may use numbers below this; the rest is kept */
    struct server_session **sessions; /* by the core's number */
    uint32_t *session_free;
    uint32_t session_free_count;
    struct server_request *requests; /* by the core's number */
    uint32_t *request_free;
    uint32_t request_free_count;
    struct server_shape *shapes;
    uint64_t *failed_slabs;   /* of the step in hand; room for every granule of the pool */
    struct queue finished;    /* copy jobs that ended inline: applied after the actions in hand */
    uint8_t salt[32];         /* of the default tenant */
    uint64_t copied_bytes[2]; /* pull, push */
    double bytes_per_us;      /* smoothed speed of recent copies, for expected_us */
    struct server_keep keep;
    struct queue waiting; /* requests whose deadlines are watched: server_request.waiting_link */
    uv_timer_t wait_timer;
    /* the disk tier; NULL: none */
    struct disk *disk;
    uint64_t disk_bytes;
    char disk_path[4096];
    char disk_why[256]; /* why there is none, when one was wanted */
    uv_async_t disk_wake;
    uv_timer_t disk_timer;
    bool disk_handles;
    bool disk_stopped; /* nothing more is begun: the daemon goes down */
    struct server_store *stores;
    struct server_load *loads;
    struct queue failed_stores; /* refused at once: told to the core after the actions in hand */
    struct queue failed_loads;
    struct server_space_text *space_texts; /* by the core's space: SPACES_MAX */
    double disk_bytes_per_us;              /* smoothed speed of recent reads, for expected_us */
};

/* ---- actions.c ------------------------------------------------------------------------------- */

/* Steps the core and carries the actions out. The last ACTION_SPACE, _SHAPE or _SESSION_OPENED of
 * the step is copied to *answer_out (may be NULL). */
void server_step(struct server *server, const struct core_event *event,
                 struct core_action *answer_out);

/* Applies what ended inline. */
void server_drain(struct server *server);

/* Applies copy jobs that ended. */
void server_reap(struct server *server);

/* ---- session.c ------------------------------------------------------------------------------- */

void server_on_message(void *ctx, struct engine_conn *conn, struct msg *msg, int *descriptors,
                       uint32_t descriptor_count);
void server_on_ended(void *ctx, struct engine_conn *conn);

/* Frees the session once core, copies and workers are done with it. */
void session_try_free(struct server_session *session);

/* The answer to a request that failed, in the kind of message that answers it. */
/* Answers a request with a Completion that has no statuses. */
void session_complete(struct server_session *session, uint64_t request_id, int status,
                      const char *text);
void session_refuse(struct server_session *session, const struct msg *msg, int status,
                    const char *text);

/* ---- memory.c: regions and layouts -------------------------------------------------------------
 */

void session_export_memory(struct server_session *session, const struct msg *msg, int *descriptors,
                           uint32_t descriptor_count);
void session_drop_memory(struct server_session *session, const struct msg *msg);
void session_register_layout(struct server_session *session, const struct msg *msg);
void session_free_memory(struct server_session *session);
void layout_free(struct server_session *session, struct server_layout *layout);
struct server_layout *session_layout(struct server_session *session, uint32_t handle);

/* True when a region of the session was punched since it was exported; then the session ends. */
bool session_punched(struct server_session *session);

/* ---- probe.c --------------------------------------------------------------------------------- */

void session_probe(struct server_session *session, const struct msg *msg);

/* ---- shape.c --------------------------------------------------------------------------------- */

/* The core's shape for blocks of `grains` from a layout; cached in the layout. */
int server_shape_for(struct server_session *session, struct server_layout *layout, uint32_t grains,
                     uint32_t *shape_out, struct error *error);

/* The shape of a form that is known already; NO_HANDLE: none. */
uint32_t server_shape_find(const struct server *server, uint32_t core_space, uint32_t group,
                           uint32_t grains, const struct stored_form *form);

/* The layout goes: its shapes are the session's no longer, unless other layouts have them. */
void server_shapes_stale(struct server_session *session, const struct server_layout *layout);

/* ---- request.c ------------------------------------------------------------------------------- */

void session_push(struct server_session *session, const struct msg *msg);
void session_pull(struct server_session *session, const struct msg *msg);
void session_lookup(struct server_session *session, const struct msg *msg);
void session_release(struct server_session *session, const struct msg *msg);
void session_cancel(struct server_session *session, const struct msg *msg);

/* NULL and the session ended when it broke a limit. */
struct server_request *request_take(struct server_session *session, uint64_t request_id);
void request_free(struct server_request *request);

/* ACTION_COPY and ACTION_REPLY of a push or pull. */
void request_copy(struct server_request *request, const struct core_action *action);
void request_reply(struct server_request *request, const struct core_action *action);

void session_persist(struct server_session *session, const struct msg *msg);

/* ACTION_WAIT of a persist. */
void request_persisting(struct server_request *request, const struct core_action *action);

/* Hands items [first, first + count) to the copy engine; none: the request ends with job.status. */
void request_submit(struct server_request *request, uint32_t first, uint32_t count);

/* The keys of a pull that a copy stands for, when it cannot be carried out after all. */
void request_mark_missed(struct server_request *request, const struct core_copy *copy);

/* ---- wait.c: requests that wait for the disk --------------------------------------------------
 */

/* Waits for what is read, and copies the rest. The request's items are filled. */
void request_wait(struct server_request *request);

/* Goes on with the next items that are there, or ends. After a job, or a read that ended. */
void request_advance(struct server_request *request);

/* After a job: true when the request is over, false when there is more to copy. */
bool request_over(struct server_request *request);

/* No longer wanted: ends as soon as no copy touches its pages. */
void request_stop(struct server_request *request, int status);

/* Its deadline is watched until request_unwatch(). */
void request_watch(struct server_request *request);
void request_unwatch(struct server_request *request);

/* The read that these (server_wait.link) waited for has ended. */
void load_ended(struct queue *waits, int status);

int wait_init(struct server *server);

/* ---- disk.c ---------------------------------------------------------------------------------- */

int server_disk_init(struct server *server, const struct core_limits *limits, struct error *error);

/* What stores, loads and spaces need here. ST_OK, ST_NO_MEMORY. */
int server_disk_tables(struct server *server, const struct core_limits *limits);

/* Chosen before the core is made. Zero segments: no disk tier. ST_OK or ST_INVALID. */
int server_disk_limits(struct server *server, struct core_disk_limits *limits, struct error *error);
void server_disk_finish(struct server *server);

/* Threads that copy, as set or chosen. */
uint32_t server_copy_threads(const struct settings *settings);
void server_disk_close_handles(struct server *server);

/* Whether writes that were begun, or wait, are still to be done before a stop. */
bool server_disk_busy(const struct server *server, bool patience);

void disk_store(struct server *server, const struct core_action *action);
void disk_load(struct server *server, const struct core_action *action);
void disk_drop(struct server *server, const struct core_action *action);

/* Tells the core what was refused at once. */
void disk_drain(struct server *server);

/* A read or verification has ended: tells the core and who waited. */
void load_finish(struct server *server, struct server_load *load, int status);

/* A key as hexadecimal digits. */
void key_text(const uint8_t *key, char out[KEY_TEXT_BYTES]);

/* ---- keep_load.c, keep_save.c: memory over planned restarts ------------------------------------
 */

/* Makes the pool, with what its file holds when an index fits it. */
int keep_pool_create(struct server *server, struct pool_options *options, struct error *error);

/* Before the disk tier is opened, and after. ST_OK, ST_IO: the file cannot be tidied. */
void keep_load_slabs(struct server *server);
int keep_load_parts(struct server *server, struct error *error);
void keep_loading_free(struct server *server);

/* The start has succeeded: removes the index. ST_OK, or it cannot be removed. */
int keep_begin(struct server *server, struct error *error);

/* Before the pool goes. A start that failed leaves it as it was. */
void keep_end(struct server *server);

/* After a planned stop: the pool's file stays, with an index. */
void keep_save(struct server *server);

/* ---- verify.c: what was found in memory --------------------------------------------------------
 */

void verify_load(struct server *server, const struct core_action *action);

/* Begins to verify everything, a little at a time. */
void verify_begin_ahead(struct server *server);
bool verify_busy(const struct server *server);

/* What waits for a worker is not verified now: another day. */
void verify_cancel(struct server *server);

/* ---- kind.c: spaces and forms as bytes --------------------------------------------------------
 */

/* A space for the disk: what the core needs to have it again, and its name for people. */
struct kind_space {
    uint8_t id[CORE_KEY_BYTES]; /* the core's: mixed with the tenant's salt */
    uint32_t tenant;
    uint32_t admission;
    uint64_t quota_bytes;
    uint32_t group_count;
    struct core_group groups[CORE_GROUPS_MAX];
    char model[SPACE_NAME_BYTES];
    char revision[SPACE_NAME_BYTES];
};

struct kind_form {
    uint32_t group;
    uint32_t grains;
    struct stored_form form;
};

enum { KIND_SPACE_BYTES_MAX = 1024, KIND_FORM_BYTES_MAX = 512 };

/* Bytes written, at most the maxima above. */
uint32_t kind_space_encode(const struct kind_space *space, uint8_t *out);
uint32_t kind_form_encode(const struct kind_form *kind, uint8_t *out);

/* False: not what the encoders write, or out of bounds. */
bool kind_space_decode(const uint8_t *bytes, uint32_t count, struct kind_space *out);
bool kind_form_decode(const uint8_t *bytes, uint32_t count, struct kind_form *out);

/* Keeps what the core's space is; ST_OK or ST_NO_MEMORY. */
int space_text_keep(struct server *server, uint32_t core_space, const struct kind_space *space);

/* The disk tier's number for parts of a shape. ST_OK or why not. */
int shape_kind(struct server *server, uint32_t number, uint32_t *kind_out);

/* ---- restore.c: what is found on disk at start ------------------------------------------------
 */

/* A part of a kind that none was taken of yet: registers what it needs. `event` is EVENT_RESTORE,
 * its shape is filled in. True when it was taken; *shape_out is the core's shape then. */
bool restore_as(struct server *server, const struct kind_space *space, const struct kind_form *form,
                struct core_event *event, uint32_t *shape_out);

struct restore;
struct restore *restore_create(struct server *server);
bool restore_entry(void *ctx, const struct disk_entry *entry);
void restore_destroy(struct restore *restore);

/* ---- quiesce.c ------------------------------------------------------------------------------- */

void session_quiesce(struct server_session *session, const struct msg *msg);
void session_drop_layout(struct server_session *session, const struct msg *msg);

/* Answers the waiters that waited for this request and now for none. */
void session_wake_waiters(struct server_session *session, uint32_t request);
void session_free_waiters(struct server_session *session);

/* ---- status.c -------------------------------------------------------------------------------- */

void session_status(struct server_session *session, const struct msg *msg);

#endif
