/*
 * Verifying what a planned restart found in memory: on libuv's workers, in place. What pulls want
 * comes when they want it; a few more are begun all the time until none is left.
 */
#include <string.h>

#include "daemon/server/state.h"

enum {
    AHEAD = 2, /* at work beside what pulls want: enough to keep a worker busy */
    AHEAD_TICK_MS = 20,
};

static void on_verify_tick(uv_timer_t *timer);

static void work(uv_work_t *uv)
{
    struct server_load *load = CONTAINER_OF(uv, struct server_load, work);
    uint64_t seal = 0;
    int status = pool_seal(load->server->pool, load->offset, load->read.bytes, &seal);
    load->read.status = status == ST_OK && seal == load->read.seal ? ST_OK : ST_CORRUPT;
}

static void say_done(struct server *server)
{
    struct core_counters counters;
    core_counters(server->core, &counters);
    log_write(server->log, LOG_LEVEL_INFO, "keep",
              "all that was found in memory is verified: %llu blocks are good, %llu were damaged",
              (unsigned long long)counters.verified, (unsigned long long)counters.verify_corrupt);
}

static void more(struct server *server)
{
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    if (gauges.unverified == 0 && !server->keep.verified) {
        server->keep.verified = true;
        (void)uv_timer_stop(&server->keep.timer);
        say_done(server);
    }
    if (server->stopping || gauges.unverified == 0 || gauges.verifies >= AHEAD) {
        return;
    }
    struct core_event event = {.kind = EVENT_VERIFY, .u.verify.count = AHEAD - gauges.verifies};
    server_step(server, &event, NULL);
}

static void after(uv_work_t *uv, int cancelled)
{
    struct server_load *load = CONTAINER_OF(uv, struct server_load, work);
    struct server *server = load->server;
    int status = cancelled != 0 ? ST_CANCELLED : load->read.status;
    load->verifying = false;
    if (status == ST_CORRUPT) {
        char key[KEY_TEXT_BYTES];
        key_text(load->key, key);
        log_write(server->log, LOG_LEVEL_WARN, "keep",
                  "block %s is damaged in memory (at %llu of %s): a miss, unless it is on disk",
                  key, (unsigned long long)load->offset, server->keep.place);
    }
    load_finish(server, load, status);
    more(server);
    server_drain(server);
}

void verify_load(struct server *server, const struct core_action *action)
{
    struct server_load *load = &server->loads[action->job];
    queue_init(&load->waits);
    (void)memcpy(load->key, action->key, CORE_KEY_BYTES);
    load->server = server;
    load->verifying = true;
    load->offset = action->offset;
    load->read = (struct disk_read){.seal = action->seal, .bytes = action->bytes};
    int failed = uv_queue_work(&server->loop, &load->work, work, after);
    KVEIK_ASSERT(failed == 0); /* only without a callback */
}

static void on_verify_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;
    more(server);
    server_drain(server);
}

void verify_begin_ahead(struct server *server)
{
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    server->keep.verified = gauges.unverified == 0;
    if (gauges.unverified > 0) {
        server->keep.timer.data = server;
        (void)uv_timer_start(&server->keep.timer, on_verify_tick, 0, AHEAD_TICK_MS);
    }
}

void verify_cancel(struct server *server)
{
    for (uint32_t i = 0; verify_busy(server) && i < server->load_count; i++) {
        if (server->loads[i].verifying) {
            (void)uv_cancel((uv_req_t *)&server->loads[i].work); /* refused: it is at work */
        }
    }
}

bool verify_busy(const struct server *server)
{
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    return gauges.verifies > 0;
}
