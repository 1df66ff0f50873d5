#include "kv_blob.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t blob_magic = 0xaf143cd8;

enum {
    LAYERS_MAX = 1024,
    CELL_BYTES = 12, /* position, number of sequences, the sequence */
};

/* ---- reading what the engine wrote ----------------------------------------------------------- */

struct reader {
    const uint8_t *bytes;
    size_t count;
    size_t at;
    size_t frame_from; /* since here there was no payload */
    char *error;
    bool failed;
};

__attribute__((format(printf, 2, 3))) static bool refuse(struct reader *reader, const char *format,
                                                         ...)
{
    if (!reader->failed) { /* what went wrong first is the reason */
        va_list arguments;
        va_start(arguments, format);
        (void)vsnprintf(reader->error, KV_BLOB_ERROR_BYTES, format, arguments);
        va_end(arguments);
        reader->failed = true;
    }
    return false;
}

static bool skip(struct reader *reader, uint64_t bytes, const char *what)
{
    if (bytes > reader->count - reader->at) {
        return refuse(reader, "the blob ends inside %s, at byte %zu", what, reader->count);
    }
    reader->at += bytes;
    return true;
}

/* A little-endian number, as hosts of llama.cpp write it. 0 after a failure. */
static uint64_t number(struct reader *reader, size_t bytes, const char *what)
{
    uint64_t value = 0;
    size_t at = reader->at;
    if (skip(reader, bytes, what)) {
        for (size_t i = 0; i < bytes; i++) {
            value |= (uint64_t)reader->bytes[at + i] << (8 * i);
        }
    }
    return value;
}

static bool expect(struct reader *reader, uint64_t right, const char *what)
{
    size_t at = reader->at;
    uint64_t value = number(reader, sizeof(uint32_t), what);
    if (!reader->failed && value != right) {
        return refuse(reader, "%s is %llu, not %llu, at byte %zu", what, (unsigned long long)value,
                      (unsigned long long)right, at);
    }
    return !reader->failed;
}

static bool read_cells(struct reader *reader, uint32_t tokens, uint32_t sequence)
{
    for (uint32_t i = 0; i < tokens; i++) {
        if (!expect(reader, i, "a cell's position") ||
            !expect(reader, 1, "a cell's number of sequences") ||
            !expect(reader, sequence, "a cell's sequence")) {
            return false;
        }
    }
    return true;
}

static bool read_type(struct reader *reader, struct kv_blob *blob, bool first)
{
    uint32_t type = (uint32_t)number(reader, sizeof(uint32_t), "a plane's type");
    if (type != KV_BLOB_F32 && type != KV_BLOB_F16 && type != KV_BLOB_BF16 &&
        type != KV_BLOB_Q8_0) {
        return refuse(reader, "type %u is none of f32 (0), f16 (1), q8_0 (8), bf16 (30)", type);
    }
    if (!first && type != (uint32_t)blob->type) {
        return refuse(reader, "planes of types %u and %u: K and V must have one", type,
                      (uint32_t)blob->type);
    }
    blob->type = (enum kv_blob_type)type;
    return !reader->failed;
}

/* What was read since the plane before, up to `end`, is frame. */
static bool end_gap(struct reader *reader, struct kv_blob *blob, size_t end)
{
    struct kv_blob_gap *gaps = realloc(blob->gaps, (blob->gap_count + 1) * sizeof *gaps);
    if (gaps == NULL) {
        return refuse(reader, "out of memory");
    }
    blob->gaps = gaps;
    gaps[blob->gap_count++] = (struct kv_blob_gap){.begin = reader->frame_from, .end = end};
    reader->frame_from = reader->at;
    return true;
}

/* A plane's description and payload; sets plane and, with layer 0, the part's row. */
static bool read_plane(struct reader *reader, struct kv_blob *blob, struct kv_blob_part *part,
                       uint32_t layer, uint32_t kind)
{
    bool transposed = kind == 1 && part->v_transposed;
    bool first = part == blob->parts && layer == 0 && kind == 0;
    if (!read_type(reader, blob, first)) {
        return false;
    }
    size_t element = kv_blob_element_bytes(blob->type);
    uint64_t row = 0;
    if (transposed) {
        uint64_t bytes = number(reader, sizeof(uint32_t), "an element's size");
        row = bytes * number(reader, sizeof(uint32_t), "a number of elements");
        if (bytes != element) {
            return refuse(reader, "an element of type %d has %llu bytes", (int)blob->type,
                          (unsigned long long)bytes);
        }
    } else {
        row = number(reader, sizeof(uint64_t), "a row's size");
    }
    if (!reader->failed && (row == 0 || row > reader->count || (element > 0 && row % element))) {
        return refuse(reader, "a row of %llu bytes", (unsigned long long)row);
    }
    if (layer > 0 && row != part->row_bytes[kind]) {
        return refuse(reader, "layers with rows of %u and %llu bytes: all must have one size",
                      part->row_bytes[kind], (unsigned long long)row);
    }
    part->row_bytes[kind] = (uint32_t)row;
    size_t offset = reader->at;
    if (!skip(reader, row * blob->tokens, "a plane") || !end_gap(reader, blob, offset)) {
        return false;
    }
    part->planes[layer * KV_BLOB_KINDS + kind] =
        (struct kv_blob_plane){.offset = offset,
                               .bytes = (size_t)row * blob->tokens,
                               .token_stride = transposed ? element : (size_t)row,
                               .element_stride = transposed ? element * blob->tokens : element};
    return true;
}

