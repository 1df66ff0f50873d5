/* System calls, past the hooks and past the C library's own names for them. */
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/powerloss/powerloss.h"

int raw_openat(int dir_fd, const char *path, int flags, mode_t mode)
{
    return (int)syscall(SYS_openat, dir_fd, path, flags, mode);
}

int raw_close(int fd)
{
    return (int)syscall(SYS_close, fd);
}

ssize_t raw_pread(int fd, void *to, size_t bytes, uint64_t offset)
{
    return syscall(SYS_pread64, fd, to, bytes, offset);
}

ssize_t raw_pwrite(int fd, const void *from, size_t bytes, uint64_t offset)
{
    return syscall(SYS_pwrite64, fd, from, bytes, offset);
}

int raw_ftruncate(int fd, uint64_t bytes)
{
    return (int)syscall(SYS_ftruncate, fd, bytes);
}

int raw_unlinkat(int dir_fd, const char *path, int flags)
{
    return (int)syscall(SYS_unlinkat, dir_fd, path, flags);
}

int raw_renameat(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int raw_linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

int raw_mkdirat(int dir_fd, const char *path, mode_t mode)
{
    return (int)syscall(SYS_mkdirat, dir_fd, path, mode);
}
