/*
 * Moving boxes. A box of many short runs (the elements of one head, 64 to 512 bytes) is walked with
 * runs of constant size inlined: a call of memcpy for each would cost more than its bytes. Runs of
 * single elements (transposed layouts) take the same loops: right, not fast.
 *
 * Reads that jump are what makes conversion slow, not the inner loop. So boxes go through a pipe
 * that knows the next one: while a tile is copied, the next one is fetched, in the source's own
 * order and at the pace of the copy. Large boxes are cut into tiles, small enough that two of them
 * share the second cache. Walking in the source's order, too, and letting the writes jump is
 * better than the reverse: they are streamed in whole lines and nobody waits for them.
 */
#include <string.h>

#include "base/assert.h"
#include "storage/cpu/scatter.h"

enum { TILE_BYTES = 256 * 1024 };

#define DEFINE_ROWS(bytes)                                                                         \
    static void rows_##bytes(const struct kernel_rows *rows)                                       \
    {                                                                                              \
        for (uint64_t o = 0; o < rows->outer_count; o++) {                                         \
            char *to = rows->to + o * rows->outer_to;                                              \
            const char *from = rows->from + o * rows->outer_from;                                  \
            for (uint64_t i = 0; i < rows->inner_count; i++) {                                     \
                (void)memcpy(to, from, bytes);                                                     \
                to += rows->inner_to;                                                              \
                from += rows->inner_from;                                                          \
            }                                                                                      \
        }                                                                                          \
    }

DEFINE_ROWS(1)
DEFINE_ROWS(2)
DEFINE_ROWS(4)
DEFINE_ROWS(8)
DEFINE_ROWS(16)
DEFINE_ROWS(32)
DEFINE_ROWS(64)
DEFINE_ROWS(128)
DEFINE_ROWS(256)
DEFINE_ROWS(512)

#undef DEFINE_ROWS

static void rows_any(const struct kernel_rows *rows, kernel_copy copy)
{
    for (uint64_t o = 0; o < rows->outer_count; o++) {
        char *to = rows->to + o * rows->outer_to;
        const char *from = rows->from + o * rows->outer_from;
        for (uint64_t i = 0; i < rows->inner_count; i++) {
            copy(to, from, rows->run_bytes);
            to += rows->inner_to;
            from += rows->inner_from;
        }
    }
}

/* The rows of constant size, or NULL. */
static kernel_copy_rows rows_of_size(uint64_t run_bytes)
{
    switch (run_bytes) {
    case 1:
        return rows_1;
    case 2:
        return rows_2;
    case 4:
        return rows_4;
    case 8:
        return rows_8;
    case 16:
        return rows_16;
    case 32:
        return rows_32;
    case 64:
        return rows_64;
    case 128:
        return rows_128;
    case 256:
        return rows_256;
    case 512:
        return rows_512;
    default:
        return NULL;
    }
}

static void rows_copy(const struct kernel_rows *rows, const struct kernel_choice *choice)
{
    /* a longer run is the kernels' work: measured, fetching ahead gains nothing there */
    if (rows->run_bytes <= TILE_BYTES && choice->rows != NULL && kernel_rows_aligned(rows)) {
        choice->rows(rows);
        return;
    }
    kernel_copy_rows sized = rows_of_size(rows->run_bytes);
    if (sized != NULL) {
        sized(rows);
    } else {
        rows_any(rows, kernel_for(choice, rows->run_bytes));
    }
}

static uint64_t to_stride(const struct box_dim *dim, bool push)
{
    return push ? dim->part_stride : dim->engine_stride;
}

static uint64_t from_stride(const struct box_dim *dim, bool push)
{
    return push ? dim->engine_stride : dim->part_stride;
}

