/*
 * The service manager's file descriptor store, in its own protocol: a descriptor that is handed
 * over is kept while the service is down and passed to the next start. Callers need no library.
 *
 * Environment: NOTIFY_SOCKET to hand over; LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES to get back.
 * One thread.
 */
#ifndef KVEIK_SERVER_NOTIFY_H
#define KVEIK_SERVER_NOTIFY_H

#include "base/error.h"

/* The descriptor that was passed under this name, the caller's to close; -1: none. */
int notify_descriptor(const char *name);

/* Hands a descriptor over; it stays the caller's, too. ST_OK: it was sent, which is no promise that
 * it is kept. ST_UNSUPPORTED: no service manager listens; ST_INVALID: NOTIFY_SOCKET; ST_IO. */
int notify_store(int fd, const char *name, struct error *error);

#endif
