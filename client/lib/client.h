/*
 * The inside of a client; only files of this folder see it.
 *
 * One mutex a client guards everything below. No thread of the library's own: whoever polls, waits
 * or submits does the work that is due (client_pump()). Of several waiting threads one at a time
 * is the leader: it sleeps in poll() without the mutex and dispatches what comes; the others sleep
 * on the condition variable.
 *
 *   DOWN --connect()--> HELLO --reply--> REGISTERING --all answered--> READY
 *     ^                                                                  |
 *     +---- end of file, error, time-out: operations end with LOST ------+
 *
 * The daemon closes a session's socket only after its copies have drained, and a daemon that died
 * has no thread left that could copy; so at end of file the pages of lost operations are quiet.
 */
#ifndef KVEIK_CLIENT_CLIENT_H
#define KVEIK_CLIENT_CLIENT_H

#include <kveik/kveik.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/assert.h"
#include "base/error.h"
#include "base/queue.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "proto/space.h"

enum {
    CLIENT_MAGIC = 0x4b636c69,
    OP_BUCKETS = 256,
    OP_GRACE_MS = 1000, /* past its deadline, before an operation counts as stuck */
    CALL_TIMEOUT_MS = 10000,
    HELLO_TIMEOUT_MS = 5000,
    PUSH_DEADLINE_MS = 10000,
    LOOKUP_DEADLINE_MS = 1000,
    CLOSE_TIMEOUT_MS = 3000,
};

enum client_state { CLIENT_DOWN, CLIENT_HELLO, CLIENT_REGISTERING, CLIENT_READY };

struct op;
typedef void (*op_reply_cb)(struct kveik_client *client, struct op *op, const struct msg *msg);

/* One request in flight or finished. */
struct op {
    struct queue link; /* of its bucket; when done, of client->done unless somebody waits */
    uint64_t id;
    uint64_t submitted_ns;
    uint64_t stuck_ms; /* clock_ms() at which it counts as stuck */
    bool done;
    bool claimed; /* a thread waits for this very one, or a call does: not for kveik_poll() */
    op_reply_cb on_reply; /* calls of the library's own; NULL: a user's operation */
    void *object;         /* what on_reply works on */
    struct kveik_completion completion;
    int8_t *statuses; /* owned until handed over */
    /* answers to calls */
    uint32_t handle;
    uint8_t space_id[SPACE_ID_BYTES];
    char *json;
};

struct client_space {
    struct space space;
    uint32_t remote; /* the session's number */
    int status;      /* of the last registration */
    uint8_t id[SPACE_ID_BYTES];
};

struct client_region {
    char *address;
    uint64_t bytes;
    uint32_t mode;        /* enum kveik_memory_mode that was taken: never AUTO */
    int memfd;            /* owned; -1 with CROSS */
    uint64_t file_offset; /* of `address` in the memfd */
    uint32_t remote;
    int status;
};

struct client_layout {
    uint32_t space; /* the client's numbers */
    uint32_t group;
    struct layout layout; /* planes owned, with the client's region numbers; complete, checked */
    uint32_t remote;
    int status;
};

/* Objects by the client's handle; a dropped one leaves NULL. */
struct client_table {
    void **items;
    uint32_t count;
    uint32_t capacity;
};

struct kveik_client {
    uint32_t magic;
    pid_t pid; /* of the process that made it */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool leading; /* a thread sleeps in poll() for all */

    char *socket_path;
    char *client_name;
    uint8_t instance[MSG_INSTANCE_MAX];
    uint32_t instance_bytes;
    uint8_t *token;
    uint32_t token_bytes;
    uint32_t backoff_first_ms;
    uint32_t requests_max_asked;
    bool wait_for_daemon;

    enum client_state state;
    int socket; /* -1 when down */
    int epoll;  /* what kveik_event_fd() gives: socket, timer and event */
    int timer;
    int event;
    bool event_used; /* kveik_event_fd() was called: local completions signal */
    bool event_signaled;
    uint64_t timer_ms; /* when the timer is set to fire; 0: not set */
    bool writing;      /* epoll also waits for writability */
    struct frame_reader reader;
    struct frame_writer writer;
    struct msg_arena in;
    struct msg_arena out;

    uint64_t epoch;    /* connections so far */
    uint64_t retry_ms; /* no attempt to connect before */
    uint32_t backoff_ms;
    uint64_t hello_ms;    /* the handshake must be over by then */
    uint32_t registering; /* answers still to come */
    bool layouts_sent;    /* … and the layouts are among them */
    int down_status;      /* why the last connection ended or could not be made */
    char down_text[MSG_TEXT_MAX];
    int32_t daemon_pid;
    uint32_t version;
    uint8_t boot_id[MSG_BOOT_ID_BYTES];
    uint64_t session_id;
    uint64_t reconnects;
    uint32_t requests_max;
    uint32_t keys_max;
    char daemon[64];

