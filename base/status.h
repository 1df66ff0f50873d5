/*
 * Status codes: the one table that the daemon, the wire protocol and the client library share.
 *
 * 0 is good, positive codes say what happened without anything being wrong, negative codes are
 * errors. The numbers travel on the wire and stand in the public header: they are never reused.
 */
#ifndef KVEIK_BASE_STATUS_H
#define KVEIK_BASE_STATUS_H

/* X(name, number, text) */
#define STATUS_TABLE(X)                                                                            \
    X(OK, 0, "ok")                                                                                 \
    X(MISS, 1, "not in the cache")                                                                 \
    X(HELD, 2, "already in the cache")                                                             \
    X(PENDING, 3, "still under way")                                                               \
    X(INVALID, -1, "invalid argument")                                                             \
    X(NO_MEMORY, -2, "out of memory")                                                              \
    X(IO, -3, "input/output error")                                                                \
    X(PROTOCOL, -4, "the peer broke the protocol")                                                 \
    X(VERSION, -5, "no common protocol version")                                                   \
    X(NO_SPACE, -6, "the tier is full of blocks in use")                                           \
    X(QUOTA, -7, "a quota is used up")                                                             \
    X(DEADLINE, -8, "the deadline has passed")                                                     \
    X(CANCELLED, -9, "cancelled")                                                                  \
    X(UNKNOWN_ID, -10, "no such id")                                                               \
    X(LOST, -11, "the connection to the daemon was lost")                                          \
    X(UNAVAILABLE, -12, "the daemon is not reachable")                                             \
    X(BUSY, -13, "too many requests in flight")                                                    \
    X(UNSUPPORTED, -14, "not supported here")                                                      \
    X(PERMISSION, -15, "permission denied")                                                        \
    X(MEMORY, -16, "engine memory could not be accessed")                                          \
    X(LIMIT, -17, "a limit was exceeded")                                                          \
    X(CORRUPT, -18, "stored bytes are damaged")                                                    \
    X(SHUTDOWN, -19, "the daemon is shutting down")                                                \
    X(MISMATCH, -20, "layout or space does not match")                                             \
    X(FORKED, -21, "the client belongs to the parent process")                                     \
    X(STUCK, -22, "the daemon does not answer; memory may still be in use")                        \
    X(INTERNAL, -23, "internal error")

enum status {
#define X(name, number, text) ST_##name = (number),
    STATUS_TABLE(X)
#undef X
};

/* A short constant text; "unknown status" for numbers outside the table. */
const char *status_text(int status);

/* The code's name, such as "NO_SPACE", for logs and JSON. */
const char *status_name(int status);

#endif
