#include "client/cli/trace.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/rng.h"

const char *const trace_format_names[] = {"auto", "mooncake", "qwen", NULL};

static const uint32_t format_id_tokens[TRACE_FORMAT_COUNT] = {
    [TRACE_MOONCAKE] = 512,
    [TRACE_QWEN] = 16,
};

/* ---- one line ---------------------------------------------------------------------------------
 */

static int field_count(const json_t *object, const char *name, uint32_t max, uint32_t *value_out,
                       struct error *error)
{
    const json_t *field = json_object_get(object, name);
    if (!json_is_integer(field)) {
        return error_set(error, ST_INVALID, "\"%s\" is %s, must be a whole number", name,
                         field == NULL ? "missing" : "something else");
    }
    json_int_t value = json_integer_value(field);
    if (value < 0 || value > (json_int_t)max) {
        return error_set(error, ST_INVALID, "\"%s\" is %lld, must be 0 to %u", name,
                         (long long)value, max);
    }
    *value_out = (uint32_t)value;
    return ST_OK;
}

static int field_time(const json_t *object, double us_a_unit, uint64_t *us_out, struct error *error)
{
    const json_t *field = json_object_get(object, "timestamp");
    double value = json_number_value(field);
    if (!json_is_number(field) || !(value >= 0.0 && value * us_a_unit < 9e15)) {
        return error_set(error, ST_INVALID, "\"timestamp\" is %s, must be a number from 0 on",
                         field == NULL ? "missing" : "something else");
    }
    *us_out = (uint64_t)(value * us_a_unit + 0.5);
    return ST_OK;
}

static int grow(void **items, uint64_t *capacity, uint64_t wanted, size_t item_bytes,
                struct error *error)
{
    if (wanted <= *capacity) {
        return ST_OK;
    }
    uint64_t more = *capacity * 2 > wanted ? *capacity * 2 : wanted + 1024;
    void *grown = heap_realloc(*items, more * item_bytes);
    if (grown == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    *items = grown;
    *capacity = more;
    return ST_OK;
}

static int take_ids(struct trace *trace, const json_t *object, struct trace_request *request,
                    struct error *error)
{
    const json_t *ids = json_object_get(object, "hash_ids");
    size_t count = json_array_size(ids);
    if (count == 0 || count > TRACE_REQUEST_IDS_MAX) {
        return error_set(error, ST_INVALID, "\"hash_ids\" must be an array of 1 to %d ids",
                         TRACE_REQUEST_IDS_MAX);
    }
    uint32_t whole = request->input_tokens / trace->id_tokens;
    uint32_t begun = (request->input_tokens + trace->id_tokens - 1) / trace->id_tokens;
    if (count != whole && count != begun) {
        return error_set(error, ST_INVALID,
                         "%zu ids for \"input_length\" %u: %u ids of %u tokens would be right",
                         count, request->input_tokens, begun, trace->id_tokens);
    }
    void *items = trace->ids;
    int status =
        grow(&items, &trace->id_capacity, trace->id_count + count, sizeof *trace->ids, error);
    trace->ids = items;
    if (status != ST_OK) {
        return status;
    }
    request->first_id = trace->id_count;
    request->id_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id)) {
            return error_set(error, ST_INVALID, "id %zu of \"hash_ids\" is no whole number", i);
        }
        trace->ids[request->first_id + i] = (uint64_t)json_integer_value(id);
    }
    return ST_OK;
}

static int take_object(struct trace *trace, const json_t *object, struct error *error)
{
    if (trace->format == TRACE_AUTO) {
        bool qwen = json_object_get(object, "chat_id") != NULL ||
                    json_object_get(object, "parent_chat_id") != NULL;
        trace->format = qwen ? TRACE_QWEN : TRACE_MOONCAKE;
    }
    if (trace->id_tokens == 0) {
        trace->id_tokens = format_id_tokens[trace->format];
    }
    struct trace_request request = {0};
    double us_a_unit = trace->format == TRACE_QWEN ? 1e6 : 1e3;
    int status = field_time(object, us_a_unit, &request.at_us, error);
    if (status == ST_OK) {
        status = field_count(object, "input_length", TRACE_REQUEST_TOKENS_MAX,
                             &request.input_tokens, error);
    }
    if (status == ST_OK) {
        status = field_count(object, "output_length", TRACE_REQUEST_TOKENS_MAX,
                             &request.output_tokens, error);
    }
    if (status == ST_OK) {
        status = take_ids(trace, object, &request, error);
    }
    void *items = trace->requests;
    uint64_t capacity = trace->request_capacity;
    if (status == ST_OK) {
        status = grow(&items, &capacity, (uint64_t)trace->request_count + 1, sizeof request, error);
        trace->requests = items;
        trace->request_capacity = (uint32_t)capacity;
    }
    if (status == ST_OK) {
        trace->requests[trace->request_count++] = request;
        trace->id_count += request.id_count;
    }
    return status;
}

