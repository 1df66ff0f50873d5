/*
 * The arithmetic, built once for each instruction set. Every function here treats each row by
 * itself, in an order that depends on nothing but the row: no count of rows, no neighbour and no
 * thread changes a bit of a result.
 *
 * Rows are float arrays aligned to 64 bytes, their strides multiples of 16 floats.
 */
#ifndef KVEIK_CLIENT_REFMODEL_KERNELS_H
#define KVEIK_CLIENT_REFMODEL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "client/refmodel/refmodel.h"

enum {
    REFMODEL_KEY_BLOCK = 64, /* keys that one step of attention takes; begins at its multiples */
    REFMODEL_PANEL_MAX = 32, /* columns of the widest panel */
    REFMODEL_ALIGN_FLOATS = 16,
};

/* What becomes of a finished sum. */
enum refmodel_gemm_end {
    REFMODEL_GEMM_STORE,   /* c = sum */
    REFMODEL_GEMM_ADD,     /* c = c + sum */
    REFMODEL_GEMM_RESCALE, /* c = c * row_scale[row] + sum */
    REFMODEL_GEMM_SWIGLU,  /* panels hold gate columns, then as many up columns:
                              c = silu(gate) * up, half a panel wide */
};

/* c[row][column] from sum over k of a[row][k] * b[k][column], k rising, in one chain of fused
 * multiply-adds. b is packed in panels of panel_columns columns: [panel][k][column]. Whole panels
 * of c are written, so b's and c's last panel are padded. */
struct refmodel_gemm {
    const float *a;
    size_t a_stride;
    const float *panels;
    size_t panel_stride; /* floats from one panel to the next */
    uint32_t panel_count;
    uint32_t depth; /* count of k */
    uint32_t rows;
    enum refmodel_gemm_end end;
    const float *row_scale; /* RESCALE only */
    float *c;
    size_t c_stride;
};

/* One step of the running softmax: scores of one block of keys become weights, in place. */
struct refmodel_softmax {
    float *scores; /* [row][REFMODEL_KEY_BLOCK] */
    size_t stride;
    uint32_t rows;
    uint32_t limit;   /* keys that these rows see; the weights of the others become 0 */
    float *maximum;   /* [row] so far; -infinity at first */
    float *sum;       /* [row] of weights so far */
    float *scale_out; /* [row] factor for what was summed before this block */
};

struct refmodel_norm {
    const float *in;
    size_t in_stride;
    const float *weights; /* padded with zeros as the rows of `in` are */
    float *out;
    size_t out_stride;
    uint32_t rows;
    uint32_t columns;
    float eps;
};

struct refmodel_kernels {
    const char *name;
    uint32_t panel_columns;
    void (*gemm)(const struct refmodel_gemm *gemm);
    void (*softmax)(const struct refmodel_softmax *softmax);
    void (*norm)(const struct refmodel_norm *norm);
};

extern const struct refmodel_kernels refmodel_kernels_portable;
#if defined(__x86_64__)
extern const struct refmodel_kernels refmodel_kernels_avx2;
extern const struct refmodel_kernels refmodel_kernels_avx512;
#endif

/* NULL when the processor lacks the instruction set. */
const struct refmodel_kernels *refmodel_kernels_for(enum refmodel_isa isa);

#endif
