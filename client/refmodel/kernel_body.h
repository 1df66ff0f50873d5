/*
 * The kernels' text, included once by each kernel_<instruction set>.c, which defines before
 *
 *   LANES, TILE_ROWS      floats of a vector; rows of the largest tile that registers hold
 *   vec, ivec             vectors of LANES floats and int32_t
 *   vec_splat(x), vec_fma(a, b, c), vec_max(a, b), vec_sum(v), vec_top(v)
 *
 * Fused multiply-adds are spelled out: left to the compiler, one tile might get them and another
 * not, and a row's bits would depend on how many rows came with it.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "client/refmodel/kernels.h"

enum { PANEL = 2 * LANES };

#define INLINE static inline __attribute__((always_inline))

INLINE vec vec_load(const float *from)
{
    return *(const vec *)(const void *)from;
}

INLINE void vec_store(float *to, vec value)
{
    *(vec *)(void *)to = value;
}

/* e^x, to about 1 unit in the last place; 0 below the normal numbers. */
INLINE vec vec_exp(vec x)
{
    const vec round = vec_splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    ivec alive = x > vec_splat(-87.0f);
    ivec high = x > vec_splat(88.0f);
    vec top = vec_splat(88.0f);
    x = (vec)((~high & (ivec)x) | (high & (ivec)top));
    vec n = vec_fma(x, vec_splat(1.44269504088896341f), round) - round;
    vec r = vec_fma(n, vec_splat(-0.693359375f), x);
    r = vec_fma(n, vec_splat(2.12194440e-4f), r);
    vec p = vec_splat(1.9875691500e-4f);
    p = vec_fma(p, r, vec_splat(1.3981999507e-3f));
    p = vec_fma(p, r, vec_splat(8.3334519073e-3f));
    p = vec_fma(p, r, vec_splat(4.1665795894e-2f));
    p = vec_fma(p, r, vec_splat(1.6666665459e-1f));
    p = vec_fma(p, r, vec_splat(5.0000001201e-1f));
    p = vec_fma(p, r * r, r) + vec_splat(1.0f);
    /* n + 1.5 * 2^23 has n in its low bits; shifted into the exponent it is 2^n */
    ivec power = ((ivec)(n + vec_splat(12582912.0f + 127.0f))) << 23;
    return (vec)((ivec)(p * (vec)power) & alive);
}

/* One finished row of a tile. */
INLINE void gemm_end(const struct refmodel_gemm *g, uint32_t row, uint32_t panel, const vec sum[2])
{
    float *c = g->c + (size_t)row * g->c_stride;
    if (g->end == REFMODEL_GEMM_SWIGLU) {
        c += (size_t)panel * LANES;
        vec one = vec_splat(1.0f);
        vec_store(c, sum[0] / (one + vec_exp(-sum[0])) * sum[1]);
        return;
    }
    c += (size_t)panel * PANEL;
    for (int i = 0; i < 2; i++) {
        vec value = sum[i];
        if (g->end == REFMODEL_GEMM_ADD) {
            value = vec_load(c + i * LANES) + value;
        } else if (g->end == REFMODEL_GEMM_RESCALE) {
            value = vec_fma(vec_load(c + i * LANES), vec_splat(g->row_scale[row]), value);
        }
        vec_store(c + i * LANES, value);
    }
}

/* `rows` is a constant wherever this is inlined, so that the sums live in registers. */
INLINE void gemm_tile(const struct refmodel_gemm *g, uint32_t row, uint32_t panel, int rows)
{
    const float *a = g->a + (size_t)row * g->a_stride;
    const float *b = g->panels + (size_t)panel * g->panel_stride;
    vec sums[TILE_ROWS][2];
    for (int r = 0; r < rows; r++) {
        sums[r][0] = vec_splat(0.0f);
        sums[r][1] = vec_splat(0.0f);
    }
    for (uint32_t k = 0; k < g->depth; k++, b += PANEL) {
        vec left = vec_load(b);
        vec right = vec_load(b + LANES);
        for (int r = 0; r < rows; r++) {
            vec x = vec_splat(a[(size_t)r * g->a_stride + k]);
            sums[r][0] = vec_fma(x, left, sums[r][0]);
            sums[r][1] = vec_fma(x, right, sums[r][1]);
        }
    }
    /* in two loops, so that the first is unrolled: the sums stay in registers only if no loop
     * indexes them at run time */
    vec done[TILE_ROWS][2];
    for (int r = 0; r < rows; r++) {
        done[r][0] = sums[r][0];
        done[r][1] = sums[r][1];
    }
    for (int r = 0; r < rows; r++) {
        gemm_end(g, row + (uint32_t)r, panel, done[r]);
    }
}

static void kernel_gemm(const struct refmodel_gemm *g)
{
    for (uint32_t panel = 0; panel < g->panel_count; panel++) {
        uint32_t row = 0;
        for (; row + TILE_ROWS <= g->rows; row += TILE_ROWS) {
            gemm_tile(g, row, panel, TILE_ROWS);
        }
        for (; row + 4 <= g->rows; row += 4) {
            gemm_tile(g, row, panel, 4);
        }
        for (; row < g->rows; row++) {
            gemm_tile(g, row, panel, 1);
        }
    }
}

/* Scores beyond the limit are of keys that the row must not see, or of no keys at all: whatever
 * they are, they become weights of exactly 0, and the sum has the same shape as without them. */
static void kernel_softmax(const struct refmodel_softmax *s)
{
    enum { VECTORS = REFMODEL_KEY_BLOCK / LANES };
    for (uint32_t row = 0; row < s->rows; row++) {
        float *scores = s->scores + (size_t)row * s->stride;
        for (uint32_t key = s->limit; key < REFMODEL_KEY_BLOCK; key++) {
            scores[key] = -INFINITY;
        }
        vec top = vec_load(scores);
        for (int i = 1; i < VECTORS; i++) {
            top = vec_max(top, vec_load(scores + i * LANES));
        }
        float before = s->maximum[row];
        float maximum = vec_top(vec_max(top, vec_splat(before)));
        vec shift = vec_splat(maximum);
        vec total = vec_splat(0.0f);
        for (int i = 0; i < VECTORS; i++) {
            vec weight = vec_exp(vec_load(scores + i * LANES) - shift);
            vec_store(scores + i * LANES, weight);
            total = total + weight;
        }
        vec scale = vec_exp(vec_splat(before) - shift);
        s->maximum[row] = maximum;
        s->scale_out[row] = scale[0];
        vec sum = vec_fma(vec_splat(s->sum[row]), scale, vec_splat(vec_sum(total)));
        s->sum[row] = sum[0];
    }
}

static void kernel_norm(const struct refmodel_norm *n)
{
    for (uint32_t row = 0; row < n->rows; row++) {
        const float *in = n->in + (size_t)row * n->in_stride;
        float *out = n->out + (size_t)row * n->out_stride;
        vec squares = vec_splat(0.0f);
        for (uint32_t i = 0; i < n->columns; i += LANES) {
            vec x = vec_load(in + i);
            squares = vec_fma(x, x, squares);
        }
        float mean = vec_sum(squares) / (float)n->columns;
        vec scale = vec_splat(1.0f / sqrtf(mean + n->eps));
        for (uint32_t i = 0; i < n->columns; i += LANES) {
            vec_store(out + i, vec_load(in + i) * scale * vec_load(n->weights + i));
        }
    }
}
