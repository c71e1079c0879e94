/* 3x3 convolution of channels-last images by Winograd's minimal filtering: out = act(scale * conv(x)), or
 * clamp(conv(x) + share * main).
 *
 * Tiles of m x m outputs are made from (m + 2) x (m + 2) inputs by polynomials evaluated at points: both inputs and
 * weights are transformed, multiplied at each of the (m + 2)^2 positions, and transformed back, in 4 / 9 (m = 2) or
 * 1 / 4 (m = 4) of the multiplications of the definition. Points for m = 2: 0, 1, -1, infinity; for m = 4: 0,
 * +-sqrt(1/2), +-sqrt(2), infinity, where the usual 0, +-1, +-2 lose twice as much precision.
 *
 * The products at a position are those of matrices, [tiles, in] and [in, out], of float32 or of 16-bit integers that are
 * summed in 32 bits. For the latter, each row of the one and column of the other is scaled to a norm of at most
 * 2^15 - 1, so that by Cauchy and Schwarz no sum exceeds 2^30, in whatever order it is made. Before that, inputs are
 * multiplied by what the weights of their channel are divided by, their norm.
 */

#include "filtering.h"
#include "products.h"

#include <math.h>

#define TILES 24            /* at a time at least, if there are as many: weights are read once for all */
#define AT_ONCE 32          /* at a time where a thread then has FEW turns: their rows leave the cache, */
#define FEW 4               /* but weights, which no turn finds there, are read less often */
#define ROOM (1 << 19)      /* bytes that the rows of tiles may fill of it, */
#define RESULTS (1 << 18)   /* and their products */
#define NORM 32700.0f       /* of rows and columns; rounding adds sqrt(in) / 2 at most: 64 for 16384 */

#if LANES == 16 && defined(__AVX512VNNI__)
#define INTEGERS 1
static inline integers dot(integers sum, integers a, integers b) {
    return (integers)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}
#elif LANES == 8 && defined(__AVXVNNI__)
#define INTEGERS 1
static inline integers dot(integers sum, integers a, integers b) {
    return (integers)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
}
#else
#define INTEGERS 0
static inline integers dot(integers sum, integers a, integers b) { return sum + a * b; } /* never called */
#endif

/* A function compiled for the kind of a layer; its last arguments are m and whether products are of integers. */
#define FOR_EACH_KIND(layer, function, ...)                                                                            \
    do {                                                                                                               \
        if ((layer)->tile == 2 && (layer)->integer) function(__VA_ARGS__, 2, 1);                                       \
        else if ((layer)->tile == 2) function(__VA_ARGS__, 2, 0);                                                      \
        else if ((layer)->integer) function(__VA_ARGS__, 4, 1);                                                        \
        else function(__VA_ARGS__, 4, 0);                                                                              \
    } while (0)

static inline vector multiply_add(vector sum, vector a, vector b) { return sum + a * b; }

/* Weights of a layer, packed: for each block of outputs, position and step: BLOCK outputs of one input (float32), or of
 * two inputs side by side (integers). */
struct layer {
    int64_t in, out; /* channels */
    int32_t tile;    /* m: 2 or 4 */
    int32_t integer; /* whether products are those of integers */
    char *weights;
    float *scales;   /* integers: [position][out rounded up], what undoes the scaling of weights */
    float *loudness; /* integers: [in], norm of the weights of a channel, which its inputs are multiplied with */
};

static int64_t positions(const struct layer *layer) { return (layer->tile + 2) * (layer->tile + 2); }
static int64_t inputs(const struct layer *layer) { return rounded_up(layer->in, LANES); }
static int64_t steps(const struct layer *layer) { return inputs(layer) / (layer->integer ? 2 : 1); }
static int64_t blocks(const struct layer *layer) { return (layer->out + BLOCK - 1) / BLOCK; }

int64_t unitgain_winograd_weights(const struct layer *layer) {
    return positions(layer) * blocks(layer) * steps(layer) * BLOCK * 4;
}

static inline __attribute__((always_inline)) void transform_weights(const float *weight, int64_t step, vector *v, int m) {
    vector w[9], t[18];
    for (int i = 0; i < 9; i++) w[i] = *(const vector *)(weight + i * step);
    for (int i = 0; i < 3; i++) from_weights(w + 3 * i, t + (m + 2) * i, 1, 1, m);
    for (int j = 0; j < m + 2; j++) from_weights(t + j, v + j, m + 2, m + 2, m);
}

