#include "daemon/core/core.h"

#include "base/heap.h"
#include "daemon/core/state.h"

enum {
    HITS_MAX = 1 << 22,
    CHUNKS_MAX = 1 << 26,
    ACTIONS_MAX = 1 << 20,
    ORIGINS_MAX = 65536,
    QUOTA_STEP_MAX = 8192, /* evictions of one step to get down to a lowered quota */
};

static int limits_check(const struct core_limits *limits, struct error *error)
{
    if (limits->granule_bytes == 0 || limits->pool_bytes < limits->granule_bytes ||
        limits->pool_bytes % limits->granule_bytes != 0) {
        return error_set(error, ST_INVALID, "pool: must be a multiple of %llu bytes, and not 0",
                         (unsigned long long)limits->granule_bytes);
    }
    if (limits->keys_max == 0 || limits->keys_max > UINT32_MAX - 512 || limits->blocks_max == 0 ||
        limits->blocks_max > UINT32_MAX - 512 || limits->parts_max == 0) {
        return error_set(error, ST_INVALID, "limits: keys, blocks and parts: 1 to 2^32 - 512");
    }
    if (limits->sessions_max == 0 || limits->requests_max == 0 || limits->instances_max == 0 ||
        limits->tenants_max == 0) {
        return error_set(error, ST_INVALID,
                         "limits: sessions, requests, instances and tenants: at least 1");
    }
    if (limits->spaces_max == 0 || limits->spaces_max > 65536 || limits->shapes_max == 0 ||
        limits->shapes_max > 65536 || limits->leases_max == 0 || limits->leases_max >= 1 << 24) {
        return error_set(error, ST_INVALID,
                         "limits: 1 to 65536 spaces and shapes, 1 to 2^24 - 1 leases");
    }
    if (limits->low_percent > limits->high_percent || limits->high_percent > 100) {
        return error_set(error, ST_INVALID, "watermarks: low must not be above high, high <= 100");
    }
    const char *refusal = disk_limits_refusal(&limits->disk);
    return refusal == NULL ? ST_OK : error_set(error, ST_INVALID, "%s", refusal);
}

/* The actions' memory is had at creation: a step whose work is done must be able to tell it. */
static int actions_init(struct core *core)
{
    uint64_t most = ACTIONS_MAX + (uint64_t)core->limits.requests_max + core->limits.shapes_max +
                    2 * (core->limits.pool_bytes / core->limits.granule_bytes) +
                    2 * (uint64_t)core->limits.disk.stores_max + core->limits.disk.loads_max +
                    core->limits.verifies_max + core->limits.disk.segments_max;
    struct vm_array *actions = &core->scratch.actions;
    int status = vm_array_init(actions, sizeof(struct core_action), most);
    return status != ST_OK ? status : vm_array_commit(actions, most);
}

static int scratch_init(struct scratch *scratch)
{
    int status = vm_array_init(&scratch->copies, sizeof(struct core_copy), COPIES_MAX);
    status = status != ST_OK ? status : vm_array_init(&scratch->statuses, 1, STATUSES_MAX);
    status = status != ST_OK ? status : vm_array_init(&scratch->hits, sizeof(uint32_t), HITS_MAX);
    status =
        status != ST_OK ? status : vm_array_init(&scratch->ends, sizeof(uint32_t), STATUSES_MAX);
    return status != ST_OK ? status
                           : vm_array_init(&scratch->hashes, sizeof(uint32_t), STATUSES_MAX);
}

/* Tables that are addressed by the owner's numbers: all committed, zero pages until touched. */
static int numbered_init(struct vm_array *array, size_t item_bytes, uint32_t count)
{
    int status = vm_array_init(array, item_bytes, count);
    return status != ST_OK ? status : vm_array_commit(array, count);
}

static int core_init(struct core *core, const struct core_limits *limits)
{
    core->magic = CORE_MAGIC;
    core->limits = *limits;
    int status = slabs_init(&core->slabs, limits->pool_bytes, limits->granule_bytes);
    struct {
        struct slots *slots;
        size_t bytes;
        uint32_t count;
    } pools[] = {
        {&core->blocks, sizeof(struct block), limits->blocks_max},
        {&core->parts, sizeof(struct part), limits->parts_max},
        {&core->chunks, sizeof(struct chunk), CHUNKS_MAX},
        {&core->instances, sizeof(struct instance), limits->instances_max},
        {&core->origins, sizeof(struct origin), ORIGINS_MAX},
        {&core->spaces, sizeof(struct space), limits->spaces_max},
        {&core->shapes, sizeof(struct shape), limits->shapes_max},
        {&core->leases, sizeof(struct lease), limits->leases_max},
    };
    for (size_t i = 0; status == ST_OK && i < ARRAY_COUNT(pools); i++) {
        status = slots_init(pools[i].slots, pools[i].bytes, pools[i].count);
    }
    status = status != ST_OK ? status : keys_init(&core->keys, limits->keys_max);
    status = status != ST_OK ? status : table_init(&core->table, limits->keys_max);
    status = status != ST_OK
                 ? status
                 : numbered_init(&core->sessions, sizeof(struct session), limits->sessions_max);
    status = status != ST_OK
                 ? status
                 : numbered_init(&core->requests, sizeof(struct request), limits->requests_max);
    status = status != ST_OK
                 ? status
                 : numbered_init(&core->tenants, sizeof(struct tenant), limits->tenants_max);
    status = status != ST_OK ? status : lru_init(core);
    status = status != ST_OK ? status : actions_init(core);
    status = status != ST_OK ? status : disk_init(core);
    if (status == ST_OK && limits->verifies_max > 0) {
        status = vm_array_init(&core->seals, sizeof(uint64_t), limits->parts_max);
    }
    return status != ST_OK ? status : scratch_init(&core->scratch);
}