int trace_parse_line(struct trace *trace, const char *line, size_t bytes, struct error *error)
{
    json_error_t json_error;
    json_t *object = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &json_error);
    if (object == NULL) {
        return error_set(error, ST_INVALID, "no JSON: %s (column %d)", json_error.text,
                         json_error.column);
    }
    int status = json_is_object(object)
                     ? take_object(trace, object, error)
                     : error_set(error, ST_INVALID, "a JSON object is wanted on every line");
    json_decref(object);
    return status;
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static bool blank(const char *line, size_t bytes)
{
    return strspn(line, " \t\r\n") >= bytes;
}

static int read_lines(struct trace *trace, FILE *file, const struct trace_options *options,
                      struct error *error)
{
    char *line = NULL;
    size_t capacity = 0;
    int status = ST_OK;
    unsigned long long number = 0;
    while (status == ST_OK &&
           (options->requests_max == 0 || trace->request_count < options->requests_max)) {
        ssize_t bytes = getline(&line, &capacity, file);
        if (bytes < 0) {
            break;
        }
        number++;
        if (bytes > TRACE_LINE_BYTES_MAX) {
            status = error_set(error, ST_LIMIT, "longer than %d bytes", TRACE_LINE_BYTES_MAX);
        } else if (!blank(line, (size_t)bytes)) {
            status = trace_parse_line(trace, line, (size_t)bytes, error);
        }
        if (status != ST_OK) {
            (void)error_wrap(error, "line %llu", number);
        }
    }
    free(line); /* style-ok: getline()'s own allocation */
    if (status == ST_OK && ferror(file) != 0) {
        status = error_errno(error, ST_IO, errno, "read");
    }
    if (status == ST_OK && trace->request_count == 0) {
        status = error_set(error, ST_INVALID, "holds no request");
    }
    return status;
}

int trace_read(struct trace *trace, const char *path, const struct trace_options *options,
               struct error *error)
{
    *trace = (struct trace){.format = options->format, .id_tokens = options->id_tokens};
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : fopen(path, "re");
    if (file == NULL) {
        return error_errno(error, ST_IO, errno, "%s", path);
    }
    int status = read_lines(trace, file, options, error);
    if (!standard) {
        (void)fclose(file);
    }
    return status == ST_OK ? ST_OK : error_wrap(error, "%s", path);
}

void trace_finish(struct trace *trace)
{
    heap_free(trace->requests);
    heap_free(trace->ids);
    *trace = (struct trace){0};
}

/* ---- blocks -----------------------------------------------------------------------------------
 */

int trace_check_block_tokens(const struct trace *trace, uint32_t block_tokens, struct error *error)
{
    if (block_tokens == 0 || block_tokens % 16 != 0 || block_tokens > TRACE_BLOCK_TOKENS_MAX) {
        return error_set(error, ST_INVALID,
                         "blocks of %u tokens: must be a multiple of 16, at most %d", block_tokens,
                         TRACE_BLOCK_TOKENS_MAX);
    }
    if (block_tokens % trace->id_tokens != 0 && trace->id_tokens % block_tokens != 0) {
        return error_set(error, ST_INVALID,
                         "blocks of %u tokens neither divide nor join the trace's ids, which "
                         "name %u tokens each",
                         block_tokens, trace->id_tokens);
    }
    return ST_OK;
}

uint32_t trace_blocks(const struct trace *trace, const struct trace_request *request,
                      uint32_t block_tokens)
{
    KVEIK_ASSERT(request->id_count > 0 && block_tokens > 0);
    /* some traces leave the last, partial block out */
    uint64_t named = (uint64_t)request->id_count * trace->id_tokens;
    uint64_t tokens = request->input_tokens < named ? request->input_tokens : named;
    return (uint32_t)((tokens + block_tokens - 1) / block_tokens);
}

