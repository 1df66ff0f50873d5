/* One engine of the demo: a reference model whose paged KV is exported to the daemon. */
#ifndef KVEIK_CLI_DEMO_ENGINE_H
#define KVEIK_CLI_DEMO_ENGINE_H

#include <kveik/kveik.h>
#include <stdint.h>

#include "client/cli/demo.h"
#include "client/refmodel/refmodel.h"

/* The KV memory holds two prompts: pages [0, pages) serve requests, [pages, 2 pages) are fresh ones
 * for the full prefill that is measured and compared beside. */
struct demo_engine {
    struct demo_setup setup;
    const struct demo_model *sizes;
    kveik_client *client;
    struct refmodel *model;
    void *kv;
    uint64_t kv_bytes;
    uint32_t pages; /* of one prompt */
    uint32_t space;
    uint32_t layout;
    uint32_t *served_pages; /* page tables */
    uint32_t *fresh_pages;
    uint8_t *keys; /* of all grains of a prompt */
    float *cached_logits;
    float *fresh_logits;
};

/* ST_OK, or a failure in words. The engine is finished by the caller in any case. */
int demo_engine_init(struct demo_engine *engine, const struct demo_setup *setup,
                     struct error *error);

/* Accepts a zeroed engine. */
void demo_engine_finish(struct demo_engine *engine);

/* One request, with and without the cache. */
void demo_engine_serve(struct demo_engine *engine, const struct demo_job *job,
                       struct demo_result *result);

#endif
