/*
 * The disk tier's reads and writes, by both kinds of the engine: what runs before and after them,
 * how many there may be, and that a stuck one holds no other up.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/disk/io.h"
#include "storage/disk/io_internal.h"
#include "tests/lib/check_main.h"
#include "tests/lib/disk_io_rig.h"

enum { FILE_BYTES = 8 << 20 };

/* ---- before and after ------------------------------------------------------------------------ */

static pthread_t owner_thread;
static atomic_uint inside;
static atomic_uint inside_most;
static atomic_bool hold;
static atomic_uint befores;
static atomic_uint afters;

static int before_fills(struct disk_io_job *job)
{
    ck_assert(!pthread_equal(pthread_self(), owner_thread));
    (void)atomic_fetch_add(&befores, 1);
    memset(job->vectors[0].iov_base, 0x5a, job->vectors[0].iov_len);
    return ST_OK;
}

static int before_refuses(struct disk_io_job *job)
{
    (void)job;
    return ST_NO_MEMORY;
}

static int after_counts(struct disk_io_job *job)
{
    ck_assert(!pthread_equal(pthread_self(), owner_thread));
    (void)atomic_fetch_add(&afters, 1);
    return *(const unsigned char *)job->vectors[0].iov_base == 0x5a ? ST_OK : ST_CORRUPT;
}

START_TEST(before_and_after_run_where_they_should)
    {
        owner_thread = pthread_self();
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, 2, 2, O_DIRECT);
            rig->io->transfer_max = DISK_ALIGN; /* once a job, not once a transfer */
            char *arena = rig_arena(1);
            atomic_store(&befores, 0);
            atomic_store(&afters, 0);
            struct disk_io_job *job = rig_job(rig, 0, true, 0, arena, 3 * (size_t)DISK_ALIGN);
            job->before = before_fills;
            job->after = after_counts; /* reads only */
            ck_assert_int_eq(rig_run(rig, job), ST_OK);
            job = rig_job(rig, 0, false, 0, arena + (1 << 20), 3 * (size_t)DISK_ALIGN);
            job->before = before_refuses; /* writes only */
            job->after = after_counts;
            ck_assert_int_eq(rig_run(rig, job), ST_OK);
            ck_assert_int_eq(memcmp(arena, arena + (1 << 20), 3 * (size_t)DISK_ALIGN), 0);
            ck_assert_uint_eq(atomic_load(&befores), 1);
            ck_assert_uint_eq(atomic_load(&afters), 1);

            memset(arena, 1, 2 * (size_t)DISK_ALIGN);
            job = rig_job(rig, 0, true, 0, arena, DISK_ALIGN);
            job->before = before_refuses;
            ck_assert_int_eq(rig_run(rig, job), ST_NO_MEMORY);
            ck_assert_int_eq(job->error, 0);
            ck_assert_int_eq(pread(rig->fd, arena, DISK_ALIGN, 0), DISK_ALIGN);
            ck_assert_int_eq(arena[0], 0x5a); /* nothing was written */

            memset(arena, 1, DISK_ALIGN);
            ck_assert_int_eq(pwrite(rig->fd, arena, DISK_ALIGN, 0), DISK_ALIGN);
            job = rig_job(rig, 0, false, 0, arena, DISK_ALIGN);
            job->after = after_counts;
            ck_assert_int_eq(rig_run(rig, job), ST_CORRUPT);
            ck_assert_uint_eq(atomic_load(&afters), 2);
            /* a read that failed is not verified */
            job = rig_job(rig, 0, false, FILE_BYTES, arena, DISK_ALIGN);
            job->after = after_counts;
            ck_assert_int_eq(rig_run(rig, job), ST_IO);
            ck_assert_uint_eq(atomic_load(&afters), 2);
            heap_free(arena);
            rig_free(rig);
        }
    }
END_TEST

/* ---- limits, stuck requests ------------------------------------------------------------------ */

/* A descriptor whose reads wait until release_stuck(): an eventfd for the ring; preadv() takes no
 * file of that sort, so the threads are held in `before`. */
