/* Depthwise convolution of channels-last images, with what comes before and after it: out = conv(act(scale * x)) or
 * conv(scale * act(x)), or clamp(that + share * main).
 *
 * Libraries make three passes over memory of this, each rounding to the precision of the images. Here a row of a few
 * channels is read, scaled and activated once into a ring of `kernel` rows, which stays in the processor's first cache;
 * all of it in float32, with the short silu if the result has 16 bits. Pixels lie far apart, so that a processor does not
 * see which come next: those of the next row are fetched along with each.
 */

#include "vectors.h"

#define VECTORS 2
#define CHANNELS (LANES * VECTORS) /* at a time: with nine weights each they fill the registers */
#define MOST 15                    /* height and width of a kernel */

struct depthwise {
    struct array x, out;
    struct addend add;
    const float *scale;  /* [batch][channels rounded up to CHANNELS], or null */
    const float *weight; /* [channels / CHANNELS, rounded up][kernel * kernel][CHANNELS], filled up with zeros */
    int32_t activate, after, kernel; /* scale `after` act? kernel: odd, at most MOST */
    int64_t batch, height, width, channels;
};
SHARED(depthwise);
const int64_t unitgain_block = CHANNELS;

/* Some channels of one image. */
struct part {
    const char *x, *main;
    char *out;
    int64_t channels; /* up to CHANNELS */
    vector before[VECTORS], after[VECTORS]; /* factors, of which one is 1 */
    const float *weight;
};

/* One row of pixels into the ring; `ahead`: bytes to the next row. */
static inline __attribute__((always_inline)) void take_pixels(const struct depthwise *of, const struct part *part,
                                                              const char *from, int64_t ahead, float *to,
                                                              const int type, const int64_t channels) {
    const int64_t width = of->width, step = of->channels * ITEM(type);
    const int activate = of->activate, out_type = of->out.type;
    vector before[VECTORS], after[VECTORS];
    for (int v = 0; v < VECTORS; v++) before[v] = part->before[v], after[v] = part->after[v];
    for (int64_t x = 0; x < width; x++, from += step, to += CHANNELS) {
        __builtin_prefetch(from + ahead);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            vector value = {0};
            if (channels > v * LANES)
                value = load_some(from + v * LANES * ITEM(type), channels - v * LANES, type) * before[v];
            if (activate) value = activated(value, out_type) * after[v];
            *(vector *)(to + v * LANES) = value;
        }
    }
}

/* Some channels of a row of the result from `kernel` rows of the ring; `main`: what is added, or null, of half the width
 * if `half`; `ahead`: bytes to the next row. */
static inline __attribute__((always_inline)) void put_pixels(const struct depthwise *of, const struct part *part,
                                                             const float *const *rows, char *to, int64_t ahead,
                                                             const char *main, const int kernel, const int type,
                                                             const int64_t channels) {
    const int64_t width = of->width, step = of->channels * ITEM(type), behind = of->channels * ITEM(of->add.main.type);
    const int half = of->add.main.halved, main_type = of->add.main.type;
    const float share = of->add.share, limit = of->add.limit;
    const float *const weight = part->weight;
    vector held[9][VECTORS]; /* in registers: memory that is written might be that of the weights, to a compiler */
    for (int i = 0; i < 9 && kernel == 3; i++)
        for (int v = 0; v < VECTORS; v++) held[i][v] = *(const vector *)(weight + i * CHANNELS + v * LANES);
    for (int64_t x = 0; x < width; x++, to += step) {
        vector sums[VECTORS] = {{0}};
#pragma GCC unroll 3
        for (int i = 0; i < kernel; i++)
#pragma GCC unroll 3
            for (int j = 0; j < kernel; j++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++) {
                    const vector value = *(const vector *)(rows[i] + (x + j) * CHANNELS + v * LANES);
                    if (kernel == 3)
                        sums[v] += held[i * 3 + j][v] * value;
                    else
                        sums[v] += *(const vector *)(weight + (i * kernel + j) * CHANNELS + v * LANES) * value;
                }
        __builtin_prefetch(to + ahead, 1);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            if (channels <= v * LANES) break;
            if (main) {
                const char *const other = main + (x >> half) * behind + v * LANES * ITEM(main_type);
                sums[v] = bounded(sums[v] + load_some(other, channels - v * LANES, main_type) * share, limit);
            }
            store_some(to + v * LANES * ITEM(type), sums[v], channels - v * LANES, type);
        }
    }
}

