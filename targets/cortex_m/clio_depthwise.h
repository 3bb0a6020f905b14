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

#endif
