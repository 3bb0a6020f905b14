/* Micro-kernels of pools; clio_micro.h includes this. A window of four channels has `rows` rows of `columns` pixels, x_row and
 * x_column bytes apart. */
#ifndef CLIO_POOL_H
#define CLIO_POOL_H

/* Stores the sums of up to 256 pixels. */
CLIO_SHARED void clio_sum_4(int32_t *sums, const int8_t *x, int32_t rows, int32_t columns, int32_t x_row,
                            int32_t x_column) {
    for (int32_t c = 0; c < 4; ++c) {
        sums[c] = 0;
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t t = 0; t < columns; ++t) {
                sums[c] += x[r * x_row + t * x_column + c];
            }
        }
    }
}

/* Stores the largest values, -128 of no pixels. */
CLIO_SHARED void clio_max_4(int8_t *y, const int8_t *x, int32_t rows, int32_t columns, int32_t x_row,
                            int32_t x_column) {
    for (int32_t c = 0; c < 4; ++c) {
        int8_t most = -128;
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t t = 0; t < columns; ++t) {
                int8_t v = x[r * x_row + t * x_column + c];
                most = v > most ? v : most;
            }
        }
        y[c] = most;
    }
}

#endif
