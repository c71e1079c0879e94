/* Vectors as wide as the processor's, images of float32 or bfloat16, and silu of a vector. */

#ifndef UNITGAIN_VECTORS_H
#define UNITGAIN_VECTORS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

enum { FLOAT32, FLOAT16, BFLOAT16 };

static inline vector load(const char *from, int bfloat) {
    if (!bfloat) return *(const vector *)from;
    return (vector)(__builtin_convertvector(*(const halves *)from, words) << 16);
}

static inline void store(char *to, vector value, int bfloat) {
    if (!bfloat) {
        *(vector *)to = value;
        return;
    }
    words bits = (words)value;
    bits += 0x7fff + ((bits >> 16) & 1); /* to the nearest, ties to even */
    *(halves *)to = __builtin_convertvector(bits >> 16, halves);
}

static inline vector either(integers condition, vector yes, vector no) {
    return (vector)((condition & (integers)yes) | (~condition & (integers)no));
}

/* x / (1 + exp(-x)); exp by halving the range 2^n times and a polynomial, to 1e-7. */
static inline vector silu(vector x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number */
    vector a = -x;
    a = either(a > 88.0f, (vector){0} + 88.0f, a);
    a = either(a < -87.0f, (vector){0} - 87.0f, a);
    vector n = a * 1.44269504088896341f + magic;
    const integers power = (integers)n - 0x4b400000;
    n -= magic;
    const vector r = (a - n * 0.693359375f) - n * -2.12194440e-4f;
    vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return x / (1.0f + p * (vector)((power + 127) << 23));
}

#endif
