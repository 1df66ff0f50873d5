/*
 * The names in directories: what was made, removed and renamed since the directory was synced.
 *
 * At the cut each directory keeps the changes up to a point that chance picks, as a journal would;
 * what came after is taken back in reverse. A rename between two directories wants both of them
 * synced.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/queue.h"
#include "tests/lib/powerloss/powerloss.h"

enum { NUMBER_BYTES = 24, WALK_FDS = 16 };

struct dir {
    struct queue link;
    struct pl_id id;
    int fd;
    uint64_t keep_until; /* at the cut: changes after this sequence number are taken back */
};

/* A name in one directory; dir NULL: there is none. */
struct side {
    struct dir *dir;
    bool pending;
    char name[NAME_MAX + 1];
};

struct change {
    struct queue link;
    enum pl_name_kind kind;
    uint64_t sequence;
    struct side from;
    struct side to; /* of a rename */
    uint64_t kept;
    mode_t mode;
};

static struct queue dirs = {&dirs, &dirs};
static struct queue changes = {&changes, &changes};

/* ---- places ---------------------------------------------------------------------------------- */

/* The path without its last part, and that part. False: it has none of its own. */
static bool split(const char *path, char *parent, char *name)
{
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/') {
        bytes--;
    }
    size_t begin = bytes;
    while (begin > 0 && path[begin - 1] != '/') {
        begin--;
    }
    if (bytes == begin || bytes - begin > NAME_MAX || begin >= PATH_MAX) {
        return false;
    }
    memcpy(name, path + begin, bytes - begin);
    name[bytes - begin] = '\0';
    memcpy(parent, path, begin);
    parent[begin] = '\0';
    if (begin == 0) {
        memcpy(parent, ".", sizeof ".");
    }
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

bool place_find(int dir_fd, const char *path, struct pl_place *place_out)
{
    char parent[PATH_MAX];
    struct stat status;
    if (!split(path, parent, place_out->name)) {
        return false;
    }
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    place_out->dir_fd = raw_openat(dir_fd, parent, flags, 0);
    if (place_out->dir_fd < 0) {
        return false;
    }
    if (!pl_fd_in_tree(place_out->dir_fd, &status)) {
        place_done(place_out);
        return false;
    }
    place_out->dir = (struct pl_id){.dev = status.st_dev, .ino = status.st_ino};
    return true;
}

void place_done(struct pl_place *place)
{
    int errnum = errno;
    (void)raw_close(place->dir_fd);
    errno = errnum;
}

static const char *kept_name(uint64_t kept, char *text)
{
    (void)snprintf(text, NUMBER_BYTES, "%llu", (unsigned long long)kept);
    return text;
}

