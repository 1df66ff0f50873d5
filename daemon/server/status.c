/*
 * The daemon's numbers as one JSON object. Field names are an interface: additive changes only.
 */
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "daemon/server/state.h"

static void put(json_t *object, const char *name, uint64_t value)
{
    (void)json_object_set_new(object, name, json_integer((json_int_t)value));
}

/* What the last start found in the pool's file. */
static json_t *reattached(const struct server *server)
{
    const struct server_keep *keep = &server->keep;
    struct core_counters counters;
    core_counters(server->core, &counters);
    json_t *object = json_object();
    const char *state = keep->attached ? "taken" : "empty";
    (void)json_object_set_new(object, "state", json_string(keep->file ? state : "off"));
    (void)json_object_set_new(object, "why", json_string(keep->why));
    put(object, "blocks", keep->parts);
    put(object, "bytes", keep->bytes);
    put(object, "slabs", keep->slabs);
    put(object, "slabs_dropped", keep->slabs_dropped);
    put(object, "dropped", keep->dropped);
    put(object, "verified", counters.verified);
    put(object, "damaged", counters.verify_corrupt);
    put(object, "start_ms", keep->load_ms);
    return object;
}

static json_t *cpu_tier(struct server *server, const struct core_gauges *gauges)
{
    struct pool_status pool;
    pool_status(server->pool, &pool);
    json_t *object = json_object();
    put(object, "budget_bytes", server->pool_bytes);
    put(object, "part_bytes", gauges->part_bytes);
    put(object, "slot_bytes", gauges->slot_bytes);
    put(object, "slab_bytes", gauges->slab_bytes);
    put(object, "leased_bytes", gauges->leased_bytes);
    put(object, "pinned_bytes", gauges->pinned_bytes);
    put(object, "touched_bytes", pool.touched_bytes);
    put(object, "huge_bytes", pool.huge_bytes);
    put(object, "locked_bytes", pool.locked_bytes);
    put(object, "commit_failures", pool.commit_failures);
    put(object, "unverified", gauges->unverified);
    (void)json_object_set_new(object, "file",
                              json_string(server->keep.file ? server->keep.place : ""));
    (void)json_object_set_new(object, "file_system", json_string(pool.file_system));
    (void)json_object_set_new(object, "written_back", json_boolean(pool.written_back));
    (void)json_object_set_new(object, "reattached", reattached(server));
    return object;
}

static json_t *disk_counters_of(const struct disk_status *status)
{
    json_t *object = json_object();
#define X(name, help) put(object, #name, status->counters.name);
    DISK_COUNTER_TABLE(X)
#undef X
    return object;
}

static json_t *disk_tier(struct server *server, const struct core_gauges *gauges)
{
    json_t *object = json_object();
    const char *state = !server->settings->disk ? "off" : "none";
    if (server->disk == NULL) {
        (void)json_object_set_new(object, "state", json_string(state));
        (void)json_object_set_new(object, "why", json_string(server->disk_why));
        return object;
    }
    struct disk_status status;
    disk_status(server->disk, &status);
    bool up = status.state.readable && status.state.writable;
    (void)json_object_set_new(object, "state", json_string(up ? "up" : "degraded"));
    (void)json_object_set_new(object, "path", json_string(server->disk_path));
    (void)json_object_set_new(object, "io",
                              json_string(status.io == DISK_IO_URING ? "io_uring" : "threads"));
    (void)json_object_set_new(object, "io_why", json_string(status.io_why));
    (void)json_object_set_new(object, "readable", json_boolean(status.state.readable));
    (void)json_object_set_new(object, "writable", json_boolean(status.state.writable));
    (void)json_object_set_new(object, "last_error", json_string(status.last_error));
    put(object, "bytes_max", server->disk_bytes);
    put(object, "segments", status.segments);
    put(object, "segments_max", status.state.segments_max);
    put(object, "segment_file_bytes", status.segment_file_bytes);
    put(object, "catalogue_bytes", status.catalogue_bytes);
    put(object, "file_system_free_bytes", status.file_system_free_bytes);
    put(object, "part_bytes", gauges->disk_bytes);
    put(object, "parts", gauges->disk_parts);
    put(object, "parts_on_disk_only", gauges->stored_parts);
    put(object, "stores_in_flight", gauges->stores);
    put(object, "loads_in_flight", gauges->loads);
    put(object, "queued", gauges->queued);
    put(object, "epoch", status.epoch);
    put(object, "committed_epoch", status.committed_epoch);
    put(object, "start_ms", status.start_ms);
    (void)json_object_set_new(object, "counters", disk_counters_of(&status));
    return object;
}

