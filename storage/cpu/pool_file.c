/*
 * Two locks. One belongs to the open file (OFD): it excludes every other open file, also one of
 * this process, and no stray close() drops it. The kernel does not say who holds it; so the holder
 * has a second lock of the classic kind, which excludes nobody but has a process id to be asked
 * for. (A process that opens its own file once more and closes it loses that one: then it is
 * "another process".)
 */
#include "storage/cpu/pool_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"

enum {
    FILE_MODE = 0600,
    OPEN_TRIES = 8, /* the file may go between its opening and its locking */
    INTERRUPTIONS_MAX = 100,
    NAME_BYTES = 100,
    LOCK_BYTE = 0,
    HOLDER_BYTE = 1,
    GRANULE_BYTES = 2 * 1024 * 1024,
};

#define XFS_MAGIC 0x58465342 /* not in every linux/magic.h */

static const struct {
    long magic;
    const char *name;
    bool memory;
} file_systems[] = {
    {TMPFS_MAGIC, "tmpfs", true},      {HUGETLBFS_MAGIC, "hugetlbfs", true},
    {RAMFS_MAGIC, "ramfs", true},      {EXT4_SUPER_MAGIC, "ext4", false},
    {XFS_MAGIC, "xfs", false},         {BTRFS_SUPER_MAGIC, "btrfs", false},
    {NFS_SUPER_MAGIC, "nfs", false},   {OVERLAYFS_SUPER_MAGIC, "overlayfs", false},
    {F2FS_SUPER_MAGIC, "f2fs", false},
};

static bool fails(enum fault_point point)
{
    if (!fault_fires(point)) {
        return false;
    }
    errno = EIO;
    return true;
}

/* The end of a long path, so that there is room for what is wrong with it. */
static const char *name_of(const struct pool_file *file)
{
    if (file->path == NULL) {
        return "the descriptor given";
    }
    size_t length = strlen(file->path);
    return file->path + (length > NAME_BYTES ? length - NAME_BYTES : 0);
}

/* ---- what file it is ------------------------------------------------------------------------- */

static int check_file_system(struct pool_file *file, const struct pool_file_options *options,
                             struct error *error)
{
    struct statfs info;
    if (fails(FAULT_FILE) || fstatfs(file->fd, &info) != 0) {
        return error_errno(error, ST_IO, errno, "pool: %s", name_of(file));
    }
    file->file_system = "other";
    file->written_back = true;
    for (size_t i = 0; i < ARRAY_COUNT(file_systems); i++) {
        if (info.f_type == file_systems[i].magic) {
            file->file_system = file_systems[i].name;
            file->written_back = !file_systems[i].memory;
        }
    }
    file->hugetlb = info.f_type == HUGETLBFS_MAGIC;
    if (options->hugetlb && !file->hugetlb) {
        return error_set(error, ST_INVALID,
                         "pool: explicit huge pages in a file need one on hugetlbfs; %s is on %s",
                         name_of(file), file->file_system);
    }
    if (file->hugetlb && GRANULE_BYTES % info.f_bsize != 0) {
        return error_set(error, ST_INVALID,
                         "pool: %s has pages of %llu bytes; mount hugetlbfs with pagesize=2M",
                         name_of(file), (unsigned long long)info.f_bsize);
    }
    uint64_t blocks = info.f_blocks; /* 0: no limit; all ones: none either */
    uint64_t block_bytes = (uint64_t)info.f_bsize;
    if (blocks != 0 && blocks < options->budget_bytes / block_bytes) {
        unsigned long long room = blocks * block_bytes;
        return error_set(error, ST_NO_SPACE,
                         "pool: %s lies on a %s of %llu bytes, smaller than the pool's %llu; give "
                         "it a larger size= or the pool a smaller one",
                         name_of(file), file->file_system, room,
                         (unsigned long long)options->budget_bytes);
    }
    return ST_OK;
}

/* Memory that others can write, or name, is not ours to trust. */
static int check_owner(struct pool_file *file, struct stat *info_out, struct error *error)
{
    if (fails(FAULT_FILE) || fstat(file->fd, info_out) != 0) {
        return error_errno(error, ST_IO, errno, "pool: %s", name_of(file));
    }
    if (!S_ISREG(info_out->st_mode)) {
        return error_set(error, ST_INVALID, "pool: %s is not a regular file", name_of(file));
    }
    if (info_out->st_uid != geteuid()) {
        return error_set(error, ST_PERMISSION, "pool: %s belongs to user %u, not to user %u",
                         name_of(file), (unsigned)info_out->st_uid, (unsigned)geteuid());
    }
    /* a memfd has no name by which others could open it, whatever its mode */
    if (file->path != NULL && (info_out->st_mode & 077) != 0) {
        return error_set(error, ST_PERMISSION,
                         "pool: %s is open to others (mode %03o); its mode must be 600",
                         name_of(file), (unsigned)(info_out->st_mode & 0777));
    }
    if (file->path != NULL && info_out->st_nlink > 1) {
        return error_set(error, ST_PERMISSION, "pool: %s has a second name", name_of(file));
    }
    file->device = info_out->st_dev;
    file->inode = info_out->st_ino;
    return ST_OK;
}