uint64_t place_keep(const struct pl_place *place)
{
    char text[NUMBER_BYTES];
    struct stat status;
    if (pl_mode() == PL_KEEP ||
        fstatat(place->dir_fd, place->name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        S_ISDIR(status.st_mode)) {
        return 0;
    }
    uint64_t kept = pl_sequence();
    if (raw_linkat(place->dir_fd, place->name, pl_hidden_dir(), kept_name(kept, text), 0) != 0) {
        pl_fail("cannot keep %s: %s", place->name, strerrordesc_np(errno));
    }
    return kept;
}

void name_drop_kept(uint64_t kept)
{
    char text[NUMBER_BYTES];
    int errnum = errno;
    if (kept != 0) {
        (void)raw_unlinkat(pl_hidden_dir(), kept_name(kept, text), 0);
    }
    errno = errnum;
}

/* ---- the log --------------------------------------------------------------------------------- */

static struct dir *dir_of(const struct pl_place *place)
{
    queue_foreach (link, &dirs) {
        struct dir *dir = CONTAINER_OF(link, struct dir, link);
        if (pl_same(dir->id, place->dir)) {
            return dir;
        }
    }
    struct dir *dir = calloc(1, sizeof *dir);
    int fd = raw_openat(place->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (dir == NULL || (dir->fd = pl_move_fd(fd)) < 0) {
        pl_fail("cannot hold on to a directory: %s", strerrordesc_np(errno));
    }
    dir->id = place->dir;
    queue_push_back(&dirs, &dir->link);
    return dir;
}

static void side_set(struct side *side, const struct pl_place *place)
{
    if (place != NULL) {
        side->dir = dir_of(place);
        side->pending = true;
        memcpy(side->name, place->name, sizeof side->name);
    }
}

void name_log(enum pl_name_kind kind, const struct pl_place *from, const struct pl_place *to,
              uint64_t kept, mode_t mode)
{
    if (pl_mode() == PL_KEEP) {
        return;
    }
    int errnum = errno;
    struct change *change = calloc(1, sizeof *change);
    if (change == NULL) {
        pl_fail("no memory");
    }
    change->kind = kind;
    change->sequence = pl_sequence();
    change->kept = kept;
    change->mode = mode;
    side_set(&change->from, from);
    side_set(&change->to, to);
    queue_push_back(&changes, &change->link);
    errno = errnum;
}

/* `dir` NULL: any. */
static void synced(const struct pl_id *dir, uint64_t sequence)
{
    queue_foreach_safe (link, &changes) {
        struct change *change = CONTAINER_OF(link, struct change, link);
        struct side *sides[] = {&change->from, &change->to};
        for (int i = 0; i < 2 && change->sequence <= sequence; i++) {
            if (sides[i]->dir != NULL && (dir == NULL || pl_same(sides[i]->dir->id, *dir))) {
                sides[i]->pending = false;
            }
        }
        if (!change->from.pending && !change->to.pending) {
            name_drop_kept(change->kept);
            queue_remove(&change->link);
            free(change);
        }
    }
    file_forget_nameless();
}

void name_synced(struct pl_id dir, uint64_t sequence)
{
    synced(&dir, sequence);
}

void name_all_synced(void)
{
    synced(NULL, UINT64_MAX);
}

/* ---- the cut --------------------------------------------------------------------------------- */

static bool concerns(const struct change *change, const struct dir *dir)
{
    return (change->from.pending && change->from.dir == dir) ||
           (change->to.pending && change->to.dir == dir);
}

/* The last change that a directory keeps: any of those that are pending, or none. */
static void pick(struct dir *dir)
{
    uint64_t pending = 0;
    queue_foreach (link, &changes) {
        pending += concerns(CONTAINER_OF(link, struct change, link), dir) ? 1 : 0;
    }
    uint64_t keep = pl_mode() == PL_DROP ? 0 : pl_random(pending + 1);
    dir->keep_until = 0;
    queue_foreach (link, &changes) {
        const struct change *change = CONTAINER_OF(link, struct change, link);
        if (concerns(change, dir) && keep > 0) {
            dir->keep_until = change->sequence;
            keep--;
        }
    }
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)where;
    (void)raw_unlinkat(AT_FDCWD, path, kind == FTW_DP ? AT_REMOVEDIR : 0);
    return 0;
}

/* A directory that never was: with all that is in it, synced or not. */
static void lose_directory(const struct side *side, uint64_t number)
{
    char text[NUMBER_BYTES];
    char path[PATH_MAX];
    if (raw_renameat(side->dir->fd, side->name, pl_hidden_dir(), kept_name(number, text), 0) == 0) {
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d/%s", pl_hidden_dir(), text);
        (void)nftw(path, remove_entry, WALK_FDS, FTW_DEPTH | FTW_PHYS);
    }
}

/* What cannot be taken back because something else is in its place stays. */
static void take_back(const struct change *change)
{
    enum { NO_REPLACE = 1 }; /* RENAME_NOREPLACE */
    char text[NUMBER_BYTES];
    const struct side *from = &change->from;
    const struct side *to = change->kind == PL_RENAME ? &change->to : from;
    if (change->kind == PL_CREATE) {
        (void)raw_unlinkat(from->dir->fd, from->name, 0);
    } else if (change->kind == PL_MKDIR) {
        lose_directory(from, change->sequence);
    } else if (change->kind == PL_RMDIR) {
        (void)raw_mkdirat(from->dir->fd, from->name, change->mode);
    } else if (change->kind == PL_RENAME) {
        (void)raw_renameat(to->dir->fd, to->name, from->dir->fd, from->name, NO_REPLACE);
    }
    if (change->kept != 0) {
        (void)raw_linkat(pl_hidden_dir(), kept_name(change->kept, text), to->dir->fd, to->name, 0);
    }
}

void name_cut(void)
{
    queue_foreach (link, &dirs) {
        pick(CONTAINER_OF(link, struct dir, link));
    }
    for (struct queue *link = changes.prev; link != &changes; link = link->prev) {
        const struct change *change = CONTAINER_OF(link, struct change, link);
        if ((change->from.pending && change->sequence > change->from.dir->keep_until) ||
            (change->to.pending && change->sequence > change->to.dir->keep_until)) {
            take_back(change);
        }
    }
    queue_foreach (link, &changes) {
        name_drop_kept(CONTAINER_OF(link, struct change, link)->kept);
    }
}