static void copy_ahead(const struct box *box, bool push, const struct kernel_choice *choice,
                       const struct kernel_ahead *ahead)
{
    KVEIK_ASSERT(box->dim_count <= BOX_DIMS_MAX);
    struct kernel_rows rows = {.to = push ? box->part : box->engine,
                               .from = push ? box->engine : box->part,
                               .run_bytes = box->run_bytes,
                               .inner_count = 1,
                               .outer_count = 1,
                               .ahead = *ahead};
    uint32_t dim = box->dim_count;
    if (dim > 0) {
        const struct box_dim *inner = &box->dims[--dim];
        rows.inner_count = inner->count;
        rows.inner_to = to_stride(inner, push);
        rows.inner_from = from_stride(inner, push);
    }
    if (dim > 0) {
        const struct box_dim *outer = &box->dims[--dim];
        rows.outer_count = outer->count;
        rows.outer_to = to_stride(outer, push);
        rows.outer_from = from_stride(outer, push);
    }
    uint64_t times = dim > 0 ? box->dims[0].count : 1;
    for (uint64_t i = 0; i < times; i++) {
        rows_copy(&rows, choice);
        rows.to += dim > 0 ? to_stride(&box->dims[0], push) : 0;
        rows.from += dim > 0 ? from_stride(&box->dims[0], push) : 0;
        rows.ahead.from = NULL; /* once is enough */
    }
}

void box_copy(const struct box *box, bool push, const struct kernel_choice *choice)
{
    copy_ahead(box, push, choice, &(struct kernel_ahead){.from = NULL});
}

/* The box's source as contiguous runs, as far as they are one run or evenly spaced ones. */
static struct kernel_ahead ahead_of(const struct box *box, bool push)
{
    struct kernel_ahead ahead = {
        .from = push ? box->engine : box->part, .run_bytes = box->run_bytes, .count = 1};
    bool taken[BOX_DIMS_MAX] = {false};
    for (uint32_t i = 0; i < box->dim_count; i++) { /* whichever dimension goes on where it ends */
        for (uint32_t d = 0; d < box->dim_count; d++) {
            if (!taken[d] && from_stride(&box->dims[d], push) == ahead.run_bytes) {
                ahead.run_bytes *= box->dims[d].count;
                taken[d] = true;
            }
        }
    }
    for (uint32_t d = 0; d < box->dim_count; d++) {
        if (taken[d]) {
            continue;
        }
        if (ahead.count > 1) { /* gaps in two dimensions */
            return (struct kernel_ahead){.from = NULL};
        }
        ahead.count = box->dims[d].count;
        ahead.stride = from_stride(&box->dims[d], push);
    }
    return ahead;
}

void box_pipe_init(struct box_pipe *pipe, bool push, const struct kernel_choice *choice)
{
    *pipe = (struct box_pipe){.choice = choice, .push = push};
}

static void pipe_tile(struct box_pipe *pipe, const struct box *tile)
{
    if (pipe->full) {
        struct kernel_ahead ahead = ahead_of(tile, pipe->push);
        copy_ahead(&pipe->waiting, pipe->push, pipe->choice, &ahead);
    }
    pipe->waiting = *tile;
    pipe->full = true;
}

void box_pipe_add(struct box_pipe *pipe, const struct box *box)
{
    uint64_t bytes = box_bytes(box);
    if (box->dim_count == 0 || bytes <= TILE_BYTES) {
        pipe_tile(pipe, box);
        return;
    }
    /* cut along the longest dimension (the tokens), so that what stays contiguous on the side that
     * has it innermost is as long as can be */
    uint32_t cut = 0;
    for (uint32_t i = 1; i < box->dim_count; i++) {
        cut = box->dims[i].count > box->dims[cut].count ? i : cut;
    }
    const struct box_dim *dim = &box->dims[cut];
    uint64_t slice_bytes = bytes / dim->count;
    uint64_t group = slice_bytes < TILE_BYTES ? TILE_BYTES / slice_bytes : 1;
    struct box tile = *box;
    for (uint64_t done = 0; done < dim->count; done += group) {
        tile.dims[cut].count = dim->count - done < group ? dim->count - done : group;
        pipe_tile(pipe, &tile);
        tile.engine += group * dim->engine_stride;
        tile.part += group * dim->part_stride;
    }
}

void box_pipe_end(struct box_pipe *pipe)
{
    if (pipe->full) {
        box_copy(&pipe->waiting, pipe->push, pipe->choice);
        pipe->full = false;
    }
}
