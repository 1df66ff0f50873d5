/*
 * The server: the only meeting point of core, tiers and protocols. It turns messages into events,
 * actions into copies and answers, completions into events. It holds no policy.
 */
#ifndef KVEIK_SERVER_SERVER_H
#define KVEIK_SERVER_SERVER_H

#include "base/error.h"
#include "base/log.h"
#include "daemon/server/settings.h"

struct server;

/* Builds all parts bottom-up; the socket answers from then on. */
int server_create(const struct settings *settings, struct log *log, struct server **server_out,
                  struct error *error);

/* Runs until SIGTERM, SIGINT or server_stop(). ST_OK. */
int server_run(struct server *server);

/* Begins a graceful stop: no new requests, those in flight end or fail, clients are told. From the
 * loop thread or a signal handler's async. */
void server_stop(struct server *server);

/* In the mirror order. Accepts NULL. */
void server_destroy(struct server *server);

/* Checks the store on disk, with no daemon running on it; prints a report. *clean_out: nothing had
 * to be dropped. ST_OK, or why it could not be checked. */
int server_check_store(const struct settings *settings, struct log *log, bool *clean_out,
                       struct error *error);

#endif
