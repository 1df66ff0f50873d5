/*
 * layout_check_disjoint(): proves that no two elements of a layout share a byte.
 *
 * Every plane is reduced to a box: a contiguous run, repeated along at most four strides, the
 * largest outermost. A box is free of overlap in itself when its strides nest: each is at least
 * the span of what lies inside it. (Strides that interleave without nesting could be free of
 * overlap, too; no engine has them, and they are refused.)
 *
 * Two boxes whose spans overlap are compared by descending into both at once: the larger stride is
 * walked, but only over the repetitions whose span meets the other box's; equal strides are walked
 * together, since only their difference matters. For the layouts that exist that is a handful of
 * steps a pair. A layout made to be slow runs out of a budget of steps and is refused.
 */
#include <stddef.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/heap.h"
#include "base/layout.h"

enum { DIMS = 4, STEPS_MAX = 1 << 24, DEPTH_MAX = 2 * DIMS + 1 };

/* Dimensions [0, dim_count), outermost first; span[i] is the span of what remains inside when the
 * first i dimensions are fixed, span[dim_count] the run. */
struct box {
    uint32_t region;
    uint32_t index; /* of the plane */
    int64_t begin;
    uint32_t dim_count;
    int64_t count[DIMS];
    int64_t stride[DIMS];
    int64_t span[DIMS + 1];
};

static void add_dim(struct box *box, uint64_t count, uint64_t stride)
{
    if (count == 1) {
        return;
    }
    uint32_t at = box->dim_count++;
    while (at > 0 && box->stride[at - 1] < (int64_t)stride) {
        box->count[at] = box->count[at - 1];
        box->stride[at] = box->stride[at - 1];
        at--;
    }
    box->count[at] = (int64_t)count;
    box->stride[at] = (int64_t)stride;
}

/* Swallows dimensions that continue the run without a gap. */
static int64_t absorb(struct box *box, int64_t run)
{
    while (box->dim_count > 0 && box->stride[box->dim_count - 1] == run) {
        run *= box->count[box->dim_count - 1];
        box->dim_count--;
    }
    return run;
}

static bool box_build(const struct layout *layout, uint32_t index, struct box *box)
{
    const struct layout_plane *plane = &layout->planes[index];
    *box = (struct box){.region = plane->region, .index = index, .begin = (int64_t)plane->offset};
    add_dim(box, layout->page_count, plane->page_stride);
    if (!layout->opaque) {
        add_dim(box, layout->page_tokens, plane->token_stride);
    }
    add_dim(box, layout_head_units(layout), plane->head_stride);
    add_dim(box, layout->kind_elements[index % layout->kind_count], plane->element_stride);
    int64_t run = absorb(box, layout->element_bytes);
    box->span[box->dim_count] = run;
    bool nested = true;
    for (uint32_t i = box->dim_count; i-- > 0;) {
        nested = nested && box->stride[i] >= box->span[i + 1];
        /* layout_check() proved that this fits */
        box->span[i] = box->span[i + 1] + (box->count[i] - 1) * box->stride[i];
    }
    return nested;
}

static int compare_boxes(const void *left, const void *right)
{
    const struct box *a = left;
    const struct box *b = right;
    if (a->region != b->region) {
        return a->region < b->region ? -1 : 1;
    }
    if (a->begin != b->begin) {
        return a->begin < b->begin ? -1 : 1;
    }
    return a->index < b->index ? -1 : a->index > b->index;
}

/* One level of the descent: the outermost a_dim and b_dim dimensions of the boxes are fixed, so
 * that what remains of b begins `delta` bytes behind what remains of a. Repetitions [next, last]
 * are still to be tried, each moving delta by `step`. */
struct level {
    uint32_t a_dim;
    uint32_t b_dim;
    int64_t delta;
    int64_t step;
    int64_t next;
    int64_t last;
};

static int64_t floor_divide(int64_t value, int64_t by)
{
    int64_t quotient = value / by;
    return quotient - (value % by != 0 && value < 0 ? 1 : 0);
}

/* Sets up the walk: which dimension is fixed next, and for which of its repetitions k the rests,
 * delta + k * step apart, can still meet: -b_span < delta + k * step < a_span. */
