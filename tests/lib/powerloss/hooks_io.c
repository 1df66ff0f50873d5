/* The calls that take a descriptor: reads, writes, sizes, syncs. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/powerloss/hooks.h"
#include "tests/lib/powerloss/powerloss.h"

static const off_t at_position = -1; /* the kernel's word for where the descriptor is */

static int refuse(int errnum)
{
    errno = errnum;
    return -1;
}

static struct pl_id id_of(const struct stat *status)
{
    return (struct pl_id){.dev = status->st_dev, .ino = status->st_ino};
}

/* ---- reads and writes ------------------------------------------------------------------------ */

/* One call in the kernel's most general form. */
struct call {
    int fd;
    const struct iovec *vectors;
    int count;
    off_t offset;
    int flags;
};

static ssize_t raw_call(const struct call *call, bool write)
{
    return syscall(write ? SYS_pwritev2 : SYS_preadv2, call->fd, call->vectors, call->count,
                   call->offset, 0, call->flags);
}

static uint64_t call_bytes(const struct call *call)
{
    uint64_t bytes = 0;
    for (int i = 0; i < call->count; i++) {
        bytes += call->vectors[i].iov_len;
    }
    return bytes;
}

/* Makes a call about half as long, in whole pages where there are several. */
static void shorten(struct call *call, struct iovec *vectors)
{
    enum { PAGE = 4096 };
    uint64_t bytes = call_bytes(call);
    uint64_t room = bytes >= (uint64_t)2 * PAGE ? bytes / 2 / PAGE * PAGE : bytes / 2;
    if (call->count > PL_VECTORS || bytes < 2 ||
        (bytes < (uint64_t)2 * PAGE && (fcntl(call->fd, F_GETFL) & O_DIRECT) != 0)) {
        return;
    }
    int count = 0;
    for (; room > 0 && count < call->count; count++) {
        vectors[count] = call->vectors[count];
        vectors[count].iov_len = vectors[count].iov_len < room ? vectors[count].iov_len : room;
        room -= vectors[count].iov_len;
    }
    call->vectors = vectors;
    call->count = count;
}

/* With the lock: the write and its entry in the log. */
static ssize_t write_logged(const struct call *call)
{
    struct stat status;
    int how = fcntl(call->fd, F_GETFL);
    if (fstat(call->fd, &status) != 0) {
        return -1;
    }
    off_t offset = call->offset;
    if ((how & O_APPEND) != 0 || (call->flags & RWF_APPEND) != 0) {
        offset = status.st_size;
    } else if (offset == at_position) {
        offset = lseek(call->fd, 0, SEEK_CUR);
    }
    bool may = (how & O_ACCMODE) != O_RDONLY && offset >= 0;
    struct pl_write *log =
        may ? file_before(call->fd, &status, (uint64_t)offset, call_bytes(call)) : NULL;
    ssize_t written = raw_call(call, true);
    file_after(log, written > 0 ? (uint64_t)written : 0, written > 0);
    if (written > 0 && ((how & O_DSYNC) != 0 || (call->flags & (RWF_DSYNC | RWF_SYNC)) != 0)) {
        file_synced(id_of(&status), pl_sequence());
    }
    return written;
}

static ssize_t do_write(struct call call)
{
    struct stat status;
    struct iovec vectors[PL_VECTORS];
    if (!pl_fd_in_tree(call.fd, &status)) {
        return raw_call(&call, true);
    }
    enum fault_outcome outcome = fault_call(CLASS_WRITE);
    if (outcome == OUTCOME_FAIL) {
        return -1;
    }
    if (outcome == OUTCOME_SHORT) {
        shorten(&call, vectors);
    }
    if (!pl_enter()) {
        return raw_call(&call, true);
    }
    ssize_t written = write_logged(&call);
    pl_leave_changed();
    return written;
}

static ssize_t do_read(struct call call)
{
    struct stat status;
    struct iovec vectors[PL_VECTORS];
    if (!pl_fd_in_tree(call.fd, &status)) {
        return raw_call(&call, false);
    }
    enum fault_outcome outcome = fault_call(CLASS_READ);
    if (outcome == OUTCOME_FAIL) {
        return -1;
    }
    if (outcome == OUTCOME_SHORT) {
        shorten(&call, vectors);
    }
    pl_halt_if_off();
    return raw_call(&call, false);
}

#define ONE(memory, bytes) (&(struct iovec){.iov_base = (memory), .iov_len = (bytes)})

