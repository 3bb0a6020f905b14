/* Micro-kernels of pools for Arm's DSP extension, four channels in a word; clio_micro.h includes this. */
#ifndef CLIO_POOL_H
#define CLIO_POOL_H

/* Two channels in 16 bits each: enough for 256 pixels. */
#define CLIO_SUM_4(p)                                                                    \
    do {                                                                                 \
        uint32_t bytes = clio_load(p);                                                   \
        __asm__("sxtab16 %0, %0, %1" : "+r"(even) : "r"(bytes));                         \
        __asm__("sxtab16 %0, %0, %1, ror #8" : "+r"(odd) : "r"(bytes));                  \
    } while (0)

CLIO_INLINE void clio_sum_4(int32_t *sums, const int8_t *x, int32_t rows, int32_t columns, int32_t x_row,
                            int32_t x_column) {
    uint32_t even = 0, odd = 0;
    for (; rows > 0; --rows, x += x_row) {
        const int8_t *u = x;
        int32_t t = columns;
        CLIO_HIDE(t); /* or a short loop would be unrolled whole */
        for (; t > 3; t -= 4, u += 4 * x_column) {
            CLIO_SUM_4(u);
            CLIO_SUM_4(u + x_column);
            CLIO_SUM_4(u + 2 * x_column);
            CLIO_SUM_4(u + 3 * x_column);
        }
        for (; t > 0; --t, u += x_column) {
            CLIO_SUM_4(u);
        }
    }
    sums[0] = (int16_t)even;
    sums[1] = (int16_t)odd;
    sums[2] = (int32_t)even >> 16;
    sums[3] = (int32_t)odd >> 16;
}

CLIO_INLINE void clio_max_4(int8_t *y, const int8_t *x, int32_t rows, int32_t columns, int32_t x_row,
                            int32_t x_column) {
    uint32_t most = 0x80808080u;
    for (; rows > 0; --rows, x += x_row) {
        const int8_t *u = x;
        for (int32_t t = columns; t > 0; --t, u += x_column) {
            uint32_t bytes = clio_load(u), difference;
            __asm__("ssub8 %1, %0, %2\n\tsel %0, %0, %2" : "+r"(most), "=&r"(difference) : "r"(bytes) : "cc");
        }
    }
    memcpy(y, &most, sizeof most);
}

#endif
