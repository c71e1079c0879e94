/* Weights on their way into a network that is trained, in one pass over memory each: out = gain * factor * weight / (rms of
 * the row + eps), of float32, in the type of images. Kernels may be spread in `out`: [row][kernel][inputs], where weights
 * are [row][inputs][kernel]. Gradients, if `out_gradient` is there, which lies as `out` does: that of out to those of the
 * weight and, row by row, of the gain.
 */

#include "passes.h"

#include <math.h>

struct unit {
    const float *weight, *gain; /* the latter null for a gain of 1 */
    char *out;                  /* which may be the weight, in float32 */
    const char *out_gradient;
    float *weight_gradient, *gain_gradient; /* the latter null where there is no gain; a number for each row */
    float factor, eps;
    int64_t rows, inputs, kernel; /* kernel: 1 where it is not spread */
    int32_t type;
};
SHARED(unit);

/* Numbers with a distance, as many as `some` but no more than a vector holds, and back. */
static inline vector gather(const float *from, int64_t step, int64_t some) {
#ifdef __AVX512F__
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i at = _mm512_mullo_epi32(lanes, _mm512_set1_epi32((int32_t)step));
    const __mmask16 mask = some >= LANES ? 0xffff : (__mmask16)((1 << some) - 1);
    return (vector)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, at, from, 4);
#else
    vector value = {0};
    for (int64_t i = 0; i < least(some, LANES); i++) value[i] = from[i * step];
    return value;
#endif
}

static inline void scatter(float *to, vector value, int64_t step, int64_t some) {
    for (int64_t i = 0; i < least(some, LANES); i++) to[i * step] = value[i];
}

static inline __attribute__((always_inline)) vector of_weight(const float *from, int64_t step, int64_t some,
                                                              const int whole) {
    return step == 1 ? take((const char *)from, 0, some, FLOAT32, whole) : gather(from, step, some);
}

#define FOR_EACH_VECTOR(k, c)                                                                                          \
    for (int64_t k = 0; k < of->kernel; k++)                                                                           \
        for (int64_t c = 0; c < of->inputs; c += LANES)

INLINE unit_row(const struct unit *of, int64_t row, const int type, const int whole) {
    const int64_t inputs = of->inputs, step = of->kernel, columns = inputs * step, start = row * columns;
    const float *const weight = of->weight + start;
    vector squares = {0}, products = {0};
    if (of->out_gradient) {
        FOR_EACH_VECTOR(k, c) {
            const vector value = of_weight(weight + c * step + k, step, inputs - c, whole);
            squares += value * value;
            products += value * take(of->out_gradient, start + k * inputs + c, inputs - c, type, whole);
        }
    } else {
        for (int64_t c = 0; c < columns; c += LANES) {
            const vector value = take((const char *)weight, c, columns - c, FLOAT32, whole);
            squares += value * value;
        }
    }
    const float magnitude = sqrtf(total(squares) / columns), unit = of->factor / (magnitude + of->eps);
    const float scale = of->gain ? unit * *of->gain : unit;
    if (!of->out_gradient) {
        FOR_EACH_VECTOR(k, c) {
            const vector value = of_weight(weight + c * step + k, step, inputs - c, whole);
            put(of->out, start + k * inputs + c, value * scale, inputs - c, type, whole);
        }
        return;
    }
    const float product = total(products);
    const float along = magnitude > 0 ? scale * product / (columns * magnitude * (magnitude + of->eps)) : 0;
    if (of->gain_gradient) of->gain_gradient[row] = product * unit;
    FOR_EACH_VECTOR(k, c) {
        const int64_t some = inputs - c, at = c * step + k;
        const vector value = of_weight(weight + at, step, some, whole);
        const vector gradient = take(of->out_gradient, start + k * inputs + c, some, type, whole) * scale - value * along;
        if (step == 1) put((char *)of->weight_gradient, start + at, gradient, some, FLOAT32, whole);
        else scatter(of->weight_gradient + start + at, gradient, step, some);
    }
}

INLINE unit_rows(const struct unit *of, const int type, const int whole) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < of->rows; row++) unit_row(of, row, type, whole);
}

/* `count` of them, by the same threads. */
void unitgain_units(const struct unit *all, int64_t count) {
    int64_t numbers = 0;
    for (int64_t i = 0; i < count; i++) numbers += all[i].rows * all[i].inputs * all[i].kernel;
#pragma omp parallel if (numbers > FEW)
    for (int64_t i = 0; i < count; i++) {
        const struct unit *of = all + i;
        FOR_EACH_TYPE(of->type, of->inputs, unit_rows, of);
    }
}
