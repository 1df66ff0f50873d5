/*
 * An I/O engine of the disk tier with an owner that waits for it as the daemon's loop does, and a
 * file of its own in the current folder. All functions fail the test when something does.
 */
#ifndef KVEIK_TESTS_LIB_DISK_IO_RIG_H
#define KVEIK_TESTS_LIB_DISK_IO_RIG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "storage/disk/io.h"

enum {
    RIG_JOBS = 24,
    RIG_ARENA_BYTES = 4 << 20,
    RIG_WAIT_MS = 20000,
};

struct rig {
    struct disk_io *io;
    enum disk_io_kind kind;
    int wake_fd;
    atomic_uint wakes;
    char path[64];
    int fd;
    struct disk_io_job jobs[RIG_JOBS];
};

/* `flags`: O_DIRECT or 0. */
struct rig *rig_new(enum disk_io_kind kind, uint32_t depth, uint32_t jobs_max, int flags);
void rig_free(struct rig *rig);

/* Whether this kind works here; says so when it does not. */
bool rig_kind_works(enum disk_io_kind kind);

/* Waits for the wake, then reaps. NULL after RIG_WAIT_MS. */
struct disk_io_job *rig_reap(struct rig *rig);

/* A job of one vector on the rig's file. */
struct disk_io_job *rig_job(struct rig *rig, uint32_t number, bool write, uint64_t offset,
                            void *memory, size_t bytes);

/* One job from submission to its end; its status. */
int rig_run(struct rig *rig, struct disk_io_job *job);

/* RIG_ARENA_BYTES of chance, aligned for direct I/O; heap_free() takes them. */
char *rig_arena(uint64_t seed);

static const enum disk_io_kind rig_kinds[] = {DISK_IO_URING, DISK_IO_THREADS};

#define FOR_EACH_KIND(kind)                                                                        \
    for (size_t kind##_i = 0; kind##_i < ARRAY_COUNT(rig_kinds); kind##_i++)                       \
        for (enum disk_io_kind kind = rig_kinds[kind##_i], kind##_once = kind;                     \
             kind##_once != DISK_IO_AUTO && rig_kind_works(kind); kind##_once = DISK_IO_AUTO)

#endif
