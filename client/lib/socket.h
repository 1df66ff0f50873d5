/* Where the daemon listens, and a connected socket to it. */
#ifndef KVEIK_CLIENT_LIB_SOCKET_H
#define KVEIK_CLIENT_LIB_SOCKET_H

#include <sys/types.h>

#include "base/error.h"

/* Never waits. path NULL: the usual places. pid_out: the daemon's process, 0 when it cannot be seen
 * from here. ST_OK, ST_UNAVAILABLE, ST_PERMISSION, ST_INVALID, ST_IO. */
int socket_connect(const char *path, int *socket_out, pid_t *pid_out, struct error *error);

#endif
