/*
 * Recorded request traces: one JSON object a line, for each request the ids of its prompt's blocks.
 * Equal ids mean an equal prefix up to and with that block; no id means content.
 *
 *   mooncake  timestamp (ms), input_length, output_length, hash_ids of 512 tokens
 *   qwen      chat_id, parent_chat_id, timestamp (s), input_length, output_length, type, turn,
 *             hash_ids of 16 tokens
 *
 * The prompt's tokens are made from the ids by a seeded generator, so that prompts share prefixes
 * exactly as they did when the trace was taken. A last block that the prompt does not fill is made
 * whole: it counts as a reference like any other.
 */
#ifndef KVEIK_CLI_TRACE_H
#define KVEIK_CLI_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum trace_format { TRACE_AUTO, TRACE_MOONCAKE, TRACE_QWEN, TRACE_FORMAT_COUNT };

/* The names of the formats, NULL-terminated, in order: choices for option tables. */
extern const char *const trace_format_names[];

enum {
    TRACE_REQUEST_TOKENS_MAX = 1 << 22,
    TRACE_REQUEST_IDS_MAX = 1 << 18,
    TRACE_LINE_BYTES_MAX = 1 << 24,
    TRACE_BLOCK_TOKENS_MAX = 4096,
};

struct trace_request {
    uint64_t at_us; /* since the beginning of the trace's clock */
    uint32_t input_tokens;
    uint32_t output_tokens;
    uint32_t id_count;
    uint64_t first_id; /* index into trace.ids */
};

struct trace {
    enum trace_format format; /* never TRACE_AUTO after reading */
    uint32_t id_tokens;       /* tokens an id names */
    struct trace_request *requests;
    uint32_t request_count;
    uint32_t request_capacity;
    uint64_t *ids; /* of all requests, one after the other */
    uint64_t id_count;
    uint64_t id_capacity;
};

struct trace_options {
    enum trace_format format;
    uint32_t id_tokens;    /* 0: as the format has it */
    uint32_t requests_max; /* 0: all */
};

/* Reads a file; "-" is standard input. ST_OK; ST_INVALID with file, line and what is wrong there;
 * ST_IO, ST_NO_MEMORY. trace_finish() frees, after a failure too. */
int trace_read(struct trace *trace, const char *path, const struct trace_options *options,
               struct error *error);

/* Accepts a zeroed trace. */
void trace_finish(struct trace *trace);

/* Appends one line's request. The format is settled by the first line if it is TRACE_AUTO. The
 * error says what is wrong in the line. */
int trace_parse_line(struct trace *trace, const char *line, size_t bytes, struct error *error);

/* ---- blocks of another size than the trace's: they subdivide or join its ids ------------------
 */

/* ST_OK, or ST_INVALID with what would be right. */
int trace_check_block_tokens(const struct trace *trace, uint32_t block_tokens, struct error *error);

/* Blocks of a prompt, the last one counted whole. */
uint32_t trace_blocks(const struct trace *trace, const struct trace_request *request,
                      uint32_t block_tokens);

/* A name for block `index`: equal for blocks of equal content and prefix (64 bits, mixed). */
uint64_t trace_block_name(const struct trace *trace, const struct trace_request *request,
                          uint32_t block_tokens, uint32_t index);

/* Writes trace_blocks() * block_tokens token ids. */
void trace_tokens(const struct trace *trace, const struct trace_request *request,
                  uint32_t block_tokens, uint32_t *tokens_out);

struct trace_counts {
    uint64_t references; /* blocks of all requests */
    uint64_t unique;
    uint64_t input_tokens;
    uint32_t request_blocks_max;
    uint64_t span_us; /* from the first request to the last */
};

/* ST_OK or ST_NO_MEMORY. */
int trace_count(const struct trace *trace, uint32_t block_tokens, struct trace_counts *counts_out);

#endif
