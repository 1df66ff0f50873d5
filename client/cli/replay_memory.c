/* A replay's space, and the memory of its engines: pages of one block each, whose bytes are a
 * function of the block's key when they are to be verified. */
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/cli/replay.h"

enum { MEMORY_DROP_MS = 5000 };

int replay_space_register(kveik_client *client, const struct replay_plan *plan,
                          uint64_t quota_bytes, uint32_t *space_out, struct kveik_error *error)
{
    struct kveik_group group = {.rule = KVEIK_RULE_EVERY,
                                .layer_count = plan->layers,
                                .head_count = plan->heads,
                                .kind_count = plan->kinds};
    for (uint32_t kind = 0; kind < plan->kinds; kind++) {
        group.kind_elements[kind] = plan->elements;
    }
    struct kveik_space space = KVEIK_SPACE_INIT;
    space.model = "kveik-replay";
    space.dtype = KVEIK_U8;
    space.group_count = 1;
    space.groups = &group;
    space.isolation = plan->isolation;
    space.isolation_bytes = sizeof plan->isolation;
    space.quota_bytes = quota_bytes;
    return kveik_space_register(client, &space, space_out, error);
}

static uint32_t plane_count(const struct replay_plan *plan)
{
    return plan->layers * plan->kinds;
}

static uint64_t plane_page_bytes(const struct replay_plan *plan)
{
    return plan->block_bytes / plane_count(plan);
}

static int layout_register(kveik_client *client, const struct replay_plan *plan,
                           struct replay_memory *memory, uint32_t space, uint32_t region,
                           struct kveik_error *error)
{
    uint32_t count = plane_count(plan);
    struct kveik_plane *planes = heap_calloc(count, sizeof *planes);
    if (planes == NULL) {
        return KVEIK_E_NO_MEMORY;
    }
    uint64_t page_bytes = plane_page_bytes(plan);
    for (uint32_t i = 0; i < count; i++) {
        planes[i] = (struct kveik_plane){.region = region,
                                         .offset = i * page_bytes * memory->pages,
                                         .page_stride = page_bytes,
                                         .token_stride = (uint64_t)plan->heads * plan->elements,
                                         .head_stride = plan->elements,
                                         .element_stride = 1};
    }
    struct kveik_layout layout = KVEIK_LAYOUT_INIT;
    layout.space = space;
    layout.page_tokens = plan->block_tokens;
    layout.page_count = memory->pages;
    layout.layer_count = plan->layers;
    layout.head_count = plan->heads;
    layout.planes = planes;
    int status = kveik_layout_register(client, &layout, &memory->layout, error);
    heap_free(planes);
    return status;
}

int replay_memory_create(kveik_client *client, const struct replay_plan *plan, uint32_t space,
                         uint32_t pages, struct replay_memory *memory_out,
                         struct kveik_error *error)
{
    struct replay_memory memory = {.pages = pages};
    size_t bytes = (size_t)pages * plan->block_bytes;
    void *base = NULL;
    int status = kveik_memory_allocate(client, bytes, &base, error);
    if (status != KVEIK_OK) {
        return status;
    }
    memory.base = base;
    uint32_t region = 0;
    status = kveik_memory_export(client, base, bytes, NULL, &region, &memory.mode, error);
    if (status == KVEIK_OK) {
        status = layout_register(client, plan, &memory, space, region, error);
    }
    if (status != KVEIK_OK) {
        kveik_memory_free(client, base);
        return status;
    }
    *memory_out = memory;
    return KVEIK_OK;
}

void replay_memory_destroy(kveik_client *client, struct replay_memory *memory)
{
    if (memory->base != NULL) {
        (void)kveik_layout_drop(client, memory->layout, MEMORY_DROP_MS, NULL);
        kveik_memory_free(client, memory->base);
    }
    memory->base = NULL;
}

/* A space of one block's quota, and a push into it: all else is evicted. */
void replay_forget(kveik_client *client, const struct replay_plan *plan)
{
    uint32_t space = 0;
    struct replay_memory memory = {0};
    struct replay_plan small = *plan;
    small.quota_bytes = plan->slot_bytes;
    if (replay_space_register(client, &small, small.quota_bytes, &space, NULL) != KVEIK_OK ||
        replay_memory_create(client, &small, space, 1, &memory, NULL) != KVEIK_OK) {
        return;
    }
    const uint8_t key[KVEIK_KEY_BYTES] = {0};
    const uint32_t page = 0;
    struct kveik_push_run run = {.layout = memory.layout,
                                 .block_count = 1,
                                 .block_tokens = plan->block_tokens,
                                 .keys = key,
                                 .key_count = 1,
                                 .pages = &page,
                                 .page_count = 1};
    struct kveik_push push = KVEIK_PUSH_INIT;
    push.runs = &run;
    push.run_count = 1;
    struct kveik_completion completion = KVEIK_COMPLETION_INIT;
    if (kveik_push(client, &push, &completion) == KVEIK_OK) {
        kveik_completion_finish(&completion);
    }
    replay_memory_destroy(client, &memory);
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

static char *plane_page(const struct replay_plan *plan, const struct replay_memory *memory,
                        uint32_t plane, uint32_t page)
{
    KVEIK_ASSERT(page < memory->pages);
    return memory->base + ((uint64_t)plane * memory->pages + page) * plane_page_bytes(plan);
}

static struct rng plane_rng(const uint8_t *key, uint32_t plane)
{
    struct rng rng;
    (void)memcpy(&rng.state, key, sizeof rng.state);
    rng.state ^= (plane + 1) * 0xd6e8feb86659fd93u;
    return rng;
}

void replay_page_fill(const struct replay_plan *plan, const struct replay_memory *memory,
                      uint32_t page, const uint8_t *key)
{
    uint64_t bytes = plane_page_bytes(plan);
    for (uint32_t plane = 0; plane < plane_count(plan); plane++) {
        char *at = plane_page(plan, memory, plane, page);
        struct rng rng = plane_rng(key, plane);
        for (uint64_t done = 0; done < bytes; done += sizeof(uint64_t)) {
            uint64_t word = rng_next(&rng);
            uint64_t left = bytes - done;
            (void)memcpy(at + done, &word, left < sizeof word ? left : sizeof word);
        }
    }
}

void replay_page_poison(const struct replay_plan *plan, const struct replay_memory *memory,
                        uint32_t page)
{
    for (uint32_t plane = 0; plane < plane_count(plan); plane++) {
        (void)memset(plane_page(plan, memory, plane, page), 0xdb, plane_page_bytes(plan));
    }
}

static uint64_t differing(const char *at, const uint64_t *word, uint64_t bytes)
{
    const char *right = (const char *)word;
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < bytes; i++) {
        wrong += at[i] != right[i] ? 1 : 0;
    }
    return wrong;
}

uint64_t replay_page_check(const struct replay_plan *plan, const struct replay_memory *memory,
                           uint32_t page, const uint8_t *key)
{
    uint64_t bytes = plane_page_bytes(plan);
    uint64_t wrong = 0;
    for (uint32_t plane = 0; plane < plane_count(plan); plane++) {
        const char *at = plane_page(plan, memory, plane, page);
        struct rng rng = plane_rng(key, plane);
        for (uint64_t done = 0; done < bytes; done += sizeof(uint64_t)) {
            uint64_t word = rng_next(&rng);
            uint64_t left = bytes - done < sizeof word ? bytes - done : sizeof word;
            if (memcmp(at + done, &word, left) != 0) {
                wrong += differing(at + done, &word, left);
            }
        }
    }
    return wrong;
}
