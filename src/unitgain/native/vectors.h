/* Vectors as wide as the processor's, images of float32, float16 or bfloat16, and silu of a vector; a few numbers. */

#ifndef UNITGAIN_VECTORS_H
#define UNITGAIN_VECTORS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX__
#include <immintrin.h>
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

enum { FLOAT32, FLOAT16, BFLOAT16 }; /* of images; FLOAT16 only where HALVES are */
#define ITEM(type) ((type) == FLOAT32 ? 4 : 2)

static inline int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

/* Halves of words to words, with zeros before them, and back, without what is before them. */
static inline words widened(const char *from) {
#ifdef __AVX512F__
    return (words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)); /* compilers make four of this */
#else
    return __builtin_convertvector(*(const halves *)from, words);
#endif
}

static inline void narrowed(char *to, words value) {
#ifdef __AVX512F__
    __m256i half = _mm512_cvtepi32_epi16((__m512i)value);
    __asm__("" : "+x"(half)); /* narrowing on the way to memory takes Zen 4 far longer */
    _mm256_storeu_si256((__m256i *)to, half);
#else
    *(halves *)to = __builtin_convertvector(value, halves);
#endif
}

#ifdef __F16C__
#define HALVES 1
#else
#define HALVES 0
#endif

/* What Python reads: sizes of structs that it lays out too, and numbers that weights are laid out by. */
#define SHARED(name) const int64_t unitgain_sizeof_##name = sizeof(struct name)
const int64_t unitgain_halves = HALVES;

/* Images, [batch][height][width][channels], or nothing; where they are `halved`, of half the height and width of others,
 * for their pixels to be doubled. */
struct array {
    char *at;
    int32_t type, halved;
};
SHARED(array);

/* What is added to a result: clamp(result + share * main). */
struct addend {
    struct array main;
    float share, limit;
};
SHARED(addend);

static inline vector either(integers condition, vector yes, vector no) {
    return (vector)((condition & (integers)yes) | (~condition & (integers)no));
}

/* Clamped to [-limit, limit]; NaN stays NaN. */
static inline vector bounded(vector value, float limit) {
    const vector most = (vector){0} + limit;
#ifdef __AVX512F__
    return (vector)_mm512_max_ps((__m512)-most, _mm512_min_ps((__m512)most, (__m512)value)); /* the second, if one is NaN */
#else
    value = either(value > most, most, value);
    return either(value < -most, -most, value);
#endif
}

static inline vector load(const char *from, int type) {
    if (type == FLOAT32) return *(const vector *)from;
#if HALVES && LANES == 16
    if (type == FLOAT16) return (vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif HALVES
    if (type == FLOAT16) return (vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#endif
    return (vector)(widened(from) << 16);
}

/* As bfloat16, in the lower halves of words: to the nearest, ties to even. */
static inline words rounded(vector value) {
    const words bits = (words)value;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

/* To the nearest, ties to even; beyond the range of FLOAT16 to its end. */
static inline void store(char *to, vector value, int type) {
    if (type == FLOAT32) {
        *(vector *)to = value;
        return;
    }
#if HALVES && LANES == 16
    if (type == FLOAT16) {
        _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)bounded(value, 65504.0f), _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#elif HALVES
    if (type == FLOAT16) {
        _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)bounded(value, 65504.0f), _MM_FROUND_TO_NEAREST_INT));
        return;
    }
#endif
#if LANES == 16 && defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)value)); /* as rounded, but for subnormals */
#else
    narrowed(to, rounded(value));
#endif
}

/* The first `channels` of a vector of an image, then zeros. */
static inline vector load_some(const char *from, int64_t channels, int type) {
    char padded[LANES * 4] = {0};
    if (channels >= LANES) return load(from, type);
    memcpy(padded, from, channels * ITEM(type));
    return load(padded, type);
}

static inline void store_some(char *to, vector value, int64_t channels, int type) {
    char padded[LANES * 4];
    if (channels >= LANES) {
        store(to, value, type);
        return;
    }
    store(padded, value, type);
    memcpy(to, padded, channels * ITEM(type));
}

/* The sum of all lanes. */
static inline float total(vector value) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)value);
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += value[i];
    return sum;
#endif
}

/* 1 + exp(-x); exp by halving the range 2^n times and a polynomial, to 1e-7. */
static inline vector one_and_exp(vector x) {
    const vector a = bounded(-x, 87.0f);
#ifdef __AVX512F__
    const __m512 power = _mm512_roundscale_ps((__m512)(a * 1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT);
    const vector n = (vector)power;
#else
    const float magic = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number */
    const vector sum = a * 1.44269504088896341f + magic, n = sum - magic;
    const integers power = (integers)sum - 0x4b400000;
#endif
    const vector r = (a - n * 0.693359375f) - n * -2.12194440e-4f;
    vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
#ifdef __AVX512F__
    return (vector)_mm512_scalef_ps((__m512)p, power) + 1.0f;
#else
    return 1.0f + p * (vector)((power + 127) << 23);
#endif
}

/* 1 / x for x from 1 on. */
static inline vector inverse(vector x) {
#ifdef __AVX512F__
    const vector guess = (vector)_mm512_rcp14_ps((__m512)x); /* to 14 bits, and twice as many by Newton's method */
    return guess + guess * (1.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

/* x / (1 + exp(-x)), to 1e-7. */
static inline vector silu(vector x) {
#ifdef __AVX512F__
    return x * inverse(one_and_exp(x));
#else
    return x / one_and_exp(x);
#endif
}

/* The sigmoid function of what is stored in this type afterwards: to 1e-4 if it has 16 bits. */
static inline vector sigmoid(vector x, const int type) {
#ifdef __AVX512F__
    if (type != FLOAT32) {
        const vector a = x * -1.44269504088896341f;
        const __m512 power = _mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEAREST_INT);
        const vector r = a - (vector)power;
        vector p = r * 9.58285e-3f + 5.590643e-2f; /* 2^r for |r| <= 1/2, to 3e-6 */
        p = p * r + 2.4024099e-1f;
        p = p * r + 6.9312419e-1f;
        p = p * r + 1.0f;
        const vector below = (vector)_mm512_scalef_ps((__m512)p, power) + 1.0f;
        return (vector)_mm512_rcp14_ps((__m512)below);
    }
#endif
    (void)type;
    return inverse(one_and_exp(x));
}

/* silu likewise. */
static inline vector activated(vector x, const int type) {
#ifdef __AVX512F__
    if (type != FLOAT32) return x * sigmoid(x, type);
#endif
    (void)type;
    return silu(x);
}

/* 2^x for |x| <= 126, to 1e-7: a whole power times a polynomial, the best of its degree for [-1/2, 1/2]. */
static inline vector power_of_two(vector x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number, in its lowest bits */
    const vector n = x + magic;
    const vector r = x - (n - magic);
    vector p = r * 1.53458122e-4f + 1.33999312e-3f;
    p = p * r + 9.61848896e-3f;
    p = p * r + 5.55032878e-2f;
    p = p * r + 2.40226469e-1f;
    p = p * r + 6.93147206e-1f;
    p = p * r + 1.0f;
    return p * (vector)(((words)n << 23) + 0x3f800000u);
}

#endif
