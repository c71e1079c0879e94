/* What happens to pixels between convolutions, in one pass over memory each: concatenation, pixel norm and silu before a
 * branch, and the sum with the main path after it. Images are channels-last; all is computed in float32.
 */

#include "vectors.h"

#include <math.h>

#define FEW 16384 /* numbers that are not worth a second thread */

struct features {
    struct array x; /* [pixel][channels] */
    int64_t channels;
    float share; /* factor */
};

/* first and second side by side, each times its share, divided by (rms of the pixel + eps) if eps is not negative: for the
 * main path, and for a branch. */
struct join {
    struct features first, second; /* second: without channels if there is none */
    struct array main, branch;     /* either may be null */
    int32_t activate;              /* whether silu is applied to what the branch reads */
    float eps;
    int64_t pixels;
};
SHARED(join);

static inline float squares(const struct features *features, int64_t pixel) {
    const int type = features->x.type;
    const char *const from = features->x.at + pixel * features->channels * ITEM(type);
    vector sums[2] = {{0}};
    for (int64_t channel = 0; channel < features->channels; channel += LANES) {
        const vector value = load_some(from + channel * ITEM(type), features->channels - channel, type);
        sums[channel / LANES % 2] += value * value;
    }
    return total(sums[0] + sums[1]) * features->share * features->share;
}

/* One part of a pixel, whose channels begin at `at` in the results. */
static inline void take_part(const struct join *join, const struct features *part, int64_t pixel, float factor,
                             int64_t at) {
    const int64_t channels = join->first.channels + join->second.channels;
    const int type = part->x.type, main_type = join->main.type, branch_type = join->branch.type;
    const char *const from = part->x.at + pixel * part->channels * ITEM(type);
    char *const main = join->main.at ? join->main.at + (pixel * channels + at) * ITEM(main_type) : 0;
    char *const branch = join->branch.at ? join->branch.at + (pixel * channels + at) * ITEM(branch_type) : 0;
    factor *= part->share;
    for (int64_t channel = 0; channel < part->channels; channel += LANES) {
        const int64_t some = part->channels - channel;
        vector value = load_some(from + channel * ITEM(type), some, type) * factor;
        if (main) store_some(main + channel * ITEM(main_type), value, some, main_type);
        if (!branch) continue;
        if (join->activate) value = activated(value, branch_type);
        store_some(branch + channel * ITEM(branch_type), value, some, branch_type);
    }
}

void unitgain_join(const struct join *join) {
    const int64_t channels = join->first.channels + join->second.channels;
#pragma omp parallel for schedule(static) if (join->pixels * channels > FEW)
    for (int64_t pixel = 0; pixel < join->pixels; pixel++) {
        float factor = 1;
        if (join->eps >= 0) {
            float sum = squares(&join->first, pixel);
            if (join->second.channels) sum += squares(&join->second, pixel);
            factor = 1 / (sqrtf(sum / channels) + join->eps);
        }
        take_part(join, &join->first, pixel, factor, 0);
        if (join->second.channels) take_part(join, &join->second, pixel, factor, join->first.channels);
    }
}

/* out = clamp(factor * branch + share * main). */
struct sum {
    struct array branch, out;
    struct addend add;
    float factor;
    int64_t batch, height, width, channels; /* of the result */
};
SHARED(sum);

void unitgain_sum(const struct sum *sum) {
    const struct array branch = sum->branch, out = sum->out, added = sum->add.main;
    const int half = added.halved;
    const int64_t channels = sum->channels, rows = sum->batch * sum->height;
#pragma omp parallel for schedule(static) if (rows * sum->width * channels > FEW)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t x = 0; x < sum->width; x++) {
            const int64_t pixel = row * sum->width + x, behind = (row >> half) * (sum->width >> half) + (x >> half);
            for (int64_t channel = 0; channel < channels; channel += LANES) {
                const int64_t some = channels - channel, at = pixel * channels + channel;
                const char *const main = added.at + (behind * channels + channel) * ITEM(added.type);
                vector value = load_some(branch.at + at * ITEM(branch.type), some, branch.type) * sum->factor;
                value += load_some(main, some, added.type) * sum->add.share;
                store_some(out.at + at * ITEM(out.type), bounded(value, sum->add.limit), some, out.type);
            }
        }
}