static int before_holds(struct disk_io_job *job)
{
    (void)job;
    unsigned now = atomic_fetch_add(&inside, 1) + 1;
    unsigned most = atomic_load(&inside_most);
    while (now > most && !atomic_compare_exchange_weak(&inside_most, &most, now)) {
    }
    while (atomic_load(&hold)) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    (void)atomic_fetch_sub(&inside, 1);
    return ST_OK;
}

static void stuck_submit(struct rig *rig, uint32_t number, char *memory, int stuck_fd)
{
    struct disk_io_job *job;
    if (rig->kind == DISK_IO_URING) {
        job = rig_job(rig, number, false, 0, memory, sizeof(uint64_t));
        job->fd = stuck_fd;
    } else {
        job = rig_job(rig, number, true, (uint64_t)number * DISK_ALIGN, memory, DISK_ALIGN);
        job->before = before_holds;
    }
    ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
}

static void stuck_release(struct rig *rig, int stuck_fd, uint64_t count)
{
    atomic_store(&hold, false);
    if (rig->kind == DISK_IO_URING) {
        ck_assert_int_eq(write(stuck_fd, &count, sizeof count), sizeof count);
    }
}

/* Jobs that no thread has begun. */
static uint32_t waiting_of(struct rig *rig)
{
    uint32_t waiting = 0;
    (void)pthread_mutex_lock(&rig->io->mutex);
    queue_foreach (link, &rig->io->waiting) {
        waiting++;
    }
    (void)pthread_mutex_unlock(&rig->io->mutex);
    return waiting;
}

START_TEST(depth_and_jobs_max_are_kept)
    {
        enum { DEPTH = 3, MAX = 8, NAPS_MAX = 2000 };
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, DEPTH, MAX, O_DIRECT);
            char *arena = rig_arena(1);
            int stuck_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
            atomic_store(&hold, true);
            atomic_store(&inside_most, 0);
            ck_assert_uint_eq(disk_io_oldest_ns(rig->io), 0);
            for (uint32_t i = 0; i < MAX; i++) {
                ck_assert_uint_eq(disk_io_in_flight(rig->io), i);
                stuck_submit(rig, i, arena + i * (size_t)DISK_ALIGN, stuck_fd);
            }
            struct disk_io_job *more = rig_job(rig, MAX, true, 0, arena, DISK_ALIGN);
            ck_assert_int_eq(disk_io_submit(rig->io, more), ST_BUSY);
            ck_assert_uint_eq(disk_io_in_flight(rig->io), MAX);
            /* it takes DEPTH of them, however long that takes here, and no more */
            for (uint32_t naps = 0; waiting_of(rig) > MAX - DEPTH && naps < NAPS_MAX; naps++) {
                (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
            }
            (void)nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
            ck_assert_ptr_null(disk_io_reap(rig->io));
            ck_assert_uint_eq(waiting_of(rig), MAX - DEPTH);
            ck_assert_uint_eq(disk_io_oldest_ns(rig->io), rig->jobs[0].began_ns);
            stuck_release(rig, stuck_fd, MAX);
            for (uint32_t i = 0; i < MAX; i++) {
                struct disk_io_job *job = rig_reap(rig);
                ck_assert_ptr_nonnull(job);
                ck_assert_int_eq(job->status, ST_OK);
                ck_assert_uint_eq(disk_io_in_flight(rig->io), MAX - 1 - i);
            }
            ck_assert_uint_le(atomic_load(&inside_most), DEPTH);
            ck_assert_uint_eq(disk_io_oldest_ns(rig->io), 0);
            ck_assert_int_eq(disk_io_submit(rig->io, more), ST_OK);
            ck_assert_ptr_eq(rig_reap(rig), more);
            ck_assert_int_eq(close(stuck_fd), 0);
            heap_free(arena);
            rig_free(rig);
        }
    }
END_TEST