    uint32_t waiters;   /* threads in kveik_wait() or a call */
    uint64_t expire_ms; /* no operation counts as stuck before */
    uint64_t ids;
    struct queue ops[OP_BUCKETS]; /* in flight, by id */
    uint32_t in_flight;           /* user operations among them */
    struct queue done;            /* finished, for kveik_poll() */

    struct client_table spaces;
    struct client_table regions;
    struct client_table layouts;
    struct client_table allocations; /* memory.c: kveik_memory_allocate() */
};

/* ---- client.c -------------------------------------------------------------------------------- */

/* Locks after checking magic and process. ST_OK or ST_FORKED (then nothing is locked). */
int client_lock(struct kveik_client *client);
void client_unlock(struct kveik_client *client);

int table_add(struct client_table *table, void *item, uint32_t *handle_out);
void *table_get(const struct client_table *table, uint32_t handle);
void table_clear(struct client_table *table, uint32_t handle);

/* Copies an error of the base to the public struct (NULL: nothing); returns its status. */
int error_out(struct kveik_error *out, const struct error *error);
int error_say(struct kveik_error *out, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- connection.c: with the lock held -------------------------------------------------------- */

/* Does what is due without blocking: connects, reads, dispatches, flushes, runs deadlines. */
void client_pump(struct kveik_client *client);

/* Sleeps until something may have happened, at most until `until_ms`; drops the lock meanwhile. */
void client_sleep(struct kveik_client *client, uint64_t until_ms);

/* Sends; the connection goes down when that fails for good. ST_OK, ST_UNAVAILABLE, ST_BUSY,
 * ST_INVALID and so on, with the cause. */
int client_send(struct kveik_client *client, const struct msg *msg, const int *descriptors,
                uint32_t descriptor_count, struct error *error);

/* Ends the connection; operations in flight end with `status`. */
void client_down(struct kveik_client *client, int status, const char *text);

/* ST_OK when READY; otherwise ST_UNAVAILABLE with the reason. Pumps first, and gives a handshake
 * under way a few milliseconds. */
int client_ready(struct kveik_client *client, struct error *error);

/* Registers an object again on a new connection (memory.c, layout.c, space.c). The messages'
 * answers come to op_reply_cb. ST_OK or an error that ends the connection. */
int space_send(struct kveik_client *client, struct client_space *space, struct error *error);
int region_send(struct kveik_client *client, struct client_region *region, struct error *error);
int layout_send(struct kveik_client *client, struct client_layout *layout, struct error *error);

/* Makes sure the timer fires at `when_ms` or before. */
void client_timer(struct kveik_client *client, uint64_t when_ms);

/* ---- complete.c: with the lock held ---------------------------------------------------------- */

/* A new operation, counted and in its bucket. NULL: out of memory. */
struct op *op_create(struct kveik_client *client, uint32_t kind, void *user, uint32_t deadline_ms);

/* Takes an operation that was never sent out again. */
void op_forget(struct kveik_client *client, struct op *op);
void op_free(struct op *op);

/* Ends an operation: to its waiter or to the done list. */
void op_finish(struct kveik_client *client, struct op *op, int status, const char *text);

/* Waits for an operation that the caller claimed. ST_OK or ST_PENDING. */
int op_wait(struct kveik_client *client, struct op *op, uint64_t until_ms);

/* Gives an answer to its operation. ST_PROTOCOL when it cannot be one. */
int op_dispatch(struct kveik_client *client, const struct msg *msg, struct error *error);

void ops_fail_all(struct kveik_client *client, int status, const char *text);
void ops_expire(struct kveik_client *client, uint64_t now_ms);

/* ---- call.c: the library's own requests -------------------------------------------------------
 */

struct call_answer {
    int status; /* what the daemon said, or why there is no answer */
    char text[MSG_TEXT_MAX];
    uint32_t handle;
    uint8_t space_id[SPACE_ID_BYTES];
    char *json; /* the caller's to heap_free() */
};

/* Sends and waits for the answer, with the lock held (dropped while asleep). msg->request_id is
 * filled in. Returns answer_out->status. */
int client_call(struct kveik_client *client, struct msg *msg, const int *descriptors,
                uint32_t descriptor_count, struct call_answer *answer_out);

/* The same memory once more, by cross-memory copy: for layouts whose planes cannot all be mapped.
 */
int region_shadow(struct kveik_client *client, uint32_t handle, uint32_t *shadow_out,
                  struct error *error);

/* Forgets a region here and there. */
int region_drop(struct kveik_client *client, uint32_t handle, struct error *error);

/* Frees what the tables hold (memory.c, layout.c). */
void regions_free(struct kveik_client *client);
void layouts_free(struct kveik_client *client);

#endif
