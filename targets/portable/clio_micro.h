/* Micro-kernels of clio-cc's generated kernels in plain C99, for any core. targets/cortex_m has the same functions for Arm's
 * DSP extension; what each must compute is said here, for both. */
#ifndef CLIO_MICRO_H
#define CLIO_MICRO_H

#include <stdint.h>
#include <string.h>

/* Shared: one copy for all callers; gcc would make one for each set of constant arguments. */
#if defined(__clang__)
#define CLIO_INLINE static inline __attribute__((always_inline, unused))
#define CLIO_SHARED static __attribute__((noinline, unused))
#elif defined(__GNUC__)
#define CLIO_INLINE static inline __attribute__((always_inline, unused))
#define CLIO_SHARED static __attribute__((noinline, noclone, unused))
#else
#define CLIO_INLINE static inline
#define CLIO_SHARED static inline
#endif

/* Returns v clamped to [lo, hi]. */
CLIO_INLINE int32_t clio_clamp(int32_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

/* Returns v clamped to [-128, 127]. */
CLIO_INLINE int32_t clio_saturate(int32_t v) {
    return clio_clamp(v, -128, 127);
}

/* Returns v clamped to [0, 127]. */
CLIO_INLINE int32_t clio_saturate_relu(int32_t v) {
    return clio_clamp(v, 0, 127);
}

/* Returns (acc * multiplier + 2^(shift-1)) >> shift for 33 <= shift <= 62: exact from the product's high word alone. */
CLIO_INLINE int32_t clio_mulshift(int32_t acc, int32_t multiplier, int32_t shift) {
    int32_t high = (int32_t)(((int64_t)acc * multiplier) >> 32);
    return (high + (int32_t)(1u << (shift - 33))) >> (shift - 32);
}

/* Stores four int8 values side by side. */
CLIO_INLINE void clio_store_4(int8_t *y, int32_t a, int32_t b, int32_t c, int32_t d) {
    y[0] = (int8_t)a;
    y[1] = (int8_t)b;
    y[2] = (int8_t)c;
    y[3] = (int8_t)d;
}

/* Stores four values side by side, each clamped to [lo, hi], which is within int8. */
CLIO_INLINE void clio_store_4_clamped(int8_t *y, int32_t a, int32_t b, int32_t c, int32_t d, int32_t lo,
                                      int32_t hi) {
    clio_store_4(y, clio_clamp(a, lo, hi), clio_clamp(b, lo, hi), clio_clamp(c, lo, hi), clio_clamp(d, lo, hi));
}

/* Returns four int8 values, side by side in a word, each clamped to [lo, hi], which is within int8. */
CLIO_INLINE uint32_t clio_clamp_4(uint32_t bytes, int32_t lo, int32_t hi) {
    int8_t v[4];
    memcpy(v, &bytes, sizeof v);
    clio_store_4_clamped(v, v[0], v[1], v[2], v[3], lo, hi);
    memcpy(&bytes, v, sizeof v);
    return bytes;
}

/* Returns what an accumulator becomes of which every channel has the same `shift`, a constant; [lo, hi] begins with 0 or -128,
 * and (127 - hi) << shift has been added to the accumulator, so that the upper bound is where int8 ends. */
CLIO_INLINE int32_t clio_shifted(int32_t acc, int32_t shift, int32_t lo, int32_t hi) {
    return clio_clamp((acc >> shift) - (127 - hi), lo, hi);
}

/* Stores clio_shifted of four accumulators side by side. */
CLIO_INLINE void clio_store_4_shifted(int8_t *y, int32_t a, int32_t b, int32_t c, int32_t d, int32_t shift,
                                      int32_t lo, int32_t hi) {
    clio_store_4(y, clio_shifted(a, shift, lo, hi), clio_shifted(b, shift, lo, hi),
                 clio_shifted(c, shift, lo, hi), clio_shifted(d, shift, lo, hi));
}

#include "clio_matmul.h"
#include "clio_wide.h"
#include "clio_depthwise.h"
#include "clio_planar.h"
#include "clio_elementwise.h"
#include "clio_pool.h"

#endif
