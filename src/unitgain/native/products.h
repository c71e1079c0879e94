/* What products of matrices share: ROWS x BLOCK sums in registers, and pairs of bfloat16. */

#ifndef UNITGAIN_PRODUCTS_H
#define UNITGAIN_PRODUCTS_H

#include "vectors.h"

#if defined(__AVX512F__) || defined(__aarch64__)
#define VECTORS 4 /* 24 sums in 32 registers */
#else
#define VECTORS 2 /* 12 in 16 */
#endif
#define ROWS 6
#define BLOCK (LANES * VECTORS)
#define LINES ((BLOCK * 4 + 63) / 64) /* cache lines of a row of a block, of words */

typedef int32_t pair __attribute__((may_alias));

#if LANES == 16 && defined(__AVX512BF16__)
#define PAIRS 1
static inline vector dot_pairs(vector sum, int32_t a, words b) {
    return (vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
}
#else
#define PAIRS 0
static inline vector dot_pairs(vector sum, int32_t a, words b) { return sum + (vector)(b * (uint32_t)a); } /* unused */
#endif

#endif
