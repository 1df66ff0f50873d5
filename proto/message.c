#include "proto/message.h"

#include <stddef.h>

#include "base/assert.h"

const char *msg_kind_name(enum msg_kind kind)
{
    static const char *const names[MSG_KIND_COUNT] = {[MSG_NONE] = "none",
#define X(name, field) [MSG_##name] = #field,
                                                      MSG_TABLE(X)
#undef X
    };
    return (unsigned)kind < MSG_KIND_COUNT ? names[kind] : "unknown";
}

uint32_t msg_push_run_grains(const struct msg_push_run *run)
{
    KVEIK_ASSERT(run->block_count >= 1);
    uint32_t tail_grains = (run->tail_tokens + GRAIN_TOKENS - 1) / GRAIN_TOKENS;
    return (run->block_count - 1) * run->block_grains + tail_grains;
}

uint32_t msg_push_run_tokens(const struct msg_push_run *run)
{
    KVEIK_ASSERT(run->block_count >= 1);
    return (run->block_count - 1) * run->block_grains * GRAIN_TOKENS + run->tail_tokens;
}
