/* The calls that take a path: open, remove, rename, link, make. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/powerloss/hooks.h"
#include "tests/lib/powerloss/powerloss.h"

/* ---- open ------------------------------------------------------------------------------------ */

/* With the lock. True: something changed. */
static bool open_logged(const struct pl_place *place, int flags, mode_t mode, int *fd_out)
{
    struct stat status;
    bool there = fstatat(place->dir_fd, place->name, &status, 0) == 0;
    bool empties = there && (flags & O_TRUNC) != 0 && S_ISREG(status.st_mode);
    *fd_out = raw_openat(place->dir_fd, place->name, empties ? flags & ~O_TRUNC : flags, mode);
    if (*fd_out < 0) {
        return false;
    }
    if (empties && (flags & O_ACCMODE) != O_RDONLY) {
        struct pl_write *log = file_before(*fd_out, &status, 0, (uint64_t)status.st_size);
        file_after(log, UINT64_MAX, raw_ftruncate(*fd_out, 0) == 0);
        return true;
    }
    if (!there && (flags & O_CREAT) != 0) {
        name_log(PL_CREATE, place, NULL, 0, 0);
        return true;
    }
    return false;
}

static int do_open(int dir_fd, const char *path, int flags, mode_t mode)
{
    struct pl_place place;
    bool plain = (flags & (O_CREAT | O_TRUNC)) == 0;
    if (!place_find(dir_fd, path, &place)) {
        return raw_openat(dir_fd, path, flags, mode);
    }
    int fd = -1;
    if (fault_call(CLASS_OPEN) == OUTCOME_FAIL) {
        place_done(&place);
        return -1;
    }
    if (plain || (flags & O_PATH) != 0 || (flags & O_TMPFILE) == O_TMPFILE || !pl_enter()) {
        pl_halt_if_off();
        fd = raw_openat(dir_fd, path, flags, mode);
    } else if (open_logged(&place, flags, mode, &fd)) {
        pl_leave_changed();
    } else {
        pl_leave();
    }
    place_done(&place);
    return fd;
}

static bool wants_mode(int flags)
{
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
}

HOOK int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (wants_mode(flags)) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return do_open(AT_FDCWD, path, flags, mode);
}

HOOK int openat(int dir_fd, const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (wants_mode(flags)) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return do_open(dir_fd, path, flags, mode);
}

HOOK int creat(const char *path, mode_t mode)
{
    return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

SAME_AS(open) int open64(const char *path, int flags, ...);
SAME_AS(openat) int openat64(int dir_fd, const char *path, int flags, ...);
SAME_AS(creat) int creat64(const char *path, mode_t mode);

/* What programs call that were built with _FORTIFY_SOURCE. */
HOOK int __open_2(const char *path, int flags);
HOOK int __open_2(const char *path, int flags)
{
    return do_open(AT_FDCWD, path, flags, 0);
}

HOOK int __openat_2(int dir_fd, const char *path, int flags);
HOOK int __openat_2(int dir_fd, const char *path, int flags)
{
    return do_open(dir_fd, path, flags, 0);
}

SAME_AS(__open_2) int __open64_2(const char *path, int flags);
SAME_AS(__openat_2) int __openat64_2(int dir_fd, const char *path, int flags);

/* ---- remove ---------------------------------------------------------------------------------- */

HOOK int unlinkat(int dir_fd, const char *path, int flags)
{
    struct pl_place place;
    if (!place_find(dir_fd, path, &place)) {
        return raw_unlinkat(dir_fd, path, flags);
    }
    int failed = -1;
    if (fault_call(CLASS_WRITE) == OUTCOME_FAIL) {
        place_done(&place);
        return -1;
    }
    if (!pl_enter()) {
        failed = raw_unlinkat(dir_fd, path, flags);
        place_done(&place);
        return failed;
    }
    struct stat status = {0};
    (void)fstatat(place.dir_fd, place.name, &status, AT_SYMLINK_NOFOLLOW);
    uint64_t kept = place_keep(&place);
    failed = raw_unlinkat(place.dir_fd, place.name, flags);
    if (failed == 0) {
        bool directory = (flags & AT_REMOVEDIR) != 0;
        name_log(directory ? PL_RMDIR : PL_REMOVE, &place, NULL, kept, status.st_mode & 07777);
    } else {
        name_drop_kept(kept);
    }
    pl_leave_changed();
    place_done(&place);
    return failed;
}

HOOK int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

HOOK int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

HOOK int remove(const char *path)
{
    int failed = unlink(path);
    return failed != 0 && errno == EISDIR ? rmdir(path) : failed;
}

/* ---- rename ---------------------------------------------------------------------------------- */

/* With the lock; at least one side lies in the tree. */
static int rename_logged(const struct pl_place *from, const struct pl_place *to, unsigned flags)
{
    uint64_t kept = to->dir_fd >= 0 && flags == 0 ? place_keep(to) : 0;
    int failed = raw_renameat(from->dir_fd, from->name, to->dir_fd, to->name, flags);
    if (failed == 0) {
        name_log(PL_RENAME, from, to, kept, 0);
    } else {
        name_drop_kept(kept);
    }
    return failed;
}

HOOK int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    struct pl_place old;
    struct pl_place new;
    bool old_in = place_find(from_fd, from, &old);
    bool new_in = place_find(to_fd, to, &new);
    int failed = -1;
    if ((old_in || new_in) && fault_call(CLASS_WRITE) == OUTCOME_FAIL) {
        failed = -1;
    } else if (old_in && new_in && (flags & RENAME_EXCHANGE) != 0) {
        errno = EINVAL; /* cannot be taken back */
    } else if (!old_in || !new_in || !pl_enter()) {
        failed =
            raw_renameat(from_fd, from, to_fd, to, flags); /* past the tree's edge: it counts */
    } else {
        failed = rename_logged(&old, &new, flags);
        pl_leave_changed();
    }
    if (old_in) {
        place_done(&old);
    }
    if (new_in) {
        place_done(&new);
    }
    return failed;
}

HOOK int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return renameat2(from_fd, from, to_fd, to, 0);
}

HOOK int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- make ------------------------------------------------------------------------------------ */

HOOK int mkdirat(int dir_fd, const char *path, mode_t mode)
{
    struct pl_place place;
    if (!place_find(dir_fd, path, &place)) {
        return raw_mkdirat(dir_fd, path, mode);
    }
    int failed = -1;
    if (fault_call(CLASS_WRITE) == OUTCOME_FAIL) {
        failed = -1;
    } else if (!pl_enter()) {
        failed = raw_mkdirat(dir_fd, path, mode);
    } else {
        failed = raw_mkdirat(place.dir_fd, place.name, mode);
        if (failed == 0) {
            name_log(PL_MKDIR, &place, NULL, 0, mode);
        }
        pl_leave_changed();
    }
    place_done(&place);
    return failed;
}

HOOK int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

HOOK int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    struct pl_place place;
    if (!place_find(to_fd, to, &place)) {
        return raw_linkat(from_fd, from, to_fd, to, flags);
    }
    int failed = -1;
    if (fault_call(CLASS_WRITE) == OUTCOME_FAIL) {
        failed = -1;
    } else if (!pl_enter()) {
        failed = raw_linkat(from_fd, from, to_fd, to, flags);
    } else {
        failed = raw_linkat(from_fd, from, place.dir_fd, place.name, flags);
        if (failed == 0) {
            name_log(PL_CREATE, &place, NULL, 0, 0);
        }
        pl_leave_changed();
    }
    place_done(&place);
    return failed;
}

HOOK int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}
