/*
 * The disk tier against the device: bench_disk FOLDER [PART_BYTES [TOTAL_BYTES]].
 *
 * Writes parts through the tier and reads them back at random, then does the same to one plain file
 * with direct I/O through the same engine at the same depth: what the device gives is the limit.
 * To be run on the file system that is asked about; the folder is left with the store in it.
 */
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"
#include "base/size.h"
#include "storage/disk/disk.h"

enum { JOBS = 64, DEPTH = 32, MIB = 1024 * 1024 };

struct slot {
    struct disk_write write;
    struct disk_read read;
    struct disk_io_job job;
    uint32_t id;
    char *memory;
};

struct bench {
    struct disk *disk;
    struct disk_io *io;
    sem_t woken;
    struct slot slots[JOBS];
    struct slot *idle[JOBS];
    uint32_t idle_count;
    uint64_t part_bytes;
    uint32_t parts;
    struct disk_place *places;
    uint64_t *seals;
    uint64_t failed;
};

static void on_wake(void *arg)
{
    (void)sem_post(arg);
}

static bool want_none(void *ctx, const struct disk_entry *entry)
{
    return ctx == NULL && entry == NULL;
}

static void see(struct bench *bench, const struct disk_event *event)
{
    struct slot *slot = NULL;
    if (event->kind == DISK_WRITTEN) {
        slot = event->u.write->owner;
        bench->failed += event->u.write->status != ST_OK;
        bench->places[slot->id] = event->u.write->place;
        bench->seals[slot->id] = event->u.write->seal;
    } else if (event->kind == DISK_READ) {
        slot = event->u.read->owner;
        bench->failed += event->u.read->status != ST_OK;
    }
    if (slot != NULL) {
        bench->idle[bench->idle_count++] = slot;
    }
}

static void reap(struct bench *bench)
{
    struct disk_event event;
    while (bench->disk != NULL && disk_reap(bench->disk, &event)) {
        see(bench, &event);
    }
    for (struct disk_io_job *job = bench->io != NULL ? disk_io_reap(bench->io) : NULL; job != NULL;
         job = disk_io_reap(bench->io)) {
        bench->failed += job->status != ST_OK;
        bench->idle[bench->idle_count++] = job->owner;
    }
}

static void wait_idle(struct bench *bench, uint32_t least)
{
    reap(bench);
    while (bench->idle_count < least) {
        while (sem_wait(&bench->woken) != 0) {
        }
        reap(bench);
    }
}

static void start_write(struct bench *bench, struct slot *slot, uint32_t kind)
{
    uint8_t key[DISK_KEY_BYTES] = {0};
    (void)memcpy(key, &slot->id, sizeof slot->id);
    struct disk_part part = {.kind = kind, .keys = key, .key_count = 1};
    slot->write = (struct disk_write){.from = slot->memory,
                                      .room_bytes = bench->part_bytes,
                                      .bytes = bench->part_bytes,
                                      .owner = slot};
    int status = disk_write(bench->disk, &slot->write, &part);
    KVEIK_ASSERT(status == ST_OK);
}

static void start_read(struct bench *bench, struct slot *slot)
{
    slot->read = (struct disk_read){.place = bench->places[slot->id],
                                    .seal = bench->seals[slot->id],
                                    .bytes = bench->part_bytes,
                                    .to = slot->memory,
                                    .room_bytes = bench->part_bytes,
                                    .owner = slot};
    int status = disk_read(bench->disk, &slot->read);
    KVEIK_ASSERT(status == ST_OK);
}

static void start_plain(struct bench *bench, struct slot *slot, int fd, bool write)
{
    slot->job = (struct disk_io_job){.fd = fd,
                                     .write = write,
                                     .offset = slot->id * bench->part_bytes,
                                     .vector_count = 1,
                                     .owner = slot};
    slot->job.vectors[0].iov_base = slot->memory;
    slot->job.vectors[0].iov_len = bench->part_bytes;
    int status = disk_io_submit(bench->io, &slot->job);
    KVEIK_ASSERT(status == ST_OK);
}

enum pass { TIER_WRITE, TIER_READ, PLAIN_WRITE, PLAIN_READ };

