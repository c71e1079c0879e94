/* The gradient of the weights of 3x3 convolutions by Winograd's minimal filtering, the adjoint of winograd.c with m = 4:
 * with tiles of inputs and of gradients of outputs transformed, it is a product of matrices at each of 36 positions,
 * [out, tiles] and [tiles, in], transformed back. What is here are the transforms, in float32.
 */

#include "filtering.h"

#define TILE 4
#define SIDE (TILE + 2)

/* Transposed `to_outputs` and `from_weights`, in one dimension; `step` is the distance of neighbours. */
static inline __attribute__((always_inline)) void from_outputs(const vector *y, vector *p, int64_t from, int64_t to) {
    const vector y0 = y[0], y1 = y[from], y2 = y[2 * from], y3 = y[3 * from];
    const vector even = y0 + 0.5f * y2, odd = HALF_SQUARE * (y1 + 0.5f * y3);
    const vector even2 = y0 + 2.0f * y2, odd2 = SQUARE * (y1 + 2.0f * y3);
    p[0] = y0;
    p[to] = even + odd;
    p[2 * to] = even - odd;
    p[3 * to] = even2 + odd2;
    p[4 * to] = even2 - odd2;
    p[5 * to] = y3;
}

static inline __attribute__((always_inline)) void to_weights(const vector *t, vector *w, int64_t from, int64_t to) {
    const vector sum = (t[from] + t[2 * from]) / -1.5f, sum2 = (t[3 * from] + t[4 * from]) / 6.0f;
    const vector odd = (t[from] - t[2 * from]) * (HALF_SQUARE / -1.5f);
    const vector odd2 = (t[3 * from] - t[4 * from]) * (SQUARE / 6.0f);
    w[0] = t[0] + sum + sum2;
    w[to] = odd + odd2;
    w[2 * to] = 0.5f * sum + 2.0f * sum2 + t[5 * from];
}

/* Tiles `first` to `last` - 1 of images, in the order of images, rows and columns, as matrices [position][tile][channels
 * rounded up to LANES]. */
struct tiles {
    struct array images; /* inputs, or, if `outputs`, gradients of outputs */
    float *to;
    int64_t first, last, height, width, channels;
    int32_t outputs;
};
SHARED(tiles);
const int64_t unitgain_lanes = LANES;

static inline __attribute__((always_inline)) void take_gradients(const char *const *pixels, int64_t channel, int64_t some,
                                                                 int type, float *to, int64_t stride) {
    vector t[TILE * SIDE];
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i++) {
        vector d[TILE];
#pragma GCC unroll 4
        for (int j = 0; j < TILE; j++) d[j] = load_some(pixels[i * TILE + j] + channel * ITEM(type), some, type);
        from_outputs(d, t + i * SIDE, 1, 1);
    }
#pragma GCC unroll 6
    for (int j = 0; j < SIDE; j++) {
        vector d[SIDE];
        from_outputs(t + j, d, SIDE, 1);
#pragma GCC unroll 6
        for (int i = 0; i < SIDE; i++) *(vector *)(to + (i * SIDE + j) * stride) = d[i];
    }
}

static inline __attribute__((always_inline)) void take_some(const char *const *pixels, int64_t channel, int64_t some,
                                                            int outputs, int type, float *to, int64_t stride) {
    if (outputs) take_gradients(pixels, channel, some, type, to, stride);
    else take_lanes(pixels, channel, some, (vector){0}, TILE, 0, type, to, stride);
}

static inline __attribute__((always_inline)) void take_tile(const struct tiles *of, const char *const *pixels, float *to,
                                                            int outputs, int type) {
    const int64_t padded = rounded_up(of->channels, LANES), stride = (of->last - of->first) * padded;
    const int64_t full = of->channels / LANES * LANES;
    for (int64_t channel = 0; channel < full; channel += LANES)
        take_some(pixels, channel, LANES, outputs, type, to + channel, stride);
    if (full < padded) take_some(pixels, full, of->channels - full, outputs, type, to + full, stride);
}

static void find_tile(const struct tiles *of, int64_t tile, const char **pixels) {
    const int64_t across = (of->width + TILE - 1) / TILE, down = (of->height + TILE - 1) / TILE;
    const int64_t row = tile / across % down, column = tile % across;
    struct image image = {of->images, of->height, of->width, of->channels};
    image.array.at += tile / (across * down) * of->height * of->width * of->channels * ITEM(of->images.type);
    if (of->outputs) find_pixels(&image, row * TILE + 1, column * TILE + 1, TILE, pixels); /* it begins one before */
    else find_pixels(&image, row * TILE, column * TILE, SIDE, pixels);
}

void unitgain_filter_tiles(const struct tiles *of) {
    const int64_t padded = rounded_up(of->channels, LANES);
#pragma omp parallel for schedule(static)
    for (int64_t tile = of->first; tile < of->last; tile++) {
        const char *pixels[POSITIONS];
        float *const to = of->to + (tile - of->first) * padded;
        find_tile(of, tile, pixels);
        if (of->outputs && of->images.type == FLOAT32) take_tile(of, pixels, to, 1, FLOAT32);
        else if (of->outputs) take_tile(of, pixels, to, 1, BFLOAT16);
        else if (of->images.type == FLOAT32) take_tile(of, pixels, to, 0, FLOAT32);
        else take_tile(of, pixels, to, 0, BFLOAT16);
    }
}

/* Products, [position][out][in], each of `outputs` and `inputs` rounded up to LANES, to gradients [out][in][3][3]. */
void unitgain_filter_weights(const float *products, float *gradient, int64_t outputs, int64_t inputs) {
    const int64_t padded = rounded_up(inputs, LANES), stride = rounded_up(outputs, LANES) * padded;
#pragma omp parallel for schedule(static)
    for (int64_t out = 0; out < outputs; out++)
        for (int64_t first = 0; first < inputs; first += LANES) {
            const float *const from = products + out * padded + first;
            float *const to = gradient + (out * inputs + first) * 9;
            vector p[POSITIONS], t[3 * SIDE], w[9];
            for (int i = 0; i < POSITIONS; i++) p[i] = *(const vector *)(from + i * stride);
            for (int i = 0; i < SIDE; i++) to_weights(p + i * SIDE, t + i * 3, 1, 1);
            for (int j = 0; j < 3; j++) to_weights(t + j, w + j, 3, 3);
            const int64_t some = least(LANES, inputs - first);
            for (int i = 0; i < 9; i++)
                for (int64_t c = 0; c < some; c++) to[c * 9 + i] = w[i][c];
        }
}
