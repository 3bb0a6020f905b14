/* Micro-kernels of operators that go through elements one by one; clio_micro.h includes this. The output may be where an input
 * is: what is read is read before it is written. */
#ifndef CLIO_ELEMENTWISE_H
#define CLIO_ELEMENTWISE_H

/* Copies. */
CLIO_SHARED void clio_move(int8_t *y, const int8_t *x, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
        y[i] = x[i];
    }
}

/* y = clamp((x * m + rounding) >> shift), where rounding is half of what is shifted out; |m| <= 32767, shift a constant. */
CLIO_SHARED void clio_rescale(int8_t *y, const int8_t *x, int32_t count, int32_t m, int32_t shift, int32_t lo,
                              int32_t hi) {
    int32_t rounding = (1 << shift) >> 1;
    for (int32_t i = 0; i < count; ++i) {
        y[i] = (int8_t)clio_clamp((x[i] * m + rounding) >> shift, lo, hi);
    }
}

/* y = clamp((a * ma + b * mb + rounding) >> shift), the same way. */
CLIO_SHARED void clio_add(int8_t *y, const int8_t *a, const int8_t *b, int32_t count, int32_t ma, int32_t mb,
                          int32_t shift, int32_t lo, int32_t hi) {
    int32_t rounding = (1 << shift) >> 1;
    for (int32_t i = 0; i < count; ++i) {
        y[i] = (int8_t)clio_clamp((a[i] * ma + b[i] * mb + rounding) >> shift, lo, hi);
    }
}

/* clio_add for the multipliers 2^doubled and 1 where shift >= doubled, constants both: it needs no more than 8 bits. */
CLIO_SHARED void clio_add_bytes(int8_t *y, const int8_t *a, const int8_t *b, int32_t count, int32_t doubled,
                                int32_t shift, int32_t lo, int32_t hi) {
    clio_add(y, a, b, count, 1 << doubled, 1, shift, lo, hi);
}

/* y = clamp((a * b + rounding) >> shift), the same way. */
CLIO_SHARED void clio_mul(int8_t *y, const int8_t *a, const int8_t *b, int32_t count, int32_t shift, int32_t lo,
                          int32_t hi) {
    int32_t rounding = (1 << shift) >> 1;
    for (int32_t i = 0; i < count; ++i) {
        y[i] = (int8_t)clio_clamp((a[i] * b[i] + rounding) >> shift, lo, hi);
    }
}

#endif