int core_create(const struct core_limits *limits, struct core **core_out, struct error *error)
{
    int status = limits_check(limits, error);
    if (status != ST_OK) {
        return status;
    }
    struct core *core = heap_calloc(1, sizeof *core);
    if (core == NULL) {
        return error_set(error, ST_NO_MEMORY, "core: out of memory");
    }
    status = core_init(core, limits);
    if (status != ST_OK) {
        core_destroy(core);
        return error_set(error, status, "core: cannot reserve address space: %s",
                         status_text(status));
    }
    (void)tenant_use(core, CORE_NONE_TENANT);
    *core_out = core;
    return ST_OK;
}

void core_destroy(struct core *core)
{
    if (core == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(core, CORE_MAGIC);
    struct slots *pools[] = {&core->blocks,  &core->parts,  &core->chunks, &core->instances,
                             &core->origins, &core->spaces, &core->shapes, &core->leases};
    for (size_t i = 0; i < ARRAY_COUNT(pools); i++) {
        slots_finish(pools[i]);
    }
    struct vm_array *arrays[] = {&core->sessions,
                                 &core->requests,
                                 &core->tenants,
                                 &core->scratch.copies,
                                 &core->scratch.statuses,
                                 &core->scratch.actions,
                                 &core->scratch.hits,
                                 &core->scratch.ends,
                                 &core->scratch.hashes,
                                 &core->ages,
                                 &core->seals};
    for (size_t i = 0; i < ARRAY_COUNT(arrays); i++) {
        vm_array_finish(arrays[i]);
    }
    disk_finish(core);
    keys_finish(&core->keys);
    table_finish(&core->table);
    slabs_finish(&core->slabs);
    core->magic = 0;
    heap_free(core);
}

struct core_action *action_add(struct core *core, enum core_action_kind kind)
{
    struct scratch *scratch = &core->scratch;
    KVEIK_ASSERT(scratch->action_count < scratch->actions.items_max);
    struct core_action *action =
        (struct core_action *)scratch->actions.base + scratch->action_count++;
    *action = (struct core_action){.kind = kind};
    return action;
}

struct core_action *reply_add(struct core *core, uint32_t session, uint32_t request, int status,
                              const char *text)
{
    struct core_action *action = action_add(core, ACTION_REPLY);
    action->session = session;
    action->request = request;
    action->status = status;
    action->text = text;
    return action;
}

struct core_copy *copy_add(struct core *core)
{
    struct scratch *scratch = &core->scratch;
    if (vm_array_commit(&scratch->copies, (uint64_t)scratch->copy_count + 1) != ST_OK) {
        return NULL;
    }
    return (struct core_copy *)scratch->copies.base + scratch->copy_count++;
}

int statuses_reserve(struct core *core, uint32_t count)
{
    core->scratch.status_count = count;
    return vm_array_commit(&core->scratch.statuses, count);
}

int8_t *statuses_at(struct core *core, uint32_t index)
{
    return (int8_t *)core->scratch.statuses.base + index;
}

void step_slab_failed(struct core *core, const struct core_event *event)
{
    struct slab_place place;
    if (slabs_break(&core->slabs, event->u.slab_failed.offset, &place)) {
        give_slab_back(core, place.class, place.slab);
    }
}

void core_step(struct core *core, const struct core_event *event, struct core_actions *actions_out)
{
    static void (*const steps[])(struct core *, const struct core_event *) = {
        [EVENT_SESSION_OPEN] = step_session_open,
        [EVENT_SESSION_CLOSE] = step_session_close,
        [EVENT_SPACE] = step_space,
        [EVENT_SHAPE] = step_shape,
        [EVENT_PUSH] = step_push,
        [EVENT_LOOKUP] = step_lookup,
        [EVENT_PULL] = step_pull,
        [EVENT_COPY_DONE] = step_copy_done,
        [EVENT_CANCEL] = step_cancel,
        [EVENT_RELEASE] = step_release,
        [EVENT_PIN] = step_pin,
        [EVENT_SLAB_FAILED] = step_slab_failed,
        [EVENT_TENANT_QUOTA] = step_tenant_quota,
        [EVENT_SHAPE_USE] = step_shape_use,
        [EVENT_SHAPE_DROP] = step_shape_drop,
        [EVENT_SPACE_DROP] = step_space_drop,
        [EVENT_PERSIST] = step_persist,
        [EVENT_RESTORE] = step_restore,
        [EVENT_STORE_DONE] = step_store_done,
        [EVENT_LOAD_DONE] = step_load_done,
        [EVENT_COMMITTED] = step_committed,
        [EVENT_SEGMENT_LOST] = step_segment_lost,
        [EVENT_DISK_STATE] = step_disk_state,
        [EVENT_RESTORE_SLAB] = step_restore_slab,
        [EVENT_RESTORE_END] = step_restore_end,
        [EVENT_VERIFY] = step_verify,
    };
    KVEIK_CHECK_OBJ(core, CORE_MAGIC);
    KVEIK_ASSERT((size_t)event->kind < ARRAY_COUNT(steps));
    KVEIK_ASSERT(event->kind >= EVENT_SLAB_FAILED || event->kind == EVENT_SESSION_OPEN ||
                 session_at(core, event->session)->open);
    struct scratch *scratch = &core->scratch;
    scratch->copy_count = 0;
    scratch->status_count = 0;
    scratch->action_count = 0;
    scratch->hit_count = 0;
    core->disk.described_count = 0;
    core->evictions_left = QUOTA_STEP_MAX;
    steps[event->kind](core, event);
    if (event->kind != EVENT_RESTORE) { /* nothing is freed before all is known */
        store_pump(core);
    }
    *actions_out =
        (struct core_actions){.items = scratch->actions.base, .count = scratch->action_count};
}

void core_counters(const struct core *core, struct core_counters *counters_out)
{
    *counters_out = core->counters;
}

static uint64_t index_committed(const struct core *core)
{
    uint64_t slots = 0;
    for (uint32_t i = 0; i < CORE_CLASSES_MAX; i++) {
        slots += core->slabs.classes[i].parts.committed_bytes;
    }
    return slots + core->keys.bytes.committed_bytes + core->keys.owners.committed_bytes +
           core->table.buckets.committed_bytes + core->table.overflow.array.committed_bytes +
           core->blocks.array.committed_bytes + core->parts.array.committed_bytes +
           core->disk.disk_parts.committed_bytes;
}

void core_gauges(const struct core *core, struct core_gauges *gauges_out)
{
    uint64_t slots = 0;
    for (uint32_t i = 0; i < CORE_CLASSES_MAX; i++) {
        slots += core->slabs.classes[i].used_slots;
    }
    uint64_t buckets =
        ((uint64_t)1 << core->table.level) + core->table.split + core->table.overflow.used;
    *gauges_out = (struct core_gauges){
        .sessions = core->session_count,
        .instances = core->instances.used,
        .spaces = core->spaces.used,
        .shapes = core->shapes.used,
        .blocks = core->blocks.used,
        .parts = core->parts.used,
        .leases = core->leases.used,
        .requests = core->request_count,
        .keys = core->keys.used,
        .part_bytes = core->part_bytes,
        .slot_bytes = core->slot_bytes,
        .slab_bytes = core->slabs.committed_bytes,
        .leased_bytes = core->leased_bytes,
        .pinned_bytes = core->pinned_bytes,
        .disk_parts = core->disk.parts,
        .stored_parts = core->disk.stored,
        .disk_bytes = core->disk.bytes,
        .segments = core->disk.segments_used,
        .stores = core->disk.stores.used,
        .loads = core->disk.loads.used,
        .queued = core->disk.queue_count,
        .unverified = core->unverified,
        .verifies = core->disk.verifies,
        .index_bytes = index_committed(core),
        .index_live_bytes =
            core->keys.taken * (KEY_BYTES + sizeof(uint32_t)) + buckets * sizeof(struct bucket) +
            core->blocks.used * sizeof(struct block) + core->parts.used * sizeof(struct part) +
            slots * sizeof(uint32_t) + core->disk.parts * sizeof(struct disk_part),
    };
}

bool core_tenant(const struct core *core, uint32_t tenant, struct core_tenant *tenant_out)
{
    if (tenant >= core->limits.tenants_max || !tenant_at(core, tenant)->used) {
        return false;
    }
    *tenant_out =
        (struct core_tenant){.used_bytes = tenant_at(core, tenant)->used_bytes,
                             .quota_bytes = tenant_at(core, tenant)->quota_bytes,
                             .disk_bytes = tenant_at(core, tenant)->disk_bytes,
                             .disk_quota_bytes = tenant_at(core, tenant)->disk_quota_bytes};
    return true;
}

uint64_t core_room_bytes(uint64_t part_bytes)
{
    return slab_slot_bytes(part_bytes);
}

uint64_t core_reserve_bytes(const struct core_limits *limits)
{
    return slabs_reserve_bytes(limits->pool_bytes, limits->granule_bytes);
}
