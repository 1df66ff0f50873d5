/* The kernels in portable vectors of four floats: SSE2, NEON, or what the compiler makes of them.
 * Whether a * b + c is fused is the compiler's choice for the target, once for the whole file. */
enum { LANES = 4, TILE_ROWS = 6 };

#include <stdint.h>

typedef float vec __attribute__((vector_size(16), may_alias));
typedef int32_t ivec __attribute__((vector_size(16), may_alias));

#define VEC static inline __attribute__((always_inline))

VEC vec vec_splat(float x)
{
    return (vec){x, x, x, x};
}

VEC vec vec_fma(vec a, vec b, vec c)
{
    return a * b + c;
}

VEC vec vec_max(vec a, vec b)
{
    ivec greater = a > b;
    return (vec)((greater & (ivec)a) | (~greater & (ivec)b));
}

VEC float vec_sum(vec v)
{
    return (v[0] + v[1]) + (v[2] + v[3]);
}

VEC float vec_top(vec v)
{
    float left = v[0] > v[1] ? v[0] : v[1];
    float right = v[2] > v[3] ? v[2] : v[3];
    return left > right ? left : right;
}

#include "client/refmodel/kernel_body.h"

const struct refmodel_kernels refmodel_kernels_portable = {
    .name = "portable",
    .panel_columns = PANEL,
    .gemm = kernel_gemm,
    .softmax = kernel_softmax,
    .norm = kernel_norm,
};
