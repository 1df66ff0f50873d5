/* The listening Unix socket, and who is at the other end of an accepted one. */
#ifndef KVEIK_ENGINE_LISTEN_H
#define KVEIK_ENGINE_LISTEN_H

#include <stdint.h>

#include "base/error.h"
#include "daemon/engine/engine.h"

/* Binds and listens, without blocking. A socket file that nobody answers at is replaced. ST_OK,
 * ST_BUSY (another daemon answers), ST_INVALID (path too long), ST_IO. On failure nothing is left
 * open, and no file of ours. */
int engine_listen(const char *path, uint32_t mode, int *listener_out, struct error *error);

/* Credentials and pidfd, as the kernel gives them; zeros and -1 for what it does not. A peer whose
 * process is gone already has no pid: its number may be another's by now. */
void engine_peer_read(struct engine_peer *peer_out, int socket);

#endif
