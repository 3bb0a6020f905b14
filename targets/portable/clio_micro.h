/* Micro-kernels of clio-cc's generated kernels in plain C99, for any core. targets/cortex_m has the same functions for Arm's
 * DSP extension; what each must compute is said here, for both.
 *
 * Matrix products read their operands in blocks of four lanes. A block of activations is stored in lane order: elements e0 e1
 * e2 e3 as int16 e0 e2 e1 e3. Weights are stored as they are. `columns` and `weight` must be 4-byte aligned. */
#ifndef CLIO_MICRO_H
#define CLIO_MICRO_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define CLIO_INLINE static inline __attribute__((always_inline, unused))
#define CLIO_SHARED static __attribute__((noinline, unused))
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

/* Widens `count` bytes into blocks of four lanes, zeros up to a whole block. Block b goes to dst + b * step. */
CLIO_INLINE void clio_gather(int16_t *dst, int32_t step, const int8_t *src, int32_t count) {
    for (; count >= 4; count -= 4, src += 4, dst += step) {
        dst[0] = src[0];
        dst[1] = src[2];
        dst[2] = src[1];
        dst[3] = src[3];
    }
    if (count > 0) {
        dst[0] = src[0];
        dst[1] = (int16_t)(count > 2 ? src[2] : 0);
        dst[2] = (int16_t)(count > 1 ? src[1] : 0);
        dst[3] = 0;
    }
}

/* The same for `before` zeros, `count` bytes, `after` zeros. Not inlined: it runs on the border of an image only. */
CLIO_SHARED void clio_gather_padded(int16_t *dst, int32_t step, const int8_t *src, int32_t before, int32_t count, int32_t after) {
    int32_t end = (before + count + after + 3) / 4 * 4;
    for (int32_t i = 0; i < end; ++i) {
        int32_t lane = (i & 1) * 2 + ((i >> 1) & 1);
        int32_t from = i - before;
        dst[(i >> 2) * step + lane] = (int16_t)(from >= 0 && from < count ? src[from] : 0);
    }
}

/* The next block of row `c` of `m` times row `w`. */
CLIO_INLINE int32_t clio_block(const int16_t *c, const int8_t *w) {
    return c[0] * w[0] + c[1] * w[2] + c[2] * w[1] + c[3] * w[3];
}

/* clio_matmul_MxN: acc[m * N + n] += sum over k of columns[m] * weight[n], for M pixels and N output channels.
 * Block b of pixel m is at columns + b * step + m * 4, that of channel n at weight + (b * N + n) * 4; k is a multiple of 4. */
CLIO_INLINE void clio_matmul_1x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 4) {
        acc[0] += clio_block(columns, weight);
    }
}

CLIO_INLINE void clio_matmul_2x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 4) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns + 4, weight);
    }
}

CLIO_INLINE void clio_matmul_3x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 4) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns + 4, weight);
        acc[2] += clio_block(columns + 8, weight);
    }
}

CLIO_INLINE void clio_matmul_1x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 8) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns, weight + 4);
    }
}

CLIO_INLINE void clio_matmul_2x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 8) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns, weight + 4);
        acc[2] += clio_block(columns + 4, weight);
        acc[3] += clio_block(columns + 4, weight + 4);
    }
}

CLIO_INLINE void clio_matmul_3x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 8) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns, weight + 4);
        acc[2] += clio_block(columns + 4, weight);
        acc[3] += clio_block(columns + 4, weight + 4);
        acc[4] += clio_block(columns + 8, weight);
        acc[5] += clio_block(columns + 8, weight + 4);
    }
}

/* clio_depthwise_C: acc[c] += sum over r < rows, t < columns of x[r * x_row + t * x_column + c] times weight c of the block at
 * w + r * w_row + t * 4, for C channels side by side. Weights are int16 blocks in lane order, 4-byte aligned. */
CLIO_INLINE void clio_depthwise_1(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                  int32_t columns, int32_t x_row, int32_t x_column, int32_t w_row) {
    for (; rows > 0; --rows, x += x_row, w += w_row) {
        const int8_t *u = x;
        const int16_t *v = w;
        for (int32_t t = columns; t > 0; --t, u += x_column, v += 4) {
            acc[0] += u[0] * v[0];
        }
    }
}

CLIO_INLINE void clio_depthwise_2(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                  int32_t columns, int32_t x_row, int32_t x_column, int32_t w_row) {
    for (; rows > 0; --rows, x += x_row, w += w_row) {
        const int8_t *u = x;
        const int16_t *v = w;
        for (int32_t t = columns; t > 0; --t, u += x_column, v += 4) {
            acc[0] += u[0] * v[0];
            acc[1] += u[1] * v[2];
        }
    }
}

CLIO_INLINE void clio_depthwise_3(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                  int32_t columns, int32_t x_row, int32_t x_column, int32_t w_row) {
    for (; rows > 0; --rows, x += x_row, w += w_row) {
        const int8_t *u = x;
        const int16_t *v = w;
        for (int32_t t = columns; t > 0; --t, u += x_column, v += 4) {
            acc[0] += u[0] * v[0];
            acc[1] += u[1] * v[2];
            acc[2] += u[2] * v[1];
        }
    }
}

CLIO_INLINE void clio_depthwise_4(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                  int32_t columns, int32_t x_row, int32_t x_column, int32_t w_row) {
    for (; rows > 0; --rows, x += x_row, w += w_row) {
        const int8_t *u = x;
        const int16_t *v = w;
        for (int32_t t = columns; t > 0; --t, u += x_column, v += 4) {
            acc[0] += u[0] * v[0];
            acc[1] += u[1] * v[2];
            acc[2] += u[2] * v[1];
            acc[3] += u[3] * v[3];
        }
    }
}

#endif
