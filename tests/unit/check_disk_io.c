/*
 * The disk tier's reads and writes, by both kinds of the engine.
 *
 * Covers: storage/disk/io.c, storage/disk/io_uring.c, storage/disk/io_threads.c
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/status.h"
#include "storage/disk/io.h"
#include "storage/disk/io_internal.h"
#include "tests/lib/check_main.h"

enum {
    JOBS = 24,
    ARENA_BYTES = 4 << 20,
    FILE_BYTES = 8 << 20,
    WAIT_MS = 20000,
};

/* ---- one engine with its owner --------------------------------------------------------------- */

struct rig {
    struct disk_io *io;
    enum disk_io_kind kind;
    int wake_fd;
    atomic_uint wakes;
    char path[64];
    int fd;
    struct disk_io_job jobs[JOBS];
};

static void on_wake(void *arg)
{
    struct rig *rig = arg;
    uint64_t one = 1;
    (void)atomic_fetch_add(&rig->wakes, 1);
    ck_assert_int_eq(write(rig->wake_fd, &one, sizeof one), sizeof one);
}

static bool kind_works(enum disk_io_kind kind)
{
    char why[128] = "";
    bool works = kind == DISK_IO_THREADS || disk_io_uring_works(why, sizeof why);
    if (!works) {
        printf("io_uring does not work here: %s\n", why);
    }
    return works;
}

/* `flags`: O_DIRECT or 0. */
static struct rig *rig_new(enum disk_io_kind kind, uint32_t depth, uint32_t jobs_max, int flags)
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

static void rig_free(struct rig *rig)
{
    disk_io_destroy(rig->io);
    ck_assert_int_eq(close(rig->fd), 0);
    ck_assert_int_eq(close(rig->wake_fd), 0);
    heap_free(rig);
}

