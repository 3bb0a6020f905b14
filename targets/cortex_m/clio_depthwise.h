/* Micro-kernels of depthwise convolutions for Arm's DSP extension; clio_micro.h includes this. */
#ifndef CLIO_DEPTHWISE_H
#define CLIO_DEPTHWISE_H

/* One tap of four channels; w moves on. */
#define CLIO_TAP_4(x, w)                            \
    do {                                            \
        uint32_t bytes = clio_load(x), even, odd;   \
        uint32_t w_even, w_odd;                     \
        CLIO_LOAD2(w_even, w_odd, w);               \
        odd = clio_sxtb16_odd(bytes);               \
        even = clio_sxtb16(bytes);                  \
        CLIO_SMLABB(a0, even, w_even);              \
        CLIO_SMLATT(a2, even, w_even);              \
        CLIO_SMLABB(a1, odd, w_odd);                \
        CLIO_SMLATT(a3, odd, w_odd);                \
    } while (0)

/* Rows of three taps, and of two for the image's border, without an inner loop. */
CLIO_INLINE void clio_depthwise_4(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                  int32_t columns, int32_t x_row, int32_t x_column, int32_t w_row) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    CLIO_OPAQUE(x, w, rows);
    if (columns == 3) {
        for (; rows > 0; --rows, x += x_row, w += w_row - 12) {
            CLIO_TAP_4(x, w);
            CLIO_TAP_4(x + x_column, w);
            CLIO_TAP_4(x + 2 * x_column, w);
        }
    } else if (columns == 2) {
        for (; rows > 0; --rows, x += x_row, w += w_row - 8) {
            CLIO_TAP_4(x, w);
            CLIO_TAP_4(x + x_column, w);
        }
    } else {
        for (; rows > 0; --rows, x += x_row, w += w_row) {
            const int8_t *u = x;
            const int16_t *v = w;
            for (int32_t t = columns; t > 0; --t, u += x_column) {
                CLIO_TAP_4(u, v);
            }
        }
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}

/* Fewer than four channels are what is left over at the end of a pixel. */
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

/* Four channels of a pixel, and what a tap adds of them to the sums a0 .. a3. */
#define CLIO_LANES_4(x)                             \
    do {                                            \
        uint32_t bytes = clio_load(x);              \
        odd = clio_sxtb16_odd(bytes);               \
        even = clio_sxtb16(bytes);                  \
    } while (0)

#define CLIO_ADD_4(a0, a1, a2, a3)                  \
    do {                                            \
        CLIO_SMLABB(a0, even, w_even);              \
        CLIO_SMLATT(a2, even, w_even);              \
        CLIO_SMLABB(a1, odd, w_odd);                \
        CLIO_SMLATT(a3, odd, w_odd);                \
    } while (0)

/* A row: what the windows have in common is widened once. Weights of a tap stay for both pixels. */
CLIO_INLINE void clio_depthwise_pair_row(int32_t *acc, const int8_t *x, const int16_t *w, int32_t x_column,
                                         int32_t x_next) {
    uint32_t even, odd, w_even, w_odd;
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    int32_t b0 = acc[4], b1 = acc[5], b2 = acc[6], b3 = acc[7];
    if (x_next == x_column) {
        CLIO_LANES_4(x);
        for (int32_t t = 0; t < 3; ++t) {
            CLIO_LOAD2(w_even, w_odd, w);
            CLIO_ADD_4(a0, a1, a2, a3);
            x += x_column;
            CLIO_LANES_4(x);
            CLIO_ADD_4(b0, b1, b2, b3);
        }
    } else {
        CLIO_LOAD2_AT(w_even, w_odd, w, 8);
        CLIO_LANES_4(x + x_column);
        CLIO_ADD_4(a0, a1, a2, a3);
        CLIO_LANES_4(x + x_next + x_column);
        CLIO_ADD_4(b0, b1, b2, b3);
        CLIO_LOAD2_AT(w_even, w_odd, w, 0);
        CLIO_LANES_4(x);
        CLIO_ADD_4(a0, a1, a2, a3);
        CLIO_LANES_4(x + x_next);
        CLIO_ADD_4(b0, b1, b2, b3);
        CLIO_LOAD2_AT(w_even, w_odd, w, 16);
        if (x_next != 2 * x_column) {
            CLIO_LANES_4(x + 2 * x_column);
        }
        CLIO_ADD_4(a0, a1, a2, a3);
        CLIO_LANES_4(x + x_next + 2 * x_column);
        CLIO_ADD_4(b0, b1, b2, b3);
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
    acc[4] = b0;
    acc[5] = b1;
    acc[6] = b2;
    acc[7] = b3;
}

CLIO_INLINE void clio_depthwise_pair(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                     int32_t x_row, int32_t x_column, int32_t x_next) {
    const int16_t *end = w + 12 * rows; /* a counter would take a register that is not there */
    CLIO_HIDE(end);
    for (; w != end; x += x_row, w += 12) {
        clio_depthwise_pair_row(acc, x, w, x_column, x_next);
    }
}

#endif
