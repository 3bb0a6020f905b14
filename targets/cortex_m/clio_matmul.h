/* Micro-kernels of matrix products for Arm's DSP extension; clio_micro.h includes this. */
#ifndef CLIO_MATMUL_H
#define CLIO_MATMUL_H

/* Stores one block of four lanes; dst is 4-byte aligned. */
CLIO_INLINE void clio_store_block(int16_t *dst, uint32_t bytes) {
    uint32_t even = clio_sxtb16(bytes), odd = clio_sxtb16_odd(bytes);
    __asm__ volatile("strd %0, %1, [%2]" : : "r"(even), "r"(odd), "r"(dst) : "memory");
}

CLIO_SHARED void clio_gather(int16_t *dst, int32_t step, const int8_t *src, int32_t count) {
    int32_t rest = count & 3;
    for (count >>= 2; count > 0; --count, src += 4, dst += step) {
        clio_store_block(dst, clio_load(src));
    }
    if (rest != 0) {
        uint32_t bytes = (uint8_t)src[0];
        if (rest > 1) {
            bytes |= (uint32_t)(uint8_t)src[1] << 8;
        }
        if (rest > 2) {
            bytes |= (uint32_t)(uint8_t)src[2] << 16;
        }
        clio_store_block(dst, bytes);
    }
}

CLIO_SHARED void clio_gather_padded(int16_t *dst, int32_t step, const int8_t *src, int32_t before, int32_t count, int32_t after) {
    for (int32_t left = before + count + after; left > 0; left -= 4, dst += step) {
        if (before == 0 && count >= 4) {
            clio_store_block(dst, clio_load(src));
            src += 4;
            count -= 4;
        } else if (before >= 4 || count == 0) {
            clio_store_block(dst, 0);
            before = before >= 4 ? before - 4 : 0;
        } else {
            uint32_t bytes = 0;
            for (int32_t i = before * 8; i < 32 && count > 0; i += 8, --count) {
                bytes |= (uint32_t)(uint8_t)*src++ << i;
            }
            before = 0;
            clio_store_block(dst, bytes);
        }
    }
}

/* One block of one pixel times one channel, and times two. */
#define CLIO_PIXEL_X1(columns, a, even, odd)  \
    do {                                      \
        uint32_t c_even, c_odd;               \
        CLIO_LOAD2(c_even, c_odd, columns);   \
        CLIO_SMLAD(a, c_even, even);          \
        CLIO_SMLAD(a, c_odd, odd);            \
    } while (0)

#define CLIO_PIXEL_X2(columns, a0, a1, even0, odd0, even1, odd1) \
    do {                                                         \
        uint32_t c_even, c_odd;                                  \
        CLIO_LOAD2(c_even, c_odd, columns);                      \
        CLIO_SMLAD(a0, c_even, even0);                           \
        CLIO_SMLAD(a1, c_even, even1);                           \
        CLIO_SMLAD(a0, c_odd, odd0);                             \
        CLIO_SMLAD(a1, c_odd, odd1);                             \
    } while (0)

#define CLIO_WEIGHTS_X1()            \
    w0 = clio_load(weight);          \
    weight += 4;                     \
    odd0 = clio_sxtb16_odd(w0);      \
    even0 = clio_sxtb16(w0)

#define CLIO_WEIGHTS_X2()            \
    CLIO_LOAD2(w0, w1, weight);      \
    odd0 = clio_sxtb16_odd(w0);      \
    even0 = clio_sxtb16(w0);         \
    odd1 = clio_sxtb16_odd(w1);      \
    even1 = clio_sxtb16(w1)

/* Repeats BLOCK k / 4 times, unrolled by four. The 3x2 tile is inlined, where k is a constant. Tiles of what is left at the end
 * of rows and channels, and the gathering, are shared: inlined they would make the code three times as long for 3 %. */
#define CLIO_REPEAT(k, BLOCK)                  \
    do {                                       \
        for (int32_t i = (k) >> 4; i > 0; --i) { \
            BLOCK; BLOCK; BLOCK; BLOCK;        \
        }                                      \
        if ((k) & 8) { BLOCK; BLOCK; }         \
        if ((k) & 4) { BLOCK; }                \
    } while (0)

CLIO_SHARED void clio_matmul_1x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0];
    uint32_t w0, even0, odd0;
#define CLIO_BLOCK() CLIO_WEIGHTS_X1(); CLIO_PIXEL_X1(columns, a0, even0, odd0)
    step -= 4;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
}

CLIO_SHARED void clio_matmul_2x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0], a1 = acc[1];
    uint32_t w0, even0, odd0;
#define CLIO_BLOCK() CLIO_WEIGHTS_X1(); CLIO_PIXEL_X1(columns, a0, even0, odd0); CLIO_PIXEL_X1(columns, a1, even0, odd0)
    step -= 8;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
    acc[1] = a1;
}

CLIO_SHARED void clio_matmul_3x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2];
    uint32_t w0, even0, odd0;
#define CLIO_BLOCK()                              \
    CLIO_WEIGHTS_X1();                            \
    CLIO_PIXEL_X1(columns, a0, even0, odd0);      \
    CLIO_PIXEL_X1(columns, a1, even0, odd0);      \
    CLIO_PIXEL_X1(columns, a2, even0, odd0)
    step -= 12;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
}

CLIO_SHARED void clio_matmul_1x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0], a1 = acc[1];
    uint32_t w0, w1, even0, odd0, even1, odd1;
#define CLIO_BLOCK() CLIO_WEIGHTS_X2(); CLIO_PIXEL_X2(columns, a0, a1, even0, odd0, even1, odd1)
    step -= 4;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
    acc[1] = a1;
}

CLIO_SHARED void clio_matmul_2x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    uint32_t w0, w1, even0, odd0, even1, odd1;
#define CLIO_BLOCK()                                              \
    CLIO_WEIGHTS_X2();                                            \
    CLIO_PIXEL_X2(columns, a0, a1, even0, odd0, even1, odd1);     \
    CLIO_PIXEL_X2(columns, a2, a3, even0, odd0, even1, odd1)
    step -= 8;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}

CLIO_INLINE void clio_matmul_3x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3], a4 = acc[4], a5 = acc[5];
    uint32_t w0, w1, even0, odd0, even1, odd1;
#define CLIO_BLOCK()                                              \
    CLIO_WEIGHTS_X2();                                            \
    CLIO_PIXEL_X2(columns, a0, a1, even0, odd0, even1, odd1);     \
    CLIO_PIXEL_X2(columns, a2, a3, even0, odd0, even1, odd1);     \
    CLIO_PIXEL_X2(columns, a4, a5, even0, odd0, even1, odd1)
    step -= 12;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
    acc[4] = a4;
    acc[5] = a5;
}

#endif
