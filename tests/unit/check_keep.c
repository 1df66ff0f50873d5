/*
 * A planned restart seen from the core: what one core tells is what another takes, part by part and
 * slot by slot; and nobody reads a byte that was not verified.
 *
 * Covers: daemon/core/restore.c daemon/core/verify.c daemon/core/slab_restore.c
 */
#include <string.h>

#include "base/fault.h"
#include "base/heap.h"
#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

enum { SHAPES = 3, KEPT_MAX = 512, JOBS_MAX = 64, KEYS = 300 };

static const struct {
    uint32_t grains;
    uint64_t bytes;
} forms[SHAPES] = {{1, 1000}, {2, 3000}, {4, 9000}};

static uint32_t below(struct rng *rng, uint32_t bound)
{
    return (uint32_t)rng_below(rng, bound);
}

/* A core with a session, one space, and shapes in the order that `order` says. */
struct world {
    struct core_fixture fixture;
    uint32_t space;
    uint32_t shapes[SHAPES];
    uint32_t jobs[JOBS_MAX]; /* loads under way */
    uint32_t job_count;
};

struct kept_part {
    struct core_kept_part part;
    uint32_t form;
    uint8_t keys[8 * CORE_KEY_BYTES];
};

struct kept {
    const struct world *world;
    uint32_t slab_count;
    uint32_t part_count;
    struct core_kept_slab slabs[KEPT_MAX];
    struct kept_part parts[KEPT_MAX];
};

static struct core_limits limits_of(bool disk)
{
    struct core_limits limits = fixture_limits();
    limits.verifies_max = 4;
    if (disk) {
        limits.disk = (struct core_disk_limits){.segments_max = 16,
                                                .stores_max = 4,
                                                .loads_max = 4,
                                                .queue_max = 64,
                                                .store_bytes_max = 1 << 20,
                                                .load_bytes_max = 1 << 20,
                                                .admission = CORE_ADMIT_NEVER};
    }
    return limits;
}

static void world_register(struct world *world, bool backwards)
{
    static const struct core_group group = {.rule = CORE_EVERY, .layer_count = 1, .head_count = 1};
    (void)fixture_session(&world->fixture, 0, "engine", 0);
    world->space = fixture_space(&world->fixture, 0, 1, &group, 1);
    for (uint32_t i = 0; i < SHAPES; i++) {
        uint32_t f = backwards ? SHAPES - 1 - i : i;
        world->shapes[f] = fixture_shape(&world->fixture, 0, world->space, 0, forms[f].grains,
                                         (struct core_ranges){0, 1, 0, 1}, forms[f].bytes);
        ck_assert_uint_ne(world->shapes[f], NONE);
    }
}

/* Notes the loads that the last step began. */
static void world_jobs(struct world *world)
{
    for (uint32_t i = 0; i < world->fixture.actions.count; i++) {
        const struct core_action *action = &world->fixture.actions.items[i];
        if (action->kind == ACTION_LOAD) {
            ck_assert_uint_lt(world->job_count, JOBS_MAX);
            world->jobs[world->job_count++] = action->job;
        }
    }
}

static void load_done(struct world *world, uint32_t index, int status)
{
    struct core_event event = {.kind = EVENT_LOAD_DONE,
                               .u.load_done = {.load = world->jobs[index], .status = status}};
    world->jobs[index] = world->jobs[--world->job_count];
    (void)fixture_step(&world->fixture, &event, ACTION_LOAD);
    world_jobs(world);
}

static void verify(struct world *world, uint32_t count)
{
    struct core_event event = {.kind = EVENT_VERIFY, .u.verify.count = count};
    (void)fixture_step(&world->fixture, &event, ACTION_LOAD);
    world_jobs(world);
}

static void fill(struct world *world, struct rng *rng, uint32_t pushes)
{
    for (uint32_t i = 0; i < pushes; i++) {
        uint32_t form = below(rng, SHAPES);
        fixture_store(&world->fixture, 0, world->shapes[form], below(rng, KEYS), 1 + below(rng, 8));
        (void)fixture_hit(&world->fixture, 0, world->space, below(rng, KEYS), 3);
    }
}

/* ---- what a core tells ----------------------------------------------------------------------- */

static bool keep_slab(void *ctx, const struct core_kept_slab *slab)
{
    struct kept *kept = ctx;
    ck_assert_uint_lt(kept->slab_count, KEPT_MAX);
    kept->slabs[kept->slab_count++] = *slab;
    return true;
}