/* ---- the lock -------------------------------------------------------------------------------- */

static struct flock lock_of(off_t byte)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

static int lock(const struct pool_file *file, struct error *error)
{
    struct flock owned = lock_of(LOCK_BYTE);
    if (!fails(FAULT_FILE) && fcntl(file->fd, F_OFD_SETLK, &owned) == 0) {
        struct flock holder = lock_of(HOLDER_BYTE);
        (void)fcntl(file->fd, F_SETLK, &holder);
        return ST_OK;
    }
    if (errno != EAGAIN && errno != EACCES) {
        return error_errno(error, ST_IO, errno, "pool: cannot lock %s", name_of(file));
    }
    struct flock holder = lock_of(HOLDER_BYTE);
    if (fcntl(file->fd, F_GETLK, &holder) == 0 && holder.l_type != F_UNLCK && holder.l_pid > 0) {
        return error_set(error, ST_BUSY, "pool: %s is in use by process %d", name_of(file),
                         (int)holder.l_pid);
    }
    return error_set(error, ST_BUSY, "pool: %s is in use by another process", name_of(file));
}

/* True while the name leads to the file that is open. */
static bool named(const struct pool_file *file)
{
    struct stat info;
    return fstatat(AT_FDCWD, file->path, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
           info.st_dev == file->device && info.st_ino == file->inode;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int open_path(struct pool_file *file, bool attach, struct error *error)
{
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | (attach ? 0 : O_CREAT);
    file->fd = fails(FAULT_OPEN) ? -1 : open(file->path, flags, FILE_MODE);
    if (file->fd >= 0) {
        return ST_OK;
    }
    int cause = errno;
    if (attach && cause == ENOENT) {
        return error_set(error, ST_MISMATCH, "pool: %s is not there", name_of(file));
    }
    if (cause == ELOOP) {
        return error_set(error, ST_INVALID, "pool: %s is a symbolic link", name_of(file));
    }
    bool denied = cause == EACCES || cause == EPERM || cause == EROFS;
    return error_errno(error, denied ? ST_PERMISSION : ST_IO, cause, "pool: cannot open %s",
                       name_of(file));
}

static int open_given(struct pool_file *file, int given, struct error *error)
{
    int flags = fcntl(given, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR) {
        return error_set(error, ST_INVALID,
                         "pool: descriptor %d is not open for reading and "
                         "writing",
                         given);
    }
    file->fd = fails(FAULT_OPEN) ? -1 : fcntl(given, F_DUPFD_CLOEXEC, 0);
    return file->fd >= 0 ? ST_OK : error_errno(error, ST_IO, errno, "pool: descriptor %d", given);
}

/* Old content goes before anything else; the length is address space. */
static int make_empty(const struct pool_file *file, uint64_t bytes, struct error *error)
{
    struct rlimit limit;
    /* beyond the limit a signal would end the process instead */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        return error_set(error, ST_LIMIT,
                         "pool: %s needs a length of %llu bytes (of which little is memory); files "
                         "are limited to %llu: see ulimit -f",
                         name_of(file), (unsigned long long)bytes,
                         (unsigned long long)limit.rlim_cur);
    }
    if (!fails(FAULT_FILE) && ftruncate(file->fd, 0) == 0 &&
        ftruncate(file->fd, (off_t)bytes) == 0) {
        return ST_OK;
    }
    int cause = errno;
    if (cause == EFBIG) {
        return error_set(error, ST_LIMIT,
                         "pool: %s needs a length of %llu bytes (of which little is memory), which "
                         "the file system (%s) refuses; use tmpfs",
                         name_of(file), (unsigned long long)bytes, file->file_system);
    }
    return error_errno(error, ST_IO, cause, "pool: cannot empty %s", name_of(file));
}

/* Opens and locks a file that has its name still when it is locked. */
static int open_locked(struct pool_file *file, const struct pool_file_options *options,
                       struct stat *info_out, struct error *error)
{
    for (int i = 0; i < OPEN_TRIES; i++) {
        int status = file->path != NULL ? open_path(file, options->attach, error)
                                        : open_given(file, options->fd, error);
        if (status == ST_OK) {
            status = check_owner(file, info_out, error);
        }
        if (status == ST_OK) {
            status = lock(file, error);
        }
        if (status != ST_OK || file->path == NULL || named(file)) {
            return status;
        }
        (void)close(file->fd); /* another pool removed it, after we opened it */
        file->fd = -1;
    }
    return error_set(error, ST_BUSY, "pool: %s comes and goes", name_of(file));
}

static int open_all(struct pool_file *file, const struct pool_file_options *options,
                    struct error *error)
{
    struct stat info = {0};
    int status = open_locked(file, options, &info, error);
    if (status != ST_OK) {
        return status;
    }
    status = check_file_system(file, options, error);
    if (status == ST_OK && !options->attach) {
        status = make_empty(file, options->bytes, error);
        if (status != ST_OK && info.st_size == 0 && file->path != NULL && named(file)) {
            (void)unlink(file->path); /* most likely made just now */
        }
        return status;
    }
    if (status == ST_OK && (info.st_size < 0 || (uint64_t)info.st_size != options->bytes)) {
        return error_set(error, ST_MISMATCH, "pool: %s is %lld bytes long, not %llu", name_of(file),
                         (long long)info.st_size, (unsigned long long)options->bytes);
    }
    return status;
}

int pool_file_open(struct pool_file *file, const struct pool_file_options *options,
                   struct error *error)
{
    KVEIK_ASSERT(options->bytes > 0 && options->bytes <= (uint64_t)INT64_MAX);
    struct pool_file opened = {.fd = -1};
    if (options->path != NULL && options->path[0] != '\0') {
        opened.path = heap_strdup(options->path);
        if (opened.path == NULL) {
            return error_set(error, ST_NO_MEMORY, "pool: no memory");
        }
    }
    int status = open_all(&opened, options, error);
    if (status != ST_OK) {
        /* what is there stays: it may be another's, or worth another try */
        if (opened.fd >= 0) {
            (void)close(opened.fd);
        }
        heap_free(opened.path);
        return status;
    }
    *file = opened;
    return ST_OK;
}

void pool_file_close(struct pool_file *file, bool keep)
{
    if (file->fd < 0) {
        return;
    }
    if (!keep) {
        if (file->path != NULL && named(file)) {
            (void)unlink(file->path);
        }
        /* others may hold it open still: the memory goes in any case */
        if (ftruncate(file->fd, 0) != 0) {
            struct stat info;
            if (fstat(file->fd, &info) == 0 && info.st_size > 0) {
                (void)pool_file_empty(file, 0, (uint64_t)info.st_size);
            }
        }
    }
    /* the open file may be shared with whoever gave the descriptor: its lock would stay */
    struct flock unlocked = lock_of(LOCK_BYTE);
    unlocked.l_type = F_UNLCK;
    (void)fcntl(file->fd, F_OFD_SETLK, &unlocked);
    (void)close(file->fd);
    heap_free(file->path);
    *file = (struct pool_file){.fd = -1};
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* A signal ends the call, and what it did until then may be undone: tried again, not for ever. */
static bool change(const struct pool_file *file, int mode, uint64_t offset, uint64_t bytes)
{
    int result = -1;
    errno = EINTR;
    for (int i = 0; i < INTERRUPTIONS_MAX && result != 0 && errno == EINTR; i++) {
        result = fallocate(file->fd, mode, (off_t)offset, (off_t)bytes);
    }
    return result == 0;
}

bool pool_file_empty(const struct pool_file *file, uint64_t offset, uint64_t bytes)
{
    if (fault_fires(FAULT_FILE)) {
        errno = EIO;
        return false;
    }
    return change(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
}

/* What is there stays, what is not is filled with zeros. */
static bool fill(const struct pool_file *file, uint64_t offset, uint64_t bytes)
{
    if (fault_fires(FAULT_FILE)) {
        errno = ENOSPC;
        return false;
    }
    return change(file, 0, offset, bytes);
}

bool pool_file_allocate(const struct pool_file *file, uint64_t offset, uint64_t bytes)
{
    /* emptied when it was given back; but that may have failed, and an attached file is full */
    if (!pool_file_empty(file, offset, bytes)) {
        return false;
    }
    if (!fill(file, offset, bytes)) {
        int cause = errno;
        (void)pool_file_empty(file, offset, bytes);
        errno = cause;
        return false;
    }
    return true;
}

/* Neither SEEK_HOLE nor mincore() will do: both take memory that was allocated and not yet touched
 * for a hole on tmpfs, and hugetlbfs answers neither. The count of blocks is exact. */
bool pool_file_holds(const struct pool_file *file, uint64_t offset, uint64_t bytes)
{
    struct stat before;
    struct stat after;
    if (!fails(FAULT_FILE) && fstat(file->fd, &before) == 0 && fill(file, offset, bytes) &&
        fstat(file->fd, &after) == 0 && after.st_blocks == before.st_blocks) {
        return true;
    }
    (void)pool_file_empty(file, offset, bytes);
    return false;
}

uint64_t pool_file_blocks(const struct pool_file *file)
{
    struct stat info;
    bool known = !fails(FAULT_FILE) && fstat(file->fd, &info) == 0 && info.st_blocks > 0;
    return known ? (uint64_t)info.st_blocks : 0;
}
