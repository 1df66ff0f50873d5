#include "daemon/server/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/size.h"
#include "base/status.h"

enum { FIRST_DESCRIPTOR = 3, DESCRIPTORS_MAX = 256, TEXT_BYTES = 128 };

/* A number of the environment; 0: not there, or none. */
static uint64_t number_of(const char *name)
{
    const char *text = secure_getenv(name);
    uint64_t number = 0;
    return text != NULL && number_parse(text, &number, NULL) == ST_OK ? number : 0;
}

int notify_descriptor(const char *name)
{
    uint64_t count = number_of("LISTEN_FDS");
    const char *names = secure_getenv("LISTEN_FDNAMES");
    if (number_of("LISTEN_PID") != (uint64_t)getpid() || names == NULL || count > DESCRIPTORS_MAX) {
        return -1;
    }
    size_t length = strlen(name);
    for (int fd = FIRST_DESCRIPTOR; fd < FIRST_DESCRIPTOR + (int)count; fd++) {
        size_t here = strcspn(names, ":");
        if (here == length && memcmp(names, name, length) == 0) {
            return fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? fd : -1;
        }
        names += here;
        names += *names == ':' ? 1 : 0;
    }
    return -1;
}

/* The socket's address: a path, or @ and an abstract name. */
static int address_of(const char *path, struct sockaddr_un *address_out, socklen_t *bytes_out)
{
    size_t length = strlen(path);
    *address_out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if ((path[0] != '/' && path[0] != '@') || length < 2 ||
        length >= sizeof address_out->sun_path) {
        return ST_INVALID;
    }
    (void)memcpy(address_out->sun_path, path, length);
    if (path[0] == '@') {
        address_out->sun_path[0] = '\0';
    }
    *bytes_out = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    return ST_OK;
}

int notify_store(int fd, const char *name, struct error *error)
{
    const char *path = secure_getenv("NOTIFY_SOCKET");
    struct sockaddr_un address;
    socklen_t address_bytes = 0;
    if (path == NULL) {
        return error_set(error, ST_UNSUPPORTED,
                         "no service manager listens: NOTIFY_SOCKET is not set");
    }
    if (address_of(path, &address, &address_bytes) != ST_OK) {
        return error_set(error, ST_INVALID, "NOTIFY_SOCKET is no socket's name: %s", path);
    }
    char text[TEXT_BYTES];
    int count = snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%s", name);
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec part = {.iov_base = text, .iov_len = (size_t)count};
    struct msghdr message = {.msg_name = &address,
                             .msg_namelen = address_bytes,
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    control.header = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    (void)memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    int to = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool sent = to >= 0 && !fault_fires(FAULT_SEND) &&
                sendmsg(to, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)count;
    int cause = errno;
    if (to >= 0) {
        (void)close(to);
    }
    return sent ? ST_OK
                : error_errno(error, ST_IO, cause, "the service manager at %s was not reached",
                              path);
}
