/* The x86 kernels; see kernels.h. Private to this folder. */
#ifndef KVEIK_STORAGE_CPU_KERNELS_X86_H
#define KVEIK_STORAGE_CPU_KERNELS_X86_H

#if defined(__x86_64__)

#include <stdbool.h>
#include <stddef.h>

#include "storage/cpu/kernels.h"

bool x86_has_avx512(void);
bool x86_has_avx2(void);

void copy_avx512_stream(void *restrict to, const void *restrict from, size_t bytes);
void copy_avx512_interleaved(void *restrict to, const void *restrict from, size_t bytes);
void rows_avx512_stream(const struct kernel_rows *rows);

void copy_avx2_stream(void *restrict to, const void *restrict from, size_t bytes);
void copy_avx2_interleaved(void *restrict to, const void *restrict from, size_t bytes);
void rows_avx2_stream(const struct kernel_rows *rows);

void copy_x86_string(void *restrict to, const void *restrict from, size_t bytes);

#endif
#endif
