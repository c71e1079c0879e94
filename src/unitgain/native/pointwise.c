/* What happens to pixels between convolutions, in one pass over memory each: concatenation, pixel norm and silu before a
 * branch, and the sum with the main path after it. Images are channels-last; all is computed in float32.
 */

#include "vectors.h"

#include <math.h>

#define FEW 16384 /* numbers that are not worth a second thread */

int32_t unitgain_halves(void) { return HALVES; }

struct features {
    const char *from; /* [pixel][channels] */
    int64_t channels;
    int32_t type;
    float share; /* factor */
};

/* first and second side by side, each times its share, divided by (rms of the pixel + eps) if eps is not negative: as it
 * is, and as a branch sees it. */
struct join {
    struct features first, second; /* second: without channels if there is none */
    char *whole, *seen;            /* either may be null */
    int32_t whole_type, seen_type, activate; /* activate: whether silu is applied to what is seen */
    float eps;
    int64_t pixels;
};

static inline float squares(const struct features *features, int64_t pixel) {
    const char *const from = features->from + pixel * features->channels * ITEM(features->type);
    vector sums[2] = {{0}};
    for (int64_t channel = 0; channel < features->channels; channel += LANES) {
        const vector value = load_some(from + channel * ITEM(features->type), features->channels - channel, features->type);
        sums[channel / LANES % 2] += value * value;
    }
    return total(sums[0] + sums[1]) * features->share * features->share;
}

/* One part of a pixel, whose channels begin at `at` in the results. */
static inline void take_part(const struct join *join, const struct features *part, int64_t pixel, float factor,
                             int64_t at) {
    const int64_t channels = join->first.channels + join->second.channels;
    const char *const from = part->from + pixel * part->channels * ITEM(part->type);
    char *const whole = join->whole ? join->whole + (pixel * channels + at) * ITEM(join->whole_type) : 0;
    char *const seen = join->seen ? join->seen + (pixel * channels + at) * ITEM(join->seen_type) : 0;
    factor *= part->share;
    for (int64_t channel = 0; channel < part->channels; channel += LANES) {
        const int64_t some = part->channels - channel;
        vector value = load_some(from + channel * ITEM(part->type), some, part->type) * factor;
        if (whole) store_some(whole + channel * ITEM(join->whole_type), value, some, join->whole_type);
        if (!seen) continue;
        if (join->activate) value = activated(value, join->seen_type);
        store_some(seen + channel * ITEM(join->seen_type), value, some, join->seen_type);
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

/* out = clamp(left * branch + share * main); `main` may have half the height and width, and its pixels are doubled. */
struct sum {
    const char *branch, *main;
    char *out;
    int32_t branch_type, main_type, out_type, doubled;
    float left, share, limit;
    int64_t batch, height, width, channels; /* of the result */
};

void unitgain_sum(const struct sum *sum) {
    const int half = sum->doubled;
    const int64_t channels = sum->channels, rows = sum->batch * sum->height;
#pragma omp parallel for schedule(static) if (rows * sum->width * channels > FEW)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t x = 0; x < sum->width; x++) {
            const int64_t pixel = row * sum->width + x, behind = (row >> half) * (sum->width >> half) + (x >> half);
            for (int64_t channel = 0; channel < channels; channel += LANES) {
                const int64_t some = channels - channel, at = pixel * channels + channel;
                const char *const main = sum->main + (behind * channels + channel) * ITEM(sum->main_type);
                vector value = load_some(sum->branch + at * ITEM(sum->branch_type), some, sum->branch_type) * sum->left;
                value += load_some(main, some, sum->main_type) * sum->share;
                store_some(sum->out + at * ITEM(sum->out_type), bounded(value, sum->limit), some, sum->out_type);
            }
        }
}