static bool keep_part(void *ctx, const struct core_kept_part *part)
{
    struct kept *kept = ctx;
    ck_assert_uint_lt(kept->part_count, KEPT_MAX);
    struct kept_part *to = &kept->parts[kept->part_count++];
    to->part = *part;
    ck_assert_uint_le(part->key_count, 8);
    (void)memcpy(to->keys, part->keys, (size_t)part->key_count * CORE_KEY_BYTES);
    to->form = 0;
    while (kept->world->shapes[to->form] != part->shape) {
        to->form++;
        ck_assert_uint_lt(to->form, SHAPES);
    }
    if (!part->sealed) { /* the owner's work: any number that tells parts apart */
        to->part.seal = part->offset * 31 + 5;
    }
    ck_assert_mem_eq(part->origin, "engine", part->origin_bytes);
    return true;
}

static void keep(struct world *world, struct kept *kept)
{
    kept->world = world;
    kept->slab_count = 0;
    kept->part_count = 0;
    ck_assert_int_eq(core_each_slab(world->fixture.core, keep_slab, kept), ST_OK);
    ck_assert_int_eq(core_each_part(world->fixture.core, keep_part, kept), ST_OK);
}

static void expect_equal(const struct kept *a, const struct kept *b)
{
    ck_assert_uint_eq(a->slab_count, b->slab_count);
    ck_assert_uint_eq(a->part_count, b->part_count);
    for (uint32_t i = 0; i < a->slab_count; i++) {
        ck_assert_uint_eq(a->slabs[i].offset, b->slabs[i].offset);
        ck_assert_uint_eq(a->slabs[i].bytes, b->slabs[i].bytes);
    }
    for (uint32_t i = 0; i < a->part_count; i++) {
        const struct kept_part *x = &a->parts[i];
        const struct kept_part *y = &b->parts[i];
        ck_assert_uint_eq(x->part.offset, y->part.offset);
        ck_assert_uint_eq(x->form, y->form);
        ck_assert_uint_eq(x->part.grains, y->part.grains);
        ck_assert_uint_eq(x->part.tail_tokens, y->part.tail_tokens);
        ck_assert_uint_eq(x->part.key_count, y->part.key_count);
        ck_assert_mem_eq(x->keys, y->keys, (size_t)x->part.key_count * CORE_KEY_BYTES);
        ck_assert_uint_eq(x->part.seal, y->part.seal);
    }
}

/* ---- what another takes ---------------------------------------------------------------------- */

static int restore_slab(struct world *world, uint64_t slot_bytes, uint64_t offset)
{
    struct core_event event = {.kind = EVENT_RESTORE_SLAB,
                               .u.restore_slab = {.slot_bytes = slot_bytes, .offset = offset}};
    return fixture_step(&world->fixture, &event, ACTION_RESTORED)->status;
}

static struct core_event restore_of(const struct world *world, const struct kept_part *kept)
{
    return (struct core_event){.kind = EVENT_RESTORE,
                               .u.restore = {.shape = world->shapes[kept->form],
                                             .keys = kept->keys,
                                             .key_count = kept->part.key_count,
                                             .grains = kept->part.grains,
                                             .tail_tokens = kept->part.tail_tokens,
                                             .origin = (const uint8_t *)"engine",
                                             .origin_bytes = 6,
                                             .in_memory = true,
                                             .offset = kept->part.offset,
                                             .seal = kept->part.seal}};
}

static int restore(struct world *world, const struct core_event *event)
{
    return fixture_step(&world->fixture, event, ACTION_RESTORED)->status;
}

static void restore_end(struct world *world)
{
    struct core_event event = {.kind = EVENT_RESTORE_END};
    (void)fixture_step(&world->fixture, &event, ACTION_RESTORED);
}

/* A core as after a restart; every third part was found on disk first when there is one. */
static void world_restart(struct world *world, const struct kept *kept, bool disk, bool backwards)
{
    struct core_limits limits = limits_of(disk);
    fixture_open(&world->fixture, &limits);
    world->job_count = 0;
    for (uint32_t i = 0; i < kept->slab_count; i++) {
        ck_assert_int_eq(restore_slab(world, kept->slabs[i].slot_bytes, kept->slabs[i].offset),
                         ST_OK);
    }
    world_register(world, backwards);
    for (uint32_t i = 0; disk && i < kept->part_count; i += 3) {
        struct core_event event = restore_of(world, &kept->parts[i]);
        event.u.restore.in_memory = false;
        event.u.restore.place = (struct core_place){.segment = i % 7, .offset = i};
        ck_assert_int_eq(restore(world, &event), ST_OK);
    }
    for (uint32_t i = 0; i < kept->part_count; i++) {
        struct core_event event = restore_of(world, &kept->parts[i]);
        ck_assert_int_eq(restore(world, &event), ST_OK);
        ck_assert_int_eq(restore(world, &event), ST_LIMIT); /* it is there */
    }
    restore_end(world);
    core_check(world->fixture.core);
}

