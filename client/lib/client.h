/*
 * libkveik inside. One mutex a client guards everything here; no thread of its own.
 *
 *   api call -> client_enter() -> client_work(): read answers, reconnect, run deadlines
 *            -> encode, send   -> client_leave(): tell who waits, unlock
 *
 * Waiting: one thread, the leader, sleeps in the inner epoll (socket, timer, wake); the others
 * sleep on `changed`. Whoever makes progress wakes both. The outer epoll is the descriptor that the
 * user sees: the inner one, and an eventfd that is readable while finished requests lie in `ready`.
 *
 * What is registered (spaces, regions, layouts) is kept here and given to every new connection;
 * users hold the client's numbers, the wire carries the session's.
 */
#ifndef KVEIK_CLIENT_LIB_CLIENT_H
#define KVEIK_CLIENT_LIB_CLIENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/queue.h"
#include "kveik/kveik.h"
#include "proto/frame.h"
#include "proto/message.h"

enum {
    CLIENT_MAGIC = 0x4b76436c,
    CONNECT_TIMEOUT_MS = 1000,
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 200,
    SUBMIT_BUDGET_MS = 5,    /* what all submissions together wait for one connection attempt */
    ANSWER_GRACE_MS = 1000,  /* after a deadline, before a request counts as stuck */
    CLOSE_TIMEOUT_MS = 2000, /* for the daemon to let go of the memory at kveik_close() */
    REGISTER_TIMEOUT_MS = 10000,
    EXPORT_TIMEOUT_MS = 60000, /* the daemon populates its mapping, which takes 0.1 s a GB */
    RELEASE_TIMEOUT_MS = 10000,
    QUIESCE_TIMEOUT_MS = 60000,
    PUSH_DEADLINE_MS = 10000,
    PULL_DEADLINE_MS = 10000,
    LOOKUP_DEADLINE_MS = 1000,
    OPS_MAX = 65535,  /* requests at a time, those that nobody has taken included */
    OPS_RESERVED = 8, /* of the daemon's requests_max, for quiesce and registration */
    SPACES_MAX = 64,
    LAYOUTS_MAX = 4096,
    UNCONNECTED = 0, /* an epoch: never registered */
};

/* ---- requests -------------------------------------------------------------------------------- */

/*
 *            submit                 answer                     poll, wait
 *   (free) ---------> in flight ------------> done, answered ------------> (free)
 *                         |                         ^
 *             no answer   v          late answer    |
 *                    done (STUCK) ------------------+   taken before: (free) at the late answer
 */
struct op {
    struct queue flight; /* in client.flight until answered */
    struct queue ready;  /* in client.ready while it can be polled, in client.free when free */
    uint64_t id;         /* 0: free */
    uint32_t slot;
    enum msg_kind request;
    bool done;     /* `completion` says how */
    bool answered; /* the daemon will not speak of it again */
    bool taken;    /* nobody wants the completion, or somebody has it */
    bool internal; /* not the user's: outside the user's limit, never in `ready` */
    uint32_t waiters;
    uint64_t submitted_ns;
    uint64_t give_up_ms;
    uint64_t epoch;   /* of the connection that carries it */
    int8_t *statuses; /* room for status_count; the completion's in the end */
    uint32_t status_count;
    struct kveik_completion completion;
    /* answers of registration */
    uint32_t number;
    uint8_t space_id[SPACE_ID_BYTES];
    char *json;
};

/* ---- what is registered ---------------------------------------------------------------------- */

/* The first member of each. `number` is the session's, if `epoch` is the connection's. */
struct object {
    uint32_t handle; /* the client's number; 0: not in the table yet */
    uint32_t number;
    uint64_t epoch; /* of the connection that it was last offered to */
    int status;     /* ST_OK, or why that connection does not have it */
};

struct client_space {
    struct object object;
    struct space space;
    uint8_t id[SPACE_ID_BYTES];
};

struct client_region {
    struct object object;
    uint8_t *address;
    uint64_t bytes;
    uint32_t mode; /* enum kveik_memory_mode */
    int memfd;     /* owned; -1 with CROSS */
    uint64_t file_offset;
};

struct client_layout {
    struct object object;
    uint32_t space;                           /* handle */
    const struct client_space *private_space; /* instead of `space`: of the self-test */
    uint32_t group;
    struct layout layout; /* planes' regions are handles; owns the planes */
};

/* A table of handles. A handle is (generation << 13 | slot + 1): a dropped one is not mistaken for
 * its slot's next owner. */
struct handles {
    void **items;
    uint32_t *generations;
    uint32_t capacity;
    uint32_t capacity_max;
};

