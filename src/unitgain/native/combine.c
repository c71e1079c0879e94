/* Linear combinations of many arrays of low precision, in one pass over them.
 *
 * out[r][i] = sum over s of weights[r][s] * sources[s][i], in float32, then rounded to the type of the results.
 *
 * Arrays are converted a block at a time into a buffer that stays in the processor's cache; a block is multiplied with
 * the weights, and its results converted and added up, while it is there. Every value is read once, where it lies, and
 * can be unaligned; every result is written once.
 */

#include <stdint.h>
#include <string.h>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16 /* floats in a register */
#define ROWS 8   /* results at a time, times two registers each: half of the registers there are */
#elif defined(__AVX__)
#define LANES 8
#define ROWS 4
#else
#define LANES 4
#define ROWS 4
#endif
#define BLOCK 512 /* values of each source at a time; 64 sources make 128 kB of float32 */
#define PAGE 4096 /* bytes that a checksum weighs alike; a block lies in one */

typedef float vector __attribute__((vector_size(LANES * 4), aligned(4)));

enum { FLOAT32, FLOAT16, BFLOAT16 };

static float half_to_float(uint16_t half) {
    /* The bits of a half, moved to where a float has them, are the number times 2^-112, subnormal ones too. */
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
    float value;
    if (bits >= 0x0f800000) { /* infinite or not a number */
        bits |= 0x7f800000;
        memcpy(&value, &bits, 4);
    } else {
        memcpy(&value, &bits, 4);
        value *= 0x1p112f;
    }
    memcpy(&bits, &value, 4);
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

/* To the nearest, even where two are; infinite from 65520 on. */
static uint16_t float_to_half(float value) {
    uint32_t bits, sign, half;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000, bits &= 0x7fffffff;
    if (bits >= 0x47800000) /* too large, infinite, or not a number */
        half = bits > 0x7f800000 ? 0x7e00 : 0x7c00;
    else if (bits < 0x38800000) { /* subnormal: one half more has its bits in the last places */
        memcpy(&value, &bits, 4);
        value += 0.5f;
        memcpy(&bits, &value, 4);
        half = bits - 0x3f000000;
    } else
        half = (bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
    return (uint16_t)(sign | half);
}

static void from_half(const char *from, float *to, int64_t count) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + 2 * i))));
#elif defined(__F16C__)
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 2 * i))));
#endif
    for (; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, 2);
        to[i] = half_to_float(half);
    }
}

static void from_bfloat(const char *from, float *to, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, 2);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(to + i, &bits, 4);
    }
}

static void to_half(const float *from, char *to, int64_t count) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(to + 2 * i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), 0));
#elif defined(__F16C__)
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(to + 2 * i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < count; i++) {
        const uint16_t half = float_to_half(from[i]);
        memcpy(to + 2 * i, &half, 2);
    }
}

static void to_bfloat(const float *from, char *to, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, 4);
        const uint16_t half = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        memcpy(to + 2 * i, &half, 2);
    }
}

/* Whether all of some values are finite: their exponents are not all ones. */
static int are_finite(const char *values, int64_t count, int type) {
    uint32_t bad = 0;
    if (type == FLOAT32)
        for (int64_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, values + 4 * i, 4);
            bad |= (bits & 0x7f800000) == 0x7f800000;
        }
    else {
        const uint16_t exponent = type == FLOAT16 ? 0x7c00 : 0x7f80;
        for (int64_t i = 0; i < count; i++) {
            uint16_t bits;
            memcpy(&bits, values + 2 * i, 2);
            bad |= (bits & exponent) == exponent;
        }
    }
    return !bad;
}

/* Sum of the whole 8-byte words of a run, the last one filled up with zeros, modulo 2^64. */
static uint64_t sum_words(const char *from, int64_t bytes) {
    uint64_t sum = 0, word;
    int64_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        memcpy(&word, from + i, 8);
        sum += word;
    }
    if (i < bytes) {
        word = 0;
        memcpy(&word, from + i, bytes - i);
        sum += word;
    }
    return sum;
}

/* ROWS results of two registers' width: packed[s][ROWS] times values[s][..]. */
static void multiply(const float *packed, const float *values, int64_t sources, float *out, int64_t stride) {
    vector low[ROWS] = {{0}}, high[ROWS] = {{0}};
    for (int64_t s = 0; s < sources; s++) {
        const vector a = *(const vector *)(values + s * BLOCK), b = *(const vector *)(values + s * BLOCK + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            low[r] += packed[s * ROWS + r] * a;
            high[r] += packed[s * ROWS + r] * b;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        *(vector *)(out + r * stride) = low[r];
        *(vector *)(out + r * stride + LANES) = high[r];
    }
}

const int64_t unitgain_rows = ROWS;

/* Floats of scratch memory that a call needs. */
int64_t unitgain_combine_scratch(int64_t sources) { return sources * BLOCK + ROWS * BLOCK; }

/* sources: addresses, `dtypes` theirs; weights: [ceil(results / ROWS)][sources][ROWS], filled up with zeros; out:
 * [results][width] of `dtype`; first: number of the first value in its tensor, a multiple of BLOCK; sums, out_sums: one
 * per source and per result, or null: page k of a tensor counts 2k + 1 times. Returns whether all results are finite. */
int32_t unitgain_combine(const char *const *sources, const int32_t *dtypes, int64_t count, int64_t width,
                     const float *weights, int64_t results, char *out, int32_t dtype, int64_t first, uint64_t *sums,
                     uint64_t *out_sums, float *scratch) {
    const int64_t out_item = dtype == FLOAT32 ? 4 : 2;
    float *made = scratch + count * BLOCK;
    int finite = 1;
    for (int64_t s = 0; sums && s < count; s++) sums[s] = 0;
    for (int64_t r = 0; r < results; r++) out_sums[r] = 0;
    for (int64_t start = 0; start < width; start += BLOCK) {
        const int64_t size = width - start < BLOCK ? width - start : BLOCK;
        for (int64_t s = 0; s < count; s++) {
            const int64_t item = dtypes[s] == FLOAT32 ? 4 : 2;
            const char *from = sources[s] + start * item;
            float *to = scratch + s * BLOCK;
            if (sums) sums[s] += sum_words(from, size * item) * (2 * (uint64_t)((first + start) * item / PAGE) + 1);
            if (dtypes[s] == FLOAT32)
                memcpy(to, from, size * 4);
            else if (dtypes[s] == FLOAT16)
                from_half(from, to, size);
            else
                from_bfloat(from, to, size);
            if (size < BLOCK) memset(to + size, 0, (BLOCK - size) * 4);
        }
        const uint64_t page = 2 * (uint64_t)((first + start) * out_item / PAGE) + 1;
        for (int64_t row = 0; row < results; row++) {
            const int64_t place = row % ROWS;
            if (!place)
                for (int64_t i = 0; i < size; i += 2 * LANES)
                    multiply(weights + row * count, scratch + i, count, made + i, BLOCK);
            char *to = out + (row * width + start) * out_item;
            if (dtype == FLOAT32)
                memcpy(to, made + place * BLOCK, size * 4);
            else if (dtype == FLOAT16)
                to_half(made + place * BLOCK, to, size);
            else
                to_bfloat(made + place * BLOCK, to, size);
            finite &= are_finite(to, size, dtype);
            out_sums[row] += sum_words(to, size * out_item) * page;
        }
    }
    return finite;
}
