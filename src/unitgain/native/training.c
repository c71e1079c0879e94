/* What happens to pixels between convolutions while a network is trained, and its gradients, in one pass over memory each.
 * Images are channels-last, all of a call of one type; everything is computed in float32 and rounded once.
 */

#include "passes.h"

#include <math.h>

#define MOST 4096 /* channels of a pixel norm */
#define CHUNK (4 * LANES)
const int64_t unitgain_most = MOST;

/* The derivative of silu. */
static inline vector slope(vector x, const int type) {
    const vector s = sigmoid(x, type);
    return s + s * x * (1.0f - s);
}

/* main = x / (rms of the pixel + eps), and active = factor * silu(main). Without `magnitudes` main is x, and not written.
 * Gradients: those of main and active (either may be null) to that of x; `x` is not looked at, but `main` is. */
struct fork {
    const char *x;
    char *main, *active;
    const char *main_gradient, *active_gradient;
    char *gradient;
    float *magnitudes; /* rms of each pixel */
    float factor, eps;
    int64_t pixels, channels;
    int32_t type, backward;
};
SHARED(fork);

INLINE fork_pixel(const struct fork *of, int64_t pixel, const int type, const int whole) {
    const int64_t channels = of->channels, start = pixel * channels;
    vector scale = {0};
    scale += 1.0f;
    if (of->magnitudes) {
        vector sums = {0};
        for (int64_t c = 0; c < channels; c += LANES) {
            const vector value = take(of->x, start + c, channels - c, type, whole);
            sums += value * value;
        }
        const float magnitude = sqrtf(total(sums) / channels);
        of->magnitudes[pixel] = magnitude;
        scale = (vector){0} + 1.0f / (magnitude + of->eps);
    }
    for (int64_t c = 0; c < channels; c += LANES) {
        const int64_t some = channels - c;
        const vector value = take(of->x, start + c, some, type, whole) * scale;
        if (of->magnitudes) put(of->main, start + c, value, some, type, whole);
        if (of->active) put(of->active, start + c, value * sigmoid(value, type) * of->factor, some, type, whole);
    }
}

INLINE fork_pixel_back(const struct fork *of, int64_t pixel, const int type, const int whole) {
    const int64_t channels = of->channels, start = pixel * channels;
    float held[MOST + LANES];
    vector sums = {0};
    for (int64_t c = 0; c < channels; c += LANES) {
        const int64_t some = channels - c;
        const vector main = take(of->main, start + c, some, type, whole);
        vector gradient = {0};
        if (of->main_gradient) gradient = take(of->main_gradient, start + c, some, type, whole);
        if (of->active_gradient)
            gradient += take(of->active_gradient, start + c, some, type, whole) * slope(main, type) * of->factor;
        if (of->magnitudes) {
            *(vector *)(held + c) = gradient;
            sums += gradient * main;
        } else
            put(of->gradient, start + c, gradient, some, type, whole);
    }
    if (!of->magnitudes) return;
    const float magnitude = of->magnitudes[pixel];
    const float across = magnitude > 0 ? total(sums) / (channels * magnitude) : 0, scale = 1 / (magnitude + of->eps);
    for (int64_t c = 0; c < channels; c += LANES) {
        const int64_t some = channels - c;
        const vector main = take(of->main, start + c, some, type, whole);
        put(of->gradient, start + c, *(vector *)(held + c) * scale - main * across, some, type, whole);
    }
}

INLINE fork_all(const struct fork *of, const int type, const int whole) {
#pragma omp parallel for schedule(static) if (of->pixels * of->channels > FEW)
    for (int64_t pixel = 0; pixel < of->pixels; pixel++) {
        if (of->backward) fork_pixel_back(of, pixel, type, whole);
        else fork_pixel(of, pixel, type, whole);
    }
}

void unitgain_fork(const struct fork *of) { FOR_EACH_TYPE(of->type, of->channels, fork_all, of); }

/* out = factor * silu(scale * x), or scale * factor * silu(x) if `after`; without `activate` scale * x. Gradients: that of
 * out to those of x and of the scale. */
struct modulate {
    const char *x;
    char *out; /* the gradient of x, if `out_gradient` is there */
    const char *out_gradient;
    const float *scale; /* [image][channels] */
    float *scale_gradient;
    float factor;
    int64_t images, pixels, channels; /* pixels: of an image */
    int32_t activate, after, type;
};
SHARED(modulate);

