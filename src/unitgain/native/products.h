/* What products of matrices share: ROWS x BLOCK sums in registers, pairs of bfloat16, and memory for weights. */

#ifndef UNITGAIN_PRODUCTS_H
#define UNITGAIN_PRODUCTS_H

#include "vectors.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
#define VECTORS 4 /* 24 sums in 32 registers */
#else
#define VECTORS 2 /* 12 in 16 */
#endif
#define ROWS 6
#define BLOCK (LANES * VECTORS)
#define LINES (BLOCK * 4 / 64) /* cache lines of a row of a block, of words */

typedef int32_t pair __attribute__((may_alias));

#if LANES == 16 && defined(__AVX512BF16__)
#define PAIRS 1
static inline vector dot_pairs(vector sum, int32_t a, words b) {
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
}
#else
#define PAIRS 0
static inline vector dot_pairs(vector sum, int32_t a, words b) { return sum + (vector)(b * (uint32_t)a); } /* not called */
#endif

static inline int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

/* Have memory that was not touched yet come in large pages, where the system has them: weights are read once and in
 * order, so that each small page would have to be looked up anew. */
static inline void in_large_pages(char *memory, int64_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 1 << 21, first = ((uintptr_t)memory + page - 1) & -page;
    const uintptr_t last = ((uintptr_t)memory + size) & -page;
    if (first < last) madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

#endif
