/* Cosine attention over pixels: queries, keys and values divided by their magnitudes, then softmax(q k^T / sqrt(size)) v.
 *
 * Libraries make passes over memory for the norms, and copies for heads to lie together. Here the keys and values of a
 * head are normalized into panels that stay in the processor's second cache, and a few queries at a time are taken
 * through both products, with rows of sums in registers.
 *
 * All of it is in float32, but for factors of products where images are of bfloat16 and the processor multiplies pairs
 * of those (AVX-512 BF16): these are then rounded to bfloat16, and two steps of a sum are made at a time.
 *
 * No maximum is subtracted before the exponential. Queries and keys have norms of at most sqrt(size), so by Cauchy and
 * Schwarz logits are at most sqrt(size) in magnitude: for sizes up to 2048 exponentials lie within 2^-66 and 2^66.
 */

#include "products.h"

#include <math.h>

#define GROUPS 4       /* of queries that a thread takes */
#define TOGETHER 16    /* tokens, whose roots and inverses a processor computes one beside the other */
#define SIZE 2048      /* of a head, at most */
#define ROOM (1 << 22) /* bytes that the panels of several images may fill */

struct attention {
    const char *x; /* [batch][tokens][3][heads][size]: queries, keys, values */
    char *out;     /* [batch][tokens][heads][size] */
    int32_t type;  /* of both: FLOAT32 or BFLOAT16 */
    float eps;     /* added to magnitudes */
    int64_t batch, tokens, heads, size;
};

static int in_pairs(const struct attention *of) { return PAIRS && of->type == BFLOAT16; }

/* Of a product whose sums have `count` terms. */
static int64_t steps(const struct attention *of, int64_t count) { return in_pairs(of) ? (count + 1) / 2 : count; }

/* Words of a head, each a float or a pair of neighbours: keys [tokens / BLOCK][steps of size][BLOCK], then values
 * [size / BLOCK][steps of tokens][BLOCK]; and of a thread: queries [ROWS][size], then weights [ROWS][tokens]. Tokens and
 * sizes are rounded up to blocks but where they are terms of sums. */
static int64_t keys_room(const struct attention *of) {
    return rounded_up(of->tokens, BLOCK) * steps(of, rounded_up(of->size, BLOCK));
}
static int64_t panel_room(const struct attention *of) {
    return keys_room(of) + steps(of, of->tokens) * rounded_up(of->size, BLOCK);
}
static int64_t own_room(const struct attention *of) {
    return ROWS * (rounded_up(of->size, BLOCK) + rounded_up(of->tokens, BLOCK));
}

/* Images at a time: small ones together, for many threads to have enough to do. */
static int64_t images_at_once(const struct attention *of) {
    const int64_t fit = ROOM / (of->heads * panel_room(of) * 4);
    return least(fit > 1 ? fit : 1, of->batch);
}

/* From a token to the next. */
static int64_t token_bytes(const struct attention *of) { return 3 * of->heads * of->size * ITEM(of->type); }

static const char *token_of(const struct attention *of, int64_t image, int64_t token, int64_t part, int64_t head) {
    const int64_t at = (((image * of->tokens + token) * 3 + part) * of->heads + head) * of->size;
    return of->x + at * ITEM(of->type);
}

/* `scale` over the magnitudes of `count` queries, keys or values. */
static inline void find_scales(const struct attention *of, const char *from, int64_t count, float scale, float *to) {
    const int item = ITEM(of->type);
    const float root = 1.0f / sqrtf(of->size);
    for (int64_t t = 0; t < count; t++, from += token_bytes(of)) {
        vector squares = {0};
        for (int64_t c = 0; c < of->size; c += LANES) {
            const vector value = load_some(from + c * item, of->size - c, of->type);
            squares += value * value;
        }
        to[t] = scale / (of->eps + sqrtf(total(squares)) * root);
    }
}

/* The normalized keys and values of a head. What lies beyond the last key, and in the last block of channels beyond
 * `size`, is left as it was: nothing is done with the logits and results that are made of it. */
