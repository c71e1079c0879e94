/* A linear layer of few rows: out = x weight' + bias, with weights of float32 or float16 and all else in float32.
 *
 * It takes as long as its weights take to be read, so they are read once for all rows. Each number of the result is summed
 * in the same order whatever rows come with it.
 */

#include "vectors.h"

#define OUTPUTS 4 /* at a time, */
#define ROWS 4    /* of as many rows of x */
#define SHARE 64  /* outputs that a thread takes at a time */

struct linear {
    const float *x;     /* [rows][in] */
    const char *weight; /* [out][in] */
    const float *bias;  /* [out] */
    float *to;          /* [rows][out] */
    int32_t type;       /* of the weight: FLOAT32 or FLOAT16 */
    int64_t rows, in, out;
};

/* Sums gain the products of LANES inputs from `c` on, of which there are `some`. */
static inline __attribute__((always_inline)) void add_products(const struct linear *of, int64_t row, int64_t first,
                                                               int64_t c, int64_t some, vector sums[ROWS][OUTPUTS],
                                                               const int rows, const int outputs, const int type) {
    vector x[ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) x[r] = load_some((const char *)(of->x + (row + r) * of->in + c), some, FLOAT32);
#pragma GCC unroll 4
    for (int o = 0; o < outputs; o++) {
        const vector weight = load_some(of->weight + ((first + o) * of->in + c) * ITEM(type), some, type);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) sums[r][o] += x[r] * weight;
    }
}

/* Outputs `first` ... of rows `row` ..., `outputs` and `rows` of them. */
static inline __attribute__((always_inline)) void multiply(const struct linear *of, int64_t row, int64_t first,
                                                           const int rows, const int outputs, const int type) {
    const int64_t full = of->in / LANES * LANES;
    vector sums[ROWS][OUTPUTS] = {{{0}}};
    for (int64_t c = 0; c < full; c += LANES) add_products(of, row, first, c, LANES, sums, rows, outputs, type);
    if (full < of->in) add_products(of, row, first, full, of->in - full, sums, rows, outputs, type);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int o = 0; o < outputs; o++) of->to[(row + r) * of->out + first + o] = total(sums[r][o]) + of->bias[first + o];
}

static inline __attribute__((always_inline)) void multiply_rows(const struct linear *of, int64_t first, const int outputs,
                                                                const int type) {
    for (int64_t row = 0; row < of->rows; row += ROWS)
        switch (of->rows - row) {
        case 1: multiply(of, row, first, 1, outputs, type); break;
        case 2: multiply(of, row, first, 2, outputs, type); break;
        case 3: multiply(of, row, first, 3, outputs, type); break;
        default: multiply(of, row, first, ROWS, outputs, type);
        }
}

static inline __attribute__((always_inline)) void multiply_some(const struct linear *of, int64_t first, int64_t last,
                                                                const int type) {
    for (; last - first >= OUTPUTS; first += OUTPUTS) multiply_rows(of, first, OUTPUTS, type);
    for (; first < last; first++) multiply_rows(of, first, 1, type);
}

void unitgain_linear(const struct linear *of) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < of->out; first += SHARE) {
        const int64_t last = first + SHARE < of->out ? first + SHARE : of->out;
        if (of->type == FLOAT32)
            multiply_some(of, first, last, FLOAT32);
        else
            multiply_some(of, first, last, FLOAT16);
    }
}
