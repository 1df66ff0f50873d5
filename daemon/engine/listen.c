#include "daemon/engine/listen.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* since Linux 6.5; older headers lack it */
#endif

enum { BACKLOG = 512 };

static int address_of(const char *path, struct sockaddr_un *address, struct error *error)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address->sun_path) {
        return error_set(error, ST_INVALID, "socket path %s: longer than %zu bytes", path,
                         sizeof address->sun_path - 1);
    }
    (void)memcpy(address->sun_path, path, strlen(path) + 1);
    return ST_OK;
}

/* Whether somebody answers at the path. A stale file is removed. */
static int path_clear(const struct sockaddr_un *address, struct error *error)
{
    struct stat info;
    if (lstat(address->sun_path, &info) != 0) {
        return ST_OK;
    }
    if (!S_ISSOCK(info.st_mode)) {
        return error_set(error, ST_IO, "socket path %s: something else than a socket is there",
                         address->sun_path);
    }
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) {
        return error_errno(error, ST_IO, errno, "socket");
    }
    int connected = connect(probe, (const struct sockaddr *)address, sizeof *address);
    int cause = errno;
    (void)close(probe);
    if (connected == 0 || cause == EAGAIN) {
        return error_set(error, ST_BUSY, "another daemon answers at %s", address->sun_path);
    }
    if (cause != ECONNREFUSED && cause != ENOENT) { /* nothing says that it is stale */
        return error_errno(error, ST_IO, cause, "connect to %s", address->sun_path);
    }
    (void)unlink(address->sun_path);
    return ST_OK;
}

static int bind_and_listen(int listener, const struct sockaddr_un *address, uint32_t mode,
                           struct error *error)
{
    /* the mask makes the mode hold from the first moment on; the loop thread is the only one yet
     * that makes files */
    mode_t old = umask(0777 & ~(mode_t)mode);
    int bound = bind(listener, (const struct sockaddr *)address, sizeof *address);
    int cause = errno;
    (void)umask(old);
    if (bound != 0) {
        return error_errno(error, ST_IO, cause, "bind %s", address->sun_path);
    }
    if (listen(listener, BACKLOG) != 0) {
        cause = errno;
        (void)unlink(address->sun_path);
        return error_errno(error, ST_IO, cause, "listen at %s", address->sun_path);
    }
    return ST_OK;
}

int engine_listen(const char *path, uint32_t mode, int *listener_out, struct error *error)
{
    struct sockaddr_un address;
    int status = address_of(path, &address, error);
    status = status != ST_OK ? status : path_clear(&address, error);
    if (status != ST_OK) {
        return status;
    }
    int listener = fault_fires(FAULT_OPEN)
                       ? -1
                       : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) {
        return error_errno(error, ST_IO, errno, "make the listening socket");
    }
    status = bind_and_listen(listener, &address, mode, error);
    if (status != ST_OK) {
        (void)close(listener);
        return status;
    }
    *listener_out = listener;
    return ST_OK;
}

void engine_peer_read(struct engine_peer *peer_out, int socket)
{
    struct ucred cred = {0};
    socklen_t bytes = sizeof cred;
    *peer_out = (struct engine_peer){.pidfd = -1};
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) != 0) {
        return;
    }
    peer_out->pid = cred.pid;
    peer_out->uid = cred.uid;
    peer_out->gid = cred.gid;
    int pidfd = -1;
    bytes = sizeof pidfd;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &bytes) == 0) {
        peer_out->pidfd = pidfd; /* names the very process, even if its number was reused since */
    } else if (errno == ENOPROTOOPT && cred.pid > 0) { /* an older kernel */
        peer_out->pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
    }
    if (peer_out->pidfd < 0) {
        peer_out->pid = 0; /* it could not be told from a process that takes its number */
    }
}
