/*
 * The address plan of one plane of one copy item. Private to this folder.
 *
 * The tokens of an item are cut where a page or a cell ends. What lies between two cuts is affine
 * on both sides: a box. Its dimensions (token, head, element; of an opaque page, the heads if they
 * are apart, around runs of bytes) are merged as far as both sides are contiguous, so that equal
 * layouts give one run a page (and one run for many pages, where they happen to follow each other),
 * and different ones the fewest and longest runs there are.
 */
#ifndef KVEIK_STORAGE_CPU_SCATTER_H
#define KVEIK_STORAGE_CPU_SCATTER_H

#include <stdbool.h>
#include <stdint.h>

#include "storage/cpu/copy.h"
#include "storage/cpu/kernels.h"

enum { BOX_DIMS_MAX = 3 };

struct box_dim {
    uint64_t count; /* > 1 */
    uint64_t engine_stride;
    uint64_t part_stride;
};

/* Which side decides the order of a box's dimensions: its largest stride becomes the outermost. */
enum box_order { BOX_ORDER_ENGINE, BOX_ORDER_PART };

struct box {
    char *engine; /* here, or an address in the engine's process */
    char *part;
    uint64_t run_bytes;
    uint32_t dim_count;
    struct box_dim dims[BOX_DIMS_MAX]; /* outermost first */
};

/* The walk over the boxes of one plane. */
struct scatter {
    const struct copy_item *item;
    const struct layout_plane *plane;
    const struct stored_kind *kind;
    enum box_order order;
    char *engine; /* the first head of token 0 of page 0 */
    char *part;   /* the first head of token 0 of cell 0 */
    uint32_t done_tokens;
    uint32_t shape_tokens; /* tokens that `shape` was made for; 0: none yet */
    struct box shape;
};

/* Planes of an item: its layers times its kinds. */
uint32_t scatter_plane_count(const struct copy_item *item);

/* Payload bytes of one plane, and of the whole item. */
uint64_t scatter_plane_bytes(const struct copy_item *item, uint32_t plane);
uint64_t scatter_item_bytes(const struct copy_item *item);

/* Plane `plane` (layer-major, counted from the item's first layer) of `item`. */
void scatter_init(struct scatter *scatter, const struct copy_memory *memory,
                  const struct copy_item *item, uint32_t plane, enum box_order order);

/* False when there is no further box. */
bool scatter_next(struct scatter *scatter, struct box *box_out);

/* Payload bytes. */
uint64_t box_bytes(const struct box *box);

/* Brings the dimensions in the order of one side and merges what can be merged. */
void box_normalise(struct box *box, enum box_order order);

/* Moves a box whose two sides are both in this process's memory. `push`: engine -> part. The
 * dimensions are best in the order of the side that is read. */
void box_copy(const struct box *box, bool push, const struct kernel_choice *choice);

/* Moves boxes one after the other, fetching each into the cache while the one before is moved. */
struct box_pipe {
    const struct kernel_choice *choice;
    bool push;
    bool full;
    struct box waiting; /* if full */
};

void box_pipe_init(struct box_pipe *pipe, bool push, const struct kernel_choice *choice);
void box_pipe_add(struct box_pipe *pipe, const struct box *box);

/* Moves what still waits. */
void box_pipe_end(struct box_pipe *pipe);

#endif