static void verify_all(struct world *world, int status)
{
    for (uint32_t i = 0; i < KEPT_MAX && fixture_gauges(&world->fixture).unverified > 0; i++) {
        verify(world, 3);
        while (world->job_count > 0) {
            load_done(world, world->job_count / 2, status);
        }
    }
    ck_assert_uint_eq(fixture_gauges(&world->fixture).unverified, 0);
    core_check(world->fixture.core);
}

static void open_world(struct world *world)
{
    struct core_limits limits = limits_of(false);
    world->job_count = 0;
    fixture_open(&world->fixture, &limits);
    world_register(world, false);
}

START_TEST(what_was_told_is_taken)
    {
        struct world *world = heap_calloc(2, sizeof *world);
        struct kept *kept = heap_calloc(2, sizeof *kept);
        for (uint64_t seed = 1; seed <= 60; seed++) {
            struct rng rng = {seed};
            bool disk = seed % 2 == 0;
            open_world(&world[0]);
            fill(&world[0], &rng, 10 + below(&rng, 100));
            keep(&world[0], &kept[0]);
            world_restart(&world[1], &kept[0], disk, seed % 3 == 0);
            keep(&world[1], &kept[1]);
            expect_equal(&kept[0], &kept[1]);
            for (uint32_t k = 0; k < KEYS; k++) {
                ck_assert_uint_eq(fixture_hit(&world[0].fixture, 0, world[0].space, k, 6),
                                  fixture_hit(&world[1].fixture, 0, world[1].space, k, 6));
            }
            keep(&world[1], &kept[0]); /* lookups are uses */
            kept[0].world = &world[1];
            verify_all(&world[1], ST_OK);
            keep(&world[1], &kept[1]); /* being verified is none */
            for (uint32_t i = 0; i < kept[1].part_count; i++) {
                kept[1].parts[i].part.seal = kept[0].parts[i].part.seal;
            }
            expect_equal(&kept[0], &kept[1]);
            fixture_close(&world[0].fixture);
            fixture_close(&world[1].fixture);
        }
        heap_free(kept);
        heap_free(world);
    }
END_TEST

/* What is found on disk stays there when its memory is damaged; all else is a miss. */
START_TEST(damage_is_given_up)
    {
        struct world *world = heap_calloc(2, sizeof *world);
        struct kept *kept = heap_calloc(2, sizeof *kept);
        for (uint64_t seed = 1; seed <= 10; seed++) {
            struct rng rng = {seed};
            open_world(&world[0]);
            fill(&world[0], &rng, 50);
            keep(&world[0], &kept[0]);
            world_restart(&world[1], &kept[0], seed % 2 == 0, false);
            verify_all(&world[1], ST_CORRUPT);
            struct core_gauges gauges = fixture_gauges(&world[1].fixture);
            uint32_t on_disk = seed % 2 == 0 ? (kept[0].part_count + 2) / 3 : 0;
            ck_assert_uint_eq(gauges.parts, on_disk);
            ck_assert_uint_eq(gauges.stored_parts, on_disk);
            ck_assert_uint_eq(gauges.part_bytes, 0);
            ck_assert_uint_eq(fixture_counters(&world[1].fixture).verify_corrupt,
                              kept[0].part_count);
            fixture_close(&world[0].fixture);
            fixture_close(&world[1].fixture);
        }
        heap_free(kept);
        heap_free(world);
    }
END_TEST

/* Pushes one key, restarts, and pulls it. */
static const struct core_action *one_restarted(struct world *world, struct kept *kept)
{
    open_world(world);
    fixture_store(&world->fixture, 0, world->shapes[0], 7, 1);
    keep(world, kept);
    ck_assert_uint_eq(kept->part_count, 1);
    fixture_close(&world->fixture);
    world_restart(world, kept, false, false);
    const struct core_action *action = fixture_pull(&world->fixture, 0, world->space, 7, 1);
    ck_assert_int_eq(action->kind, ACTION_COPY);
    ck_assert_uint_eq(action->copy_count, 1);
    ck_assert_uint_ne(action->copies[0].load, CORE_NO_LOAD);
    ck_assert_uint_eq(action->copies[0].offset, kept->parts[0].part.offset);
    world_jobs(world);
    ck_assert_uint_eq(world->job_count, 1);
    ck_assert_uint_eq(world->jobs[0], action->copies[0].load);
    return action;
}

