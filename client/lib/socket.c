/* Where the daemon listens, and a connected socket to it. */
#include "client/lib/socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"

static int connect_to(const char *path, int *socket_out, struct error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strnlen(path, sizeof address.sun_path);
    if (length == 0 || length == sizeof address.sun_path) {
        return error_set(error, ST_INVALID, "socket path: must have 1 to %zu bytes",
                         sizeof address.sun_path - 1);
    }
    (void)memcpy(address.sun_path, path, length);
    errno = EMFILE;
    int fd = fault_fires(FAULT_OPEN)
                 ? -1
                 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "socket");
    }
    /* on a Unix socket this never waits: EAGAIN says that the daemon's backlog is full */
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        int cause = errno;
        (void)close(fd);
        int status = cause == EACCES || cause == EPERM ? ST_PERMISSION : ST_UNAVAILABLE;
        return error_errno(error, status, cause, "no daemon at %s", path);
    }
    *socket_out = fd;
    return ST_OK;
}

static pid_t peer_of(int fd, uid_t *uid_out)
{
    struct ucred credentials = {0};
    socklen_t bytes = sizeof credentials;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
        *uid_out = (uid_t)-1;
        return 0;
    }
    *uid_out = credentials.uid;
    return credentials.pid;
}

/* Anybody may make files in /tmp: only the user's own daemon, or root's, is believed there. */
static int connect_in_tmp(int *socket_out, struct error *error)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/tmp/kveik-%u/engine.sock", (unsigned)geteuid());
    int fd = -1;
    int status = connect_to(path, &fd, error);
    if (status != ST_OK) {
        return status;
    }
    uid_t uid = 0;
    (void)peer_of(fd, &uid);
    if (uid != 0 && uid != geteuid()) {
        (void)close(fd);
        return error_set(error, ST_PERMISSION, "the daemon at %s is another user's", path);
    }
    *socket_out = fd;
    return ST_OK;
}

/* The usual places, in the order that kveik.h documents; the first that answers. */
static int connect_anywhere(int *socket_out, struct error *error)
{
    const char *path = secure_getenv("KVEIK_SOCKET"); /* NOLINT(concurrency-mt-unsafe) */
    if (path != NULL && path[0] != '\0') {
        return connect_to(path, socket_out, error);
    }
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR"); /* NOLINT(concurrency-mt-unsafe) */
    if (runtime != NULL && runtime[0] == '/') {
        char own[256];
        int length = snprintf(own, sizeof own, "%s/kveik/engine.sock", runtime);
        if (length > 0 && (size_t)length < sizeof own &&
            connect_to(own, socket_out, error) == ST_OK) {
            return ST_OK;
        }
    }
    int status = connect_to("/run/kveik/engine.sock", socket_out, error);
    if (status == ST_OK || geteuid() == 0) {
        return status;
    }
    struct error ignored = {0};
    return connect_in_tmp(socket_out, &ignored) == ST_OK ? ST_OK : status;
}

int socket_connect(const char *path, int *socket_out, pid_t *pid_out, struct error *error)
{
    int fd = -1;
    int status = path != NULL ? connect_to(path, &fd, error) : connect_anywhere(&fd, error);
    if (status != ST_OK) {
        return status;
    }
    uid_t uid = 0;
    *pid_out = peer_of(fd, &uid);
    *socket_out = fd;
    return ST_OK;
}
