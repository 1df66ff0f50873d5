/*
 * A daemon in a thread, for tests of the client library: speaks the engine protocol, keeps pushed
 * grains in a small table, and misbehaves when told to. All functions may be called from any
 * thread.
 */
#ifndef KVEIK_TESTS_LIB_FAKE_DAEMON_H
#define KVEIK_TESTS_LIB_FAKE_DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/message.h"

struct fake_daemon;

enum fake_hello {
    FAKE_HELLO_GOOD,
    FAKE_HELLO_SILENT,     /* accepts and says nothing */
    FAKE_HELLO_VERSION,    /* answers with another version */
    FAKE_HELLO_REFUSED,    /* a notice with ST_PERMISSION, then the end */
    FAKE_HELLO_GARBAGE,    /* bytes that are no frame */
    FAKE_HELLO_NO_MESSAGE, /* a frame that is no message */
    FAKE_HELLO_OTHER,      /* another message than a hello reply */
    FAKE_HELLO_CUT,        /* closes the connection */
};

/* Listens at `path`; the daemon's boot id is new with each start. */
struct fake_daemon *fake_daemon_start(const char *path);

/* As a killed daemon: everything is closed at once. */
void fake_daemon_stop(struct fake_daemon *daemon);

void fake_daemon_hello(struct fake_daemon *daemon, enum fake_hello hello);

/* Requests of these kinds (bits 1 << kind) are held back until fake_daemon_release(). */
void fake_daemon_hold(struct fake_daemon *daemon, uint64_t kinds);

/* Answers what is held, and everything from now on. */
void fake_daemon_release(struct fake_daemon *daemon);

/* Requests of these kinds are answered with `status`. */
void fake_daemon_refuse(struct fake_daemon *daemon, uint64_t kinds, int status);

/* Answers with one status too many. */
void fake_daemon_miscount(struct fake_daemon *daemon, bool miscount);

/* Probes answer OK and copy nothing. */
void fake_daemon_lie(struct fake_daemon *daemon, bool lie);

/* Only kinds of memory with their bit (1 << enum memory_kind) are taken. */
void fake_daemon_memory(struct fake_daemon *daemon, uint32_t kinds);

void fake_daemon_requests_max(struct fake_daemon *daemon, uint32_t requests_max);

/* Closes all connections; goes on listening. */
void fake_daemon_cut(struct fake_daemon *daemon);

/* Reads nothing more until false. */
void fake_daemon_deaf(struct fake_daemon *daemon, bool deaf);

/* Raw bytes to all clients. */
void fake_daemon_say(struct fake_daemon *daemon, const void *bytes, size_t count);

/* A notice to all clients. */
void fake_daemon_notice(struct fake_daemon *daemon, enum notice_kind kind, int status);

/* Messages of a kind received so far. */
uint64_t fake_daemon_count(struct fake_daemon *daemon, enum msg_kind kind);

/* Waits until that is at least `count`; false after 5 s. */
bool fake_daemon_await(struct fake_daemon *daemon, enum msg_kind kind, uint64_t count);

#endif
