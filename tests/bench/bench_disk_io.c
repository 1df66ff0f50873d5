/*
 * bench_disk_io: what the disk tier's I/O engine moves, to be set beside fio.
 *
 *   bench_disk_io FILE uring|threads write|read BLOCK DEPTH TOTAL [sum] [huge]
 *
 * Direct I/O on a FILE that exists and is a multiple of BLOCK: writes from front to end and again,
 * reads of random blocks, until TOTAL bytes are through. `sum`: a checksum of each block in
 * `before` and `after`, as the tier has one. Prints MB/s.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/status.h"
#include "storage/disk/io.h"

enum { HUGE_BYTES = 2 << 20 };

struct load {
    int fd;
    bool write;
    bool sum;
    uint64_t block;
    uint64_t blocks; /* in the file */
    uint64_t count;  /* to move */
    uint64_t next;
    struct rng rng;
};

static int wake_fd;

static void on_wake(void *arg)
{
    (void)arg;
    uint64_t one = 1;
    (void)!write(wake_fd, &one, sizeof one);
}

static int checksum(struct disk_io_job *job)
{
    uint64_t *sum = job->owner;
    *sum = XXH3_64bits(job->vectors[0].iov_base, job->vectors[0].iov_len);
    return ST_OK;
}

static void submit(struct disk_io *io, struct load *load, struct disk_io_job *job)
{
    uint64_t at = load->write ? load->next % load->blocks : rng_below(&load->rng, load->blocks);
    load->next++;
    job->fd = load->fd;
    job->write = load->write;
    job->offset = at * load->block;
    job->before = load->sum ? checksum : NULL;
    job->after = load->sum ? checksum : NULL;
    int status = disk_io_submit(io, job);
    KVEIK_ASSERT(status == ST_OK);
}

static void run(struct disk_io *io, struct load *load, struct disk_io_job *jobs, uint32_t depth)
{
    for (uint32_t i = 0; i < depth && load->next < load->count; i++) {
        submit(io, load, &jobs[i]);
    }
    while (disk_io_in_flight(io) > 0) {
        struct pollfd wake = {.fd = wake_fd, .events = POLLIN};
        uint64_t pokes = 0;
        (void)poll(&wake, 1, -1);
        (void)!read(wake_fd, &pokes, sizeof pokes);
        for (struct disk_io_job *job; (job = disk_io_reap(io)) != NULL;) {
            KVEIK_ASSERT(job->status == ST_OK);
            if (load->next < load->count) {
                submit(io, load, job);
            }
        }
    }
}

static uint64_t number(const char *text)
{
    uint64_t value = 0;
    KVEIK_ASSERT(size_parse(text, &value, NULL) == ST_OK);
    return value;
}

static bool has_word(int argc, char **argv, const char *word)
{
    bool found = false;
    for (int i = 7; i < argc; i++) {
        found = found || strcmp(argv[i], word) == 0;
    }
    return found;
}

/* Aligned to `align`, filled by chance: devices may be quicker with zeros. */
static char *make_memory(uint64_t bytes, uint64_t align, struct rng *rng)
{
    char *memory = heap_alloc_aligned(align, bytes);
    KVEIK_ASSERT(memory != NULL);
    if (align > DISK_ALIGN) {
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
    }
    for (uint64_t at = 0; at < bytes; at += sizeof(uint64_t)) {
        uint64_t word = rng_next(rng);
        memcpy(memory + at, &word, sizeof word);
    }
    return memory;
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        (void)fprintf(
            stderr, "bench_disk_io FILE uring|threads write|read BLOCK DEPTH TOTAL [sum] [huge]\n");
        return EXIT_FAILURE;
    }
    struct load load = {.fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC),
                        .write = strcmp(argv[3], "write") == 0,
                        .sum = has_word(argc, argv, "sum"),
                        .block = number(argv[4])};
    uint32_t depth = (uint32_t)number(argv[5]);
    struct stat file;
    KVEIK_ASSERT(load.fd >= 0 && fstat(load.fd, &file) == 0);
    load.blocks = (uint64_t)file.st_size / load.block;
    load.count = number(argv[6]) / load.block;
    KVEIK_ASSERT(load.blocks > 0 && load.count > 0);
    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct disk_io_job *jobs = heap_calloc(depth, sizeof *jobs);
    uint64_t *sums = heap_calloc(depth, sizeof *sums);
    KVEIK_ASSERT(wake_fd >= 0 && jobs != NULL && sums != NULL);
    uint64_t align = has_word(argc, argv, "huge") ? HUGE_BYTES : DISK_ALIGN;
    for (uint32_t i = 0; i < depth; i++) {
        char *memory = make_memory(load.block, align, &load.rng);
        jobs[i].vectors[0] = (struct iovec){.iov_base = memory, .iov_len = load.block};
        jobs[i].vector_count = 1;
        jobs[i].owner = &sums[i];
    }
    struct disk_io_options options = {.kind = strcmp(argv[2], "uring") == 0 ? DISK_IO_URING
                                                                            : DISK_IO_THREADS,
                                      .depth = depth,
                                      .jobs_max = depth,
                                      .wake = on_wake};
    struct disk_io *io = NULL;
    struct error error = {0};
    if (disk_io_create(&options, &io, &error) != ST_OK) {
        (void)fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILURE;
    }
    uint64_t began_ns = clock_ns();
    run(io, &load, jobs, depth);
    double seconds = (double)(clock_ns() - began_ns) / 1e9;
    (void)printf("%.0f\n", (double)(load.count * load.block) / 1e6 / seconds);
    disk_io_destroy(io);
    for (uint32_t i = 0; i < depth; i++) {
        heap_free(jobs[i].vectors[0].iov_base);
    }
    heap_free(sums);
    heap_free(jobs);
    (void)close(load.fd);
    (void)close(wake_fd);
    return EXIT_SUCCESS;
}
