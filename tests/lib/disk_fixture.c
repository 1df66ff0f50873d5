#include "tests/lib/disk_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <check.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/rng.h"

enum { KINDS = 3, WAIT_MS = 10000, SEGMENT_BYTES = 4 * 1024 * 1024 };

/* ---- what a part is made of ------------------------------------------------------------------ */

static void fill(char *to, uint32_t id, uint64_t bytes)
{
    struct rng rng = {.state = id};
    uint64_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word = rng_next(&rng);
        (void)memcpy(to + i, &word, 8);
    }
    uint64_t word = rng_next(&rng);
    (void)memcpy(to + i, &word, bytes - i);
}

static bool filled(const char *from, uint32_t id, uint64_t bytes)
{
    char *expected = malloc(bytes + 8);
    ck_assert_ptr_nonnull(expected);
    fill(expected, id, bytes);
    bool same = memcmp(from, expected, bytes) == 0;
    free(expected);
    return same;
}

static uint32_t key_count(uint32_t id)
{
    return 1 + id % 7;
}

static void make_keys(uint32_t id, uint8_t *keys)
{
    struct rng rng = {.state = id + UINT64_C(1000003)};
    for (uint32_t i = 0; i < key_count(id) * DISK_KEY_BYTES; i++) {
        keys[i] = (uint8_t)rng_next(&rng);
    }
    for (int i = 0; i < 4; i++) {
        keys[i] = (uint8_t)(id >> (8 * i));
    }
}

static struct disk_kind make_kind(uint32_t id)
{
    static const char *const spaces[KINDS] = {"space one", "space two, longer", ""};
    static const char *const forms[KINDS] = {"form", "", "another form of storing"};
    const char *space = spaces[id % KINDS];
    const char *form = forms[id % KINDS];
    return (struct disk_kind){.space = (const uint8_t *)space,
                              .space_bytes = (uint32_t)strlen(space),
                              .form = (const uint8_t *)form,
                              .form_bytes = (uint32_t)strlen(form)};
}

static bool has_parent(uint32_t id)
{
    return id % 2 == 1;
}

static uint32_t origin_bytes(uint32_t id)
{
    return id % (DISK_ORIGIN_MAX + 1);
}

/* Keys hold keys, parent and origin, in this order. */
static struct disk_part make_part(uint32_t id, uint8_t *keys)
{
    make_keys(id, keys);
    return (struct disk_part){.keys = keys,
                              .key_count = key_count(id),
                              .grains = id * 3,
                              .tail_tokens = id % 16,
                              .parent = has_parent(id) ? keys : NULL,
                              .origin = keys,
                              .origin_bytes = origin_bytes(id) % DISK_KEY_BYTES,
                              .pushed_s = 1700000000u + id};
}

static bool same_bytes(const uint8_t *a, uint32_t a_bytes, const uint8_t *b, uint32_t b_bytes)
{
    return a_bytes == b_bytes && (a_bytes == 0 || memcmp(a, b, a_bytes) == 0);
}

