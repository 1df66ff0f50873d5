/*
 * Copy kernels for x86-64. The file is compiled for the baseline processor; only the functions
 * marked with a target use wider registers, and only where kernels.c has seen that they exist.
 *
 * AVX-512 and AVX2 differ in how one cache line is moved and in nothing else, so the loops are
 * written once, as a macro over that.
 */
#include "storage/cpu/kernels_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"

enum {
    LINE = 64,
    PAGE = 4096,
    PAGES_AT_ONCE = 4,
};

bool x86_has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") != 0;
}

bool x86_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

__attribute__((target("avx512f"))) static inline void line_avx512(char *to, const char *from)
{
    _mm512_stream_si512((void *)to, _mm512_loadu_si512((const void *)from));
}

__attribute__((target("avx2"))) static inline void line_avx2(char *to, const char *from)
{
    __m256i low = _mm256_loadu_si256((const void *)from);
    __m256i high = _mm256_loadu_si256((const void *)(from + 32));
    _mm256_stream_si256((void *)to, low);
    _mm256_stream_si256((void *)(to + 32), high);
}

/* Bytes to the next cache line of `to`, at most `bytes`. */
static inline size_t head_of(const char *to, size_t bytes)
{
    size_t head = (size_t)(-(uintptr_t)to & (LINE - 1));
    return head < bytes ? head : bytes;
}

/* Walks over what is to be fetched, at the pace of the copy. */
struct fetch {
    const char *at;
    int64_t left; /* bytes of this run; may go below zero by a few lines */
    const struct kernel_ahead *ahead;
    uint64_t runs_begun;
};

static inline void fetch_lines(struct fetch *fetch, uint64_t lines)
{
    if (fetch->left <= 0) {
        if (fetch->runs_begun == fetch->ahead->count) {
            return;
        }
        fetch->at = fetch->ahead->from + fetch->runs_begun * fetch->ahead->stride;
        fetch->left = (int64_t)fetch->ahead->run_bytes;
        fetch->runs_begun++;
    }
    for (uint64_t line = 0; line < lines; line++) {
        _mm_prefetch(fetch->at + line * LINE, _MM_HINT_T0);
    }
    fetch->at += lines * LINE;
    fetch->left -= (int64_t)(lines * LINE);
}

/*
 * stream:       after the first partial line, four lines a round.
 * interleaved:  blocks of four pages, one line of each page in turn; the rest streamed.
 * rows:         strided runs of whole lines; to is aligned. For every line that is moved, one of
 *               what comes next is fetched.
 */
