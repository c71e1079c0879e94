/* 1x1 convolutions of channels-last images of bfloat16: out = clamp(act(conv(x)) + share * main), or two of them, one
 * after the other: out = conv(act(conv(x))).
 *
 * Pixels are rows of a matrix, multiplied in pairs of bfloat16 (AVX-512 BF16) whose sums stay in registers until all is
 * done with them. A sum has one order whatever the pixels and threads: images do not depend on each other. What is
 * between two convolutions, which may be many times as wide as the images, stays in the caches of a thread, a panel of
 * pixels at a time; where there are too few pixels for every thread to have panels, all of it is shared.
 */

#include "products.h"

#define PANEL 128         /* pixels at a time, for which a block of weights is read once; */
#define LEAST 64          /* fewer, but as many, */
#define BETWEEN (1 << 18) /* for what is between two convolutions to take as many bytes */
#define SHARE 96          /* pixels that make it worth while for each thread to read all weights */
#define SMALL 24          /* pixels that a block of weights is read for at least */

/* Weights: [block of outputs][pair of inputs][BLOCK][2], filled up with zeros. */
struct layer {
    int64_t in, out; /* channels; in: even */
    const char *weights;
    int32_t activate; /* whether silu follows */
};

struct convolution {
    const char *x;     /* [pixel][in] */
    struct array out;  /* [pixel][out of the last layer] */
    struct addend add; /* as out */
    int64_t pixels;
    struct layer layers[2];
    int32_t count; /* of layers: 1 or 2 */
};
SHARED(convolution);
const int64_t unitgain_block = BLOCK, unitgain_pairs = PAIRS;

/* What a layer reads and writes: of a whole image, or of a panel of it. */
struct task {
    const struct layer *layer;
    const char *from, *next; /* next: what to fetch after the last block of weights */
    struct array to;
    struct addend add;
};

static int64_t blocks(const struct layer *layer) { return (layer->out + BLOCK - 1) / BLOCK; }

/* LANES outputs of a pixel, of which there are `some`, from `channel` on. */
static inline __attribute__((always_inline)) void put(const struct task *task, int64_t pixel, int64_t channel,
                                                      int64_t some, vector value) {
    const int64_t at = pixel * task->layer->out + channel;
    if (task->layer->activate) value = activated(value, task->to.type);
    if (task->add.main.at) {
        const struct array main = task->add.main;
        value += load_some(main.at + at * ITEM(main.type), some, main.type) * task->add.share;
        value = bounded(value, task->add.limit);
    }
    store_some(task->to.at + at * ITEM(task->to.type), value, some, task->to.type);
}

/* Outputs from `channel` on of `rows` pixels; on the way `lines` cache lines a step are fetched from `ahead`. */
static inline __attribute__((always_inline)) void make_rows(const struct task *task, int64_t pixel, int64_t channel,
                                                            const char *weights, const char *ahead, int64_t lines,
                                                            const int rows) {
    const int64_t stride = task->layer->in * 2, count = task->layer->in / 2;
    const char *const x = task->from + pixel * stride;
    vector sums[ROWS][VECTORS] = {{{0}}};
    for (int64_t k = 0; k < count; k++, weights += BLOCK * 4) {
        for (int64_t line = 0; line < lines; line++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const int32_t value = *(const pair *)(x + r * stride + k * 4);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                sums[r][v] = dot_pairs(sums[r][v], value, *(const words *)(weights + v * LANES * 4));
        }
    }
    const int64_t left = task->layer->out - channel;
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) {
            if (left >= BLOCK)
                put(task, pixel + r, channel + v * LANES, LANES, sums[r][v]);
            else if (left > v * LANES)
                put(task, pixel + r, channel + v * LANES, left - v * LANES, sums[r][v]);
        }
}

/* A block of outputs of the pixels `first` to `last` - 1, of which there is one at least. */
static void make_block(const struct task *task, int64_t first, int64_t last, int64_t block) {
    const int64_t size = task->layer->in * BLOCK * 2, groups = (last - first + ROWS - 1) / ROWS;
    const int64_t lines = (LINES + groups - 1) / groups, channel = block * BLOCK;
    const char *const weights = task->layer->weights + block * size;
    const char *ahead = block + 1 < blocks(task->layer) ? weights + size : task->next;
    for (int64_t group = 0; group < groups; group++, ahead += lines * 64 * (task->layer->in / 2)) {
        const int64_t pixel = first + (last - first) * group / groups;
        const int64_t end = first + (last - first) * (group + 1) / groups;
        const int64_t now = group * lines < LINES ? lines : 0;
        switch (end - pixel) {
        case 1: make_rows(task, pixel, channel, weights, ahead, now, 1); break;
        case 2: make_rows(task, pixel, channel, weights, ahead, now, 2); break;
        case 3: make_rows(task, pixel, channel, weights, ahead, now, 3); break;
        case 4: make_rows(task, pixel, channel, weights, ahead, now, 4); break;
        case 5: make_rows(task, pixel, channel, weights, ahead, now, 5); break;
        default: make_rows(task, pixel, channel, weights, ahead, now, ROWS);
        }
    }
}