/* To the nearest integer, as the low half of a word. */
static inline words nearest(vector value) { return (words)(value + 12582912.0f); }

/* One tile into row `tile` of the matrices [position][tile][step]; integers: `inverse` [position][tile] is what undoes
 * their scaling, and `values` has room for [position][in]. The pixels `ahead` are fetched on the way, and where the next
 * row goes: both have left the caches for weights. */
static inline __attribute__((always_inline)) void take_tile(const char *const *pixels, const char *const *ahead,
                                                            const struct layer *layer, int m, int integer, int type,
                                                            char *rows, int64_t stride,
                                                            float *inverse, int64_t tiles, float *values) {
    const int places = (m + 2) * (m + 2);
    const int64_t padded = inputs(layer), full = layer->in / LANES * LANES, distance = integer ? padded : stride / 4;
    float *const to = integer ? values : (float *)rows;
    vector loudness = {0};
    for (int64_t channel = 0; channel < full; channel += LANES) {
        if (integer) loudness = *(const vector *)(layer->loudness + channel);
        if (channel * ITEM(type) % 64 == 0)
            for (int i = 0; i < places; i++) __builtin_prefetch(ahead[i] + channel * ITEM(type), 0, 2);
        take_lanes(pixels, channel, LANES, loudness, m, integer, type, to + channel, distance);
    }
    if (full < padded) {
        if (integer) loudness = load_some((const char *)(layer->loudness + full), layer->in - full, FLOAT32);
        take_lanes(pixels, full, layer->in - full, loudness, m, integer, type, to + full, distance);
    }
    if (!integer) return;
    float norms[POSITIONS], scales[POSITIONS];
    for (int i = 0; i < places; i++) {
        const float *const row = values + i * padded;
        vector squares[2] = {{0}};
        for (int64_t channel = 0; channel < padded; channel += LANES) {
            const vector value = *(const vector *)(row + channel);
            squares[channel / LANES % 2] += value * value;
        }
        norms[i] = total(squares[0] + squares[1]);
    }
    for (int i = 0; i < places; i++) {
        norms[i] = sqrtf(norms[i]);
        scales[i] = norms[i] > 0 ? NORM / norms[i] : norms[i];
    }
    for (int i = 0; i < places; i++) {
        inverse[i * tiles] = norms[i] / NORM;
        for (int64_t byte = 0; byte < padded * 2; byte += 64) __builtin_prefetch(rows + i * stride + padded * 2 + byte, 1, 2);
        for (int64_t channel = 0; channel < padded; channel += LANES)
            narrowed(rows + i * stride + channel * 2, nearest(*(const vector *)(values + i * padded + channel) * scales[i]));
    }
}

/* Products [rows][BLOCK] of `rows` tiles, `stride` bytes apart, and packed weights; on the way `lines` cache lines a step
 * are fetched from `ahead`, which are the weights that come next: they lie in main memory. */
#define MULTIPLY(name, type, scalar, step)                                                                            \
    static inline __attribute__((always_inline)) void name##_rows(const char *a, int64_t stride, const char *b,       \
                                                                  int64_t count, char *to, const char *ahead,         \
                                                                  int64_t lines, const int rows) {                    \
        type sums[ROWS][VECTORS] = {{{0}}};                                                                           \
        for (int64_t k = 0; k < count; k++, b += BLOCK * 4) {                                                         \
            for (int64_t line = 0; line < lines; line++, ahead += 64) __builtin_prefetch(ahead, 0, 2);                \
            _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {                                                  \
                const type value = (type){0} + *(const scalar *)(a + r * stride + k * 4);                             \
                _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++) sums[r][v] =                                \
                    step(sums[r][v], value, *(const type *)(b + v * LANES * 4));                                      \
            }                                                                                                         \
        }                                                                                                             \
        for (int r = 0; r < rows; r++)                                                                                \
            for (int v = 0; v < VECTORS; v++) *(type *)(to + (r * BLOCK + v * LANES) * 4) = sums[r][v];               \
    }                                                                                                                 \
    static void name(const char *a, int64_t stride, const char *b, int64_t count, char *to, const char *ahead,        \
                     int64_t lines, int64_t rows) {                                                                   \
        switch (rows) {                                                                                               \
        case 1: name##_rows(a, stride, b, count, to, ahead, lines, 1); break;                                         \
        case 2: name##_rows(a, stride, b, count, to, ahead, lines, 2); break;                                         \
        case 3: name##_rows(a, stride, b, count, to, ahead, lines, 3); break;                                         \
        case 4: name##_rows(a, stride, b, count, to, ahead, lines, 4); break;                                         \
        case 5: name##_rows(a, stride, b, count, to, ahead, lines, 5); break;                                         \
        default: name##_rows(a, stride, b, count, to, ahead, lines, 6);                                               \
        }                                                                                                             \
    }