/* Bytes a second. */
static double run(struct bench *bench, enum pass pass, int fd)
{
    struct rng rng = {.state = 1};
    uint32_t kind = 0;
    struct disk_kind about = {.space = (const uint8_t *)"bench", .space_bytes = 5};
    if (bench->disk != NULL) {
        (void)disk_kind_number(bench->disk, &about, &kind);
    }
    uint64_t began_ns = clock_ns();
    for (uint32_t i = 0; i < bench->parts; i++) {
        wait_idle(bench, 1);
        struct slot *slot = bench->idle[--bench->idle_count];
        bool write = pass == TIER_WRITE || pass == PLAIN_WRITE;
        slot->id = write ? i : (uint32_t)rng_below(&rng, bench->parts);
        if (pass == TIER_WRITE) {
            start_write(bench, slot, kind);
        } else if (pass == TIER_READ) {
            start_read(bench, slot);
        } else {
            start_plain(bench, slot, fd, write);
        }
    }
    wait_idle(bench, JOBS);
    if (pass == PLAIN_WRITE) {
        (void)fdatasync(fd);
    }
    double seconds = (double)(clock_ns() - began_ns) / 1e9;
    return (double)bench->parts * (double)bench->part_bytes / seconds;
}

static void run_tier(struct bench *bench, const char *folder, double speeds[4])
{
    struct error error = {0};
    uint64_t total = bench->parts * bench->part_bytes;
    struct disk_options options = {.directory = folder,
                                   .segment_bytes = UINT64_C(256) * MIB,
                                   .bytes_max = 2 * total + UINT64_C(2048) * MIB,
                                   .depth = DEPTH,
                                   .jobs_max = JOBS,
                                   .sync_ms = 1000,
                                   .wake = on_wake,
                                   .wake_arg = &bench->woken};
    if (disk_open(&options, want_none, NULL, &bench->disk, &error) != ST_OK) {
        (void)fprintf(stderr, "%s\n", error.text);
        abort(); /* nothing to measure */
    }
    speeds[TIER_WRITE] = run(bench, TIER_WRITE, -1);
    speeds[TIER_READ] = run(bench, TIER_READ, -1);
    disk_close(bench->disk);
    bench->disk = NULL;
}

static void run_plain(struct bench *bench, const char *folder, double speeds[4])
{
    char path[4096];
    struct error error = {0};
    struct disk_io_options options = {
        .depth = DEPTH, .jobs_max = JOBS, .wake = on_wake, .wake_arg = &bench->woken};
    (void)snprintf(path, sizeof path, "%s/plain", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 || posix_fallocate(fd, 0, (off_t)(bench->parts * bench->part_bytes)) != 0 ||
        disk_io_create(&options, &bench->io, &error) != ST_OK) {
        (void)fprintf(stderr, "%s: no direct I/O, or no room\n", path);
        abort(); /* nothing to measure against */
    }
    speeds[PLAIN_WRITE] = run(bench, PLAIN_WRITE, fd);
    speeds[PLAIN_READ] = run(bench, PLAIN_READ, fd);
    disk_io_destroy(bench->io);
    bench->io = NULL;
    (void)close(fd);
    (void)unlink(path);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    double speeds[4] = {0};
    uint64_t total = UINT64_C(1024) * MIB;
    bench.part_bytes = MIB;
    if (argc < 2 || (argc > 2 && size_parse(argv[2], &bench.part_bytes, NULL) != ST_OK) ||
        (argc > 3 && size_parse(argv[3], &total, NULL) != ST_OK) ||
        bench.part_bytes % DISK_ALIGN != 0 || bench.part_bytes == 0) {
        (void)fprintf(stderr, "usage: bench_disk FOLDER [PART_BYTES [TOTAL_BYTES]]\n");
        return EXIT_FAILURE;
    }
    bench.parts = (uint32_t)(total / bench.part_bytes);
    bench.places = calloc(bench.parts, sizeof *bench.places);
    bench.seals = calloc(bench.parts, sizeof *bench.seals);
    KVEIK_ASSERT(sem_init(&bench.woken, 0, 0) == 0);
    KVEIK_ASSERT(bench.places != NULL && bench.seals != NULL);
    for (uint32_t i = 0; i < JOBS; i++) {
        struct slot *slot = &bench.slots[i];
        slot->memory = aligned_alloc(DISK_ALIGN, bench.part_bytes);
        KVEIK_ASSERT(slot->memory != NULL);
        (void)memset(slot->memory, (int)i, bench.part_bytes);
        bench.idle[bench.idle_count++] = slot;
    }
    run_plain(&bench, argv[1], speeds);
    run_tier(&bench, argv[1], speeds);
    (void)printf("part %llu bytes: write %.0f of %.0f MB/s (%.2f), read %.0f of %.0f MB/s (%.2f), "
                 "%llu failed\n",
                 (unsigned long long)bench.part_bytes, speeds[TIER_WRITE] / 1e6,
                 speeds[PLAIN_WRITE] / 1e6, speeds[TIER_WRITE] / speeds[PLAIN_WRITE],
                 speeds[TIER_READ] / 1e6, speeds[PLAIN_READ] / 1e6,
                 speeds[TIER_READ] / speeds[PLAIN_READ], (unsigned long long)bench.failed);
    return bench.failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