/* Waits as the daemon's loop does: for the wake, then reaps. NULL after WAIT_MS. */
static struct disk_io_job *reap(struct rig *rig)
{
    uint64_t end_ms = clock_ms() + WAIT_MS;
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

static struct disk_io_job *job_set(struct rig *rig, uint32_t number, bool write, uint64_t offset,
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

/* One job from submission to its end; its status. */
static int job_run(struct rig *rig, struct disk_io_job *job)
{
    ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
    ck_assert_ptr_eq(reap(rig), job);
    return job->status;
}

static char *arena_new(uint64_t seed)
{
    char *arena = heap_alloc_aligned(DISK_ALIGN, ARENA_BYTES);
    ck_assert_ptr_nonnull(arena);
    struct rng rng = {.state = seed};
    for (size_t i = 0; i < ARENA_BYTES; i += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);
        memcpy(arena + i, &word, sizeof word);
    }
    return arena;
}

static const enum disk_io_kind kinds[] = {DISK_IO_URING, DISK_IO_THREADS};

#define FOR_EACH_KIND(kind)                                                                        \
    for (size_t kind##_i = 0; kind##_i < ARRAY_COUNT(kinds); kind##_i++)                           \
        for (enum disk_io_kind kind = kinds[kind##_i], kind##_once = kind;                         \
             kind##_once != DISK_IO_AUTO && kind_works(kind); kind##_once = DISK_IO_AUTO)

/* ---- right bytes ----------------------------------------------------------------------------- */

/* Cuts `pages` pages of the arena, from its page `at` on, into up to `pieces_max` vectors. */
static void job_cut(struct disk_io_job *job, char *arena, uint64_t pages, uint32_t pieces_max,
                    struct rng *rng)
{
    job->vector_count = 0;
    char *memory = arena;
    while (pages > 0) {
        bool last = job->vector_count + 1 == pieces_max;
        uint64_t take = last ? pages : 1 + rng_below(rng, pages);
        job->vectors[job->vector_count++] =
            (struct iovec){.iov_base = memory, .iov_len = take * DISK_ALIGN};
        memory += take * DISK_ALIGN;
        pages -= take;
    }
}

/* Random writes and reads, several in flight on disjoint parts of the file and of memory, beside a
 * copy of what the file must hold. */
static void random_histories(enum disk_io_kind kind, int flags, uint64_t transfer_max)
{
    enum { SLOTS = 8, SLOT_BYTES = FILE_BYTES / SLOTS, SLOT_PAGES = SLOT_BYTES / DISK_ALIGN };
    struct rig *rig = rig_new(kind, 4, SLOTS, flags);
    rig->io->transfer_max = transfer_max;
    struct rng rng = {.state = 7 + (uint64_t)flags + transfer_max};
    char *truth = heap_calloc(1, FILE_BYTES);
    char *memory = heap_alloc_aligned(DISK_ALIGN, FILE_BYTES);
    ck_assert(truth != NULL && memory != NULL);
    ck_assert_int_eq(ftruncate(rig->fd, FILE_BYTES), 0);
    uint64_t rounds = check_scaled(40);
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            uint64_t base = (uint64_t)slot * SLOT_BYTES;
            uint64_t pages = 1 + rng_below(&rng, rng_below(&rng, 4) == 0 ? SLOT_PAGES : 20);
            uint64_t offset = base + rng_below(&rng, SLOT_PAGES - pages + 1) * DISK_ALIGN;
            bool write = rng_below(&rng, 2) == 0;
            struct disk_io_job *job = job_set(rig, slot, write, offset, memory, 1);
            job_cut(job, memory + base, pages, 1 + (uint32_t)rng_below(&rng, DISK_IO_VECTORS),
                    &rng);
            memset(memory + base, (int)rng_below(&rng, 256), pages * DISK_ALIGN);
            for (uint64_t i = 0; write && i < pages * DISK_ALIGN; i += DISK_ALIGN) {
                uint64_t word = rng_next(&rng);
                memcpy(memory + base + i, &word, sizeof word);
            }
            if (write) {
                memcpy(truth + offset, memory + base, pages * DISK_ALIGN);
            }
            ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
        }
        for (uint32_t i = 0; i < SLOTS; i++) {
            struct disk_io_job *job = reap(rig);
            ck_assert_ptr_nonnull(job);
            ck_assert_int_eq(job->status, ST_OK);
            uint64_t base = (uint64_t)(job - rig->jobs) * SLOT_BYTES;
            uint64_t bytes = 0;
            for (uint32_t v = 0; v < job->vector_count; v++) {
                bytes += job->vectors[v].iov_len;
            }
            ck_assert_int_eq(memcmp(memory + base, truth + job->offset, bytes), 0);
        }
    }
    char *held = heap_alloc_aligned(DISK_ALIGN, FILE_BYTES);
    ck_assert_ptr_nonnull(held);
    ck_assert_int_eq(pread(rig->fd, held, FILE_BYTES, 0), FILE_BYTES);
    ck_assert_int_eq(memcmp(held, truth, FILE_BYTES), 0);
    heap_free(held);
    heap_free(memory);
    heap_free(truth);
    rig_free(rig);
}

START_TEST(bytes_are_right_with_direct_io)
    {
        FOR_EACH_KIND(kind)
        {
            random_histories(kind, O_DIRECT, 0);
        }
    }
END_TEST

START_TEST(bytes_are_right_without)
    {
        FOR_EACH_KIND(kind)
        {
            random_histories(kind, 0, 0);
        }
    }
END_TEST

START_TEST(short_transfers_are_continued)
    {
        FOR_EACH_KIND(kind)
        {
            random_histories(kind, O_DIRECT, 5 * (uint64_t)DISK_ALIGN);
            random_histories(kind, 0, 60001);
        }
    }
END_TEST

/* A pipe gives what it has: real short transfers, without any help. */
START_TEST(a_pipe_comes_in_pieces)
    {
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, 2, 2, 0);
            int ends[2];
            char to[10];
            ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
            struct disk_io_job *job = job_set(rig, 0, false, 0, to, sizeof to);
            job->fd = ends[0];
            /* positions mean nothing to a pipe: preadv() refuses, the ring reads */
            ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
            if (kind == DISK_IO_URING) {
                for (int i = 0; i < 5; i++) {
                    ck_assert_int_eq(write(ends[1], "ab", 2), 2);
                    (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
                }
            }
            ck_assert_ptr_eq(reap(rig), job);
            ck_assert_int_eq(job->status, kind == DISK_IO_URING ? ST_OK : ST_IO);
            ck_assert_int_eq(job->error, kind == DISK_IO_URING ? 0 : ESPIPE);
            ck_assert(kind != DISK_IO_URING || memcmp(to, "ababababab", sizeof to) == 0);
            ck_assert_int_eq(close(ends[0]), 0);
            ck_assert_int_eq(close(ends[1]), 0);
            rig_free(rig);
        }
    }
END_TEST

/* ---- errors ---------------------------------------------------------------------------------- */

START_TEST(the_end_of_the_file_is_an_error)
    {
        FOR_EACH_KIND(kind)
        {
            for (int direct = 0; direct < 2; direct++) {
                struct rig *rig = rig_new(kind, 2, 2, direct != 0 ? O_DIRECT : 0);
                char *arena = arena_new(1);
                ck_assert_int_eq(ftruncate(rig->fd, 3 * DISK_ALIGN), 0);
                struct disk_io_job *job =
                    job_set(rig, 0, false, DISK_ALIGN, arena, 2 * (size_t)DISK_ALIGN);
                ck_assert_int_eq(job_run(rig, job), ST_OK);
                job = job_set(rig, 0, false, DISK_ALIGN, arena, 3 * (size_t)DISK_ALIGN);
                ck_assert_int_eq(job_run(rig, job), ST_IO);
                ck_assert_int_eq(job->error, EIO);
                job = job_set(rig, 0, false, (uint64_t)9 * DISK_ALIGN, arena, DISK_ALIGN);
                ck_assert_int_eq(job_run(rig, job), ST_IO);
                ck_assert_int_eq(job->error, EIO);
                /* a file torn inside a page */
                ck_assert_int_eq(ftruncate(rig->fd, 2 * DISK_ALIGN + 100), 0);
                job = job_set(rig, 0, false, DISK_ALIGN, arena, 2 * (size_t)DISK_ALIGN);
                ck_assert_int_eq(job_run(rig, job), ST_IO);
                ck_assert_int_ne(job->error, 0);
                heap_free(arena);
                rig_free(rig);
            }
        }
    }
END_TEST

START_TEST(errors_come_with_their_errno)
    {
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, 2, 2, 0);
            char *arena = arena_new(1);
            int reader = open("/dev/zero", O_RDONLY | O_CLOEXEC);
            int full = open("/dev/full", O_RDWR | O_CLOEXEC);
            ck_assert(reader >= 0 && full >= 0);
            struct disk_io_job *job = job_set(rig, 0, true, 0, arena, DISK_ALIGN);
            job->fd = reader;
            ck_assert_int_eq(job_run(rig, job), ST_IO);
            ck_assert_int_eq(job->error, EBADF);
            job = job_set(rig, 0, true, 0, arena, DISK_ALIGN);
            job->fd = full;
            ck_assert_int_eq(job_run(rig, job), ST_NO_SPACE);
            ck_assert_int_eq(job->error, ENOSPC);
            /* the job and the engine are as good as before */
            job = job_set(rig, 0, true, 0, arena, DISK_ALIGN);
            ck_assert_int_eq(job_run(rig, job), ST_OK);
            ck_assert_int_eq(job->error, 0);
            ck_assert_int_eq(close(reader), 0);
            ck_assert_int_eq(close(full), 0);
            heap_free(arena);
            rig_free(rig);
        }
    }
