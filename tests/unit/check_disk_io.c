/*
 * The disk tier's reads and writes, by both kinds of the engine: the right bytes, or the right
 * error. check_disk_io_limits.c has what is around them.
 *
 * Covers: storage/disk/io.c, storage/disk/io_uring.c, storage/disk/io_threads.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/status.h"
#include "storage/disk/io.h"
#include "storage/disk/io_internal.h"
#include "tests/lib/check_main.h"
#include "tests/lib/disk_io_rig.h"

enum { FILE_BYTES = 8 << 20 };

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
            struct disk_io_job *job = rig_job(rig, slot, write, offset, memory, 1);
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
            struct disk_io_job *job = rig_reap(rig);
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
            struct disk_io_job *job = rig_job(rig, 0, false, 0, to, sizeof to);
            job->fd = ends[0];
            /* positions mean nothing to a pipe: preadv() refuses, the ring reads */
            ck_assert_int_eq(disk_io_submit(rig->io, job), ST_OK);
            if (kind == DISK_IO_URING) {
                for (int i = 0; i < 5; i++) {
                    ck_assert_int_eq(write(ends[1], "ab", 2), 2);
                    (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
                }
            }
            ck_assert_ptr_eq(rig_reap(rig), job);
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
                char *arena = rig_arena(1);
                ck_assert_int_eq(ftruncate(rig->fd, 3 * DISK_ALIGN), 0);
                struct disk_io_job *job =
                    rig_job(rig, 0, false, DISK_ALIGN, arena, 2 * (size_t)DISK_ALIGN);
                ck_assert_int_eq(rig_run(rig, job), ST_OK);
                job = rig_job(rig, 0, false, DISK_ALIGN, arena, 3 * (size_t)DISK_ALIGN);
                ck_assert_int_eq(rig_run(rig, job), ST_IO);
                ck_assert_int_eq(job->error, EIO);
                job = rig_job(rig, 0, false, (uint64_t)9 * DISK_ALIGN, arena, DISK_ALIGN);
                ck_assert_int_eq(rig_run(rig, job), ST_IO);
                ck_assert_int_eq(job->error, EIO);
                /* a file torn inside a page */
                ck_assert_int_eq(ftruncate(rig->fd, 2 * DISK_ALIGN + 100), 0);
                job = rig_job(rig, 0, false, DISK_ALIGN, arena, 2 * (size_t)DISK_ALIGN);
                ck_assert_int_eq(rig_run(rig, job), ST_IO);
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
            char *arena = rig_arena(1);
            int reader = open("/dev/zero", O_RDONLY | O_CLOEXEC);
            int full = open("/dev/full", O_RDWR | O_CLOEXEC);
            ck_assert(reader >= 0 && full >= 0);
            struct disk_io_job *job = rig_job(rig, 0, true, 0, arena, DISK_ALIGN);
            job->fd = reader;
            ck_assert_int_eq(rig_run(rig, job), ST_IO);
            ck_assert_int_eq(job->error, EBADF);
            job = rig_job(rig, 0, true, 0, arena, DISK_ALIGN);
            job->fd = full;
            ck_assert_int_eq(rig_run(rig, job), ST_NO_SPACE);
            ck_assert_int_eq(job->error, ENOSPC);
            /* the job and the engine are as good as before */
            job = rig_job(rig, 0, true, 0, arena, DISK_ALIGN);
            ck_assert_int_eq(rig_run(rig, job), ST_OK);
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
        char *arena = rig_arena(1);
        struct rlimit limit = {.rlim_cur = 6 * DISK_ALIGN, .rlim_max = RLIM_INFINITY};
        struct rig *rig = rig_new(DISK_IO_THREADS, 2, 2, 0);
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        struct disk_io_job *job =
            rig_job(rig, 0, true, (uint64_t)2 * DISK_ALIGN, arena, 10 * (size_t)DISK_ALIGN);
        ck_assert_int_eq(rig_run(rig, job), ST_IO);
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
            char *arena = rig_arena(1);
            for (int write = 1; write >= 0; write--) {
                for (int n = 0; n <= PAGES; n++) {
                    fault_set(FAULT_FILE, n, 1);
                    struct disk_io_job *job =
                        rig_job(rig, 0, write != 0, 0, arena, PAGES * (size_t)DISK_ALIGN);
                    ck_assert_int_eq(rig_run(rig, job), n < PAGES ? ST_IO : ST_OK);
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

int main(void)
{
    const TTest *const tests[] = {bytes_are_right_with_direct_io,  bytes_are_right_without,
                                  short_transfers_are_continued,   a_pipe_comes_in_pieces,
                                  the_end_of_the_file_is_an_error, errors_come_with_their_errno,
                                  a_file_that_may_not_grow,        the_nth_transfer_fails,
                                  creation_fails_cleanly};
    return check_main("disk_io", tests, ARRAY_COUNT(tests));
}