/* ---- memory ---------------------------------------------------------------------------------- */

/* Memory from kveik_memory_allocate(). */
struct allocation {
    struct queue link;
    uint8_t *address;
    size_t bytes;
    int memfd;
};

/* A stretch of private memory of which pages were adopted: one sealed file stands for all of it,
 * byte for byte, so that ranges adopted one by one are neighbours in the file too. Only adopted
 * pages are allocated. */
struct area {
    struct queue link;
    uintptr_t begin;
    uintptr_t end;
    uintptr_t base; /* address of the file's first byte */
    int memfd;
    struct queue ranges;
};

struct adopted_range {
    struct queue link;
    uintptr_t begin;
    uintptr_t end;
};

/* ---- the connection -------------------------------------------------------------------------- */

/*
 *        connect()        hello reply            all registered
 *   DOWN ---------> HELLO ------------> REGISTERING ------------> READY
 *    ^                |                     |                       |
 *    +----------------+---------------------+-----------------------+  end of file
 *    ^                                                              |
 *    +------------------------- DRAINING <--------------------------+  the daemon broke the
 * protocol end of file
 */
enum connection_state { STATE_DOWN, STATE_HELLO, STATE_REGISTERING, STATE_READY, STATE_DRAINING };

struct connection {
    enum connection_state state;
    int socket;      /* -1: none */
    bool writing;    /* the inner epoll waits for the socket to be writable */
    bool garbled;    /* what still comes is not to be believed */
    bool going_down; /* the daemon asked for an end: no new requests */
    bool seen_ready; /* some connection was READY before: the one of ready_epoch at last */
    uint64_t ready_epoch;
    uint64_t epoch; /* counts connections from 1 */
    uint64_t hello_id;
    uint64_t hello_until_ms;
    uint64_t next_attempt_ms;
    uint32_t backoff_ms;  /* 0: the next attempt may be at once */
    uint32_t budget_ms;   /* left of SUBMIT_BUDGET_MS */
    uint64_t registering; /* id of the request that registers the next object; 0: none */
    uint32_t registering_handle;
    pid_t peer_pid;
    struct frame_reader reader;
    struct frame_writer writer;
    struct error error; /* why there is no connection */
    /* of the last hello */
    uint32_t version;
    uint8_t boot_id[MSG_BOOT_ID_BYTES];
    uint64_t session_id;
    uint64_t capabilities; /* of both sides: MSG_CAPABILITY_… */
    uint32_t frame_bytes_max;
    uint32_t requests_max;
    uint32_t keys_max;
    char daemon[64];
};

struct kveik_client {
    uint32_t magic;
    pid_t pid;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool leader;        /* a thread sleeps in the inner epoll */
    uint32_t followers; /* threads that sleep on `changed` */
    uint32_t users;     /* threads inside */
    bool progress;      /* something changed since the last client_publish() */
    bool closing;
    bool event_set; /* the eventfd is readable */
    int outer;
    int inner;
    int timer;
    int event;
    int wake;
    uint64_t timer_at_ms; /* 0: not armed */

    char *socket_path; /* NULL: look at the usual places */
    char *client_name;
    char instance[MSG_INSTANCE_MAX + 1];
    uint8_t token[MSG_TOKEN_MAX];
    uint32_t token_bytes;
    uint32_t connect_timeout_ms;
    uint32_t backoff_first_ms;
    uint32_t requests_wanted;

    struct connection connection;
    uint64_t reconnects;
    struct msg_arena in;
    struct msg_arena out;

    struct op **ops;
    uint32_t op_count;
    uint64_t sequence;
    uint32_t user_ops; /* the user's, until taken and answered */
    struct queue flight;
    struct queue ready;
    struct queue free;

    struct handles spaces;
    struct handles regions;
    struct handles layouts;

    /* Memory is adopted and freed without the mutex above: it may take long. Taken before it. */
    pthread_mutex_t memory_mutex;
    struct queue allocations;
    struct queue areas;
};

/* ---- client.c -------------------------------------------------------------------------------- */

/* Locks. ST_OK, or ST_FORKED without a lock. */
int client_enter(struct kveik_client *client);

/* Tells waiting threads and the event descriptor, unlocks. */
void client_leave(struct kveik_client *client);

/* client_leave() that passes `status` on and copies the error out. */
int client_return(struct kveik_client *client, int status, const struct error *error,
                  struct kveik_error *error_out);

/* ---- status.c -------------------------------------------------------------------------------- */

/* Copies an internal error to the user's; a missing text is the status's. Returns `status`. */
int report(int status, const struct error *error, struct kveik_error *error_out);