END_TEST

/* The limit cuts the first transfer short and refuses the second. */
START_TEST(a_file_that_may_not_grow)
    {
        char *arena = arena_new(1);
        struct rlimit limit = {.rlim_cur = 6 * DISK_ALIGN, .rlim_max = RLIM_INFINITY};
        struct rig *rig = rig_new(DISK_IO_THREADS, 2, 2, 0);
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        struct disk_io_job *job =
            job_set(rig, 0, true, (uint64_t)2 * DISK_ALIGN, arena, 10 * (size_t)DISK_ALIGN);
        ck_assert_int_eq(job_run(rig, job), ST_IO);
        ck_assert_int_eq(job->error, EFBIG);
        struct stat file;
        ck_assert_int_eq(fstat(rig->fd, &file), 0);
        ck_assert_int_eq(file.st_size, 6 * DISK_ALIGN);
        heap_free(arena);
        rig_free(rig);
    }
END_TEST

/* Each transfer of a job that takes several fails once; what was not reached fails no job. */
START_TEST(the_nth_transfer_fails)
    {
        enum { PAGES = 6 };
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, 2, 2, O_DIRECT);
            rig->io->transfer_max = DISK_ALIGN;
            char *arena = arena_new(1);
            for (int write = 1; write >= 0; write--) {
                for (int n = 0; n <= PAGES; n++) {
                    fault_set(FAULT_FILE, n, 1);
                    struct disk_io_job *job =
                        job_set(rig, 0, write != 0, 0, arena, PAGES * (size_t)DISK_ALIGN);
                    ck_assert_int_eq(job_run(rig, job), n < PAGES ? ST_IO : ST_OK);
                    ck_assert_int_eq(job->error, n < PAGES ? EIO : 0);
                    ck_assert_int_eq(fault_fired(FAULT_FILE), n < PAGES);
                    fault_clear();
                }
            }
            heap_free(arena);
            rig_free(rig);
        }
    }
