/* The checksum of what lies in the pool. */
#include <xxhash.h>

#include "base/assert.h"
#include "base/status.h"
#include "storage/cpu/guard.h"
#include "storage/cpu/pool.h"

struct sealing {
    const char *at;
    uint64_t bytes;
    uint64_t seal;
};

static void seal(void *arg)
{
    struct sealing *sealing = arg;
    sealing->seal =
        XXH3_64bits(sealing->at, (size_t)sealing->bytes) & ((UINT64_C(1) << POOL_SEAL_BITS) - 1);
}

int pool_seal(const struct pool *pool, uint64_t offset, uint64_t bytes, uint64_t *seal_out)
{
    struct sealing sealing = {.at = pool_address(pool, offset), .bytes = bytes};
    if (guard_install() != ST_OK || !guard_run(seal, &sealing)) {
        return ST_MEMORY;
    }
    *seal_out = sealing.seal;
    return ST_OK;
}
