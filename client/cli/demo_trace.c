#include "client/cli/demo_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/rng.h"
#include "client/cli/demo_sample.h"

enum { TRACE_FILE_MAX = 1 << 30, GROW_FIRST = 256, INPUT_TOKENS_MAX = 1 << 24 };

/* ---- reading ------------------------------------------------------------------------------- */

/* Room for `more` elements behind `count`; the array may move. */
static bool grow(void **array, uint32_t *capacity, uint32_t count, uint32_t more, size_t bytes)
{
    if (*capacity - count >= more) {
        return true;
    }
    uint32_t wanted = *capacity == 0 ? GROW_FIRST : 2 * *capacity;
    while (wanted - count < more) {
        wanted *= 2;
    }
    void *memory = heap_realloc(*array, wanted * bytes);
    if (memory == NULL) {
        return false;
    }
    *array = memory;
    *capacity = wanted;
    return true;
}

static int append(struct demo_trace *trace, json_int_t input_tokens, const json_t *ids,
                  uint32_t number, struct error *error)
{
    uint32_t count = (uint32_t)json_array_size(ids);
    void *requests = trace->requests;
    void *numbers = trace->ids;
    bool room = grow(&requests, &trace->request_capacity, trace->count, 1, sizeof *trace->requests);
    trace->requests = requests;
    room = room && grow(&numbers, &trace->id_capacity, trace->id_count, count, sizeof *trace->ids);
    trace->ids = numbers;
    if (!room) {
        return error_set(error, ST_NO_MEMORY, "no memory for request %u of the trace", number);
    }
    for (uint32_t i = 0; i < count; i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id > UINT32_MAX) {
            return error_set(error, ST_INVALID, "line %u: hash_ids must be numbers below 2^32",
                             number);
        }
        trace->ids[trace->id_count + i] = (uint32_t)id;
    }
    trace->requests[trace->count++] = (struct demo_request){.number = number,
                                                            .input_tokens = (uint32_t)input_tokens,
                                                            .id_first = trace->id_count,
                                                            .id_count = count};
    trace->id_count += count;
    return ST_OK;
}

static int parse_line(struct demo_trace *trace, const char *line, size_t bytes, uint32_t number,
                      struct error *error)
{
    json_error_t wrong;
    json_t *object = json_loadb(line, bytes, 0, &wrong);
    if (object == NULL) {
        return error_set(error, ST_INVALID, "line %u is not a JSON object: %s", number, wrong.text);
    }
    const json_t *ids = json_object_get(object, "hash_ids");
    json_int_t input_tokens = json_integer_value(json_object_get(object, "input_length"));
    size_t count = json_array_size(ids);
    int status = ST_OK;
    if (count == 0 || count > DEMO_IDS_MAX || input_tokens < 1 || input_tokens > INPUT_TOKENS_MAX) {
        status = error_set(error, ST_INVALID,
                           "line %u: needs input_length and 1 to %d hash_ids, as in the Mooncake "
                           "traces",
                           number, DEMO_IDS_MAX);
    } else {
        status = append(trace, input_tokens, ids, number, error);
    }
    json_decref(object);
    return status;
}

int demo_trace_parse(struct demo_trace *trace, const char *text, size_t bytes,
                     uint32_t requests_max, struct error *error)
{
    const char *end = text + bytes;
    uint32_t number = 0;
    int status = ST_OK;
    while (status == ST_OK && text < end && trace->count < requests_max) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        stop = stop == NULL ? end : stop;
        number++;
        if (stop > text) {
            status = parse_line(trace, text, (size_t)(stop - text), number, error);
        }
        text = stop + 1;
    }
    if (status == ST_OK && trace->count == 0) {
        status = error_set(error, ST_INVALID, "the trace has no requests");
    }
    return status;
}

