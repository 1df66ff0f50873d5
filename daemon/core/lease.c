/* Leases: parts that stay readable until released or until their instance is gone. */
#include "daemon/core/state.h"

enum { LEASE_SLOT_BITS = 24 };

static uint64_t lease_bytes(const struct core *core, const uint32_t *parts, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        bytes += part_slot_bytes(core, part_at(core, parts[i]));
    }
    return bytes;
}

int lease_create(struct core *core, uint32_t instance_number, const uint32_t *parts, uint32_t count,
                 uint64_t *id_out)
{
    struct instance *instance = instance_at(core, instance_number);
    uint64_t bytes = lease_bytes(core, parts, count);
    if (bytes > instance->lease_bytes_max - instance->lease_bytes) {
        return ST_QUOTA;
    }
    uint32_t number = slots_take(&core->leases);
    if (number == NONE) {
        return ST_LIMIT;
    }
    struct lease *lease = lease_at(core, number);
    list_init(&lease->parts);
    for (uint32_t i = 0; i < count; i++) {
        if (list_add(core, &lease->parts, parts[i]) != ST_OK) {
            list_free(core, &lease->parts);
            slots_give(&core->leases, number);
            return ST_NO_MEMORY;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        part_ref(core, parts[i]);
    }
    lease->generation = ++core->lease_generation;
    lease->instance = instance_number;
    lease->bytes = bytes;
    lease->used = true;
    lease->prev = NONE;
    lease->next = instance->leases;
    if (instance->leases != NONE) {
        lease_at(core, instance->leases)->prev = number;
    }
    instance->leases = number;
    instance->lease_bytes += bytes;
    core->leased_bytes += bytes;
    *id_out = (lease->generation << LEASE_SLOT_BITS) | number;
    return ST_OK;
}

static void lease_drop(struct core *core, uint32_t number)
{
    struct lease *lease = lease_at(core, number);
    struct instance *instance = instance_at(core, lease->instance);
    KVEIK_ASSERT(lease->used && instance->lease_bytes >= lease->bytes);
    list_visit(core, &lease->parts, part_unref);
    list_free(core, &lease->parts);
    if (lease->prev != NONE) {
        lease_at(core, lease->prev)->next = lease->next;
    } else {
        instance->leases = lease->next;
    }
    if (lease->next != NONE) {
        lease_at(core, lease->next)->prev = lease->prev;
    }
    instance->lease_bytes -= lease->bytes;
    core->leased_bytes -= lease->bytes;
    lease->used = false;
    slots_give(&core->leases, number);
}

bool lease_known(const struct core *core, uint32_t instance, uint64_t id)
{
    uint32_t number = (uint32_t)(id & ((1u << LEASE_SLOT_BITS) - 1));
    if (number >= core->leases.high) {
        return false;
    }
    const struct lease *lease = lease_at(core, number);
    return lease->used && lease->generation == id >> LEASE_SLOT_BITS && lease->instance == instance;
}

int lease_release(struct core *core, uint32_t instance, uint64_t id)
{
    if (!lease_known(core, instance, id)) {
        return ST_UNKNOWN_ID;
    }
    lease_drop(core, (uint32_t)(id & ((1u << LEASE_SLOT_BITS) - 1)));
    return ST_OK;
}

void lease_drop_all(struct core *core, uint32_t instance)
{
    while (instance_at(core, instance)->leases != NONE) {
        lease_drop(core, instance_at(core, instance)->leases);
    }
}

void step_release(struct core *core, const struct core_event *event)
{
    int status =
        lease_release(core, session_at(core, event->session)->instance, event->u.release.lease);
    (void)reply_add(core, event->session, event->request, status,
                    status == ST_OK ? NULL : "release: no such lease of this instance");
}