/* Copies a public struct of the caller's version (its first member is its size) into ours; what it
 * lacks is 0, what we do not know must be 0. ST_OK, ST_INVALID, ST_UNSUPPORTED. */
int take_struct(void *ours, size_t our_bytes, const void *theirs, const char *init,
                struct error *error);

/* The other way: fills as much as the caller's version has room for. */
int give_struct(const void *ours, size_t our_bytes, void *theirs);

/* ---- wait.c ---------------------------------------------------------------------------------- */

/* Does what there is to do without waiting. */
void client_work(struct kveik_client *client);

/* Wakes who must know; called before the mutex is given up. */
void client_publish(struct kveik_client *client);

/* Arms the timer for `at_ms` if that is earlier than what it is armed for. */
void client_wake_at(struct kveik_client *client, uint64_t at_ms);

typedef bool (*client_done_fn)(const struct kveik_client *client, const void *arg);

/* Works and waits, with the mutex given up meanwhile, until done() or the time: ST_OK, ST_PENDING.
 */
int client_await(struct kveik_client *client, client_done_fn done, const void *arg,
                 uint64_t until_ms);

/* ---- connection.c ---------------------------------------------------------------------------- */

/* Attempts to connect if none is there and the back-off has passed; runs time-outs of the hello. */
void connection_step(struct kveik_client *client, uint64_t now_ms);

/* Reads what the daemon said. */
void connection_read(struct kveik_client *client);

/* Sends a message, descriptors (-1: none) beside it. ST_OK, or a status with the cause in words. */
int connection_send(struct kveik_client *client, const struct msg *msg, int descriptor,
                    struct error *error);

/* The daemon said what it must not say. */
void connection_broken(struct kveik_client *client, const char *why);

/* A write failed: the other side is gone, but answers may still be there to read. */
void connection_hung_up(struct kveik_client *client);

/* End of file or reset: no copy of this connection touches memory any more. */
void connection_lost(struct kveik_client *client, const char *why);

/* Ends the session from this side: says so, then waits for the daemon's end of file if requests are
 * in flight, since only that proves that no copy touches memory any more. */
void connection_drain(struct kveik_client *client);

/* All objects are registered, or there are none. */
void connection_is_ready(struct kveik_client *client);

/* ST_OK when requests can be sent; gives a connection under way a few milliseconds. */
int connection_ready(struct kveik_client *client, struct error *error);

/* ---- register.c ------------------------------------------------------------------------------ */

/* Offers the next object that this connection does not have; READY when none is left. */
void register_next(struct kveik_client *client);

/* The answer to what register_next() sent. */
void register_answered(struct kveik_client *client, const struct op *op);

/* Gives a number back that nobody wants any more. */
void register_undo(struct kveik_client *client, enum msg_kind request, uint32_t number);

/* Sends the registration of an object, as an internal request. NULL: *error says why. */
struct op *register_send_space(struct kveik_client *client, const struct client_space *space,
                               struct error *error);
struct op *register_send_region(struct kveik_client *client, const struct client_region *region,
                                struct error *error);
struct op *register_send_layout(struct kveik_client *client, const struct client_layout *layout,
                                struct error *error);

/* Has the daemon let go of an object: ST_OK when no session has it (any more). */
int register_drop(struct kveik_client *client, enum msg_kind request, const struct object *object,
                  uint64_t until_ms, struct error *error);

/* Register and wait for the answer; the object is not in its table yet. */
int space_offer(struct kveik_client *client, struct client_space *space, struct error *error);
int layout_offer(struct kveik_client *client, struct client_layout *layout, struct error *error);

/* Puts a registered object into its table; triggers registration anew if the connection has
 * changed since. ST_OK, ST_LIMIT, ST_NO_MEMORY. */
int register_keep(struct kveik_client *client, struct handles *table, struct object *object,
                  struct error *error);

/* True when the connection has the object; else *error says why. */
bool register_usable(const struct kveik_client *client, const struct object *object,
                     const char *what, struct error *error);

void client_region_destroy(struct client_region *region);
void client_layout_destroy(struct client_layout *layout);

/* ---- handles.c ------------------------------------------------------------------------------- */

void handles_init(struct handles *table, uint32_t capacity_max);
void handles_finish(struct handles *table);

/* The handle of `item` from now on; 0: the table is full, or memory is short (*status_out). */
uint32_t handles_add(struct handles *table, void *item, int *status_out);

/* NULL for a handle that is none. */
void *handles_get(const struct handles *table, uint32_t handle);
void handles_remove(struct handles *table, uint32_t handle);

/* The item of a slot, or NULL; for iteration over [0, capacity). */
void *handles_at(const struct handles *table, uint32_t slot);
uint32_t handles_slot(uint32_t handle);