END_TEST

/* Whatever fails while an engine is made, nothing is left over, and the next try succeeds. */
START_TEST(creation_fails_cleanly)
    {
        static const enum fault_point points[] = {FAULT_HEAP, FAULT_THREAD, FAULT_OPEN};
        static const enum disk_io_kind wanted[] = {DISK_IO_URING, DISK_IO_THREADS, DISK_IO_AUTO};
        char why[64];
        bool ring_works = disk_io_uring_works(NULL, 0);
        for (size_t k = 0; k < ARRAY_COUNT(wanted); k++) {
            for (size_t p = 0; p < ARRAY_COUNT(points); p++) {
                struct disk_io_options options = {.kind = wanted[k], .depth = 5, .jobs_max = 5};
                int64_t outstanding = heap_outstanding();
                bool fired = wanted[k] != DISK_IO_URING || ring_works;
                for (int n = 0; fired; n++) {
                    struct disk_io *io = NULL;
                    struct error error = {0};
                    fault_set(points[p], n, 1);
                    int status = disk_io_create(&options, &io, &error);
                    fired = fault_fired(points[p]) > 0;
                    fault_clear();
                    ck_assert(fired || status == ST_OK);
                    /* AUTO takes threads when the ring fails */
                    ck_assert(!fired || (status == ST_OK) == (wanted[k] == DISK_IO_AUTO));
                    ck_assert((status != ST_OK) == (error.status != ST_OK));
                    disk_io_destroy(io);
                    ck_assert_int_eq(heap_outstanding(), outstanding);
                }
            }
        }
        disk_io_destroy(NULL);
        fault_set(FAULT_OPEN, 0, 1);
        ck_assert(!disk_io_uring_works(why, sizeof why));
        ck_assert_ptr_nonnull(strstr(why, "not permitted"));
        fault_set(FAULT_OPEN, 0, 1);
        struct disk_io *io = NULL;
        struct error error = {0};
        struct disk_io_options options = {.kind = DISK_IO_URING, .depth = 1, .jobs_max = 1};
        ck_assert_int_eq(disk_io_create(&options, &io, &error), ST_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(error.text, "not permitted"));
        fault_set(FAULT_OPEN, 0, 1);
        options.kind = DISK_IO_AUTO;
        ck_assert_int_eq(disk_io_create(&options, &io, &error), ST_OK);
        ck_assert_int_eq(disk_io_kind(io), DISK_IO_THREADS);
        fault_clear();
        disk_io_destroy(io);
    }
