/*
 * Moving one box. A box of one run is the kernels' work. A box of many short runs (the elements of
 * one head, 64 to 512 bytes) is walked in the order in which it is written, so that the write
 * stream is sequential, with runs of constant size inlined: a call of memcpy for each would cost
 * more than its bytes. Runs of single elements (transposed layouts) take the same loops: right,
 * not fast.
 */
#include <string.h>

#include "base/assert.h"
#include "storage/cpu/scatter.h"

/* Beyond this, a run is worth a call of the kernel for its size. */
enum { SHORT_RUN_BYTES = 2048 };

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
    if (rows->run_bytes <= SHORT_RUN_BYTES && choice->rows != NULL && kernel_rows_aligned(rows)) {
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

void box_copy(const struct box *box, bool push, const struct kernel_choice *choice)
{
    KVEIK_ASSERT(box->dim_count <= BOX_DIMS_MAX);
    struct kernel_rows rows = {.to = push ? box->part : box->engine,
                               .from = push ? box->engine : box->part,
                               .run_bytes = box->run_bytes,
                               .inner_count = 1,
                               .outer_count = 1};
    uint32_t dim = box->dim_count;
    if (dim == 0) {
        kernel_for(choice, rows.run_bytes)(rows.to, rows.from, rows.run_bytes);
        return;
    }
    const struct box_dim *inner = &box->dims[--dim];
    rows.inner_count = inner->count;
    rows.inner_to = push ? inner->part_stride : inner->engine_stride;
    rows.inner_from = push ? inner->engine_stride : inner->part_stride;
    if (dim > 0) {
        const struct box_dim *outer = &box->dims[--dim];
        rows.outer_count = outer->count;
        rows.outer_to = push ? outer->part_stride : outer->engine_stride;
        rows.outer_from = push ? outer->engine_stride : outer->part_stride;
    }
    if (dim == 0) {
        rows_copy(&rows, choice);
        return;
    }
    const struct box_dim *slowest = &box->dims[0];
    for (uint64_t i = 0; i < slowest->count; i++) {
        rows_copy(&rows, choice);
        rows.to += push ? slowest->part_stride : slowest->engine_stride;
        rows.from += push ? slowest->engine_stride : slowest->part_stride;
    }
}