static json_t *index_numbers(const struct core_gauges *gauges)
{
    json_t *object = json_object();
    put(object, "blocks", gauges->blocks);
    put(object, "parts", gauges->parts);
    put(object, "keys", gauges->keys);
    put(object, "spaces", gauges->spaces);
    put(object, "shapes", gauges->shapes);
    put(object, "leases", gauges->leases);
    put(object, "index_bytes", gauges->index_bytes);
    put(object, "index_live_bytes", gauges->index_live_bytes);
    return object;
}

static json_t *counter_numbers(const struct server *server)
{
    struct core_counters counters;
    core_counters(server->core, &counters);
    json_t *object = json_object();
#define X(name, help) put(object, #name, counters.name);
    CORE_COUNTER_TABLE(X)
#undef X
    put(object, "pushed_bytes", server->copied_bytes[1]);
    put(object, "pulled_bytes", server->copied_bytes[0]);
    return object;
}

static void put_boot_id(json_t *object, const struct server *server)
{
    char text[2 * MSG_BOOT_ID_BYTES + 1];
    for (uint32_t i = 0; i < MSG_BOOT_ID_BYTES; i++) {
        (void)snprintf(text + (size_t)2 * i, 3, "%02x", server->boot_id[i]);
    }
    (void)json_object_set_new(object, "boot_id", json_string(text));
}

/* A copy in our own heap: jansson's text is of its allocator. */
static char *dump(const json_t *object)
{
    size_t bytes = json_dumpb(object, NULL, 0, JSON_COMPACT);
    char *text = heap_alloc(bytes + 1);
    if (text != NULL) {
        text[json_dumpb(object, text, bytes, JSON_COMPACT)] = '\0';
    }
    return text;
}

static char *status_json(struct server *server)
{
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    json_t *object = json_object();
    (void)json_object_set_new(object, "version", json_string(KVEIK_VERSION));
    put_boot_id(object, server);
    put(object, "pid", (uint64_t)getpid());
    put(object, "uptime_ms", clock_ms() - server->began_ms);
    (void)json_object_set_new(object, "state", json_string(server->stopping ? "stopping" : "up"));
    (void)json_object_set_new(object, "socket", json_string(server->socket_path));
    put(object, "sessions", gauges.sessions);
    put(object, "instances", gauges.instances);
    put(object, "requests", gauges.requests);
    put(object, "copies_in_flight", copy_in_flight(server->copies));
    (void)json_object_set_new(object, "cpu", cpu_tier(server, &gauges));
    (void)json_object_set_new(object, "disk", disk_tier(server, &gauges));
    (void)json_object_set_new(object, "index", index_numbers(&gauges));
    (void)json_object_set_new(object, "counters", counter_numbers(server));
    char *text = dump(object);
    json_decref(object);
    return text;
}

void session_status(struct server_session *session, const struct msg *msg)
{
    char *text = status_json(session->server);
    struct msg reply = {.request_id = msg->request_id,
                        .kind = MSG_STATUS_REPLY,
                        .u.status_reply.json = text != NULL ? text : "{}"};
    engine_send(session->conn, &reply);
    heap_free(text);
}