static void *writable(const void *memory)
{
    return (void *)(uintptr_t)memory; // NOLINT(performance-no-int-to-ptr): as struct iovec has it
}

HOOK ssize_t write(int fd, const void *from, size_t bytes)
{
    return do_write((struct call){fd, ONE(writable(from), bytes), 1, at_position, 0});
}

HOOK ssize_t writev(int fd, const struct iovec *vectors, int count)
{
    return do_write((struct call){fd, vectors, count, at_position, 0});
}

HOOK ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset)
{
    if (offset < 0) {
        return refuse(EINVAL);
    }
    return do_write((struct call){fd, ONE(writable(from), bytes), 1, offset, 0});
}

HOOK ssize_t pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
    if (offset < 0) {
        return refuse(EINVAL);
    }
    return do_write((struct call){fd, vectors, count, offset, 0});
}

HOOK ssize_t pwritev2(int fd, const struct iovec *vectors, int count, off_t offset, int flags)
{
    return do_write((struct call){fd, vectors, count, offset, flags});
}

HOOK ssize_t read(int fd, void *to, size_t bytes)
{
    return do_read((struct call){fd, ONE(to, bytes), 1, at_position, 0});
}

HOOK ssize_t readv(int fd, const struct iovec *vectors, int count)
{
    return do_read((struct call){fd, vectors, count, at_position, 0});
}

HOOK ssize_t pread(int fd, void *to, size_t bytes, off_t offset)
{
    if (offset < 0) {
        return refuse(EINVAL);
    }
    return do_read((struct call){fd, ONE(to, bytes), 1, offset, 0});
}

HOOK ssize_t preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
    if (offset < 0) {
        return refuse(EINVAL);
    }
    return do_read((struct call){fd, vectors, count, offset, 0});
}

HOOK ssize_t preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags)
{
    return do_read((struct call){fd, vectors, count, offset, flags});
}

/* What programs call that were built with _FORTIFY_SOURCE: the bound was checked or is ours. */
HOOK ssize_t __read_chk(int fd, void *to, size_t bytes, size_t room);
HOOK ssize_t __read_chk(int fd, void *to, size_t bytes, size_t room)
{
    return bytes > room ? refuse(EFAULT) : read(fd, to, bytes);
}

HOOK ssize_t __pread_chk(int fd, void *to, size_t bytes, off_t offset, size_t room);
HOOK ssize_t __pread_chk(int fd, void *to, size_t bytes, off_t offset, size_t room)
{
    return bytes > room ? refuse(EFAULT) : pread(fd, to, bytes, offset);
}

SAME_AS(pwrite) ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t offset);
SAME_AS(pwritev)
ssize_t pwritev64(int fd, const struct iovec *vectors, int count, off64_t offset);
SAME_AS(pwritev2)
ssize_t pwritev64v2(int fd, const struct iovec *vectors, int count, off64_t offset, int flags);
SAME_AS(pread) ssize_t pread64(int fd, void *to, size_t bytes, off64_t offset);
SAME_AS(preadv) ssize_t preadv64(int fd, const struct iovec *vectors, int count, off64_t offset);
SAME_AS(preadv2)
ssize_t preadv64v2(int fd, const struct iovec *vectors, int count, off64_t offset, int flags);
SAME_AS(__pread_chk)
ssize_t __pread64_chk(int fd, void *to, size_t bytes, off64_t offset, size_t room);

/* ---- sizes ----------------------------------------------------------------------------------- */

/* With the lock. */
static int truncate_logged(int fd, uint64_t bytes)
{
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return -1;
    }
    uint64_t size = (uint64_t)status.st_size;
    struct pl_write *log = file_before(fd, &status, bytes, size > bytes ? size - bytes : 0);
    int failed = raw_ftruncate(fd, bytes);
    file_after(log, UINT64_MAX, failed == 0);
    return failed;
}

HOOK int ftruncate(int fd, off_t bytes)
{
    struct stat status;
    if (bytes < 0 || !pl_fd_in_tree(fd, &status)) {
        return bytes < 0 ? refuse(EINVAL) : raw_ftruncate(fd, (uint64_t)bytes);
    }
    if (fault_call(CLASS_WRITE) == OUTCOME_FAIL) {
        return -1;
    }
    if (!pl_enter()) {
        return raw_ftruncate(fd, (uint64_t)bytes);
    }
    int failed = truncate_logged(fd, (uint64_t)bytes);
    pl_leave_changed();
    return failed;
}