/* Panels of a layer that all threads share out: so many that tasks, which are blocks of panels, take every thread about
 * as long. */
static int64_t shared_panels(const struct layer *layer, int64_t pixels, int64_t team) {
    int64_t panels = 1;
    for (; pixels >= SMALL * (panels + 1); panels++) {
        const int64_t tasks = panels * blocks(layer);
        if (rounded_up(tasks, team) * 20 <= tasks * 21) break;
    }
    return panels;
}

/* Whether every thread takes pixels of its own through all layers; else there are few, and weights are shared out. */
static int apart(const struct convolution *of, int64_t team) { return of->pixels >= team * SHARE; }

/* Pixels that a thread takes at a time if they are its own. */
static int64_t panel_size(const struct convolution *of) {
    if (of->count == 1) return PANEL;
    const int64_t fit = BETWEEN / (of->layers[0].out * 2);
    return fit < LEAST ? LEAST : least(fit, PANEL);
}

/* Bytes that a thread keeps between layers, or all of them together. */
static int64_t room(const struct convolution *of, int64_t pixels) {
    return of->count == 1 ? 0 : rounded_up(pixels * of->layers[0].out * 2, 64);
}

int64_t unitgain_conv1x1_scratch(const struct convolution *of) {
    const int64_t team = thread_count();
    return apart(of, team) ? team * room(of, panel_size(of)) : room(of, of->pixels);
}

/* A layer of the pixels from `first` on; what is between two layers begins at `between`. */
static inline struct task task_of(const struct convolution *of, int which, int64_t first, char *between) {
    const struct layer *const layer = &of->layers[which];
    struct task task = {.layer = layer,
                        .from = which > 0 ? between : of->x + first * layer->in * 2,
                        .to = {between, BFLOAT16, 0}};
    if (which + 1 < of->count) {
        task.next = of->layers[which + 1].weights;
        return task;
    }
    task.next = of->layers[0].weights;
    task.to = of->out;
    task.to.at += first * layer->out * ITEM(task.to.type);
    task.add = of->add;
    if (task.add.main.at) task.add.main.at += first * layer->out * ITEM(task.add.main.type);
    return task;
}

/* The pixels `first` to `last` - 1 through all layers, by one thread. */
static void make_panel(const struct convolution *of, int64_t first, int64_t last, char *between) {
    for (int which = 0; which < of->count; which++) {
        const struct task task = task_of(of, which, first, between);
        for (int64_t block = 0; block < blocks(task.layer); block++) make_block(&task, 0, last - first, block);
    }
}

void unitgain_conv1x1(const struct convolution *of, char *scratch) {
    const int64_t threads = thread_count(), own = apart(of, threads), size = panel_size(of);
    const int64_t panels = rounded_up((of->pixels + size - 1) / size, threads);
#pragma omp parallel num_threads(threads)
    {
        int64_t thread = 0, team = 1;
#ifdef _OPENMP
        thread = omp_get_thread_num();
        team = omp_get_num_threads();
#endif
        if (own) {
            char *const between = scratch + thread * room(of, size);
#pragma omp for schedule(dynamic)
            for (int64_t panel = 0; panel < panels; panel++)
                make_panel(of, of->pixels * panel / panels, of->pixels * (panel + 1) / panels, between);
        }
        for (int which = 0; which < of->count && !own; which++) {
            const struct task task = task_of(of, which, 0, scratch);
            const int64_t parts = shared_panels(task.layer, of->pixels, team), count = parts * blocks(task.layer);
#pragma omp for schedule(static)
            for (int64_t at = 0; at < count; at++) {
                const int64_t part = at / blocks(task.layer);
                make_block(&task, of->pixels * part / parts, of->pixels * (part + 1) / parts, at % blocks(task.layer));
            }
        }
    }
}