static inline __attribute__((always_inline)) void pack(const struct attention *of, int64_t image, int64_t head,
                                                       float *keys, float *values, const int pairs) {
    const int item = ITEM(of->type), terms = pairs ? 2 : 1;
    const int64_t deep = steps(of, rounded_up(of->size, BLOCK)), many = steps(of, of->tokens);
    for (int64_t first = 0; first < of->tokens; first += TOGETHER) {
        const int64_t count = least(TOGETHER, of->tokens - first);
        const char *key = token_of(of, image, first, 1, head), *value = token_of(of, image, first, 2, head);
        float key_scales[TOGETHER], value_scales[TOGETHER];
        find_scales(of, key, count, 1.0f, key_scales);
        find_scales(of, value, count, 1.0f, value_scales);
        for (int64_t t = 0; t < count; t++, key += token_bytes(of), value += token_bytes(of)) {
            const int64_t token = first + t;
            float *column = keys + token / BLOCK * deep * BLOCK + token % BLOCK;
            for (int64_t c = 0; c < of->size; c += LANES) {
                const vector k = load_some(key + c * item, of->size - c, of->type) * key_scales[t];
                const vector v = load_some(value + c * item, of->size - c, of->type) * value_scales[t];
                float *const row = values + (c / BLOCK * many + token / terms) * BLOCK + c % BLOCK;
                float terms_of[LANES];
                if (pairs) {
                    const words low = token % 2 ? *(words *)row : (words){0};
                    store((char *)terms_of, k, BFLOAT16); /* neighbours lie side by side */
                    *(words *)row = low | rounded(v) << (token % 2 ? 16 : 0);
                } else {
                    *(vector *)terms_of = k;
                    *(vector *)row = v;
                }
                for (int i = 0; i < LANES / terms; i++) column[(c / terms + i) * BLOCK] = terms_of[i];
            }
        }
    }
}

/* A block of a product: ROWS rows of `a` and of `to`, `stride` and `step` apart, and `count` rows of `b`. */
static inline __attribute__((always_inline)) void multiply(const float *a, int64_t stride, const float *b, int64_t count,
                                                           float *to, int64_t step, const int pairs) {
    vector sums[ROWS][VECTORS] = {{{0}}};
    for (int64_t k = 0; k < count; k++, b += BLOCK) {
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                if (pairs)
                    sums[r][v] = dot_pairs(sums[r][v], *(const pair *)(a + r * stride + k), *(const words *)(b + v * LANES));
                else
                    sums[r][v] += a[r * stride + k] * *(const vector *)(b + v * LANES);
            }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) *(vector *)(to + r * step + v * LANES) = sums[r][v];
}

/* `values` = 2^`values`, the first `count` of `padded`, and zeros after them; in pairs if wanted. Returns their sum. */
static inline __attribute__((always_inline)) float exponentiate(float *values, int64_t count, int64_t padded,
                                                                const int pairs) {
    vector sums[VECTORS] = {{0}};
    integers lane = {0};
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t first = 0; first < padded; first += BLOCK)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            const int64_t at = first + v * LANES;
            vector value = power_of_two(*(const vector *)(values + at));
            if (count - at < LANES) value = either(lane < (int32_t)(count - at), value, (vector){0});
            if (pairs) {
                const words half = rounded(value);
                narrowed((char *)(values + at / 2), half);
                value = (vector)(half << 16); /* weights and their sum are rounded alike */
            } else
                *(vector *)(values + at) = value;
            sums[v] += value;
        }
    for (int v = 1; v < VECTORS; v++) sums[0] += sums[v];
    return total(sums[0]);
}

/* A row of the result, times `scale`. */
static inline void put(const struct attention *of, char *to, const float *values, float scale) {
    const int item = ITEM(of->type);
    for (int64_t c = 0; c < of->size; c += LANES)
        store_some(to + c * item, *(const vector *)(values + c) * scale, of->size - c, of->type);
}

