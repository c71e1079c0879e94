/* Winograd's minimal filtering of 3x3 kernels: transforms of tiles of m x m outputs, m = 2 or 4, and where pixels lie. */

#ifndef UNITGAIN_FILTERING_H
#define UNITGAIN_FILTERING_H

#include "vectors.h"

#define POSITIONS 36        /* at most */
#define MOST_CHANNELS 16384 /* of inputs */
#define HALF_SQUARE 0.70710678118654752f
#define SQUARE 1.41421356237309505f

/* Transforms in one dimension; `step` is the distance of neighbours. */

static inline __attribute__((always_inline)) void from_inputs(const vector *d, vector *t, int64_t from, int64_t to, int m) {
    const vector d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from];
    if (m == 2) {
        t[0] = d2 - d0;
        t[to] = d2 + d1;
        t[2 * to] = d2 - d1;
        t[3 * to] = d3 - d1;
        return;
    }
    const vector d4 = d[4 * from], d5 = d[5 * from];
    const vector even = d4 - 2.0f * d2, odd = (d3 - 2.0f * d1) * HALF_SQUARE;
    const vector even2 = d4 - 0.5f * d2, odd2 = (d3 - 0.5f * d1) * SQUARE;
    t[0] = d0 - 2.5f * d2 + d4;
    t[to] = even + odd;
    t[2 * to] = even - odd;
    t[3 * to] = even2 + odd2;
    t[4 * to] = even2 - odd2;
    t[5 * to] = d1 - 2.5f * d3 + d5;
}

static inline __attribute__((always_inline)) void from_weights(const vector *w, vector *t, int64_t from, int64_t to, int m) {
    const vector w0 = w[0], w1 = w[from], w2 = w[2 * from];
    if (m == 2) {
        t[0] = -w0;
        t[to] = 0.5f * (w0 + w1 + w2);
        t[2 * to] = 0.5f * (w0 - w1 + w2);
        t[3 * to] = w2;
        return;
    }
    const vector even = (w0 + 0.5f * w2) / -1.5f, odd = w1 * (HALF_SQUARE / -1.5f);
    const vector even2 = (w0 + 2.0f * w2) / 6.0f, odd2 = w1 * (SQUARE / 6.0f);
    t[0] = w0;
    t[to] = even + odd;
    t[2 * to] = even - odd;
    t[3 * to] = even2 + odd2;
    t[4 * to] = even2 - odd2;
    t[5 * to] = w2;
}

static inline __attribute__((always_inline)) void to_outputs(const vector *p, vector *y, int64_t from, int64_t to, int m) {
    const vector p0 = p[0], p1 = p[from], p2 = p[2 * from], p3 = p[3 * from];
    const vector sum = p1 + p2, difference = p1 - p2;
    if (m == 2) {
        y[0] = p0 + sum;
        y[to] = difference + p3;
        return;
    }
    const vector p4 = p[4 * from], p5 = p[5 * from];
    const vector sum2 = p3 + p4, difference2 = p3 - p4;
    y[0] = p0 + sum + sum2;
    y[to] = difference * HALF_SQUARE + difference2 * SQUARE;
    y[2 * to] = 0.5f * sum + 2.0f * sum2;
    y[3 * to] = difference * (0.5f * HALF_SQUARE) + difference2 * (2.0f * SQUARE) + p5;
}

/* One image, [height][width][channels]. */
struct image {
    struct array array;
    int64_t height, width, channels;
};

static inline char *pixel_at(const struct image *image, int64_t y, int64_t x) {
    const int half = image->array.halved;
    const int64_t pixel = (y >> half) * (image->width >> half) + (x >> half);
    return image->array.at + pixel * image->channels * ITEM(image->array.type);
}

static const char nothing[MOST_CHANNELS * 4];

/* Where the (m + 2)^2 pixels lie that the tile at `top`, `left` (of its outputs) is made from. */
static inline __attribute__((always_inline)) void find_pixels(const struct image *image, int64_t top, int64_t left, int n,
                                                              const char **pixels) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const int64_t y = top - 1 + i, x = left - 1 + j;
            const int inside = y >= 0 && y < image->height && x >= 0 && x < image->width;
            pixels[i * n + j] = inside ? pixel_at(image, y, x) : nothing;
        }
}

/* LANES channels, of which there are `some`, of a tile: transformed, times `loudness`, [position] `stride` floats apart. */
static inline __attribute__((always_inline)) void take_lanes(const char *const *pixels, int64_t channel, int64_t some,
                                                             vector loudness, int m, int integer, int type, float *to,
                                                             int64_t stride) {
    const int n = m + 2;
    vector t[POSITIONS];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) {
        vector d[6];
#pragma GCC unroll 6
        for (int j = 0; j < n; j++) d[j] = load_some(pixels[i * n + j] + channel * ITEM(type), some, type);
        from_inputs(d, t + i * n, 1, 1, m);
    }
#pragma GCC unroll 6
    for (int j = 0; j < n; j++) {
        vector d[6];
        from_inputs(t + j, d, n, 1, m);
#pragma GCC unroll 6
        for (int i = 0; i < n; i++) {
            if (integer) d[i] *= loudness;
            *(vector *)(to + (i * n + j) * stride) = d[i];
        }
    }
}

#endif
