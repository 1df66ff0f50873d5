/*
 * core_check(): who holds what. The index is walked in check_index.c, memory in check_memory.c.
 * Everything is counted anew from the ends (sessions, leases, requests) and compared with the
 * counts that the core keeps.
 */
#include "daemon/core/check.h"

#include "base/heap.h"

void *check_alloc(uint64_t count, size_t item_bytes)
{
    void *memory = heap_calloc(count == 0 ? 1 : (size_t)count, item_bytes);
    KVEIK_ASSERT(memory != NULL);
    return memory;
}

uint8_t *check_live(const struct slots *slots)
{
    uint8_t *live = check_alloc(slots->high, 1);
    for (uint32_t i = 0; i < slots->high; i++) {
        live[i] = 1;
    }
    uint32_t free_count = 0;
    uint32_t n = slots->free_head;
    while (n != NONE) {
        KVEIK_ASSERT(n < slots->high && live[n] == 1);
        live[n] = 0;
        free_count++;
        n = *(const uint32_t *)slots_at(slots, n);
    }
    KVEIK_ASSERT(slots->high - free_count == slots->used);
    return live;
}

/* Walks a list's items from its end. */
struct walk {
    uint32_t chunk;
    uint32_t left; /* items of the chunk not yet visited */
    uint32_t count;
};

static struct walk walk_begin(struct check *check, const struct list *list)
{
    struct walk walk = {.chunk = list->last};
    for (uint32_t n = list->last; n != NONE;) {
        KVEIK_ASSERT(n < check->core->chunks.high && check->chunks[n] == 1);
        check->chunks[n] = 2; /* in one list only */
        const struct chunk *chunk = slots_at(&check->core->chunks, n);
        KVEIK_ASSERT(chunk->count > 0 && chunk->count <= CHUNK_ITEMS);
        KVEIK_ASSERT(n == list->last || chunk->count == CHUNK_ITEMS);
        check->chunk_count++;
        walk.count += chunk->count;
        walk.left = n == list->last ? chunk->count : walk.left;
        n = chunk->before;
    }
    KVEIK_ASSERT(walk.count == list->count);
    return walk;
}

static bool walk_next(const struct core *core, struct walk *walk, uint32_t *item_out)
{
    if (walk->chunk == NONE) {
        return false;
    }
    const struct chunk *chunk = slots_at(&core->chunks, walk->chunk);
    *item_out = chunk->items[--walk->left];
    if (walk->left == 0) {
        walk->chunk = chunk->before;
        walk->left = CHUNK_ITEMS;
    }
    return true;
}

static void check_lease(struct check *check, uint32_t number)
{
    const struct core *core = check->core;
    const struct lease *lease = lease_at(core, number);
    KVEIK_ASSERT(lease->used && lease->generation != 0);
    KVEIK_ASSERT(lease->instance < core->instances.high && check->instances[lease->instance]);
    uint64_t bytes = 0;
    uint32_t part = NONE;
    struct walk walk = walk_begin(check, &lease->parts);
    KVEIK_ASSERT(walk.count > 0);
    while (walk_next(core, &walk, &part)) {
        KVEIK_ASSERT(part < core->parts.high && check->parts[part]);
        KVEIK_ASSERT(part_at(core, part)->state > PART_FILLING);
        bytes += part_slot_bytes(core, part_at(core, part));
        check->part_refs[part]++;
    }
    KVEIK_ASSERT(bytes == lease->bytes);
}

