/* Micro-kernels of depthwise convolutions; clio_micro.h includes this. */
#ifndef CLIO_DEPTHWISE_H
#define CLIO_DEPTHWISE_H

/* Shared: a network has many depthwise layers, and inlined each would have a copy of them all.
 *
 * clio_depthwise_C: acc[c] += sum over r < rows, t < columns of x[r * x_row + t * x_column + c] times weight c of the block at
 * w + r * w_row + t * 4, for C channels side by side. Weights are int16 blocks in lane order, 4-byte aligned. */
CLIO_SHARED void clio_depthwise_1(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                  int32_t columns, int32_t x_row, int32_t x_column, int32_t w_row) {
    for (; rows > 0; --rows, x += x_row, w += w_row) {
        const int8_t *u = x;
        const int16_t *v = w;
        for (int32_t t = columns; t > 0; --t, u += x_column, v += 4) {
            acc[0] += u[0] * v[0];
        }
    }
}

CLIO_SHARED void clio_depthwise_2(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
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

CLIO_SHARED void clio_depthwise_3(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
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

CLIO_SHARED void clio_depthwise_4(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
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

/* clio_depthwise_4 of two pixels with up to 3 rows of 3 columns each, the second one's window x_next behind the first one's; acc holds the
 * first one's four sums, then the second one's. */
CLIO_SHARED void clio_depthwise_pair(int32_t *acc, const int8_t *x, const int16_t *w, int32_t rows,
                                     int32_t x_row, int32_t x_column, int32_t x_next) {
    clio_depthwise_4(acc, x, w, rows, 3, x_row, x_column, 12);
    clio_depthwise_4(acc + 4, x + x_next, w, rows, 3, x_row, x_column, 12);
}

#endif
