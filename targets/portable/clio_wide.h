/* Micro-kernels of matrix products with widened weights; clio_micro.h includes this.
 *
 * Products are taken of two pixels times a tile of 2 or 4 output channels, two lanes at a time. `columns` holds for every two
 * lanes those of pixel 0 and those of pixel 1. A tile of `weight` are its channels' biases (int32), for every two lanes those of
 * each channel, and the channels' shifts (int32). Of every four lanes e0 e1 e2 e3 come e0 e2 first, then e1 e3. All pointers
 * but those to bytes are 4-byte aligned; k, the number of lanes, is a multiple of 4 and at least 8. */
#ifndef CLIO_WIDE_H
#define CLIO_WIDE_H

/* clio_widen_N: widens the weights of `channels` output channels, a multiple of N, into tiles of N. Of every tile `weight` holds
 * for every four lanes those of each channel. */
CLIO_INLINE void clio_widen(int16_t *dst, const int8_t *weight, const int32_t *bias, const int8_t *shift, int32_t k,
                            int32_t channels, int32_t tile) {
    for (; channels > 0; channels -= tile, bias += tile, shift += tile) {
        memcpy(dst, bias, 4 * (size_t)tile);
        dst += 2 * tile;
        for (int32_t i = 0; i < k; i += 4, dst += 4 * tile) {
            for (int32_t c = 0; c < tile; ++c, weight += 4) {
                dst[2 * c] = weight[0];
                dst[2 * c + 1] = weight[2];
                dst[2 * c + 2 * tile] = weight[1];
                dst[2 * c + 2 * tile + 1] = weight[3];
            }
        }
        for (int32_t c = 0; c < tile; ++c, dst += 2) {
            int32_t s = shift[c];
            memcpy(dst, &s, 4);
        }
    }
}

CLIO_SHARED void clio_widen_2(int16_t *dst, const int8_t *weight, const int32_t *bias, const int8_t *shift, int32_t k,
                              int32_t channels) {
    clio_widen(dst, weight, bias, shift, k, channels, 2);
}

CLIO_SHARED void clio_widen_4(int16_t *dst, const int8_t *weight, const int32_t *bias, const int8_t *shift, int32_t k,
                              int32_t channels) {
    clio_widen(dst, weight, bias, shift, k, channels, 4);
}

/* Widens two pixels that lie `pixel` bytes apart: of each, `rows` runs of `count` bytes that lie `row` apart. `count` is a
 * multiple of 4. */
CLIO_SHARED void clio_gather_2(int16_t *dst, const int8_t *src, int32_t pixel, int32_t count, int32_t rows, int32_t row) {
    for (; rows > 0; --rows, src += row) {
        for (int32_t i = 0; i < count; i += 4, dst += 8) {
            const int8_t *p = src + i, *q = p + pixel;
            dst[0] = p[0];
            dst[1] = p[2];
            dst[2] = q[0];
            dst[3] = q[2];
            dst[4] = p[1];
            dst[5] = p[3];
            dst[6] = q[1];
            dst[7] = q[3];
        }
    }
}

/* The same for both pixels side by side in the stage, k bytes each. */
CLIO_INLINE void clio_gather_staged(int16_t *dst, const int16_t *stage, int32_t k) {
    clio_gather_2(dst, (const int8_t *)stage, k, k, 1, 0);
}

/* Copies `count` bytes to byte `at` of `stage`. */
CLIO_INLINE void clio_copy(int16_t *stage, int32_t at, const int8_t *src, int32_t count) {
    int8_t *dst = (int8_t *)stage + at;
    for (int32_t i = 0; i < count; ++i) {
        dst[i] = src[i];
    }
}

/* Puts a receptive field together from byte `at` of `stage`: `above` zeros, `rows` of it, `below` zeros. A row are `before` zeros,
 * `pieces` of `piece` bytes that lie `spread` apart, `after` zeros; rows lie `row` apart. */
CLIO_SHARED void clio_stage(int16_t *stage, int32_t at, const int8_t *src, int32_t above, int32_t rows, int32_t below,
                            int32_t row, int32_t before, int32_t pieces, int32_t piece, int32_t after, int32_t spread) {
    int8_t *dst = (int8_t *)stage + at;
    memset(dst, 0, (size_t)above);
    dst += above;
    for (; rows > 0; --rows, src += row) {
        memset(dst, 0, (size_t)before);
        dst += before;
        for (int32_t i = 0; i < pieces; ++i, dst += piece) {
            memcpy(dst, src + i * spread, (size_t)piece);
        }
        memset(dst, 0, (size_t)after);
        dst += after;
    }
    memset(dst, 0, (size_t)below);
}