HOOK int truncate(const char *path, off_t bytes)
{
    int fd = raw_openat(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    int failed = ftruncate(fd, bytes);
    int errnum = errno;
    (void)raw_close(fd);
    errno = errnum;
    return failed;
}

HOOK int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    enum { KNOWN = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE };
    struct stat status;
    if (!pl_fd_in_tree(fd, &status)) {
        return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
    }
    if ((mode & ~KNOWN) != 0 || offset < 0 || bytes <= 0) {
        return refuse((mode & ~KNOWN) != 0 ? EOPNOTSUPP : EINVAL);
    }
    if (fault_call(CLASS_WRITE) == OUTCOME_FAIL) {
        return -1;
    }
    if (!pl_enter()) {
        return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
    }
    bool zeroes = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
    struct pl_write *log = NULL;
    if (fstat(fd, &status) == 0) {
        log = file_before(fd, &status, (uint64_t)offset, zeroes ? (uint64_t)bytes : 0);
    }
    int failed = (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
    file_after(log, UINT64_MAX, failed == 0);
    pl_leave_changed();
    return failed;
}

HOOK int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    int errnum = errno;
    int failed = fallocate(fd, 0, offset, bytes) == 0 ? 0 : errno;
    errno = errnum;
    return failed;
}

SAME_AS(ftruncate) int ftruncate64(int fd, off64_t bytes);
SAME_AS(truncate) int truncate64(const char *path, off64_t bytes);
SAME_AS(fallocate) int fallocate64(int fd, int mode, off64_t offset, off64_t bytes);
SAME_AS(posix_fallocate) int posix_fallocate64(int fd, off64_t offset, off64_t bytes);

/* ---- syncs ----------------------------------------------------------------------------------- */

/* What was done before the call is on the disk after it. The real call is spared: only the
 * simulated power goes. */
static int do_sync(int fd, const struct stat *status, bool all)
{
    uint64_t sequence = pl_sequence(); /* not what comes while a slow sync takes its time */
    if (fault_call(CLASS_SYNC) == OUTCOME_FAIL) {
        return -1;
    }
    if (!pl_enter()) {
        return (int)syscall(SYS_fsync, fd);
    }
    bool through = !pl_last_call() || pl_mode() == PL_KEEP || pl_random(2) == 0;
    if (through && all) {
        file_all_synced();
        name_all_synced();
    } else if (through && S_ISDIR(status->st_mode)) {
        name_synced(id_of(status), sequence);
    } else if (through) {
        file_synced(id_of(status), sequence);
    }
    pl_leave_changed();
    return 0;
}

HOOK int fsync(int fd)
{
    struct stat status;
    return pl_fd_in_tree(fd, &status) ? do_sync(fd, &status, false) : (int)syscall(SYS_fsync, fd);
}

HOOK int fdatasync(int fd)
{
    struct stat status;
    return pl_fd_in_tree(fd, &status) ? do_sync(fd, &status, false)
                                      : (int)syscall(SYS_fdatasync, fd);
}

HOOK int syncfs(int fd)
{
    struct stat status;
    return pl_fd_in_tree(fd, &status) ? do_sync(fd, &status, true) : (int)syscall(SYS_syncfs, fd);
}

/* Starts writing, promises nothing. */
HOOK int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags)
{
    struct stat status;
    return pl_fd_in_tree(fd, &status) ? 0
                                      : (int)syscall(SYS_sync_file_range, fd, offset, bytes, flags);
}

/* ---- what is refused ------------------------------------------------------------------------- */

/* Stores into shared memory pass no hook. */
HOOK void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    struct stat status;
    if ((flags & MAP_SHARED) != 0 && (protection & PROT_WRITE) != 0 &&
        (flags & MAP_ANONYMOUS) == 0 && pl_fd_in_tree(fd, &status)) {
        errno = ENODEV;
        return MAP_FAILED;
    }
    long mapped = syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
    return (void *)mapped; // NOLINT(performance-no-int-to-ptr)
}

SAME_AS(mmap)
void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset);

/* Neither does what is handed to the kernel through a ring. */
struct io_uring;
typedef int (*ring_init)(unsigned entries, struct io_uring *ring, unsigned flags);

HOOK int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
HOOK int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    if (pl_enter()) {
        pl_leave();
        return -EPERM;
    }
    union {
        void *found;
        ring_init call;
    } real = {.found = dlsym(RTLD_NEXT, "io_uring_queue_init")};
    return real.found == NULL ? -ENOSYS : real.call(entries, ring, flags);
}