/* A function compiled for a type of images and for CHANNELS channels; it takes both last. */
#define FOR_EACH_TYPE(kind, function, ...)                                                                             \
    do {                                                                                                               \
        if (part->channels < CHANNELS) function(__VA_ARGS__, kind, part->channels);                                    \
        else if ((kind) == FLOAT32) function(__VA_ARGS__, FLOAT32, CHANNELS);                                          \
        else if ((kind) == FLOAT16) function(__VA_ARGS__, FLOAT16, CHANNELS);                                          \
        else function(__VA_ARGS__, BFLOAT16, CHANNELS);                                                                \
    } while (0)

static void take_row(const struct depthwise *of, const struct part *part, int64_t y, float *to) {
    const int64_t row = of->width * of->channels * ITEM(of->x.type);
    FOR_EACH_TYPE(of->x.type, take_pixels, of, part, part->x + y * row, y + 1 < of->height ? row : 0, to);
}

static void put_row(const struct depthwise *of, const struct part *part, int64_t y, const float *const *rows) {
    const int half = of->add.main.halved;
    const int64_t row = of->width * of->channels * ITEM(of->out.type), ahead = y + 1 < of->height ? row : 0;
    const int64_t behind = (of->width >> half) * of->channels * ITEM(of->add.main.type);
    const char *const main = part->main ? part->main + (y >> half) * behind : 0;
    char *const to = part->out + y * row;
    if (of->kernel == 3)
        FOR_EACH_TYPE(of->out.type, put_pixels, of, part, rows, to, ahead, main, 3);
    else
        FOR_EACH_TYPE(of->out.type, put_pixels, of, part, rows, to, ahead, main, of->kernel);
}

/* Rows first ... last - 1 of the result. */
static void convolve(const struct depthwise *of, const struct part *part, int64_t first, int64_t last, float *ring) {
    const int kernel = of->kernel, pad = kernel / 2;
    const int64_t row = (of->width + 2 * pad) * CHANNELS;
    memset(ring, 0, kernel * row * 4);
    for (int64_t y = first - pad; y < last + pad; y++) {
        float *const slot = ring + (y + kernel) % kernel * row;
        if (y >= 0 && y < of->height)
            take_row(of, part, y, slot + pad * CHANNELS);
        else
            memset(slot, 0, row * 4);
        const int64_t target = y - pad;
        if (target < first) continue;
        const float *rows[MOST];
        for (int i = 0; i < kernel; i++) rows[i] = ring + (target - pad + i + kernel) % kernel * row;
        put_row(of, part, target, rows);
    }
}

static struct part part_of(const struct depthwise *of, int64_t image, int64_t block) {
    const int64_t blocks = (of->channels + CHANNELS - 1) / CHANNELS, pixels = of->height * of->width;
    const int64_t left = of->channels - block * CHANNELS, first = image * pixels * of->channels + block * CHANNELS;
    const int64_t behind = image * (pixels >> 2 * of->add.main.halved) * of->channels + block * CHANNELS;
    struct part part = {.x = of->x.at + first * ITEM(of->x.type),
                        .out = of->out.at + first * ITEM(of->out.type),
                        .main = of->add.main.at ? of->add.main.at + behind * ITEM(of->add.main.type) : 0,
                        .channels = least(left, CHANNELS),
                        .weight = of->weight + block * of->kernel * of->kernel * CHANNELS};
    for (int v = 0; v < VECTORS; v++) {
        part.before[v] = part.after[v] = (vector){0} + 1.0f;
        if (!of->scale) continue;
        const vector scale = *(const vector *)(of->scale + (image * blocks + block) * CHANNELS + v * LANES);
        if (of->activate && of->after) part.after[v] = scale;
        else part.before[v] = scale;
    }
    return part;
}