START_TEST(a_pull_waits_for_verification)
    {
        struct world *world = heap_calloc(1, sizeof *world);
        struct kept *kept = heap_calloc(1, sizeof *kept);
        (void)one_restarted(world, kept);
        for (uint32_t i = 0; i < world->fixture.actions.count; i++) {
            const struct core_action *action = &world->fixture.actions.items[i];
            if (action->kind == ACTION_LOAD) {
                ck_assert(action->verify);
                ck_assert_uint_eq(action->seal, kept->parts[0].part.seal);
                ck_assert_uint_eq(action->offset, kept->parts[0].part.offset);
                ck_assert_uint_eq(action->bytes, forms[0].bytes);
            }
        }
        uint32_t first = world->fixture.last_request;
        /* a second pull waits for the same verification */
        const struct core_action *again = fixture_pull(&world->fixture, 0, world->space, 7, 1);
        ck_assert_uint_eq(again->copies[0].load, world->jobs[0]);
        core_check(world->fixture.core);
        load_done(world, 0, ST_OK);
        (void)fixture_done(&world->fixture, 0, first, ST_OK);
        (void)fixture_done(&world->fixture, 0, world->fixture.last_request, ST_OK);
        /* verified once is enough */
        const struct core_action *third = fixture_pull(&world->fixture, 0, world->space, 7, 1);
        ck_assert_uint_eq(third->copies[0].load, CORE_NO_LOAD);
        (void)fixture_done(&world->fixture, 0, world->fixture.last_request, ST_OK);
        ck_assert_uint_eq(fixture_counters(&world->fixture).verified, 1);
        fixture_close(&world->fixture);

        (void)one_restarted(world, kept);
        load_done(world, 0, ST_CORRUPT);
        (void)fixture_done(&world->fixture, 0, world->fixture.last_request, ST_OK);
        ck_assert_uint_eq(fixture_hit(&world->fixture, 0, world->space, 7, 1), 0);
        ck_assert_uint_eq(fixture_gauges(&world->fixture).parts, 0);
        fixture_close(&world->fixture);

        (void)one_restarted(world, kept); /* not looked at: later */
        load_done(world, 0, ST_CANCELLED);
        (void)fixture_done(&world->fixture, 0, world->fixture.last_request, ST_OK);
        ck_assert_uint_eq(fixture_gauges(&world->fixture).unverified, 1);
        ck_assert_uint_eq(fixture_hit(&world->fixture, 0, world->space, 7, 1), 1);
        fixture_close(&world->fixture);
        heap_free(kept);
        heap_free(world);
    }
END_TEST

/* Where each class of slots has its addresses. */
static uint64_t class_reserve(void)
{
    struct core_limits limits = limits_of(false);
    return core_reserve_bytes(&limits) / CORE_CLASSES_MAX;
}

/* Blocks of the first shape are told to `kept`, and a core begins that has none of them. */
static void begin_again(struct world *world, struct kept *kept, uint32_t blocks)
{
    open_world(world);
    fixture_store(&world->fixture, 0, world->shapes[0], 7, blocks);
    keep(world, kept);
    fixture_close(&world->fixture);
    struct core_limits limits = limits_of(false);
    fixture_open(&world->fixture, &limits);
}