/* clio_wide_2xN_…: y[c] and y[step + c] for all channels c, pixel 0's sum and pixel 1's, shifted right and clamped; with a step
 * of 0 pixel 0's remains. `channels` is a multiple of N. First those for any bounds. */
CLIO_SHARED void clio_wide_2x4_clamp(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step, int32_t lo, int32_t hi) {
    for (; channels > 0; channels -= 4, y += 4) {
        int32_t a[4], shift[4], a0, a1, a2, a3, b0, b1, b2, b3;
        memcpy(a, weight, 16);
        a0 = b0 = a[0];
        a1 = b1 = a[1];
        a2 = b2 = a[2];
        a3 = b3 = a[3];
        weight += 8;
        for (const int16_t *x = columns; x < columns + 2 * k; x += 4, weight += 8) {
            a0 += x[0] * weight[0] + x[1] * weight[1];
            a1 += x[0] * weight[2] + x[1] * weight[3];
            a2 += x[0] * weight[4] + x[1] * weight[5];
            a3 += x[0] * weight[6] + x[1] * weight[7];
            b0 += x[2] * weight[0] + x[3] * weight[1];
            b1 += x[2] * weight[2] + x[3] * weight[3];
            b2 += x[2] * weight[4] + x[3] * weight[5];
            b3 += x[2] * weight[6] + x[3] * weight[7];
        }
        memcpy(shift, weight, 16);
        weight += 8;
        y[step] = (int8_t)clio_clamp(b0 >> shift[0], lo, hi);
        y[step + 1] = (int8_t)clio_clamp(b1 >> shift[1], lo, hi);
        y[step + 2] = (int8_t)clio_clamp(b2 >> shift[2], lo, hi);
        y[step + 3] = (int8_t)clio_clamp(b3 >> shift[3], lo, hi);
        y[0] = (int8_t)clio_clamp(a0 >> shift[0], lo, hi);
        y[1] = (int8_t)clio_clamp(a1 >> shift[1], lo, hi);
        y[2] = (int8_t)clio_clamp(a2 >> shift[2], lo, hi);
        y[3] = (int8_t)clio_clamp(a3 >> shift[3], lo, hi);
    }
}

CLIO_SHARED void clio_wide_2x2_clamp(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step, int32_t lo, int32_t hi) {
    for (; channels > 0; channels -= 2, y += 2) {
        int32_t a[2], shift[2], a0, a1, b0, b1;
        memcpy(a, weight, 8);
        a0 = b0 = a[0];
        a1 = b1 = a[1];
        weight += 4;
        for (const int16_t *x = columns; x < columns + 2 * k; x += 4, weight += 4) {
            a0 += x[0] * weight[0] + x[1] * weight[1];
            a1 += x[0] * weight[2] + x[1] * weight[3];
            b0 += x[2] * weight[0] + x[3] * weight[1];
            b1 += x[2] * weight[2] + x[3] * weight[3];
        }
        memcpy(shift, weight, 8);
        weight += 4;
        y[step] = (int8_t)clio_clamp(b0 >> shift[0], lo, hi);
        y[step + 1] = (int8_t)clio_clamp(b1 >> shift[1], lo, hi);
        y[0] = (int8_t)clio_clamp(a0 >> shift[0], lo, hi);
        y[1] = (int8_t)clio_clamp(a1 >> shift[1], lo, hi);
    }
}

/* Clamped to [-128, 127], to [0, 127] and to [0, hi]; for the last two every shifted sum must fit 16 bits. */
CLIO_INLINE void clio_wide_2x4_signed(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step) {
    clio_wide_2x4_clamp(y, columns, weight, k, channels, step, -128, 127);
}

CLIO_INLINE void clio_wide_2x4_relu(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step) {
    clio_wide_2x4_clamp(y, columns, weight, k, channels, step, 0, 127);
}

CLIO_INLINE void clio_wide_2x4_relu_to(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step, int32_t hi) {
    clio_wide_2x4_clamp(y, columns, weight, k, channels, step, 0, hi);
}

CLIO_INLINE void clio_wide_2x2_signed(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step) {
    clio_wide_2x2_clamp(y, columns, weight, k, channels, step, -128, 127);
}

CLIO_INLINE void clio_wide_2x2_relu(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step) {
    clio_wide_2x2_clamp(y, columns, weight, k, channels, step, 0, 127);
}

CLIO_INLINE void clio_wide_2x2_relu_to(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step, int32_t hi) {
    clio_wide_2x2_clamp(y, columns, weight, k, channels, step, 0, hi);
}

#endif