END_TEST

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
            char *arena = arena_new(1);
            atomic_store(&befores, 0);
            atomic_store(&afters, 0);
            struct disk_io_job *job = job_set(rig, 0, true, 0, arena, 3 * (size_t)DISK_ALIGN);
            job->before = before_fills;
            job->after = after_counts; /* reads only */
            ck_assert_int_eq(job_run(rig, job), ST_OK);
            job = job_set(rig, 0, false, 0, arena + (1 << 20), 3 * (size_t)DISK_ALIGN);
            job->before = before_refuses; /* writes only */
            job->after = after_counts;
            ck_assert_int_eq(job_run(rig, job), ST_OK);
            ck_assert_int_eq(memcmp(arena, arena + (1 << 20), 3 * (size_t)DISK_ALIGN), 0);
            ck_assert_uint_eq(atomic_load(&befores), 1);
            ck_assert_uint_eq(atomic_load(&afters), 1);

            memset(arena, 1, 2 * (size_t)DISK_ALIGN);
            job = job_set(rig, 0, true, 0, arena, DISK_ALIGN);
            job->before = before_refuses;
            ck_assert_int_eq(job_run(rig, job), ST_NO_MEMORY);
            ck_assert_int_eq(job->error, 0);
            ck_assert_int_eq(pread(rig->fd, arena, DISK_ALIGN, 0), DISK_ALIGN);
            ck_assert_int_eq(arena[0], 0x5a); /* nothing was written */

            memset(arena, 1, DISK_ALIGN);
            ck_assert_int_eq(pwrite(rig->fd, arena, DISK_ALIGN, 0), DISK_ALIGN);
            job = job_set(rig, 0, false, 0, arena, DISK_ALIGN);
            job->after = after_counts;
            ck_assert_int_eq(job_run(rig, job), ST_CORRUPT);
            ck_assert_uint_eq(atomic_load(&afters), 2);
            /* a read that failed is not verified */
            job = job_set(rig, 0, false, FILE_BYTES, arena, DISK_ALIGN);
            job->after = after_counts;
            ck_assert_int_eq(job_run(rig, job), ST_IO);
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
        job = job_set(rig, number, false, 0, memory, sizeof(uint64_t));
        job->fd = stuck_fd;
    } else {
        job = job_set(rig, number, true, (uint64_t)number * DISK_ALIGN, memory, DISK_ALIGN);
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

START_TEST(depth_and_jobs_max_are_kept)
    {
        enum { DEPTH = 3, MAX = 8 };
        FOR_EACH_KIND(kind)
        {
            struct rig *rig = rig_new(kind, DEPTH, MAX, O_DIRECT);
            char *arena = arena_new(1);
            int stuck_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
            atomic_store(&hold, true);
            atomic_store(&inside_most, 0);
            ck_assert_uint_eq(disk_io_oldest_ns(rig->io), 0);
            for (uint32_t i = 0; i < MAX; i++) {
                ck_assert_uint_eq(disk_io_in_flight(rig->io), i);
                stuck_submit(rig, i, arena + i * (size_t)DISK_ALIGN, stuck_fd);
            }
            struct disk_io_job *more = job_set(rig, MAX, true, 0, arena, DISK_ALIGN);
            ck_assert_int_eq(disk_io_submit(rig->io, more), ST_BUSY);
            ck_assert_uint_eq(disk_io_in_flight(rig->io), MAX);
            (void)nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
            ck_assert_ptr_null(disk_io_reap(rig->io));
            uint32_t waiting = 0;
            (void)pthread_mutex_lock(&rig->io->mutex);
            queue_foreach (link, &rig->io->waiting) {
                waiting++;
            }
            (void)pthread_mutex_unlock(&rig->io->mutex);
            ck_assert_uint_eq(waiting, MAX - DEPTH);
            ck_assert_uint_eq(disk_io_oldest_ns(rig->io), rig->jobs[0].began_ns);
            stuck_release(rig, stuck_fd, MAX);
            for (uint32_t i = 0; i < MAX; i++) {
                struct disk_io_job *job = reap(rig);
                ck_assert_ptr_nonnull(job);
                ck_assert_int_eq(job->status, ST_OK);
                ck_assert_uint_eq(disk_io_in_flight(rig->io), MAX - 1 - i);
            }
            ck_assert_uint_le(atomic_load(&inside_most), DEPTH);
            ck_assert_uint_eq(disk_io_oldest_ns(rig->io), 0);
            ck_assert_int_eq(disk_io_submit(rig->io, more), ST_OK);
            ck_assert_ptr_eq(reap(rig), more);
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
            struct rig *rig = rig_new(kind, DEPTH, JOBS, O_DIRECT);
            char *arena = arena_new(1);
            int stuck_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
            atomic_store(&hold, true);
            for (uint32_t i = 0; i < DEPTH - 1; i++) {
                stuck_submit(rig, i, arena + i * (size_t)DISK_ALIGN, stuck_fd);
            }
            uint64_t oldest_ns = rig->jobs[0].began_ns;
            for (uint32_t i = DEPTH; i < JOBS; i++) {
                struct disk_io_job *job = job_set(rig, i, true, (uint64_t)i * DISK_ALIGN,
                                                  arena + i * (size_t)DISK_ALIGN, DISK_ALIGN);
                ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
            }
            for (uint32_t i = DEPTH; i < JOBS; i++) {
                struct disk_io_job *job = reap(rig);
                ck_assert_ptr_nonnull(job);
                ck_assert_int_eq(job->status, ST_OK);
                ck_assert_int_ge(job - rig->jobs, DEPTH);
                ck_assert_uint_eq(disk_io_oldest_ns(rig->io), oldest_ns);
            }
            ck_assert_uint_eq(disk_io_in_flight(rig->io), DEPTH - 1);
            stuck_release(rig, stuck_fd, DEPTH - 1);
            for (uint32_t i = 0; i < DEPTH - 1; i++) {
                ck_assert_ptr_nonnull(reap(rig));
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
            struct rig *rig = rig_new(kind, 8, JOBS, 0);
            char *arena = arena_new(1);
            for (uint32_t i = 0; i < JOBS; i++) {
                struct disk_io_job *job = job_set(rig, i, true, (uint64_t)i * DISK_ALIGN,
                                                  arena + i * (size_t)DISK_ALIGN, DISK_ALIGN);
                ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
            }
            bool idle = false;
            for (uint64_t end_ms = clock_ms() + WAIT_MS; !idle && clock_ms() < end_ms;) {
                (void)pthread_mutex_lock(&rig->io->mutex);
                idle = queue_empty(&rig->io->waiting) && queue_empty(&rig->io->active);
                (void)pthread_mutex_unlock(&rig->io->mutex);
            }
            ck_assert(idle);
            for (uint32_t i = 0; i < JOBS; i++) {
                ck_assert_ptr_nonnull(reap(rig));
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
    const TTest *const tests[] = {bytes_are_right_with_direct_io,
                                  bytes_are_right_without,
                                  short_transfers_are_continued,
                                  a_pipe_comes_in_pieces,
                                  the_end_of_the_file_is_an_error,
                                  errors_come_with_their_errno,
                                  a_file_that_may_not_grow,
                                  the_nth_transfer_fails,
                                  creation_fails_cleanly,
                                  before_and_after_run_where_they_should,
                                  depth_and_jobs_max_are_kept,
                                  a_stuck_request_holds_up_no_other,
                                  wakes_are_coalesced,
                                  comes_and_goes};
    return check_main("disk_io", tests, ARRAY_COUNT(tests));
}
