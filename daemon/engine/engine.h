/*
 * The engine socket: listening, handshake of credentials, framing, descriptors, and the limits that
 * a peer must keep. It knows messages but not what they mean: every decoded message goes to the
 * handler, in the order of arrival, on the loop thread.
 *
 * A connection's life:  accepted -> OPEN -> (end of file | pidfd fires | engine_end()) -> ENDED ->
 * engine_close(). ENDED reads and says nothing more; its socket stays open until engine_close(), so
 * that a client which sees end of file knows that no copy touches its memory any more. Ownership is
 * the connection: it ends when the peer process is gone, even if a forked child holds the socket.
 */
#ifndef KVEIK_ENGINE_ENGINE_H
#define KVEIK_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "base/error.h"
#include "base/log.h"
#include "proto/message.h"

struct engine;
struct engine_conn;

struct engine_peer {
    int32_t pid; /* 0: in another pid namespace, not visible from here */
    uint32_t uid;
    uint32_t gid;
    int pidfd; /* -1: none; then only end of file tells that the peer is gone */
};

struct engine_handler {
    /* A whole message. Descriptors that the handler takes are set to -1; the rest is closed. The
     * message lives until the return. */
    void (*message)(void *ctx, struct engine_conn *conn, struct msg *msg, int *descriptors,
                    uint32_t descriptor_count);
    /* The connection is ENDED, for whatever reason; called once, never from inside message(). */
    void (*ended)(void *ctx, struct engine_conn *conn);
};

struct engine_options {
    const char *socket_path;
    uint32_t connections_max;
    uint32_t frame_bytes_max; /* payload of one frame */
    uint64_t stall_ms;        /* a frame must be whole within this; a hello must come within it */
    uint32_t socket_mode;     /* permissions, such as 0600 */
};

/* Binds and listens; a stale socket of a dead daemon is replaced, a live one is refused. ST_OK,
 * ST_IO, ST_BUSY (another daemon answers there), ST_NO_MEMORY. */
int engine_create(uv_loop_t *loop, const struct engine_options *options,
                  const struct engine_handler *handler, void *ctx, struct log *log,
                  struct engine **engine_out, struct error *error);

/* Stops listening and removes the socket file. */
void engine_stop_listening(struct engine *engine);

/* Ends every connection, also those that never said hello. */
void engine_end_all(struct engine *engine, int status, const char *why);

/* All connections are closed and the loop has run their close callbacks. Accepts NULL. */
void engine_destroy(struct engine *engine);

const struct engine_peer *engine_conn_peer(const struct engine_conn *conn);
void engine_conn_set_user(struct engine_conn *conn, void *user);
void *engine_conn_user(const struct engine_conn *conn);
uint64_t engine_conn_number(const struct engine_conn *conn); /* counted from 1, for logs */
uint32_t engine_connections(const struct engine *engine);

/* Encodes and sends. A peer that does not read its answers is ended. Nothing is sent on an ENDED
 * connection. */
void engine_send(struct engine_conn *conn, const struct msg *msg);

/* Ends the connection for a reason that the peer gave or must know: logs it, sends a notice if that
 * is possible. ended() follows from the loop. */
void engine_end(struct engine_conn *conn, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

bool engine_conn_ended(const struct engine_conn *conn);

/* Closes the socket and frees the connection; after ended(), once nothing touches the peer's memory
 * any more. */
void engine_close(struct engine_conn *conn);

#endif
