#include "client/refmodel/kernels.h"

#include <stdbool.h>
#include <stddef.h>

const struct refmodel_kernels *refmodel_kernels_for(enum refmodel_isa isa)
{
#if defined(__x86_64__)
    bool has_avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    bool has_avx512 = __builtin_cpu_supports("avx512f") != 0 &&
                      __builtin_cpu_supports("avx512dq") != 0 &&
                      __builtin_cpu_supports("avx512bw") != 0 &&
                      __builtin_cpu_supports("avx512vl") != 0 && has_avx2;
    if (has_avx512 && (isa == REFMODEL_ISA_AUTO || isa == REFMODEL_ISA_AVX512)) {
        return &refmodel_kernels_avx512;
    }
    if (has_avx2 && (isa == REFMODEL_ISA_AUTO || isa == REFMODEL_ISA_AVX2)) {
        return &refmodel_kernels_avx2;
    }
#endif
    bool portable = isa == REFMODEL_ISA_AUTO || isa == REFMODEL_ISA_PORTABLE;
    return portable ? &refmodel_kernels_portable : NULL;
}
