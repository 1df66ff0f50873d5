/*
 * What the parts of the power loss library share. See README.md for what it is and how to use it.
 *
 * It is loaded in front of the C library and takes the place of its file calls. Its own calls go
 * straight to the kernel (raw_*), so that nothing of it can run into itself. One lock is held over
 * every call that changes the tree: the change and its entry in the undo log are one step, and
 * whoever holds the lock when the power is cut never lets go of it.
 *
 * All functions but the hooks, fault_call() and pl_enter() want the lock held.
 */
#ifndef KVEIK_TESTS_LIB_POWERLOSS_H
#define KVEIK_TESTS_LIB_POWERLOSS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
    PL_SECTOR = 512, /* what the disk writes wholly or not at all */
    PL_EXIT_STATUS = 137,
    PL_VECTORS = 128, /* of one call that can be made to come short */
};

enum pl_mode {
    PL_RANDOM, /* what was not synced is on the disk or not, by chance; files grow in order */
    PL_HOLES,  /* files may have grown without what was written there */
    PL_DROP,   /* … is not */
    PL_KEEP,   /* … is: a crash of the process alone */
};

struct pl_id {
    dev_t dev;
    ino_t ino;
};

static inline bool pl_same(struct pl_id a, struct pl_id b)
{
    return a.dev == b.dev && a.ino == b.ino;
}

/* ---- state.c: settings, lock, cut ------------------------------------------------------------ */

/* True: this process is simulated, and the lock is held. */
bool pl_enter(void);
/* Counts one call that changed the tree, cuts the power if it was the last one, else lets go. */
void pl_leave_changed(void);
void pl_leave(void);
/* The next pl_leave_changed() cuts the power: a sync may or may not have got through. */
bool pl_last_call(void);
/* Waits for ever if the power is off. Wants no lock. */
void pl_halt_if_off(void);

uint64_t pl_random(uint64_t bound);
enum pl_mode pl_mode(void);
uint64_t pl_sequence(void); /* a number greater than all before */
bool pl_in_tree(const char *path);
/* The directory beside the tree where removed files are kept; made when first wanted. */
int pl_hidden_dir(void);
void pl_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void pl_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A descriptor out of the program's way. -1 with errno. */
int pl_move_fd(int fd);

/* The regular file or directory behind a descriptor lies in the tree. Wants no lock. */
bool pl_fd_in_tree(int fd, struct stat *status_out);

/* ---- files.c: contents ----------------------------------------------------------------------- */

struct pl_write; /* an entry of a file's log */

/* Before a change of [offset, offset + bytes) of the file, or of its size; NULL: nothing to log. */
struct pl_write *file_before(int fd, const struct stat *status, uint64_t offset, uint64_t bytes);
/* The change is done, or not: what it was says the file. `bytes`: how many were changed. */
void file_after(struct pl_write *write, uint64_t bytes, bool done);
/* Everything of the file up to that sequence number is on the disk. */
void file_synced(struct pl_id id, uint64_t sequence);
void file_all_synced(void);
/* Files that have no name any more, in the tree or hidden, need no log. */
void file_forget_nameless(void);
void file_cut(void);

/* ---- names.c: directories -------------------------------------------------------------------- */

/* Where a name is: a directory and the last part of a path. */
struct pl_place {
    int dir_fd; /* to be closed by place_done() */
    struct pl_id dir;
    char name[NAME_MAX + 1];
};

enum pl_name_kind { PL_CREATE, PL_MKDIR, PL_REMOVE, PL_RMDIR, PL_RENAME };

/* False: not in the tree. */
bool place_find(int dir_fd, const char *path, struct pl_place *place_out);
void place_done(struct pl_place *place);
/* Number of a second name of what is there, beside the tree; 0: nothing is there, or a directory.
 */
uint64_t place_keep(const struct pl_place *place);
/* `kept` is what place_keep() said of what was removed or replaced. */
void name_log(enum pl_name_kind kind, const struct pl_place *from, const struct pl_place *to,
              uint64_t kept, mode_t mode);
void name_drop_kept(uint64_t kept);
void name_synced(struct pl_id dir, uint64_t sequence);
void name_all_synced(void);
void name_cut(void);

/* ---- faults.c: calls that fail --------------------------------------------------------------- */

enum fault_class { CLASS_READ, CLASS_WRITE, CLASS_SYNC, CLASS_OPEN, CLASS_COUNT };

enum fault_outcome { OUTCOME_NONE, OUTCOME_FAIL, OUTCOME_SHORT };

/* Reads KVEIK_POWERLOSS_FAIL. */
void fault_init(const char *text);
/* Counts a call on a file of the tree and says what shall become of it; sleeps if it is to be slow.
 * OUTCOME_FAIL: errno is set. Wants no lock. */
enum fault_outcome fault_call(enum fault_class class);

/* ---- calls past the hooks -------------------------------------------------------------------- */

int raw_openat(int dir_fd, const char *path, int flags, mode_t mode);
int raw_close(int fd);
ssize_t raw_pread(int fd, void *to, size_t bytes, uint64_t offset);
ssize_t raw_pwrite(int fd, const void *from, size_t bytes, uint64_t offset);
int raw_ftruncate(int fd, uint64_t bytes);
int raw_unlinkat(int dir_fd, const char *path, int flags);
int raw_renameat(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int raw_linkat(int from_fd, const char *from, int to_fd, const char *to, int flags);
int raw_mkdirat(int dir_fd, const char *path, mode_t mode);

#endif
