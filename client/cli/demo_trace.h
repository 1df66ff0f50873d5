/*
 * Prompts from a production trace. A line of the trace names the 512-token blocks of one prompt by
 * ids: equal ids mean an equal prompt up to there. From each id a seeded generator makes the same
 * (shorter) run of token ids, so the prompts share prefixes exactly as the production prompts did.
 */
#ifndef KVEIK_CLI_DEMO_TRACE_H
#define KVEIK_CLI_DEMO_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { DEMO_TRACE_BLOCK_TOKENS = 512, DEMO_IDS_MAX = 4096 };

struct demo_request {
    uint32_t number; /* line of the trace, from 1 */
    uint32_t input_tokens;
    uint32_t id_first; /* in demo_trace.ids */
    uint32_t id_count; /* at least 1 */
};

struct demo_trace {
    struct demo_request *requests;
    uint32_t count;
    uint32_t *ids;
    uint32_t id_count;
    uint32_t request_capacity;
    uint32_t id_capacity;
};

/* Reads the first `requests_max` lines of a text in the trace's form. ST_OK, ST_INVALID with the
 * line, ST_NO_MEMORY; the trace is finished by the caller in any case. */
int demo_trace_parse(struct demo_trace *trace, const char *text, size_t bytes,
                     uint32_t requests_max, struct error *error);

/* The same from a file. Also ST_IO. */
int demo_trace_read(struct demo_trace *trace, const char *path, uint32_t requests_max,
                    struct error *error);

/* The sample that the program carries: the first 400 requests of the conversation trace. */
int demo_trace_embedded(struct demo_trace *trace, uint32_t requests_max, struct error *error);

/* Accepts a zeroed trace. */
void demo_trace_finish(struct demo_trace *trace);

/* Requests of one conversation share their second block (the first, a system prompt, opens every
 * request of the published trace). DEMO_ALONE: no other request of the trace shares it. */
enum { DEMO_ALONE = INT32_MAX };

/* For each request the index of the first request of its conversation, or DEMO_ALONE.
 * `conversation_out` holds trace->count numbers. ST_OK or ST_NO_MEMORY. */
int demo_trace_conversations(const struct demo_trace *trace, uint32_t *conversation_out);

struct demo_scale {
    uint32_t block_tokens; /* tokens that stand for 512 of the trace */
    uint32_t tokens_max;   /* longer prompts are cut to their first so many tokens */
    uint32_t vocabulary;
    uint64_t seed;
};

/* Writes the request's prompt; tokens_out holds scale->tokens_max. Returns its length, >= 1. */
uint32_t demo_prompt(const struct demo_trace *trace, const struct demo_request *request,
                     const struct demo_scale *scale, uint32_t *tokens_out);

#endif