START_TEST(slabs_that_are_nonsense)
    {
        struct world *world = heap_calloc(1, sizeof *world);
        struct kept *kept = heap_calloc(1, sizeof *kept);
        begin_again(world, kept, 3);
        uint64_t reserve = class_reserve();
        ck_assert_int_eq(restore_slab(world, 1000, 0), ST_MISMATCH); /* no slot has this size */
        ck_assert_int_eq(restore_slab(world, 0, 0), ST_MISMATCH);
        ck_assert_int_eq(restore_slab(world, UINT64_MAX - 100, 0), ST_MISMATCH);
        ck_assert_int_eq(restore_slab(world, 1024, 512), ST_MISMATCH);
        ck_assert_int_eq(restore_slab(world, 1024, reserve * CORE_CLASSES_MAX), ST_MISMATCH);
        ck_assert_int_eq(restore_slab(world, 1024, UINT64_MAX - 4095), ST_MISMATCH);
        core_check(world->fixture.core);
        ck_assert_int_eq(restore_slab(world, 1024, 4096 * 3), ST_OK);
        ck_assert_int_eq(restore_slab(world, 1024, 4096 * 3), ST_MISMATCH); /* twice */
        ck_assert_int_eq(restore_slab(world, 512, 0), ST_MISMATCH);         /* another size */
        ck_assert_int_eq(restore_slab(world, 1024, reserve), ST_MISMATCH);  /* another class */
        ck_assert_int_eq(restore_slab(world, 1024, 4096), ST_OK);           /* below the first */
        for (uint32_t i = 2; i < 16; i++) {
            ck_assert_int_eq(restore_slab(world, 4096, reserve * 9 + (uint64_t)4096 * i), ST_OK);
        }
        ck_assert_int_eq(restore_slab(world, 2048, reserve * 8), ST_LIMIT); /* over the budget */
        restore_end(world);
        core_check(world->fixture.core);
        ck_assert_uint_eq(fixture_gauges(&world->fixture).slab_bytes, 0); /* none has a part */
        fixture_close(&world->fixture);
        heap_free(kept);
        heap_free(world);
    }
END_TEST

START_TEST(parts_that_are_nonsense)
    {
        struct world *world = heap_calloc(1, sizeof *world);
        struct kept *kept = heap_calloc(1, sizeof *kept);
        begin_again(world, kept, 3);
        uint64_t reserve = class_reserve();
        ck_assert_int_eq(restore_slab(world, 1024, 4096 * 3), ST_OK);
        ck_assert_int_eq(restore_slab(world, 1024, 4096), ST_OK);
        ck_assert_int_eq(restore_slab(world, 4096, reserve * 9 + (uint64_t)4096 * 2), ST_OK);
        world_register(world, false);
        struct kept_part part = kept->parts[0];
        const uint64_t offsets[] = {0,          4096 * 2,    4096 * 3 + 512,    4096 * 20,
                                    UINT64_MAX, reserve * 9, reserve * 9 + 8192};
        for (size_t i = 0; i < ARRAY_COUNT(offsets); i++) {
            part.part.offset = offsets[i];
            struct core_event event = restore_of(world, &part);
            ck_assert_int_eq(restore(world, &event), ST_LIMIT);
        }
        part.part.offset = 4096 * 3 + 1024;
        struct core_event event = restore_of(world, &part);
        ck_assert_int_eq(restore(world, &event), ST_OK);
        event.u.restore.keys = kept->parts[1].keys;
        ck_assert_int_eq(restore(world, &event), ST_LIMIT); /* the slot is taken */
        event.u.restore.tail_tokens = 17;
        ck_assert_int_eq(restore(world, &event), ST_INVALID);
        event.u.restore.tail_tokens = 16;
        event.u.restore.in_memory = false;
        ck_assert_int_eq(restore(world, &event), ST_INVALID); /* no disk tier */
        restore_end(world);
        core_check(world->fixture.core);
        ck_assert_uint_eq(fixture_gauges(&world->fixture).slab_bytes, 4096); /* others went back */
        event.u.restore.in_memory = true;
        event.u.restore.offset = 4096 * 3;
        ck_assert_int_eq(restore(world, &event), ST_LIMIT); /* it is over */
        fixture_close(&world->fixture);
        heap_free(kept);
        heap_free(world);
    }
END_TEST

/* A slab whose memory is not there goes; what would lie in it is refused. */
START_TEST(a_slab_that_cannot_be_adopted)
    {
        struct world *world = heap_calloc(1, sizeof *world);
        struct kept *kept = heap_calloc(1, sizeof *kept);
        begin_again(world, kept, 1);
        ck_assert_int_eq(restore_slab(world, kept->slabs[0].slot_bytes, kept->slabs[0].offset),
                         ST_OK);
        struct core_event event = {.kind = EVENT_SLAB_FAILED,
                                   .u.slab_failed.offset = kept->slabs[0].offset};
        ck_assert_ptr_nonnull(fixture_step(&world->fixture, &event, ACTION_DECOMMIT));
        world_register(world, false);
        event = restore_of(world, &kept->parts[0]);
        ck_assert_int_eq(restore(world, &event), ST_LIMIT);
        restore_end(world);
        ck_assert_uint_eq(fixture_gauges(&world->fixture).slab_bytes, 0);
        fixture_close(&world->fixture);
        heap_free(kept);
        heap_free(world);
    }
END_TEST