MULTIPLY(multiply, vector, float, multiply_add)
MULTIPLY(multiply_integers, integers, int32_t, dot)

/* Images, and what becomes of sums: act(scale * sum), and then clamp(. + share * main). */
struct images {
    struct array x, out;
    struct addend add;
    const float *scale; /* [image][out rounded up to BLOCK], or null */
    int32_t activate;
    int64_t batch, height, width; /* of the output */
};
SHARED(layer);
SHARED(images);
const int64_t unitgain_block = BLOCK, unitgain_integers = INTEGERS;

/* Outputs of one tile and LANES channels, of which there are `some`, from their products, [position][tiles][BLOCK]; the
 * images begin at these channels. */
static inline __attribute__((always_inline)) void put_lanes(const char *products, int64_t stride, const float *inverse,
                                                            int64_t tiles, const float *scales, int64_t padded, int m,
                                                            int integer, vector scale, const struct images *images,
                                                            const struct image *out, const struct image *main,
                                                            int64_t top, int64_t left, int64_t some) {
    const int n = m + 2;
    vector s[24], y[16];
#pragma GCC unroll 6
    for (int i = 0; i < n; i++) {
        vector p[6];
#pragma GCC unroll 6
        for (int j = 0; j < n; j++) {
            const int at = i * n + j;
            if (integer) {
                const integers sum = *(const integers *)(products + at * stride);
                p[j] = __builtin_convertvector(sum, vector) * (inverse[at * tiles] * *(const vector *)(scales + at * padded));
            } else
                p[j] = *(const vector *)(products + at * stride);
        }
        to_outputs(p, s + i * m, 1, 1, m);
    }
#pragma GCC unroll 4
    for (int j = 0; j < m; j++) to_outputs(s + j, y + j, m, m, m);
    for (int i = 0; i < m && top + i < out->height; i++)
        for (int j = 0; j < m && left + j < out->width; j++) {
            vector value = y[i * m + j] * scale;
            if (images->activate) value = activated(value, out->array.type);
            if (main->array.at) {
                value += load_some(pixel_at(main, top + i, left + j), some, main->array.type) * images->add.share;
                value = bounded(value, images->add.limit);
            }
            store_some(pixel_at(out, top + i, left + j), value, some, out->array.type);
        }
}

/* The same for a block of outputs from `first` on. */
static inline __attribute__((always_inline)) void put_tile(const char *products, int64_t stride, const float *inverse,
                                                           int64_t tiles, const struct layer *layer, int m, int integer,
                                                           const float *scale, const struct images *images,
                                                           const struct image *out, const struct image *main,
                                                           int64_t top, int64_t left, int64_t first) {
    const int64_t wide = blocks(layer) * BLOCK;
    for (int v = 0; v < VECTORS; v++) {
        const int64_t channel = first + v * LANES, some = layer->out - channel;
        if (some <= 0) break;
        struct image to = *out, other = *main;
        to.array.at += channel * ITEM(out->array.type);
        if (main->array.at) other.array.at += channel * ITEM(main->array.type);
        vector factor = (vector){0} + 1.0f;
        if (scale) factor = *(const vector *)(scale + channel);
        const char *const from = products + v * LANES * 4;
        if (some >= LANES)
            put_lanes(from, stride, inverse, tiles, layer->scales + channel, wide, m, integer, factor, images, &to, &other,
                      top, left, LANES);
        else
            put_lanes(from, stride, inverse, tiles, layer->scales + channel, wide, m, integer, factor, images, &to, &other,
                      top, left, some);
    }
}

/* How a convolution is shared out. Apart: every thread has panels of tiles of its own. Else there are fewer panels than
 * threads, which take all tiles in together and then share out panels and blocks of outputs. */
