/* Micro-kernels for Cortex-M cores with the DSP extension (M4, M7, M33 …). What each computes is said in
 * targets/portable/clio_micro.h; the two headers are interchangeable.
 *
 * Wrapped instructions are `volatile` where their order matters: the compiler's scheduler would hoist loads until the
 * accumulators no longer fit the registers. The wrappers that load name the memory they read through "memory" clobbers. */
#ifndef CLIO_MICRO_H
#define CLIO_MICRO_H

#include <stdint.h>
#include <string.h>

#define CLIO_INLINE static inline __attribute__((always_inline, unused))
#define CLIO_SHARED static __attribute__((noinline, unused))

/* One instruction each, named after it. */

CLIO_INLINE uint32_t clio_sxtb16(uint32_t v) {
    uint32_t r;
    __asm__ volatile("sxtb16 %0, %1" : "=r"(r) : "r"(v));
    return r;
}

/* Bytes 1 and 3. */
CLIO_INLINE uint32_t clio_sxtb16_odd(uint32_t v) {
    uint32_t r;
    __asm__ volatile("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(v));
    return r;
}

/* acc + low * low + high * high. */
#define CLIO_SMLAD(acc, a, b) __asm__ volatile("smlad %0, %1, %2, %0" : "+r"(acc) : "r"(a), "r"(b))
/* acc + low * low; acc + high * high. */
#define CLIO_SMLABB(acc, a, b) __asm__ volatile("smlabb %0, %1, %2, %0" : "+r"(acc) : "r"(a), "r"(b))
#define CLIO_SMLATT(acc, a, b) __asm__ volatile("smlatt %0, %1, %2, %0" : "+r"(acc) : "r"(a), "r"(b))
/* Two words from a 4-byte aligned pointer, which moves on. */
#define CLIO_LOAD2(a, b, p) __asm__ volatile("ldrd %0, %1, [%2], #8" : "=&r"(a), "=&r"(b), "+r"(p) : : "memory")

/* Keeps the compiler from looking through these values: it would unroll a loop of few iterations, and split its pointers,
 * until the accumulators no longer fit the registers. */
#define CLIO_OPAQUE(a, b, c) __asm__("" : "+r"(a), "+r"(b), "+r"(c))

/* A word from any address: single loads may be unaligned. */
CLIO_INLINE uint32_t clio_load(const int8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

CLIO_INLINE int32_t clio_clamp(int32_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

CLIO_INLINE int32_t clio_saturate(int32_t v) {
    int32_t r;
    __asm__("ssat %0, #8, %1" : "=r"(r) : "r"(v));
    return r;
}

CLIO_INLINE int32_t clio_saturate_relu(int32_t v) {
    int32_t r;
    __asm__("usat %0, #7, %1" : "=r"(r) : "r"(v));
    return r;
}

CLIO_INLINE int32_t clio_mulshift(int32_t acc, int32_t multiplier, int32_t shift) {
    int32_t high;
    __asm__("smmul %0, %1, %2" : "=r"(high) : "r"(acc), "r"(multiplier));
    return (high + (int32_t)(1u << (shift - 33))) >> (shift - 32);
}

/* One word instead of four bytes. */
CLIO_INLINE void clio_store_4(int8_t *y, int32_t a, int32_t b, int32_t c, int32_t d) {
    __asm__("bfi %0, %1, #8, #8" : "+r"(a) : "r"(b));
    __asm__("bfi %0, %1, #16, #8" : "+r"(a) : "r"(c));
    __asm__("bfi %0, %1, #24, #8" : "+r"(a) : "r"(d));
    memcpy(y, &a, sizeof a);
}

/* Stores one block of four lanes; dst is 4-byte aligned. */
CLIO_INLINE void clio_store_block(int16_t *dst, uint32_t bytes) {
    uint32_t even = clio_sxtb16(bytes), odd = clio_sxtb16_odd(bytes);
    __asm__ volatile("strd %0, %1, [%2]" : : "r"(even), "r"(odd), "r"(dst) : "memory");
}

CLIO_INLINE void clio_gather(int16_t *dst, int32_t step, const int8_t *src, int32_t count) {
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

/* Repeats BLOCK k / 4 times, unrolled by four: k is a constant where these functions are used. */
#define CLIO_REPEAT(k, BLOCK)                  \
    do {                                       \
        for (int32_t i = (k) >> 4; i > 0; --i) { \
            BLOCK; BLOCK; BLOCK; BLOCK;        \
        }                                      \
        if ((k) & 8) { BLOCK; BLOCK; }         \
        if ((k) & 4) { BLOCK; }                \
    } while (0)

CLIO_INLINE void clio_matmul_1x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0];
    uint32_t w0, even0, odd0;
#define CLIO_BLOCK() CLIO_WEIGHTS_X1(); CLIO_PIXEL_X1(columns, a0, even0, odd0)
    step -= 4;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
}

CLIO_INLINE void clio_matmul_2x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0], a1 = acc[1];
    uint32_t w0, even0, odd0;
#define CLIO_BLOCK() CLIO_WEIGHTS_X1(); CLIO_PIXEL_X1(columns, a0, even0, odd0); CLIO_PIXEL_X1(columns, a1, even0, odd0)
    step -= 8;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
    acc[1] = a1;
}

CLIO_INLINE void clio_matmul_3x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
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

CLIO_INLINE void clio_matmul_1x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    int32_t a0 = acc[0], a1 = acc[1];
    uint32_t w0, w1, even0, odd0, even1, odd1;
#define CLIO_BLOCK() CLIO_WEIGHTS_X2(); CLIO_PIXEL_X2(columns, a0, a1, even0, odd0, even1, odd1)
    step -= 4;
    CLIO_REPEAT(k, CLIO_BLOCK(); columns += step);
#undef CLIO_BLOCK
    acc[0] = a0;
    acc[1] = a1;
}

CLIO_INLINE void clio_matmul_2x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
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