static void check_leases(struct check *check)
{
    const struct core *core = check->core;
    uint64_t all_bytes = 0;
    uint32_t all = 0;
    for (uint32_t n = 0; n < core->leases.high; n++) {
        if (check->leases[n]) {
            check_lease(check, n);
        }
    }
    for (uint32_t i = 0; i < core->instances.high; i++) {
        if (!check->instances[i]) {
            continue;
        }
        const struct instance *instance = instance_at(core, i);
        KVEIK_ASSERT(instance->used);
        uint64_t bytes = 0;
        uint32_t before = NONE;
        for (uint32_t n = instance->leases; n != NONE; n = lease_at(core, n)->next) {
            KVEIK_ASSERT(n < core->leases.high && check->leases[n]);
            KVEIK_ASSERT(lease_at(core, n)->instance == i && lease_at(core, n)->prev == before);
            bytes += lease_at(core, n)->bytes;
            before = n;
            all++;
        }
        KVEIK_ASSERT(bytes == instance->lease_bytes && bytes <= instance->lease_bytes_max);
        KVEIK_ASSERT(instance->origin < core->origins.high && check->origins[instance->origin]);
        KVEIK_ASSERT(instance->tenant == origin_at(core, instance->origin)->tenant);
        check->origin_refs[instance->origin]++;
        all_bytes += bytes;
    }
    KVEIK_ASSERT(all == core->leases.used && all_bytes == core->leased_bytes);
}

static void check_request(struct check *check, const struct request *request)
{
    const struct core *core = check->core;
    uint32_t part = NONE;
    struct walk walk = walk_begin(check, &request->parts);
    KVEIK_ASSERT(walk.count > 0); /* requests without copies are answered in their step */
    while (walk_next(core, &walk, &part)) {
        KVEIK_ASSERT(part < core->parts.high && check->parts[part]);
        KVEIK_ASSERT(request->push == (part_at(core, part)->state == PART_FILLING));
        KVEIK_ASSERT(request->state == REQUEST_PERSISTING ||
                     part_at(core, part)->state != PART_STORED ||
                     part_on_disk(part_at(core, part)));
        check->part_refs[part]++;
        check->part_pushes[part] = (uint8_t)(check->part_pushes[part] + (request->push ? 1 : 0));
    }
}

static void check_handles(struct check *check, const struct session *session)
{
    const struct core *core = check->core;
    uint32_t handle = NONE;
    struct walk walk = walk_begin(check, &session->handles);
    while (walk_next(core, &walk, &handle)) {
        uint32_t number = handle & ~HANDLE_SHAPE;
        if ((handle & HANDLE_SHAPE) != 0) {
            KVEIK_ASSERT(number < core->shapes.high && check->shapes[number]);
            check->shape_sessions[number]++;
        } else {
            KVEIK_ASSERT(number < core->spaces.high && check->spaces[number]);
            uint32_t tenant = instance_at(core, session->instance)->tenant;
            KVEIK_ASSERT(space_at(core, number)->tenant == tenant);
            check->space_sessions[number]++;
        }
    }
}

static void check_sessions(struct check *check)
{
    const struct core *core = check->core;
    uint32_t sessions = 0;
    uint32_t requests = 0;
    for (uint32_t s = 0; s < core->limits.sessions_max; s++) {
        const struct session *session = session_at(core, s);
        if (!session->open) {
            continue;
        }
        sessions++;
        KVEIK_ASSERT(session->instance < core->instances.high);
        KVEIK_ASSERT(check->instances[session->instance]);
        check->instance_sessions[session->instance]++;
        uint32_t before = NONE;
        uint32_t count = 0;
        for (uint32_t r = session->requests; r != NONE; r = request_at(core, r)->next) {
            const struct request *request = request_at(core, r);
            KVEIK_ASSERT(request->state != REQUEST_NONE && request->session == s);
            KVEIK_ASSERT(request->prev == before);
            KVEIK_ASSERT(!session->closing || request->state == REQUEST_DOOMED);
            check_request(check, request);
            before = r;
            count++;
        }
        KVEIK_ASSERT(count == session->request_count && (!session->closing || count > 0));
        requests += count;
        check_handles(check, session);
    }
    KVEIK_ASSERT(sessions == core->session_count && requests == core->request_count);
    for (uint32_t r = 0; r < core->limits.requests_max; r++) {
        requests -= request_at(core, r)->state != REQUEST_NONE ? 1 : 0;
    }
    KVEIK_ASSERT(requests == 0);
}