/* ---- op.c ------------------------------------------------------------------------------------ */

/* A new request with room for `status_count` statuses. NULL: *error says why (BUSY, NO_MEMORY). */
struct op *op_create(struct kveik_client *client, enum msg_kind request, bool internal,
                     uint32_t status_count, struct error *error);

/* It was never sent. */
void op_discard(struct kveik_client *client, struct op *op);

/* It was sent: from now on it waits for its answer until `timeout_ms` + ANSWER_GRACE_MS. */
void op_launch(struct kveik_client *client, struct op *op, uint32_t timeout_ms);

/* NULL for ids that are unknown or taken by somebody. */
struct op *op_find(const struct kveik_client *client, uint64_t id);

/* The completion is there. Does nothing when it was before. */
void op_finish(struct kveik_client *client, struct op *op, int status, const char *text);

/* The daemon will not speak of it again. Frees it if nobody wants it. */
void op_answered(struct kveik_client *client, struct op *op);

/* Nobody wants the completion. */
void op_forget(struct kveik_client *client, struct op *op);

/* Moves the completion to the caller and frees the request if it is answered. */
void op_take(struct kveik_client *client, struct op *op, struct kveik_completion *completion_out);

/* Finishes what has waited too long; arms the timer for the rest. */
void op_expire(struct kveik_client *client, uint64_t now_ms);

/* Requests that the connection carries are over: `quiet` says that nothing touches memory. */
void op_end_all(struct kveik_client *client, int status, const char *text);

void ops_finish(struct kveik_client *client);

/* Waits for an internal request and takes its status; the op stays readable until op_forget(). */
int op_await(struct kveik_client *client, struct op *op, struct error *error);

/* What the user may have in flight or not yet taken. */
uint32_t op_user_limit(const struct kveik_client *client);

/* ---- complete.c ------------------------------------------------------------------------------ */

/* An answer that is no hello. */
void complete_message(struct kveik_client *client, const struct msg *msg);

/* ---- request.c, submit.c ----------------------------------------------------------------------
 */

/* Encodes and sends `msg` (without its id) as `op`, which is freed on failure. */
int request_send(struct kveik_client *client, struct op *op, struct msg *msg, uint32_t timeout_ms,
                 struct error *error);

/* Sends a request whose answer nobody waits for; failures cost nothing. */
void request_forgotten(struct kveik_client *client, struct msg *msg);

/* ---- adopt.c --------------------------------------------------------------------------------- */

/* Replaces the pages of [address, address + bytes) by pages of a sealed file, in place. The
 * descriptor stays the client's. ST_OK; ST_UNSUPPORTED when the memory is of another kind, with the
 * reason; ST_NO_MEMORY, ST_IO. */
struct adoption {
    void *address;
    size_t bytes;
    bool small_pages;
};
int adopt(struct kveik_client *client, const struct adoption *wanted, int *memfd_out,
          uint64_t *offset_out, struct error *error);

void areas_finish(struct kveik_client *client);

/* ---- memory.c -------------------------------------------------------------------------------- */

/* Closes the files of allocations and adopted areas; the memory stays mapped. */
void memory_finish(struct kveik_client *client);

/* ---- memfd.c --------------------------------------------------------------------------------- */

enum { HUGE_PAGE_BYTES = 2 * 1024 * 1024 };

#define MEMFD_NAME_ADOPTED "kveik-adopted"
#define MEMFD_NAME_MEMORY  "kveik-memory"

/* A sealed file of `bytes` (which stays sparse until it is populated). -1: *error. */
int memfd_make(const char *name, uint64_t bytes, struct error *error);

/* Maps [offset, offset + bytes) of it at an address that agrees with the offset modulo 2 MiB. NULL:
 * *error. */
void *memfd_map(int memfd, uint64_t offset, size_t bytes, bool small_pages, struct error *error);

/* Gives every page of a shared mapping its memory, so that the file has no hole there. */
int memfd_populate(void *address, size_t bytes, struct error *error);

/* ---- probe.c --------------------------------------------------------------------------------- */

/* Proves that the daemon sees the region's bytes, both ways. ST_OK, ST_MEMORY, or why not. */
int probe_region(struct kveik_client *client, const struct client_region *region,
                 struct error *error);

/* ---- selftest.c ------------------------------------------------------------------------------ */

/* Proves a registered layout by the engine's own indexing. Without the mutex held. */
int selftest_run(struct kveik_client *client, const struct kveik_layout *user,
                 const struct client_layout *layout, struct error *error);

/* ---- random.c -------------------------------------------------------------------------------- */

void random_bytes(void *out, size_t bytes);

#endif