static void level_enter(const struct box *a, const struct box *b, struct level *level)
{
    int64_t a_stride = level->a_dim < a->dim_count ? a->stride[level->a_dim] : 0;
    int64_t b_stride = level->b_dim < b->dim_count ? b->stride[level->b_dim] : 0;
    int64_t first = 0;
    int64_t last = 0;
    int64_t stride = a_stride > b_stride ? a_stride : b_stride;
    KVEIK_ASSERT(stride > 0);
    if (a_stride >= b_stride) { /* an index of a moves b's rest back: count it downwards */
        first = -(a->count[level->a_dim] - 1);
        level->a_dim++;
    }
    if (b_stride >= a_stride) {
        last = b->count[level->b_dim] - 1;
        level->b_dim++;
    }
    int64_t low = floor_divide(-b->span[level->b_dim] - level->delta, stride) + 1;
    int64_t high = floor_divide(a->span[level->a_dim] - level->delta - 1, stride);
    level->step = stride;
    level->next = low > first ? low : first;
    level->last = high < last ? high : last;
}

/* True when the boxes share a byte, or when the steps ran out. */
static bool boxes_meet(const struct box *a, const struct box *b, int64_t *steps)
{
    struct level levels[DEPTH_MAX];
    uint32_t depth = 0;
    levels[0] = (struct level){.delta = b->begin - a->begin};
    if (a->dim_count + b->dim_count == 0) {
        return levels[0].delta < a->span[0] && -levels[0].delta < b->span[0];
    }
    level_enter(a, b, &levels[0]);
    for (;;) {
        struct level *level = &levels[depth];
        if (--*steps < 0) {
            return true;
        }
        if (level->next > level->last) {
            if (depth == 0) {
                return false;
            }
            depth--;
            continue;
        }
        int64_t delta = level->delta + level->next * level->step;
        level->next++;
        if (level->a_dim == a->dim_count && level->b_dim == b->dim_count) {
            return true; /* two runs that overlap */
        }
        depth++;
        KVEIK_ASSERT(depth < DEPTH_MAX);
        levels[depth] =
            (struct level){.a_dim = level->a_dim, .b_dim = level->b_dim, .delta = delta};
        level_enter(a, b, &levels[depth]);
    }
}

static int refuse_pair(const struct layout *layout, const struct box *a, const struct box *b,
                       bool proven, struct error *error)
{
    return error_set(error, ST_MISMATCH, "layout: layer %u kind %u and layer %u kind %u %s",
                     a->index / layout->kind_count, a->index % layout->kind_count,
                     b->index / layout->kind_count, b->index % layout->kind_count,
                     proven ? "share memory" : "are interleaved too finely to check");
}

static int check_pairs(const struct layout *layout, const struct box *boxes, uint32_t count,
                       struct error *error)
{
    int64_t steps = STEPS_MAX;
    for (uint32_t i = 0; i < count; i++) {
        const struct box *a = &boxes[i];
        for (uint32_t j = i + 1; j < count; j++) {
            const struct box *b = &boxes[j];
            if (b->region != a->region || b->begin - a->begin >= a->span[0]) {
                break; /* sorted: nor does any later one meet a */
            }
            if (boxes_meet(a, b, &steps)) {
                return refuse_pair(layout, a, b, steps >= 0, error);
            }
        }
    }
    return ST_OK;
}

int layout_check_disjoint(const struct layout *layout, struct error *error)
{
    KVEIK_ASSERT(layout != NULL && layout->planes != NULL);
    uint32_t count = layout->layer_count * layout->kind_count;
    struct box *boxes = heap_calloc(count, sizeof *boxes);
    if (boxes == NULL) {
        return error_set(error, ST_NO_MEMORY, "layout: no memory to check %u planes", count);
    }
    int status = ST_OK;
    for (uint32_t i = 0; i < count && status == ST_OK; i++) {
        if (!box_build(layout, i, &boxes[i])) {
            status = error_set(error, ST_MISMATCH,
                               "layout: layer %u kind %u: elements overlap, the strides do not "
                               "nest",
                               i / layout->kind_count, i % layout->kind_count);
        }
    }
    if (status == ST_OK) {
        qsort(boxes, count, sizeof *boxes, compare_boxes);
        status = check_pairs(layout, boxes, count, error);
    }
    heap_free(boxes);
    return status;
}
