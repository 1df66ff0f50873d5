#include "storage/disk/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/size.h"

enum { PID_BYTES = 16 };

/* The holder's pid as it stands in the file; 0 when it cannot be read. */
static uint64_t lock_pid(int fd)
{
    char text[PID_BYTES + 1] = {0};
    uint64_t pid = 0;
    if (pread(fd, text, PID_BYTES, 0) > 0) {
        (void)number_prefix(text, 10, &pid);
    }
    return pid;
}

static int lock_write_pid(int fd)
{
    char text[PID_BYTES + 1];
    int length = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)length, 0) != length) {
        return ST_IO;
    }
    return ST_OK;
}

int lock_take(int directory_fd, int *fd_out, struct error *error)
{
    int fd = -1;
    errno = EIO;
    if (!fault_fires(FAULT_OPEN)) {
        fd = openat(directory_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "LOCK cannot be opened");
    }
    /* belongs to the open file: a fork or a second open in this process does not lose it */
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        int status = errno == EAGAIN || errno == EACCES ? ST_BUSY : ST_IO;
        if (status == ST_BUSY) {
            (void)error_set(error, status, "used by the process with pid %llu already",
                            (unsigned long long)lock_pid(fd));
        } else {
            (void)error_errno(error, status, errno, "LOCK cannot be locked");
        }
        (void)close(fd);
        return status;
    }
    errno = EIO;
    if (fault_fires(FAULT_FILE) || lock_write_pid(fd) != ST_OK) {
        (void)error_errno(error, ST_IO, errno, "LOCK cannot be written");
        (void)close(fd);
        return ST_IO;
    }
    *fd_out = fd;
    return ST_OK;
}