static bool read_part(struct reader *reader, struct kv_blob *blob, uint32_t sequence)
{
    struct kv_blob_part *part = &blob->parts[blob->part_count++];
    if (!expect(reader, 1, "the number of streams (a unified cache has one)") ||
        !expect(reader, blob->tokens, "the number of cells")) {
        return false;
    }
    part->cells = reader->at;
    if (!read_cells(reader, blob->tokens, sequence)) {
        return false;
    }
    uint64_t transposed = number(reader, sizeof(uint32_t), "whether V is transposed");
    uint64_t layers = number(reader, sizeof(uint32_t), "the number of layers");
    if (transposed > 1 || layers > LAYERS_MAX) {
        return refuse(reader, "%llu layers, V transposed: %llu", (unsigned long long)layers,
                      (unsigned long long)transposed);
    }
    part->v_transposed = transposed == 1;
    part->layers = (uint32_t)layers;
    /* one more, since none at all is legal and calloc(0) is not an answer */
    part->planes = calloc(layers * KV_BLOB_KINDS + 1, sizeof *part->planes);
    if (part->planes == NULL) {
        return refuse(reader, "out of memory");
    }
    for (uint32_t kind = 0; kind < KV_BLOB_KINDS; kind++) {
        for (uint32_t layer = 0; layer < layers; layer++) {
            if (!read_plane(reader, blob, part, layer, kind)) {
                return false;
            }
        }
    }
    return !reader->failed;
}

static bool read_all(struct reader *reader, struct kv_blob *blob)
{
    if (!expect(reader, blob_magic, "the magic")) {
        return false;
    }
    uint32_t sequence = (uint32_t)number(reader, sizeof(uint32_t), "the sequence");
    do {
        if (!read_part(reader, blob, sequence)) {
            return false;
        }
    } while (reader->at < reader->count && blob->part_count < KV_BLOB_PARTS_MAX);
    if (reader->at != reader->count) {
        return refuse(reader, "%zu bytes after the last part", reader->count - reader->at);
    }
    return end_gap(reader, blob, reader->count);
}

bool kv_blob_learn(struct kv_blob *blob_out, const uint8_t *bytes, size_t count, uint32_t tokens,
                   char error_out[KV_BLOB_ERROR_BYTES])
{
    struct reader reader = {.bytes = bytes, .count = count, .error = error_out};
    *blob_out = (struct kv_blob){.tokens = tokens, .bytes = count};
    if (!read_all(&reader, blob_out)) {
        kv_blob_finish(blob_out);
        return false;
    }
    blob_out->frame = malloc(count);
    if (blob_out->frame == NULL) {
        kv_blob_finish(blob_out);
        return refuse(&reader, "out of memory");
    }
    memcpy(blob_out->frame, bytes, count);
    return true;
}

void kv_blob_finish(struct kv_blob *blob)
{
    for (uint32_t i = 0; i < KV_BLOB_PARTS_MAX; i++) {
        free(blob->parts[i].planes);
    }
    free(blob->gaps);
    free(blob->frame);
    *blob = (struct kv_blob){0};
}

size_t kv_blob_element_bytes(enum kv_blob_type type)
{
    switch (type) {
    case KV_BLOB_F32:
        return 4;
    case KV_BLOB_F16:
    case KV_BLOB_BF16:
        return 2;
    case KV_BLOB_Q8_0: /* blocks of 32 with a common scale */
        break;
    }
    return 0;
}

/* ---- the frame ------------------------------------------------------------------------------- */

static void set_positions(struct kv_blob *blob, uint32_t first)
{
    for (uint32_t i = 0; i < blob->part_count; i++) {
        for (uint32_t token = 0; token < blob->tokens; token++) {
            uint8_t *cell = blob->frame + blob->parts[i].cells + (size_t)token * CELL_BYTES;
            uint32_t position = first + token;
            for (size_t byte = 0; byte < sizeof position; byte++) {
                cell[byte] = (uint8_t)(position >> (8 * byte));
            }
        }
    }
}

void kv_blob_frame(struct kv_blob *blob, uint8_t *page, uint32_t first)
{
    set_positions(blob, first);
    for (uint32_t i = 0; i < blob->gap_count; i++) {
        const struct kv_blob_gap *gap = &blob->gaps[i];
        memcpy(page + gap->begin, blob->frame + gap->begin, gap->end - gap->begin);
    }
}

bool kv_blob_framed(struct kv_blob *blob, const uint8_t *page, size_t count, uint32_t first)
{
    bool framed = count == blob->bytes;
    set_positions(blob, first);
    for (uint32_t i = 0; framed && i < blob->gap_count; i++) {
        const struct kv_blob_gap *gap = &blob->gaps[i];
        framed = memcmp(page + gap->begin, blob->frame + gap->begin, gap->end - gap->begin) == 0;
    }
    return framed;
}

void kv_blob_clear(const struct kv_blob *blob, uint32_t part, uint8_t *page)
{
    for (uint32_t i = 0; i < blob->parts[part].layers * KV_BLOB_KINDS; i++) {
        const struct kv_blob_plane *plane = &blob->parts[part].planes[i];
        memset(page + plane->offset, 0, plane->bytes);
    }
}
