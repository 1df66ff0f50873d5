/* The kernels in vectors of eight floats, built for AVX2 with FMA whatever the rest of the program
 * is built for; kernels.c calls them only where the processor has both. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "client/refmodel/kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

enum { LANES = 8, TILE_ROWS = 6 };

typedef float vec __attribute__((vector_size(32), may_alias));
typedef int32_t ivec __attribute__((vector_size(32), may_alias));

#define VEC static inline __attribute__((always_inline))

VEC vec vec_splat(float x)
{
    return (vec)_mm256_set1_ps(x);
}

VEC vec vec_fma(vec a, vec b, vec c)
{
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

VEC vec vec_max(vec a, vec b)
{
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
}

VEC float vec_sum(vec v)
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

VEC float vec_top(vec v)
{
    __m128 four =
        _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#include "client/refmodel/kernel_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const struct refmodel_kernels refmodel_kernels_avx2 = {
    .name = "avx2",
    .panel_columns = PANEL,
    .gemm = kernel_gemm,
    .softmax = kernel_softmax,
    .norm = kernel_norm,
};

#else
typedef int refmodel_kernel_avx2_is_empty;
#endif