START_TEST(a_stuck_request_holds_up_no_other)
    {
        enum { DEPTH = 4 };
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, DEPTH, RIG_JOBS, O_DIRECT);
            char *arena = rig_arena(1);
            int stuck_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
            atomic_store(&hold, true);
            for (uint32_t i = 0; i < DEPTH - 1; i++) {
                stuck_submit(rig, i, arena + i * (size_t)DISK_ALIGN, stuck_fd);
            }
            uint64_t oldest_ns = rig->jobs[0].began_ns;
            for (uint32_t i = DEPTH; i < RIG_JOBS; i++) {
                struct disk_io_job *job = rig_job(rig, i, true, (uint64_t)i * DISK_ALIGN,
                                                  arena + i * (size_t)DISK_ALIGN, DISK_ALIGN);
                ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
            }
            for (uint32_t i = DEPTH; i < RIG_JOBS; i++) {
                struct disk_io_job *job = rig_reap(rig);
                ck_assert_ptr_nonnull(job);
                ck_assert_int_eq(job->status, ST_OK);
                ck_assert_int_ge(job - rig->jobs, DEPTH);
                ck_assert_uint_eq(disk_io_oldest_ns(rig->io), oldest_ns);
            }
            ck_assert_uint_eq(disk_io_in_flight(rig->io), DEPTH - 1);
            stuck_release(rig, stuck_fd, DEPTH - 1);
            for (uint32_t i = 0; i < DEPTH - 1; i++) {
                ck_assert_ptr_nonnull(rig_reap(rig));
            }
            ck_assert_int_eq(close(stuck_fd), 0);
            heap_free(arena);
            rig_free(rig);
        }
    }
END_TEST

/* The owner is woken once for many ends, never not at all. */
START_TEST(wakes_are_coalesced)
    {
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, 8, RIG_JOBS, 0);
            char *arena = rig_arena(1);
            for (uint32_t i = 0; i < RIG_JOBS; i++) {
                struct disk_io_job *job = rig_job(rig, i, true, (uint64_t)i * DISK_ALIGN,
                                                  arena + i * (size_t)DISK_ALIGN, DISK_ALIGN);
                ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
            }
            bool idle = false;
            for (uint64_t end_ms = clock_ms() + RIG_WAIT_MS; !idle && clock_ms() < end_ms;) {
                (void)pthread_mutex_lock(&rig->io->mutex);
                idle = queue_empty(&rig->io->waiting) && queue_empty(&rig->io->active);
                (void)pthread_mutex_unlock(&rig->io->mutex);
            }
            ck_assert(idle);
            for (uint32_t i = 0; i < RIG_JOBS; i++) {
                ck_assert_ptr_nonnull(rig_reap(rig));
            }
            ck_assert_uint_eq(atomic_load(&rig->wakes), 1);
            heap_free(arena);
            rig_free(rig);
        }
    }
END_TEST

/* Owners that do not want to be woken, engines that never had a job, in quick succession. */
START_TEST(comes_and_goes)
    {
        FOR_EACH_KIND(kind)
        {
            uint64_t rounds = check_scaled(50);
            for (uint64_t round = 0; round < rounds; round++) {
                struct disk_io_options options = {
                    .kind = kind, .depth = 1 + (uint32_t)round, .jobs_max = 1};
                struct disk_io *io = NULL;
                ck_assert_int_eq(disk_io_create(&options, &io, NULL), ST_OK);
                char byte = 0;
                struct disk_io_job job = {.fd = open("/dev/zero", O_RDONLY | O_CLOEXEC),
                                          .vectors = {{.iov_base = &byte, .iov_len = 1}},
                                          .vector_count = 1};
                if (round % 2 == 0) {
                    ck_assert_int_eq(disk_io_submit(io, &job), ST_OK);
                    while (disk_io_reap(io) == NULL) {
                    }
                }
                ck_assert_int_eq(close(job.fd), 0);
                disk_io_destroy(io);
            }
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {before_and_after_run_where_they_should,
                                  depth_and_jobs_max_are_kept, a_stuck_request_holds_up_no_other,
                                  wakes_are_coalesced, comes_and_goes};
    return check_main("disk_io_limits", tests, ARRAY_COUNT(tests));
}