INLINE modulate_chunk(const struct modulate *of, int64_t image, int64_t first, const int type, const int whole) {
    const int64_t channels = of->channels, last = least(first + CHUNK, channels), of_image = image * channels;
    const int activate = of->activate, after = of->after, backward = of->out_gradient != 0;
    const float factor = of->factor;
    const vector one = (vector){0} + 1.0f;
    vector before[4], behind[4], sums[4] = {{0}};
    for (int v = 0; v < 4 && first + v * LANES < last; v++) {
        const int64_t at = first + v * LANES;
        before[v] = behind[v] = one;
        *(after ? &behind[v] : &before[v]) = load_some((const char *)(of->scale + of_image + at), last - at, FLOAT32);
    }
    for (int64_t pixel = image * of->pixels; pixel < (image + 1) * of->pixels; pixel++)
        for (int v = 0; v < 4 && first + v * LANES < last; v++) {
            const int64_t at = pixel * channels + first + v * LANES, some = last - first - v * LANES;
            const vector x = take(of->x, at, some, type, whole), inner = x * before[v];
            vector s = one;
            if (activate) s = sigmoid(inner, type) * factor;
            const vector value = inner * s;
            if (!backward) {
                put(of->out, at, value * behind[v], some, type, whole);
                continue;
            }
            vector gradient = take(of->out_gradient, at, some, type, whole);
            if (after) sums[v] += gradient * value;
            gradient *= behind[v];
            if (activate) gradient *= s + value * (1.0f - s * (1 / factor));
            if (!after) sums[v] += gradient * x;
            put(of->out, at, gradient * before[v], some, type, whole);
        }
    if (!backward) return;
    for (int v = 0; v < 4 && first + v * LANES < last; v++) {
        const int64_t at = first + v * LANES;
        store_some((char *)(of->scale_gradient + of_image + at), sums[v], last - at, FLOAT32);
    }
}

INLINE modulate_all(const struct modulate *of, const int type, const int whole) {
    const int64_t chunks = (of->channels + CHUNK - 1) / CHUNK, tasks = of->images * chunks;
#pragma omp parallel for schedule(static) if (of->images * of->pixels * of->channels > FEW)
    for (int64_t task = 0; task < tasks; task++)
        modulate_chunk(of, task / chunks, task % chunks * CHUNK, type, whole);
}

void unitgain_modulate(const struct modulate *of) { FOR_EACH_TYPE(of->type, of->channels, modulate_all, of); }

/* out = clamp(share_a * a + share_b * b) of numbers in a row. Gradients: that of out to those of a and b, 0 where out is
 * at the limit. */
struct balance {
    const char *a, *b; /* null in a backward pass */
    char *out;
    const char *out_gradient;
    char *a_gradient, *b_gradient;
    float share_a, share_b, limit;
    int64_t count;
    int32_t type;
};
SHARED(balance);

INLINE balance_some(const struct balance *of, int64_t at, const int type, const int whole) {
    const int64_t some = of->count - at;
    if (!of->out_gradient) {
        const vector a = take(of->a, at, some, type, whole), b = take(of->b, at, some, type, whole);
        put(of->out, at, bounded(a * of->share_a + b * of->share_b, of->limit), some, type, whole);
        return;
    }
    vector gradient = take(of->out_gradient, at, some, type, whole);
    if (of->out) {
        const vector out = take(of->out, at, some, type, whole), zero = {0};
        vector limit = zero + of->limit;
        if (type == BFLOAT16) limit = (vector)(rounded(limit) << 16); /* as what is at it was rounded */
        gradient = either((out >= limit) | (out <= -limit), zero, gradient);
    }
    if (of->a_gradient) put(of->a_gradient, at, gradient * of->share_a, some, type, whole);
    if (of->b_gradient) put(of->b_gradient, at, gradient * of->share_b, some, type, whole);
}

INLINE balance_all(const struct balance *of, const int type, const int whole) {
#pragma omp parallel for schedule(static) if (of->count > FEW)
    for (int64_t at = 0; at < of->count; at += LANES) balance_some(of, at, type, whole);
}

void unitgain_balance(const struct balance *of) { FOR_EACH_TYPE(of->type, of->count, balance_all, of); }

/* out = share_a * a and share_b * b side by side, or, `backward`, out taken apart into these. */
struct join {
    char *a, *b, *out;
    float share_a, share_b;
    int64_t pixels, channels_a, channels_b;
    int32_t type, backward;
};
SHARED(join);

INLINE join_part(const struct join *of, int64_t pixel, char *part, float share, int64_t channels, int64_t first,
                 const int type, const int whole) {
    const int64_t at = pixel * channels, beside = pixel * (of->channels_a + of->channels_b) + first;
    for (int64_t c = 0; c < channels; c += LANES) {
        const int64_t some = channels - c;
        if (of->backward) put(part, at + c, take(of->out, beside + c, some, type, whole) * share, some, type, whole);
        else put(of->out, beside + c, take(part, at + c, some, type, whole) * share, some, type, whole);
    }
}

INLINE join_all(const struct join *of, const int type, const int whole) {
#pragma omp parallel for schedule(static) if (of->pixels * (of->channels_a + of->channels_b) > FEW)
    for (int64_t pixel = 0; pixel < of->pixels; pixel++) {
        if (of->a) join_part(of, pixel, of->a, of->share_a, of->channels_a, 0, type, whole);
        if (of->b) join_part(of, pixel, of->b, of->share_b, of->channels_b, of->channels_a, type, whole);
    }
}

void unitgain_join(const struct join *of) {
    FOR_EACH_TYPE(of->type, of->channels_a % LANES | of->channels_b % LANES, join_all, of);
}