struct plan {
    int64_t threads, across, down, tiles, panels, most; /* tiles: of all images; most: of a panel */
    int apart;
    int64_t products, values, rows, inverse; /* bytes: the first two per thread */
};

static struct plan planned(const struct layer *layer, int64_t batch, int64_t height, int64_t width) {
    struct plan plan = {.threads = thread_count()};
    plan.across = (width + layer->tile - 1) / layer->tile;
    plan.down = (height + layer->tile - 1) / layer->tile;
    plan.tiles = batch * plan.across * plan.down;
    int64_t most = least(ROOM / (positions(layer) * steps(layer) * 4), RESULTS / (positions(layer) * BLOCK * 4));
    if (most < TILES) most = TILES;
    if (plan.tiles <= plan.threads * AT_ONCE * FEW && most < AT_ONCE) most = AT_ONCE;
    plan.panels = (plan.tiles + most - 1) / most;
    if (plan.panels >= plan.threads)
        plan.panels = least(rounded_up(plan.panels, plan.threads), plan.tiles);
    else /* as many as give every thread a block, of some tiles each */
        while (plan.panels * blocks(layer) < plan.threads && plan.tiles >= 4 * (plan.panels + 1)) plan.panels++;
    plan.apart = plan.panels >= plan.threads;
    plan.most = (plan.tiles + plan.panels - 1) / plan.panels;
    plan.products = positions(layer) * plan.most * BLOCK * 4;
    plan.values = layer->integer ? rounded_up(positions(layer) * inputs(layer) * 4, 64) : 0;
    const int64_t held = plan.apart ? plan.threads * plan.most : plan.tiles;
    plan.rows = rounded_up(positions(layer) * held * steps(layer) * 4, 64);
    plan.inverse = rounded_up(positions(layer) * held * 4, 64);
    return plan;
}

/* Where a tile lies: its image, and its row and column among the tiles of that. */
struct spot {
    int64_t image, y, x;
};

static inline struct spot found_at(const struct plan *plan, int64_t tile) {
    return (struct spot){tile / (plan->across * plan->down), tile / plan->across % plan->down, tile % plan->across};
}

static inline void advance(const struct plan *plan, struct spot *spot) {
    if (++spot->x < plan->across) return;
    spot->x = 0;
    if (++spot->y < plan->down) return;
    spot->y = 0;
    spot->image++;
}

int64_t unitgain_winograd_scratch(const struct layer *layer, int64_t batch, int64_t height, int64_t width) {
    const struct plan plan = planned(layer, batch, height, width);
    return plan.threads * (plan.products + plan.values) + plan.rows + plan.inverse;
}

/* What the weights of a channel are multiplied with, as its inputs are with `loudness`: a row of products is scaled as a
 * whole, so channels should be as loud in it as they are heard. */
static inline float quieter(const struct layer *layer, int64_t channel) {
    return layer->loudness[channel] > 0 ? 1 / layer->loudness[channel] : 0.0f;
}

static void set_loudness(const struct layer *layer, const float *weight, int64_t channel) {
    float squares[9] = {0}, sum = 0;
    for (int64_t o = 0; o < layer->out; o++)
        for (int i = 0; i < 9; i++) {
            const float value = weight[(o * layer->in + channel) * 9 + i];
            squares[i] += value * value;
        }
    for (int i = 0; i < 9; i++) sum += squares[i];
    layer->loudness[channel] = sqrtf(sum);
}

/* Weights of LANES outputs and one input, [9][LANES], transformed, or zeros if there is no such input. */
static inline __attribute__((always_inline)) void transformed(const struct layer *layer, const float *own, int64_t channel,
                                                              vector *v, int m) {
    if (channel < layer->in)
        transform_weights(own + channel * 9 * LANES, LANES, v, m);
    else
        for (int i = 0; i < POSITIONS; i++) v[i] = (vector){0};
}