static uint64_t mix(uint64_t seed, uint64_t value)
{
    struct rng rng = {.state = seed ^ (value * 0xd6e8feb86659fd93u)};
    return rng_next(&rng);
}

uint64_t trace_block_name(const struct trace *trace, const struct trace_request *request,
                          uint32_t block_tokens, uint32_t index)
{
    KVEIK_ASSERT(block_tokens > 0 && trace->id_tokens > 0);
    const uint64_t *ids = trace->ids + request->first_id;
    if (block_tokens <= trace->id_tokens) {
        uint32_t share = trace->id_tokens / block_tokens;
        KVEIK_ASSERT(share > 0);
        return mix(mix(1, ids[index / share]), index % share);
    }
    uint32_t joined = block_tokens / trace->id_tokens;
    uint32_t begin = index * joined;
    uint32_t end = begin + joined < request->id_count ? begin + joined : request->id_count;
    uint64_t name = mix(2, end - begin);
    for (uint32_t i = begin; i < end; i++) {
        name = mix(name, ids[i]);
    }
    return name;
}

void trace_tokens(const struct trace *trace, const struct trace_request *request,
                  uint32_t block_tokens, uint32_t *tokens_out)
{
    enum { VOCABULARY_BITS = 17, PADDING = 1 << VOCABULARY_BITS };
    uint64_t count = (uint64_t)trace_blocks(trace, request, block_tokens) * block_tokens;
    const uint64_t *ids = trace->ids + request->first_id;
    uint64_t t = 0;
    for (uint64_t id = 0; t < count; id++) {
        struct rng rng = {.state = id < request->id_count ? mix(3, ids[id]) : 0};
        uint64_t end = t + trace->id_tokens < count ? t + trace->id_tokens : count;
        for (; t < end; t++) {
            /* no id makes the padding token: a begun block is never equal to a full one */
            tokens_out[t] = id < request->id_count
                                ? (uint32_t)(rng_next(&rng) >> (64 - VOCABULARY_BITS))
                                : (uint32_t)PADDING;
        }
    }
}

/* ---- counting ---------------------------------------------------------------------------------
 */

/* A set of names: open addressing, at most half full. 0 stands for an empty place. */
static bool set_add(uint64_t *set, uint64_t mask, uint64_t name)
{
    name = name == 0 ? 1 : name;
    uint64_t at = name & mask;
    while (set[at] != 0 && set[at] != name) {
        at = (at + 1) & mask;
    }
    bool fresh = set[at] == 0;
    set[at] = name;
    return fresh;
}

int trace_count(const struct trace *trace, uint32_t block_tokens, struct trace_counts *counts_out)
{
    struct trace_counts counts = {0};
    uint64_t first_us = UINT64_MAX;
    uint64_t last_us = 0;
    for (uint32_t i = 0; i < trace->request_count; i++) {
        const struct trace_request *request = &trace->requests[i];
        uint32_t blocks = trace_blocks(trace, request, block_tokens);
        counts.references += blocks;
        counts.input_tokens += request->input_tokens;
        counts.request_blocks_max =
            blocks > counts.request_blocks_max ? blocks : counts.request_blocks_max;
        first_us = request->at_us < first_us ? request->at_us : first_us;
        last_us = request->at_us > last_us ? request->at_us : last_us;
    }
    counts.span_us = last_us > first_us ? last_us - first_us : 0;
    uint64_t places = 16;
    while (places < 2 * counts.references) {
        places *= 2;
    }
    uint64_t *set = heap_calloc(places, sizeof *set);
    if (set == NULL) {
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < trace->request_count; i++) {
        const struct trace_request *request = &trace->requests[i];
        uint32_t blocks = trace_blocks(trace, request, block_tokens);
        for (uint32_t b = 0; b < blocks; b++) {
            uint64_t name = trace_block_name(trace, request, block_tokens, b);
            counts.unique += set_add(set, places - 1, name) ? 1 : 0;
        }
    }
    heap_free(set);
    *counts_out = counts;
    return ST_OK;
}
