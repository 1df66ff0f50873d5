/* Pins: parts that are not evicted until someone says otherwise. */
#include "daemon/core/state.h"

static void unpin(struct core *core, uint32_t part)
{
    part_pin(core, part, false);
}

/* Pins what holds the key for the whole of every group; true when everything is held. */
static bool key_pin(struct core *core, const struct space *space, const struct asked *asked)
{
    bool all = true;
    for (uint32_t g = 0; g < space->group_count; g++) {
        struct core_want want = {.group = g,
                                 .ranges = {.layer_count = space->groups[g].layer_count,
                                            .head_count = space->groups[g].head_count}};
        struct cover cover;
        if (!find_cover(core, asked, &want, &cover)) {
            all = false;
            continue;
        }
        for (uint32_t p = 0; p < cover.count; p++) {
            part_pin(core, cover.pieces[p].part, true);
        }
    }
    return all;
}

void step_pin(struct core *core, const struct core_event *event)
{
    if (!session_has_space(core, event->session, event->u.pin.space)) {
        (void)reply_add(core, event->session, event->request, ST_INVALID,
                        "pin: this session registered no such space");
        return;
    }
    const struct space *space = space_at(core, event->u.pin.space);
    uint32_t hit = 0;
    for (uint32_t i = 0; i < event->u.pin.key_count; i++) {
        struct asked asked = {.key = event->u.pin.keys + (size_t)i * CORE_KEY_BYTES,
                              .space = event->u.pin.space,
                              .grains = 1,
                              .tail_tokens = GRAIN_TOKENS};
        asked.hash = core_hash(core, asked.space, asked.key);
        if (event->u.pin.on) {
            hit += key_pin(core, space, &asked) ? 1 : 0;
        } else {
            /* whatever has the key: another block may hold it now than when it was pinned */
            find_each(core, &asked, unpin);
            hit++;
        }
    }
    struct core_action *reply = reply_add(core, event->session, event->request, ST_OK, NULL);
    reply->hit_keys = hit;
}