/* LANES outputs from `first` on; `own` has room for [in][9][LANES]. */
static inline __attribute__((always_inline)) void pack_some(const struct layer *layer, const float *weight, int64_t first,
                                                            float *own, int m, int integer) {
    const int places = (m + 2) * (m + 2);
    const int64_t in = layer->in, outputs = least(LANES, layer->out - first);
    vector v[POSITIONS], odd[POSITIONS], scale[POSITIONS];
    for (int64_t i = 0; i < in * 9; i++) {
        for (int64_t o = 0; o < LANES; o++) own[i * LANES + o] = o < outputs ? weight[(first + o) * in * 9 + i] : 0.0f;
        if (integer) *(vector *)(own + i * LANES) *= quieter(layer, i / 9);
    }
    if (integer) {
        for (int i = 0; i < places; i++) scale[i] = (vector){0};
        for (int64_t channel = 0; channel < in; channel++) {
            transformed(layer, own, channel, v, m);
            for (int i = 0; i < places; i++) scale[i] += v[i] * v[i];
        }
        for (int i = 0; i < places; i++)
            for (int64_t o = 0; o < LANES; o++) {
                const float norm = sqrtf(scale[i][o]);
                scale[i][o] = norm > 0 ? NORM / norm : norm;
                layer->scales[i * blocks(layer) * BLOCK + first + o] = norm / NORM;
            }
    }
    char *const to = layer->weights + first / BLOCK * places * steps(layer) * BLOCK * 4 + first % BLOCK * 4;
    for (int64_t step = 0; step < steps(layer); step++) {
        transformed(layer, own, integer ? 2 * step : step, v, m);
        if (integer) transformed(layer, own, 2 * step + 1, odd, m);
        for (int i = 0; i < places; i++) {
            char *const place = to + (i * steps(layer) + step) * BLOCK * 4;
            if (integer)
                *(words *)place = (nearest(v[i] * scale[i]) & 0xffff) | nearest(odd[i] * scale[i]) << 16;
            else
                *(vector *)place = v[i];
        }
    }
}

/* weight: [out][in][3][3]. Returns 0, or 1 if there was no memory for it. */
int32_t unitgain_winograd_pack(const struct layer *layer, const float *weight) {
    int failed = 0;
#pragma omp parallel
    {
        float *const own = malloc(layer->in * 9 * LANES * 4);
        if (!own) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t channel = 0; channel < (layer->integer ? layer->in : 0); channel++)
            set_loudness(layer, weight, channel);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < blocks(layer) * BLOCK; first += LANES) {
            if (own) FOR_EACH_KIND(layer, pack_some, layer, weight, first, own);
        }
        free(own);
    }
    return failed;
}

static inline struct image image_of(struct array array, int64_t which, int64_t channels, const struct images *images) {
    const int64_t pixels = (images->height >> array.halved) * (images->width >> array.halved);
    if (array.at) array.at += which * pixels * channels * ITEM(array.type);
    return (struct image){array, images->height, images->width, channels};
}

/* Where the pixels of one of all tiles lie. */
static inline void find_tile(const struct plan *plan, const struct layer *layer, const struct images *images, int64_t tile,
                             const char **pixels) {
    const struct spot spot = found_at(plan, tile);
    const struct image image = image_of(images->x, spot.image, layer->in, images);
    find_pixels(&image, spot.y * layer->tile, spot.x * layer->tile, layer->tile + 2, pixels);
}

/* The tiles `first` to `last` - 1 into rows. */
static inline __attribute__((always_inline)) void take(const struct plan *plan, const struct layer *layer,
                                                       const struct images *images, int64_t first, int64_t last,
                                                       char *rows, int64_t stride, float *inverse, int64_t held,
                                                       float *values, int m, int integer) {
    const char *found[2][POSITIONS];
    if (first < last) find_tile(plan, layer, images, first, found[first % 2]);
    for (int64_t tile = first; tile < last; tile++, rows += steps(layer) * 4, inverse++) {
        const char **const pixels = found[tile % 2], **const ahead = found[(tile + 1) % 2];
        find_tile(plan, layer, images, least(tile + 1, last - 1), ahead);
        switch (images->x.type) {
        case FLOAT32: take_tile(pixels, ahead, layer, m, integer, FLOAT32, rows, stride, inverse, held, values); break;
        case FLOAT16: take_tile(pixels, ahead, layer, m, integer, FLOAT16, rows, stride, inverse, held, values); break;
        default: take_tile(pixels, ahead, layer, m, integer, BFLOAT16, rows, stride, inverse, held, values);
        }
    }
}

