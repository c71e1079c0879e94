/* Depthwise convolution of channels-last images, with what comes before it: out = conv(act(scale * x)).
 *
 * Libraries make three passes over memory of this, each rounding to the precision of the images. Here a row of a few
 * channels is read, scaled and activated once into a ring of `kernel` rows, which stays in the processor's first cache;
 * all of it in float32.
 */

#include "vectors.h"

#define VECTORS 2
#define CHANNELS (LANES * VECTORS) /* at a time: with nine weights each they fill the registers */

/* One row of `width` pixels into the ring, between zeros. */
static inline void take_row(const char *from, int64_t width, int64_t step, int64_t channels, const vector *scale,
                            int activate, int type, float *to) {
    const int item = ITEM(type);
    char padded[CHANNELS * 4];
    for (int64_t x = 0; x < width; x++, from += step * item, to += CHANNELS) {
        const char *pixel = from;
        if (channels < CHANNELS) {
            memset(padded, 0, sizeof padded);
            memcpy(padded, from, channels * item);
            pixel = padded;
        }
        for (int v = 0; v < VECTORS; v++) {
            vector value = load(pixel + v * LANES * item, type) * scale[v];
            if (activate) value = silu(value);
            *(vector *)(to + v * LANES) = value;
        }
    }
}

static inline void put(char *to, const vector *sum, int64_t channels, int type) {
    const int item = ITEM(type);
    char padded[CHANNELS * 4];
    char *pixel = channels < CHANNELS ? padded : to;
    for (int v = 0; v < VECTORS; v++) store(pixel + v * LANES * item, sum[v], type);
    if (channels < CHANNELS) memcpy(to, padded, channels * item);
}

/* Rows first ... last - 1 of a few channels of one image. */
static inline void convolve(const char *x, char *out, int64_t height, int64_t width, int64_t step, int64_t channels,
                            int64_t first, int64_t last, const vector *scale, int activate, const float *weight,
                            int kernel, int type, float *ring) {
    const int item = ITEM(type), pad = kernel / 2;
    const int64_t row = (width + 2 * pad) * CHANNELS;
    memset(ring, 0, kernel * row * 4);
    for (int64_t y = first - pad; y < last + pad; y++) {
        float *slot = ring + ((y + kernel) % kernel) * row;
        if (y >= 0 && y < height)
            take_row(x + y * width * step * item, width, step, channels, scale, activate, type, slot + pad * CHANNELS);
        else
            memset(slot, 0, row * 4);
        const int64_t target = y - pad;
        if (target < first) continue;
        const float *rows[16];
        for (int i = 0; i < kernel; i++) rows[i] = ring + ((target - pad + i + kernel) % kernel) * row;
        char *to = out + target * width * step * item;
        if (kernel == 3) {
            vector w[9][VECTORS];
            for (int i = 0; i < 9; i++)
                for (int v = 0; v < VECTORS; v++) w[i][v] = *(const vector *)(weight + i * CHANNELS + v * LANES);
            for (int64_t column = 0; column < width; column++, to += step * item) {
                vector sum[VECTORS] = {{0}};
#pragma GCC unroll 9
                for (int i = 0; i < 9; i++)
#pragma GCC unroll 2
                    for (int v = 0; v < VECTORS; v++)
                        sum[v] += w[i][v] * *(const vector *)(rows[i / 3] + (column + i % 3) * CHANNELS + v * LANES);
                put(to, sum, channels, type);
            }
        } else {
            for (int64_t column = 0; column < width; column++, to += step * item) {
                vector sum[VECTORS] = {{0}};
                for (int i = 0; i < kernel; i++)
                    for (int j = 0; j < kernel; j++)
                        for (int v = 0; v < VECTORS; v++)
                            sum[v] += *(const vector *)(weight + (i * kernel + j) * CHANNELS + v * LANES) *
                                      *(const vector *)(rows[i] + (column + j) * CHANNELS + v * LANES);
                put(to, sum, channels, type);
            }
        }
    }
}

int64_t unitgain_depthwise_channels(void) { return CHANNELS; }

/* x, out: [batch][height][width][channels]; scale: [batch][channels rounded up to CHANNELS] or null; weight:
 * [channels / CHANNELS, rounded up][kernel * kernel][CHANNELS], filled up with zeros; kernel: odd, at most 15.
 * Returns 0, or 1 if there was no memory for it. */
int unitgain_depthwise(const char *x, char *out, int32_t dtype, int64_t batch, int64_t height, int64_t width,
                       int64_t channels, const float *scale, int32_t activate, const float *weight, int32_t kernel) {
    const int64_t blocks = (channels + CHANNELS - 1) / CHANNELS;
    const int item = ITEM(dtype);
    int64_t threads = 1;
    int failed = 0;
#ifdef _OPENMP
    threads = omp_get_max_threads();
#endif
    /* Rows are shared out only where images and channels are too few for all threads: neighbours read rows twice. */
    int64_t parts = (3 * threads + batch * blocks - 1) / (batch * blocks);
    if (threads == 1) parts = 1;
    if (parts > (height + 7) / 8) parts = (height + 7) / 8;
    const int64_t tasks = batch * blocks * parts;
#pragma omp parallel if (tasks > 1)
    {
        float *ring = aligned_alloc(64, (kernel * (width + kernel) * CHANNELS * 4 + 63) / 64 * 64);
        if (!ring) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            if (!ring) continue;
            const int64_t part = task % parts, block = task / parts % blocks, image = task / parts / blocks;
            const int64_t left = channels - block * CHANNELS;
            const int64_t offset = (image * height * width * channels + block * CHANNELS) * item;
            vector factors[VECTORS];
            for (int v = 0; v < VECTORS; v++) {
                factors[v] = (vector){0} + 1.0f;
                if (scale) factors[v] = *(const vector *)(scale + (image * blocks + block) * CHANNELS + v * LANES);
            }
            const float *weights = weight + block * kernel * kernel * CHANNELS;
            const int64_t first = height * part / parts, last = height * (part + 1) / parts;
            if (dtype == BFLOAT16)
                convolve(x + offset, out + offset, height, width, channels, left < CHANNELS ? left : CHANNELS, first,
                         last, factors, activate, weights, kernel, BFLOAT16, ring);
            else
                convolve(x + offset, out + offset, height, width, channels, left < CHANNELS ? left : CHANNELS, first,
                         last, factors, activate, weights, kernel, FLOAT32, ring);
        }
        free(ring);
    }
    return failed;
}
