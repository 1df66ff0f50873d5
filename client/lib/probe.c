/*
 * The proof that both sides see the same memory: a pattern at one end of the region is copied by
 * the daemon to the other end, the way that pulls go. What was there is put back.
 */
#include <string.h>

#include "base/assert.h"
#include "client/lib/client.h"

enum { PROBE_BYTES = 64 };

static int ask(struct kveik_client *client, const struct client_region *region, uint32_t bytes,
               struct error *error)
{
    struct op *op = op_create(client, MSG_PROBE, true, 0, error);
    if (op == NULL) {
        return error->status;
    }
    struct msg msg = {.kind = MSG_PROBE,
                      .u.probe = {.region = region->object.number,
                                  .offset_from = 0,
                                  .offset_to = region->bytes - bytes,
                                  .bytes = bytes}};
    int status = request_send(client, op, &msg, REGISTER_TIMEOUT_MS, error);
    if (status != ST_OK) {
        return status;
    }
    status = op_await(client, op, error);
    op_forget(client, op);
    return status;
}

int probe_region(struct kveik_client *client, const struct client_region *region,
                 struct error *error)
{
    uint32_t bytes = region->bytes < 2 * PROBE_BYTES ? (uint32_t)(region->bytes / 2) : PROBE_BYTES;
    if (bytes == 0) {
        return ST_OK; /* one byte: nothing to copy it to */
    }
    uint8_t *from = region->address;
    uint8_t *to = region->address + region->bytes - bytes;
    uint8_t saved_from[PROBE_BYTES];
    uint8_t saved_to[PROBE_BYTES];
    uint8_t pattern[PROBE_BYTES];
    random_bytes(pattern, bytes);
    (void)memcpy(saved_from, from, bytes);
    (void)memcpy(saved_to, to, bytes);
    for (uint32_t i = 0; i < bytes; i++) {
        from[i] = pattern[i];
        to[i] = (uint8_t)~pattern[i];
    }
    int status = ask(client, region, bytes, error);
    if (status == ST_OK && memcmp(to, pattern, bytes) != 0) {
        status = error_set(error, ST_MEMORY,
                           "the daemon copied other bytes than the ones that this process sees");
    }
    (void)memcpy(from, saved_from, bytes);
    (void)memcpy(to, saved_to, bytes);
    return status == ST_OK ? ST_OK : error_wrap(error, "probe of the region");
}