/* Returns 0, or 1 if there was no memory for it. */
int32_t unitgain_depthwise(const struct depthwise *of) {
    const int64_t blocks = (of->channels + CHANNELS - 1) / CHANNELS, each = of->batch * blocks;
    const int64_t threads = thread_count();
    int failed = 0;
    /* Rows are shared out only where images and channels are too few for all threads: neighbours read rows twice. */
    int64_t parts = (3 * threads + each - 1) / each;
    if (threads == 1) parts = 1;
    if (parts > (of->height + 7) / 8) parts = (of->height + 7) / 8;
    const int64_t tasks = each * parts;
#pragma omp parallel if (tasks > 1)
    {
        float *const ring = aligned_alloc(64, (of->kernel * (of->width + of->kernel) * CHANNELS * 4 + 63) / 64 * 64);
        if (!ring) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            if (!ring) continue;
            const int64_t which = task % parts;
            const struct part part = part_of(of, task / parts / blocks, task / parts % blocks);
            convolve(of, &part, of->height * which / parts, of->height * (which + 1) / parts, ring);
        }
        free(ring);
    }
    return failed;
}

/* Adds to the gradients of `down` rows of weights what a row of gradients of outputs, in float32, gives. */
static inline __attribute__((always_inline)) void add_taps(int64_t width, const float *const *rows, const float *gradient,
                                                           float *sums, const int down, const int across) {
    vector held[MOST][VECTORS]; /* in registers, if there are nine */
    for (int k = 0; k < down * across; k++)
        for (int v = 0; v < VECTORS; v++) held[k][v] = *(const vector *)(sums + k * CHANNELS + v * LANES);
    for (int64_t x = 0; x < width; x++)
#pragma GCC unroll 3
        for (int i = 0; i < down; i++)
#pragma GCC unroll 3
            for (int j = 0; j < across; j++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++) {
                    const vector input = *(const vector *)(rows[i] + (x + j) * CHANNELS + v * LANES);
                    held[i * across + j][v] += *(const vector *)(gradient + x * CHANNELS + v * LANES) * input;
                }
    for (int k = 0; k < down * across; k++)
        for (int v = 0; v < VECTORS; v++) *(vector *)(sums + k * CHANNELS + v * LANES) = held[k][v];
}

/* The gradients of the weights that one image has, from `part` of it and that of the gradient of the output. */
static void add_image(const struct depthwise *of, const struct part *part, const struct part *gradient, float *ring,
                      float *sums) {
    const int kernel = of->kernel, pad = kernel / 2;
    const int64_t row = (of->width + 2 * pad) * CHANNELS;
    float *const own = ring + kernel * row; /* a row of the gradient */
    memset(ring, 0, kernel * row * 4);
    memset(sums, 0, kernel * kernel * CHANNELS * 4);
    for (int64_t y = -pad; y < of->height + pad; y++) {
        float *const slot = ring + (y + kernel) % kernel * row;
        if (y >= 0 && y < of->height) take_row(of, part, y, slot + pad * CHANNELS);
        else memset(slot, 0, row * 4);
        const int64_t target = y - pad;
        if (target < 0) continue;
        const float *rows[MOST];
        for (int i = 0; i < kernel; i++) rows[i] = ring + (target - pad + i + kernel) % kernel * row;
        take_row(of, gradient, target, own);
        if (kernel == 3) add_taps(of->width, rows, own, sums, 3, 3);
        for (int i = 0; i < kernel && kernel != 3; i++)
            add_taps(of->width, rows + i, own, sums + i * kernel * CHANNELS, 1, kernel);
    }
}

/* Gradients of the weights, [batch][channels / CHANNELS, rounded up][kernel * kernel][CHANNELS], where `out` is the
 * gradient of the output, of the type of x. Returns 0, or 1 if there was no memory for it. */
int32_t unitgain_depthwise_gradient(const struct depthwise *of, float *sums) {
    const int64_t blocks = (of->channels + CHANNELS - 1) / CHANNELS, tasks = of->batch * blocks;
    int failed = 0;
#pragma omp parallel if (tasks > 1)
    {
        float *const ring =
            aligned_alloc(64, rounded_up(((of->kernel + 1) * (of->width + of->kernel)) * CHANNELS * 4, 64));
        if (!ring) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            if (!ring) continue;
            const struct part part = part_of(of, task / blocks, task % blocks);
            struct part gradient = part;
            gradient.x = part.out;
            add_image(of, &part, &gradient, ring, sums + task * of->kernel * of->kernel * CHANNELS);
        }
        free(ring);
    }
    return failed;
}
