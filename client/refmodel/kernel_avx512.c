/* The kernels in vectors of sixteen floats. The file is built for AVX-512 whatever the rest of the
 * program is built for; kernels.c calls it only where the processor has it. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "client/refmodel/kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))),    \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
#endif

enum { LANES = 16, TILE_ROWS = 12 };

typedef float vec __attribute__((vector_size(64), may_alias));
typedef int32_t ivec __attribute__((vector_size(64), may_alias));

#define VEC static inline __attribute__((always_inline))

VEC vec vec_splat(float x)
{
    return (vec)_mm512_set1_ps(x);
}

VEC vec vec_fma(vec a, vec b, vec c)
{
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

VEC vec vec_max(vec a, vec b)
{
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
}

VEC float vec_sum(vec v)
{
    return _mm512_reduce_add_ps((__m512)v);
}

VEC float vec_top(vec v)
{
    return _mm512_reduce_max_ps((__m512)v);
}

#include "client/refmodel/kernel_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const struct refmodel_kernels refmodel_kernels_avx512 = {
    .name = "avx512",
    .panel_columns = PANEL,
    .gemm = kernel_gemm,
    .softmax = kernel_softmax,
    .norm = kernel_norm,
};

#else
typedef int refmodel_kernel_avx512_is_empty;
#endif