/* One block of outputs of the tiles `from` to `to` - 1, whose rows and scaling begin at `rows` and `inverse`. */
static inline __attribute__((always_inline)) void make_block(const struct plan *plan, const struct layer *layer,
                                                             const struct images *images, int64_t from, int64_t to,
                                                             int64_t block, const char *rows, const float *inverse,
                                                             int64_t held, char *products, int m, int integer) {
    const int64_t places = (m + 2) * (m + 2), wide = blocks(layer) * BLOCK;
    const int64_t count = steps(layer), row = count * 4, stride = (to - from) * BLOCK * 4;
    const int64_t groups = (to - from + ROWS - 1) / ROWS, lines = (LINES + groups - 1) / groups;
    for (int64_t place = 0; place < places; place++) {
        const char *const weights = layer->weights + (block * places + place) * count * BLOCK * 4;
        const char *const a = rows + place * held * row;
        const char *ahead = weights + count * BLOCK * 4;
        for (int64_t tile = 0; tile < to - from; tile += ROWS, ahead += count * lines * 64) {
            char *const result = products + place * stride + tile * BLOCK * 4;
            const int64_t now = tile / ROWS * lines < LINES ? lines : 0, some = least(ROWS, to - from - tile);
            if (integer)
                multiply_integers(a + tile * row, row, weights, count, result, ahead, now, some);
            else
                multiply(a + tile * row, row, weights, count, result, ahead, now, some);
        }
    }
    struct spot spot = found_at(plan, from);
    for (int64_t tile = 0; tile < to - from; tile++, advance(plan, &spot)) {
        const struct image out = image_of(images->out, spot.image, layer->out, images);
        const struct image main = image_of(images->add.main, spot.image, layer->out, images);
        put_tile(products + tile * BLOCK * 4, stride, inverse + tile, held, layer, m, integer,
                 images->scale ? images->scale + spot.image * wide : 0, images, &out, &main, spot.y * m, spot.x * m,
                 block * BLOCK);
    }
}

static inline __attribute__((always_inline)) void convolve(const struct layer *layer, const struct images *images,
                                                           char *scratch, int m, int integer) {
    const struct plan plan = planned(layer, images->batch, images->height, images->width);
    const int64_t row = steps(layer) * 4;
    char *const all_rows = scratch + plan.threads * (plan.products + plan.values);
    float *const all_inverse = (float *)(all_rows + plan.rows);
#pragma omp parallel num_threads(plan.threads)
    {
        int64_t thread = 0, team = 1;
#ifdef _OPENMP
        thread = omp_get_thread_num();
        team = omp_get_num_threads();
#endif
        char *const products = scratch + thread * (plan.products + plan.values);
        float *const values = (float *)(products + plan.products);
        if (plan.apart) {
            const int64_t held = plan.most;
            char *const rows = all_rows + thread * held * positions(layer) * row;
            float *const inverse = all_inverse + thread * held * positions(layer);
#pragma omp for schedule(dynamic)
            for (int64_t panel = 0; panel < plan.panels; panel++) {
                const int64_t from = plan.tiles * panel / plan.panels, to = plan.tiles * (panel + 1) / plan.panels;
                take(&plan, layer, images, from, to, rows, held * row, inverse, held, values, m, integer);
                for (int64_t block = 0; block < blocks(layer); block++)
                    make_block(&plan, layer, images, from, to, block, rows, inverse, held, products, m, integer);
            }
        }
        if (!plan.apart) {
            const int64_t held = plan.tiles, mine = plan.tiles * thread / team, end = plan.tiles * (thread + 1) / team;
            take(&plan, layer, images, mine, end, all_rows + mine * row, held * row, all_inverse + mine, held, values, m,
                 integer);
#pragma omp barrier
#pragma omp for schedule(static)
            for (int64_t task = 0; task < plan.panels * blocks(layer); task++) {
                const int64_t panel = task / blocks(layer), block = task % blocks(layer);
                const int64_t from = plan.tiles * panel / plan.panels, to = plan.tiles * (panel + 1) / plan.panels;
                make_block(&plan, layer, images, from, to, block, all_rows + from * row, all_inverse + from, held,
                           products, m, integer);
            }
        }
    }
}

/* x: [batch][height][width][in]; out: the same with out channels, as main; scratch: see above. */
void unitgain_winograd(const struct layer *layer, const struct images *images, char *scratch) {
    FOR_EACH_KIND(layer, convolve, layer, images, scratch);
}