/* Queries `first` ... `first` + ROWS - 1 of a head, as far as there are as many. */
static inline __attribute__((always_inline)) void attend(const struct attention *of, int64_t image, int64_t head,
                                                         int64_t first, const float *keys, const float *values,
                                                         float *queries, const int pairs) {
    const int item = ITEM(of->type);
    const int64_t deep = steps(of, rounded_up(of->size, BLOCK)), many = steps(of, of->tokens);
    const int64_t padded = rounded_up(of->size, BLOCK), width = rounded_up(of->tokens, BLOCK);
    const int64_t rows = least(ROWS, of->tokens - first);
    const float to_powers = 1.44269504088896341f / sqrtf(of->size); /* exp(x) = 2^(x / log 2) */
    float *weights = queries + ROWS * padded, sums[ROWS];
    const char *from = token_of(of, image, first, 0, head);
    float scales[ROWS];
    find_scales(of, from, rows, to_powers, scales);
    for (int64_t r = 0; r < rows; r++, from += token_bytes(of))
        for (int64_t c = 0; c < of->size; c += LANES) {
            const vector query = load_some(from + c * item, of->size - c, of->type) * scales[r];
            if (pairs)
                store((char *)(queries + r * padded + c / 2), query, BFLOAT16);
            else
                *(vector *)(queries + r * padded + c) = query;
        }
    if (rows < ROWS) memset(queries + rows * padded, 0, (ROWS - rows) * padded * 4);
    for (int64_t key = 0; key < width; key += BLOCK)
        multiply(queries, padded, keys + key * deep, steps(of, of->size), weights + key, width, pairs);
    for (int64_t r = 0; r < ROWS; r++) sums[r] = exponentiate(weights + r * width, of->tokens, width, pairs);
    for (int64_t c = 0; c < padded; c += BLOCK)
        multiply(weights, width, values + c * many, many, queries + c, padded, pairs);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = ((image * of->tokens + first + r) * of->heads + head) * of->size;
        put(of, of->out + at * item, queries + r * padded, 1.0f / sums[r]);
    }
}

SHARED(attention);
const int64_t unitgain_size = SIZE;

/* Bytes of scratch memory that a call needs. */
int64_t unitgain_attention_scratch(const struct attention *of) {
    return (images_at_once(of) * of->heads * panel_room(of) + thread_count() * own_room(of)) * 4;
}

void unitgain_attention(const struct attention *of, float *scratch) {
    const int64_t at_once = images_at_once(of), room = panel_room(of), heads = of->heads;
    const int64_t parts = (of->tokens + GROUPS * ROWS - 1) / (GROUPS * ROWS);
#pragma omp parallel
    {
        float *own = scratch + at_once * heads * room;
#ifdef _OPENMP
        own += omp_get_thread_num() * own_room(of);
#endif
        for (int64_t image = 0; image < of->batch; image += at_once) {
            const int64_t panels = least(at_once, of->batch - image) * heads;
#pragma omp for schedule(dynamic)
            for (int64_t panel = 0; panel < panels; panel++) {
                float *keys = scratch + panel * room;
                if (in_pairs(of))
                    pack(of, image + panel / heads, panel % heads, keys, keys + keys_room(of), 1);
                else
                    pack(of, image + panel / heads, panel % heads, keys, keys + keys_room(of), 0);
            }
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < panels * parts; task++) {
                const int64_t panel = task / parts, first = task % parts * GROUPS * ROWS;
                const int64_t last = least(first + GROUPS * ROWS, of->tokens);
                const float *keys = scratch + panel * room;
                for (int64_t query = first; query < last; query += ROWS)
                    if (in_pairs(of))
                        attend(of, image + panel / heads, panel % heads, query, keys, keys + keys_room(of), own, 1);
                    else
                        attend(of, image + panel / heads, panel % heads, query, keys, keys + keys_room(of), own, 0);
            }
        }
    }
}