static bool entry_fits(const struct disk_entry *entry, uint32_t id)
{
    uint8_t keys[8 * DISK_KEY_BYTES];
    struct disk_part part = make_part(id, keys);
    struct disk_kind kind = make_kind(id);
    const struct disk_part *got = &entry->part;
    return same_bytes(got->keys, got->key_count * DISK_KEY_BYTES, part.keys,
                      part.key_count * DISK_KEY_BYTES) &&
           same_bytes(got->origin, got->origin_bytes, part.origin, part.origin_bytes) &&
           (got->parent != NULL) == (part.parent != NULL) &&
           (got->parent == NULL || memcmp(got->parent, part.parent, DISK_KEY_BYTES) == 0) &&
           got->grains == part.grains && got->tail_tokens == part.tail_tokens &&
           got->pushed_s == part.pushed_s &&
           same_bytes(entry->kind.space, entry->kind.space_bytes, kind.space, kind.space_bytes) &&
           same_bytes(entry->kind.form, entry->kind.form_bytes, kind.form, kind.form_bytes);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

struct tier_job {
    struct disk_write write;
    struct disk_read read;
    uint32_t id;
    char *memory;
    char *payload;
    uint8_t keys[8 * DISK_KEY_BYTES];
};

static struct tier_job *job_make(uint32_t id, uint64_t bytes, uint32_t shift)
{
    struct tier_job *job = calloc(1, sizeof *job);
    ck_assert_ptr_nonnull(job);
    uint64_t room = (bytes + shift + 2 * DISK_ALIGN - 1) / DISK_ALIGN * DISK_ALIGN;
    job->memory = aligned_alloc(DISK_ALIGN, room);
    ck_assert_ptr_nonnull(job->memory);
    (void)memset(job->memory, 0, room);
    job->payload = job->memory + shift;
    job->id = id;
    return job;
}

static void job_free(struct tier_job *job)
{
    free(job->memory);
    free(job);
}

static int take(struct tier *tier, struct tier_job *job, int status)
{
    if (status == ST_OK) {
        tier->in_flight++;
    } else {
        job_free(job);
    }
    return status;
}

static int write_job(struct tier *tier, struct tier_job *job)
{
    uint32_t kind = 0;
    struct disk_part part = make_part(job->id, job->keys);
    struct disk_kind about = make_kind(job->id);
    int status = disk_kind_number(tier->disk, &about, &kind);
    if (status == ST_OK) {
        part.kind = kind;
        job->write.owner = job;
        status = disk_write(tier->disk, &job->write, &part);
    }
    return take(tier, job, status);
}

int tier_write(struct tier *tier, uint32_t id, uint64_t bytes, uint32_t shift)
{
    KVEIK_ASSERT(id > 0 && id < TIER_PARTS_MAX && !tier->parts[id].held);
    struct tier_job *job = job_make(id, bytes, shift);
    fill(job->payload, id, bytes);
    job->write.from = job->payload;
    job->write.bytes = bytes;
    job->write.room_bytes =
        shift % DISK_ALIGN == 0 ? (bytes + DISK_ALIGN - 1) / DISK_ALIGN * DISK_ALIGN : bytes;
    tier->parts[id].bytes = bytes;
    int status = write_job(tier, job);
    tier->parts[id].busy = status == ST_OK;
    return status;
}

int tier_move(struct tier *tier, uint32_t id)
{
    struct tier_part *part = &tier->parts[id];
    KVEIK_ASSERT(part->held);
    struct tier_job *job = job_make(id, 1, 0);
    job->write.source = part->place;
    job->write.source_seal = part->seal;
    job->write.bytes = part->bytes;
    job->write.survivor = true;
    part->moving = true;
    int status = write_job(tier, job);
    part->moving = status == ST_OK;
    part->busy = part->moving;
    return status;
}

int tier_read(struct tier *tier, uint32_t id, uint32_t shift)
{
    const struct tier_part *part = &tier->parts[id];
    KVEIK_ASSERT(part->held);
    struct tier_job *job = job_make(id, part->bytes, shift);
    job->read = (struct disk_read){.place = part->place,
                                   .seal = part->seal,
                                   .bytes = part->bytes,
                                   .to = job->payload,
                                   .room_bytes = part->bytes,
                                   .owner = job};
    if (shift == 0) {
        job->read.room_bytes = (part->bytes + DISK_ALIGN - 1) / DISK_ALIGN * DISK_ALIGN;
    }
    return take(tier, job, disk_read(tier->disk, &job->read));
}

static void drop(struct tier *tier, uint32_t id)
{
    if (tier->parts[id].held) {
        tier->parts[id].held = false;
        tier->held--;
    }
}

void tier_forget(struct tier *tier, uint32_t id)
{
    disk_forget(tier->disk, tier->parts[id].place);
    drop(tier, id);
}

static bool drop_segment(struct tier *tier, uint32_t segment)
{
    bool any = false;
    for (uint32_t id = 1; id < TIER_PARTS_MAX; id++) {
        if (tier->parts[id].held && tier->parts[id].place.segment == segment) {
            drop(tier, id);
            any = true;
        }
    }
    return any;
}

bool tier_free_segment(struct tier *tier, uint32_t segment)
{
    bool any = drop_segment(tier, segment);
    if (any) {
        disk_free_segment(tier->disk, segment);
    }
    return any;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void see_written(struct tier *tier, struct tier_job *job)
{
    struct tier_part *part = &tier->parts[job->id];
    const struct disk_write *write = &job->write;
    tier->in_flight--;
    if (write->status == ST_OK) {
        ck_assert_uint_ge(write->charged_bytes, write->bytes);
        if (!part->held) {
            part->held = true;
            tier->held++;
        } else if (part->moving) {
            disk_forget(tier->disk, part->place);
        }
        part->durable = false;
        part->place = write->place;
        part->seal = write->seal;
        part->epoch = write->epoch;
    } else {
        tier->failed_writes++;
        tier->write_status = write->status;
    }
    part->moving = false;
    part->busy = false;
    job_free(job);
}

static void see_read(struct tier *tier, struct tier_job *job)
{
    tier->in_flight--;
    if (job->read.status == ST_OK) {
        ck_assert_msg(filled(job->payload, job->id, job->read.bytes), "wrong bytes in part %u",
                      job->id);
    } else {
        tier->failed_reads++;
        tier->read_status = job->read.status;
        if (tier->parts[job->id].held) {
            tier_forget(tier, job->id);
        }
    }
    job_free(job);
}

static void see_committed(struct tier *tier, uint32_t epoch)
{
    ck_assert_uint_gt(epoch, tier->committed_epoch);
    tier->committed_epoch = epoch;
    for (uint32_t id = 1; id < TIER_PARTS_MAX; id++) {
        struct tier_part *part = &tier->parts[id];
        part->durable = part->durable || (part->held && part->epoch <= epoch);
    }
}

static void see(struct tier *tier, const struct disk_event *event)
{
    switch (event->kind) {
    case DISK_WRITTEN:
        see_written(tier, event->u.write->owner);
        break;
    case DISK_READ:
        see_read(tier, event->u.read->owner);
        break;
    case DISK_COMMITTED:
        see_committed(tier, event->u.epoch);
        break;
    case DISK_SEGMENT_LOST:
        tier->lost_segments++;
        (void)drop_segment(tier, event->u.segment);
        disk_free_segment(tier->disk, event->u.segment);
        break;
    case DISK_STATE:
        tier->state = event->u.state;
        break;
    }
}

static void reap(struct tier *tier)
{
    struct disk_event event;
    while (disk_reap(tier->disk, &event)) {
        see(tier, &event);
    }
}

static void wait_woken(struct tier *tier)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    if (sem_timedwait(&tier->woken, &until) != 0) {
        disk_tick(tier->disk);
    }
}

void tier_settle(struct tier *tier, uint32_t most)
{
    uint64_t end_ms = clock_ms() + 3 * WAIT_MS;
    reap(tier);
    while (tier->in_flight > most) {
        wait_woken(tier);
        reap(tier);
        ck_assert_msg(clock_ms() < end_ms, "%u jobs do not end", tier->in_flight);
    }
}

static bool all_durable(const struct tier *tier)
{
    for (uint32_t id = 1; id < TIER_PARTS_MAX; id++) {
        if (tier->parts[id].held && !tier->parts[id].durable) {
            return false;
        }
    }
    return true;
}

bool tier_sync(struct tier *tier)
{
    uint64_t end_ms = clock_ms() + WAIT_MS;
    tier_settle(tier, 0);
    disk_sync(tier->disk);
    reap(tier);
    while (!all_durable(tier)) {
        if (clock_ms() > end_ms) {
            return false;
        }
        wait_woken(tier);
        reap(tier);
    }
    return true;
}

uint32_t tier_read_all(struct tier *tier)
{
    uint64_t failed = tier->failed_reads;
    for (uint32_t id = 1; id < TIER_PARTS_MAX; id++) {
        if (!tier->parts[id].held) {
            continue;
        }
        tier_settle(tier, TIER_JOBS / 4);
        int status = tier->parts[id].held ? tier_read(tier, id, id % 3 == 0 ? 17 : 0) : ST_OK;
        if (status != ST_OK) {
            tier->failed_reads++;
            tier->read_status = status;
            tier_forget(tier, id);
        }
    }
    tier_settle(tier, 0);
    return (uint32_t)(tier->failed_reads - failed);
}

/* ---- the folder ------------------------------------------------------------------------------ */

static void on_wake(void *arg)
{
    struct tier *tier = arg;
    (void)sem_post(&tier->woken);
}

static bool on_restore(void *ctx, const struct disk_entry *entry)
{
    struct tier *tier = ctx;
    uint32_t id = 0;
    for (int i = 0; i < 4; i++) {
        id |= (uint32_t)entry->part.keys[i] << (8 * i);
    }
    if (id == 0 || id >= TIER_PARTS_MAX || !entry_fits(entry, id)) {
        tier->order_faults++;
        return false;
    }
    struct tier_part *part = &tier->parts[id];
    if (part->held) {
        return false; /* the other half of a move */
    }
    *part = (struct tier_part){.held = true,
                               .durable = true,
                               .place = entry->place,
                               .seal = entry->seal,
                               .bytes = entry->bytes,
                               .charged = entry->charged_bytes};
    tier->held++;
    tier->restored++;
    return true;
}

void tier_init(struct tier *tier)
{
    (void)memset(tier, 0, sizeof *tier);
    const char *base = secure_getenv("TMPDIR");
    (void)snprintf(tier->directory, sizeof tier->directory, "%s/kveik-disk-XXXXXX",
                   base != NULL && strlen(base) < 32 ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(tier->directory));
    ck_assert_int_eq(sem_init(&tier->woken, 0, 0), 0);
    log_init(&tier->log, STDERR_FILENO, LOG_LEVEL_ERROR, LOG_FORMAT_HUMAN);
    tier->options = (struct disk_options){.directory = tier->directory,
                                          .bytes_max = UINT64_C(64) * SEGMENT_BYTES,
                                          .segment_bytes = SEGMENT_BYTES,
                                          .io = DISK_IO_AUTO,
                                          .depth = 8,
                                          .jobs_max = TIER_JOBS,
                                          .sync_ms = 50,
                                          .slow_ms = 60000,
                                          .wake = on_wake,
                                          .wake_arg = tier};
}

int tier_open(struct tier *tier, struct error *error)
{
    (void)memset(tier->parts, 0, sizeof tier->parts);
    tier->held = 0;
    tier->restored = 0;
    tier->committed_epoch = 0;
    tier->lost_segments = 0;
    int status = disk_open(&tier->options, on_restore, tier, &tier->disk, error);
    if (status != ST_OK) {
        tier->disk = NULL;
    }
    return status;
}

void tier_close(struct tier *tier)
{
    if (tier->disk != NULL) {
        tier_settle(tier, 0);
        disk_close(tier->disk);
        tier->disk = NULL;
    }
}

void tier_finish(struct tier *tier)
{
    char command[128];
    tier_close(tier);
    (void)sem_destroy(&tier->woken);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", tier->directory);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c,concurrency-mt-unsafe) */
}