START_TEST(without_memory_nothing_is_taken_and_nothing_breaks)
    {
        struct world *world = heap_calloc(1, sizeof *world);
        struct kept *kept = heap_calloc(1, sizeof *kept);
        open_world(world);
        struct rng rng = {3};
        fill(world, &rng, 60);
        keep(world, kept);
        fault_set(FAULT_HEAP, 0, 1);
        ck_assert_int_eq(core_each_part(world->fixture.core, keep_part, kept), ST_NO_MEMORY);
        fault_clear();
        fixture_close(&world->fixture);
        for (uint32_t after = 0; after < 60; after++) {
            struct core_limits limits = limits_of(after % 2 == 0);
            fixture_open(&world->fixture, &limits);
            fault_set(FAULT_MMAP, after, 1);
            for (uint32_t i = 0; i < kept->slab_count; i++) {
                (void)restore_slab(world, kept->slabs[i].slot_bytes, kept->slabs[i].offset);
            }
            fault_clear();
            world_register(world, false);
            fault_set(FAULT_MMAP, after % 13, 1);
            for (uint32_t i = 0; i < kept->part_count; i++) {
                struct core_event event = restore_of(world, &kept->parts[i]);
                (void)restore(world, &event);
            }
            fault_clear();
            restore_end(world);
            fixture_close(&world->fixture);
        }
        heap_free(kept);
        heap_free(world);
    }
END_TEST

/* ---- life goes on ---------------------------------------------------------------------------- */

static int any_status(struct rng *rng)
{
    static const int statuses[] = {ST_OK, ST_OK, ST_OK, ST_CORRUPT, ST_CANCELLED};
    return statuses[below(rng, ARRAY_COUNT(statuses))];
}

static void random_step(struct world *world, struct rng *rng, uint64_t *lease)
{
    struct core_fixture *fixture = &world->fixture;
    uint32_t first = below(rng, KEYS);
    switch (below(rng, 6)) {
    case 0:
        fixture_store(fixture, 0, world->shapes[below(rng, SHAPES)], first, 4);
        break;
    case 1:
        if (*lease != 0) {
            ck_assert_int_eq(fixture_release(fixture, 0, *lease), ST_OK);
        }
        *lease = fixture_lease(fixture, 0, world->space, first, 5);
        world_jobs(world);
        break;
    case 2: {
        const struct core_action *action = fixture_pull(fixture, 0, world->space, first, 6);
        uint32_t request = fixture->last_request;
        bool copies = action->kind == ACTION_COPY;
        world_jobs(world);
        if (copies) { /* some are given up before what they wait for is there */
            while (world->job_count > 0 && below(rng, 4) != 0) {
                load_done(world, below(rng, world->job_count), any_status(rng));
            }
            (void)fixture_done(fixture, 0, request, ST_OK);
        }
        break;
    }
    case 3:
        verify(world, 2);
        break;
    case 4:
        if (world->job_count > 0) {
            load_done(world, below(rng, world->job_count), any_status(rng));
        }
        break;
    default:
        (void)fixture_hit(fixture, 0, world->space, first, 4);
        break;
    }
}

START_TEST(random_life_after_a_restart)
    {
        struct world *world = heap_calloc(1, sizeof *world);
        struct kept *kept = heap_calloc(1, sizeof *kept);
        for (uint64_t seed = 1; seed <= 40; seed++) {
            struct rng rng = {seed * 77};
            open_world(world);
            fill(world, &rng, 80);
            keep(world, kept);
            fixture_close(&world->fixture);
            world_restart(world, kept, seed % 2 == 0, false);
            uint64_t lease = 0;
            for (uint32_t i = 0; i < 150; i++) {
                random_step(world, &rng, &lease);
                core_check(world->fixture.core);
            }
            keep(world, kept); /* with loads under way: what is not whole in memory is not told */
            while (world->job_count > 0) {
                load_done(world, 0, ST_OK);
            }
            fixture_close(&world->fixture);
            world_restart(world, kept, false, true); /* twice in a row */
            verify_all(world, ST_OK);
            fixture_close(&world->fixture);
        }
        heap_free(kept);
        heap_free(world);
    }
END_TEST

UNIT_MAIN("keep", what_was_told_is_taken, damage_is_given_up, a_pull_waits_for_verification,
          slabs_that_are_nonsense, parts_that_are_nonsense, a_slab_that_cannot_be_adopted,
          without_memory_nothing_is_taken_and_nothing_breaks, random_life_after_a_restart)
