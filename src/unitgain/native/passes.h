/* What passes over memory share: vectors of numbers of any type, and functions compiled for each. */

#ifndef UNITGAIN_PASSES_H
#define UNITGAIN_PASSES_H

#include "vectors.h"

#define FEW 16384 /* numbers that are not worth a second thread */

static inline vector take(const char *from, int64_t at, int64_t some, const int type, const int whole) {
    from += at * ITEM(type);
    return whole ? load(from, type) : load_some(from, some, type);
}

static inline void put(char *to, int64_t at, vector value, int64_t some, const int type, const int whole) {
    to += at * ITEM(type);
    if (whole) store(to, value, type);
    else store_some(to, value, some, type);
}

/* A function compiled for a type of images, and for channels that fill whole vectors or not; it takes both last. */
#define FOR_EACH_TYPE(type, channels, function, ...)                                                                   \
    do {                                                                                                               \
        if ((type) == FLOAT32 && (channels) % LANES == 0) function(__VA_ARGS__, FLOAT32, 1);                           \
        else if ((type) == BFLOAT16 && (channels) % LANES == 0) function(__VA_ARGS__, BFLOAT16, 1);                    \
        else function(__VA_ARGS__, type, 0);                                                                           \
    } while (0)
#define INLINE static inline __attribute__((always_inline)) void

#endif