static void check_counts(const struct check *check)
{
    const struct core *core = check->core;
    for (uint32_t p = 0; p < core->parts.high; p++) {
        const struct part *part = part_at(core, p);
        KVEIK_ASSERT((part->state != PART_ABSENT) == (check->parts[p] != 0));
        if (!check->parts[p]) {
            KVEIK_ASSERT(check->part_refs[p] == 0);
            continue;
        }
        KVEIK_ASSERT(part->refs == check->part_refs[p]);
        KVEIK_ASSERT(check->part_pushes[p] == (part->state == PART_FILLING ? 1 : 0));
        KVEIK_ASSERT(part->origin < core->origins.high && check->origins[part->origin]);
        check->origin_refs[part->origin]++;
    }
    for (uint32_t o = 0; o < core->origins.high; o++) {
        KVEIK_ASSERT(!check->origins[o] || (origin_at(core, o)->refs == check->origin_refs[o] &&
                                            check->origin_refs[o] > 0));
    }
    for (uint32_t i = 0; i < core->instances.high; i++) {
        uint32_t sessions = check->instance_sessions[i];
        KVEIK_ASSERT(!check->instances[i] ||
                     (instance_at(core, i)->sessions == sessions && sessions > 0));
    }
    for (uint32_t s = 0; s < core->shapes.high; s++) {
        const struct shape *shape = shape_at(core, s);
        KVEIK_ASSERT(!check->shapes[s] || shape->sessions == check->shape_sessions[s]);
        KVEIK_ASSERT(!check->shapes[s] || shape->sessions + shape->parts > 0);
    }
    for (uint32_t s = 0; s < core->spaces.high; s++) {
        const struct space *space = space_at(core, s);
        KVEIK_ASSERT(!check->spaces[s] || space->sessions == check->space_sessions[s]);
        KVEIK_ASSERT(!check->spaces[s] || space->sessions + space->parts + space->shapes > 0);
    }
    KVEIK_ASSERT(check->chunk_count == core->chunks.used);
}

void core_check(const struct core *core)
{
    KVEIK_CHECK_OBJ(core, CORE_MAGIC);
    struct check check = {
        .core = core,
        .blocks = check_live(&core->blocks),
        .parts = check_live(&core->parts),
        .chunks = check_live(&core->chunks),
        .instances = check_live(&core->instances),
        .origins = check_live(&core->origins),
        .spaces = check_live(&core->spaces),
        .shapes = check_live(&core->shapes),
        .leases = check_live(&core->leases),
        .part_refs = check_alloc(core->parts.high, sizeof(uint32_t)),
        .part_pushes = check_alloc(core->parts.high, 1),
        .origin_refs = check_alloc(core->origins.high, sizeof(uint32_t)),
        .shape_sessions = check_alloc(core->shapes.high, sizeof(uint32_t)),
        .space_sessions = check_alloc(core->spaces.high, sizeof(uint32_t)),
        .instance_sessions = check_alloc(core->instances.high, sizeof(uint32_t)),
    };
    check_leases(&check);
    check_sessions(&check);
    check_disk(&check);
    check_counts(&check);
    check_blocks(&check);
    check_table(&check);
    check_slabs(&check);
    check_lru(&check);
    check_bytes(&check);
    void *memory[] = {check.blocks,         check.parts,
                      check.chunks,         check.instances,
                      check.origins,        check.spaces,
                      check.shapes,         check.leases,
                      check.part_refs,      check.part_pushes,
                      check.origin_refs,    check.shape_sessions,
                      check.space_sessions, check.instance_sessions};
    for (size_t i = 0; i < ARRAY_COUNT(memory); i++) {
        heap_free(memory[i]);
    }
}