#define DEFINE_KERNELS(isa, features)                                                              \
    __attribute__((target(features))) void copy_##isa##_stream(                                    \
        void *restrict to, const void *restrict from, size_t bytes)                                \
    {                                                                                              \
        char *t = to;                                                                              \
        const char *f = from;                                                                      \
        size_t head = head_of(t, bytes);                                                           \
        (void)memcpy(t, f, head);                                                                  \
        t += head;                                                                                 \
        f += head;                                                                                 \
        bytes -= head;                                                                             \
        for (; bytes >= (size_t)4 * LINE; bytes -= (size_t)4 * LINE) {                             \
            line_##isa(t, f);                                                                      \
            line_##isa(t + LINE, f + LINE);                                                        \
            line_##isa(t + 2 * LINE, f + 2 * LINE);                                                \
            line_##isa(t + 3 * LINE, f + 3 * LINE);                                                \
            t += 4 * LINE;                                                                         \
            f += 4 * LINE;                                                                         \
        }                                                                                          \
        for (; bytes >= LINE; bytes -= LINE, t += LINE, f += LINE) {                               \
            line_##isa(t, f);                                                                      \
        }                                                                                          \
        (void)memcpy(t, f, bytes);                                                                 \
    }                                                                                              \
                                                                                                   \
    __attribute__((target(features))) void copy_##isa##_interleaved(                               \
        void *restrict to, const void *restrict from, size_t bytes)                                \
    {                                                                                              \
        char *t = to;                                                                              \
        const char *f = from;                                                                      \
        size_t head = head_of(t, bytes);                                                           \
        (void)memcpy(t, f, head);                                                                  \
        t += head;                                                                                 \
        f += head;                                                                                 \
        bytes -= head;                                                                             \
        for (; bytes >= (size_t)PAGES_AT_ONCE * PAGE; bytes -= (size_t)PAGES_AT_ONCE * PAGE) {     \
            for (size_t at = 0; at < PAGE; at += LINE) {                                           \
                line_##isa(t + at, f + at);                                                        \
                line_##isa(t + PAGE + at, f + PAGE + at);                                          \
                line_##isa(t + 2 * PAGE + at, f + 2 * PAGE + at);                                  \
                line_##isa(t + 3 * PAGE + at, f + 3 * PAGE + at);                                  \
            }                                                                                      \
            t += PAGES_AT_ONCE * PAGE;                                                             \
            f += PAGES_AT_ONCE * PAGE;                                                             \
        }                                                                                          \
        copy_##isa##_stream(t, f, bytes);                                                          \
    }                                                                                              \
                                                                                                   \
    __attribute__((target(features))) static inline void row_##isa(                                \
        char *t, const char *f, uint64_t lines, struct fetch *fetch)                               \
    {                                                                                              \
        uint64_t l = 0;                                                                            \
        for (; l + 4 <= lines; l += 4) {                                                           \
            fetch_lines(fetch, 4);                                                                 \
            line_##isa(t + l * LINE, f + l * LINE);                                                \
            line_##isa(t + (l + 1) * LINE, f + (l + 1) * LINE);                                    \
            line_##isa(t + (l + 2) * LINE, f + (l + 2) * LINE);                                    \
            line_##isa(t + (l + 3) * LINE, f + (l + 3) * LINE);                                    \
        }                                                                                          \
        for (; l < lines; l++) {                                                                   \
            fetch_lines(fetch, 1);                                                                 \
            line_##isa(t + l * LINE, f + l * LINE);                                                \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    __attribute__((target(features))) static inline void rows_##isa##_lines(                       \
        const struct kernel_rows *rows, uint64_t lines)                                            \
    {                                                                                              \
        struct kernel_ahead ahead = rows->ahead;                                                   \
        ahead.count = ahead.from == NULL ? 0 : ahead.count;                                        \
        struct fetch fetch = {.ahead = &ahead};                                                    \
        for (uint64_t o = 0; o < rows->outer_count; o++) {                                         \
            char *t = rows->to + o * rows->outer_to;                                               \
            const char *f = rows->from + o * rows->outer_from;                                     \
            for (uint64_t i = 0; i < rows->inner_count; i++) {                                     \
                row_##isa(t, f, lines, &fetch);                                                    \
                t += rows->inner_to;                                                               \
                f += rows->inner_from;                                                             \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    __attribute__((target(features))) void rows_##isa##_stream(const struct kernel_rows *rows)     \
    {                                                                                              \
        KVEIK_ASSERT(kernel_rows_aligned(rows));                                                   \
        switch (rows->run_bytes) {                                                                 \
        case 64:                                                                                   \
            rows_##isa##_lines(rows, 1);                                                           \
            break;                                                                                 \
        case 128:                                                                                  \
            rows_##isa##_lines(rows, 2);                                                           \
            break;                                                                                 \
        case 256:                                                                                  \
            rows_##isa##_lines(rows, 4);                                                           \
            break;                                                                                 \
        case 512:                                                                                  \
            rows_##isa##_lines(rows, 8);                                                           \
            break;                                                                                 \
        default:                                                                                   \
            rows_##isa##_lines(rows, rows->run_bytes / LINE);                                      \
            break;                                                                                 \
        }                                                                                          \
    }

DEFINE_KERNELS(avx512, "avx512f")
DEFINE_KERNELS(avx2, "avx2")

/* The processor's own string move: microcode that knows the cache's protocol. */
void copy_x86_string(void *restrict to, const void *restrict from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

#endif