static int read_all(int file, char *buffer, size_t bytes)
{
    size_t have = 0;
    while (have < bytes) {
        ssize_t got = read(file, buffer + have, bytes - have);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return got == 0 ? EIO : errno;
        }
        have += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

int demo_trace_read(struct demo_trace *trace, const char *path, uint32_t requests_max,
                    struct error *error)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0 || fstat(file, &facts) != 0) {
        int status = error_errno(error, ST_IO, errno, "read %s", path);
        if (file >= 0) {
            (void)close(file);
        }
        return status;
    }
    int status = ST_OK;
    char *text = NULL;
    if (!S_ISREG(facts.st_mode) || facts.st_size > TRACE_FILE_MAX) {
        status = error_set(error, ST_INVALID, "%s is no file of at most 1 GiB", path);
    } else {
        text = heap_alloc((size_t)facts.st_size + 1);
        status =
            text == NULL ? error_set(error, ST_NO_MEMORY, "no memory to read %s", path) : ST_OK;
    }
    if (status == ST_OK) {
        int errnum = read_all(file, text, (size_t)facts.st_size);
        status = errnum != 0 ? error_errno(error, ST_IO, errnum, "read %s", path) : ST_OK;
    }
    if (status == ST_OK) {
        status = demo_trace_parse(trace, text, (size_t)facts.st_size, requests_max, error);
        status = status != ST_OK ? error_wrap(error, "%s", path) : ST_OK;
    }
    heap_free(text);
    (void)close(file);
    return status;
}

int demo_trace_embedded(struct demo_trace *trace, uint32_t requests_max, struct error *error)
{
    return demo_trace_parse(trace, (const char *)demo_sample, demo_sample_bytes, requests_max,
                            error);
}

void demo_trace_finish(struct demo_trace *trace)
{
    heap_free(trace->requests);
    heap_free(trace->ids);
    *trace = (struct demo_trace){0};
}

/* ---- conversations ------------------------------------------------------------------------- */

struct opening {
    uint32_t id;
    uint32_t request;
};

static int compare_openings(const void *left, const void *right)
{
    const struct opening *a = left;
    const struct opening *b = right;
    if (a->id != b->id) {
        return a->id < b->id ? -1 : 1;
    }
    return (a->request > b->request) - (a->request < b->request);
}

int demo_trace_conversations(const struct demo_trace *trace, uint32_t *conversation_out)
{
    struct opening *openings = heap_calloc(trace->count, sizeof *openings);
    if (openings == NULL) {
        return ST_NO_MEMORY;
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < trace->count; i++) {
        conversation_out[i] = DEMO_ALONE;
        if (trace->requests[i].id_count >= 2) {
            uint32_t id = trace->ids[trace->requests[i].id_first + 1];
            openings[count++] = (struct opening){.id = id, .request = i};
        }
    }
    qsort(openings, count, sizeof *openings, compare_openings);
    for (uint32_t first = 0; first < count;) {
        uint32_t end = first + 1;
        while (end < count && openings[end].id == openings[first].id) {
            end++;
        }
        for (uint32_t i = first; end - first >= 2 && i < end; i++) {
            conversation_out[openings[i].request] = openings[first].request;
        }
        first = end;
    }
    heap_free(openings);
    return ST_OK;
}

/* ---- prompts ------------------------------------------------------------------------------- */

/* The scaled length of the block: the last one of a prompt is mostly not full. */
static uint32_t scaled_tokens(const struct demo_request *request, uint32_t block,
                              const struct demo_scale *scale)
{
    if (block + 1 < request->id_count) {
        return scale->block_tokens;
    }
    uint64_t before = (uint64_t)block * DEMO_TRACE_BLOCK_TOKENS;
    uint64_t rest = request->input_tokens > before ? request->input_tokens - before : 1;
    rest = rest > DEMO_TRACE_BLOCK_TOKENS ? DEMO_TRACE_BLOCK_TOKENS : rest;
    uint64_t scaled = rest * scale->block_tokens / DEMO_TRACE_BLOCK_TOKENS;
    return scaled > 0 ? (uint32_t)scaled : 1;
}

uint32_t demo_prompt(const struct demo_trace *trace, const struct demo_request *request,
                     const struct demo_scale *scale, uint32_t *tokens_out)
{
    KVEIK_ASSERT(scale->tokens_max > 0 && scale->vocabulary > 0 && scale->block_tokens > 0);
    uint32_t count = 0;
    for (uint32_t block = 0; block < request->id_count; block++) {
        struct rng mix = {.state = scale->seed};
        struct rng rng = {.state = rng_next(&mix) ^ trace->ids[request->id_first + block]};
        uint32_t tokens = scaled_tokens(request, block, scale);
        for (uint32_t i = 0; i < tokens && count < scale->tokens_max; i++) {
            tokens_out[count++] = (uint32_t)rng_below(&rng, scale->vocabulary);
        }
    }
    return count;
}
