#include "tests/lib/disk_io_rig.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/status.h"

static void on_wake(void *arg)
{
    struct rig *rig = arg;
    uint64_t one = 1;
    (void)atomic_fetch_add(&rig->wakes, 1);
    ck_assert_int_eq(write(rig->wake_fd, &one, sizeof one), sizeof one);
}

bool rig_kind_works(enum disk_io_kind kind)
{
    char why[128] = "";
    bool works = kind == DISK_IO_THREADS || disk_io_uring_works(why, sizeof why);
    if (!works) {
        printf("io_uring does not work here: %s\n", why);
    }
    return works;
}

struct rig *rig_new(enum disk_io_kind kind, uint32_t depth, uint32_t jobs_max, int flags)
{
    struct rig *rig = heap_calloc(1, sizeof *rig);
    ck_assert_ptr_nonnull(rig);
    rig->kind = kind;
    rig->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ck_assert_int_ge(rig->wake_fd, 0);
    (void)snprintf(rig->path, sizeof rig->path, "./check_disk_io.XXXXXX");
    int made = mkstemp(rig->path);
    ck_assert_int_ge(made, 0);
    ck_assert_int_eq(close(made), 0);
    rig->fd = open(rig->path, O_RDWR | O_CLOEXEC | flags);
    ck_assert_int_ge(rig->fd, 0);
    ck_assert_int_eq(unlink(rig->path), 0);
    struct disk_io_options options = {
        .kind = kind, .depth = depth, .jobs_max = jobs_max, .wake = on_wake, .wake_arg = rig};
    struct error error = {0};
    ck_assert_int_eq(disk_io_create(&options, &rig->io, &error), ST_OK);
    ck_assert_int_eq(disk_io_kind(rig->io), kind);
    return rig;
}

void rig_free(struct rig *rig)
{
    disk_io_destroy(rig->io);
    ck_assert_int_eq(close(rig->fd), 0);
    ck_assert_int_eq(close(rig->wake_fd), 0);
    heap_free(rig);
}

struct disk_io_job *rig_reap(struct rig *rig)
{
    uint64_t end_ms = clock_ms() + RIG_WAIT_MS;
    for (;;) {
        struct disk_io_job *job = disk_io_reap(rig->io);
        if (job != NULL) {
            ck_assert_uint_ge(job->ended_ns, job->began_ns);
            return job;
        }
        if (clock_ms() >= end_ms) {
            return NULL;
        }
        struct pollfd wake = {.fd = rig->wake_fd, .events = POLLIN};
        uint64_t count = 0;
        if (poll(&wake, 1, 1000) > 0) {
            (void)!read(rig->wake_fd, &count, sizeof count);
        }
    }
}

struct disk_io_job *rig_job(struct rig *rig, uint32_t number, bool write, uint64_t offset,
                            void *memory, size_t bytes)
{
    struct disk_io_job *job = &rig->jobs[number];
    memset(job, 0, sizeof *job);
    job->fd = rig->fd;
    job->write = write;
    job->offset = offset;
    job->vectors[0] = (struct iovec){.iov_base = memory, .iov_len = bytes};
    job->vector_count = 1;
    job->owner = rig;
    return job;
}

int rig_run(struct rig *rig, struct disk_io_job *job)
{
    ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
    ck_assert_ptr_eq(rig_reap(rig), job);
    return job->status;
}

char *rig_arena(uint64_t seed)
{
    char *arena = heap_alloc_aligned(DISK_ALIGN, RIG_ARENA_BYTES);
    ck_assert_ptr_nonnull(arena);
    struct rng rng = {.state = seed};
    for (size_t i = 0; i < RIG_ARENA_BYTES; i += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);
        memcpy(arena + i, &word, sizeof word);
    }
    return arena;
}
