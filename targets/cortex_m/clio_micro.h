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
/* One copy for all callers; gcc would make one for each set of constant arguments. */
#if defined(__clang__)
#define CLIO_SHARED static __attribute__((noinline, unused))
#else
#define CLIO_SHARED static __attribute__((noinline, noclone, unused))
#endif

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

/* Two words from a 4-byte aligned pointer and an offset in bytes, which fits the instruction if it is a constant up to 1020. */
#define CLIO_LOAD2_AT(a, b, p, offset)                                                              \
    do {                                                                                            \
        if (__builtin_constant_p(offset) && (offset) <= 1020) {                                     \
            __asm__ volatile("ldrd %0, %1, [%2, %3]"                                                \
                             : "=r"(a), "=r"(b)                                                     \
                             : "r"(p), "i"(offset)                                                  \
                             : "memory");                                                           \
        } else {                                                                                    \
            const int8_t *at = (const int8_t *)(p) + (offset);                                      \
            __asm__ volatile("ldrd %0, %1, [%2]" : "=r"(a), "=r"(b) : "r"(at) : "memory");          \
        }                                                                                           \
    } while (0)

/* acc + low * low + high * high; acc + low * high; acc + high * low; acc + low * low; acc + high * high. */
CLIO_INLINE int32_t clio_smlad(uint32_t a, uint32_t b, int32_t acc) {
    int32_t r;
    __asm__ volatile("smlad %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(acc));
    return r;
}

CLIO_INLINE int32_t clio_smlabt(uint32_t a, uint32_t b, int32_t acc) {
    int32_t r;
    __asm__ volatile("smlabt %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(acc));
    return r;
}

CLIO_INLINE int32_t clio_smlatb(uint32_t a, uint32_t b, int32_t acc) {
    int32_t r;
    __asm__ volatile("smlatb %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(acc));
    return r;
}

CLIO_INLINE int32_t clio_smlabb(uint32_t a, uint32_t b, int32_t acc) {
    int32_t r;
    __asm__ volatile("smlabb %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(acc));
    return r;
}

CLIO_INLINE int32_t clio_smlatt(uint32_t a, uint32_t b, int32_t acc) {
    int32_t r;
    __asm__ volatile("smlatt %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(acc));
    return r;
}

/* The low halves of both; the high halves of both: the first operand's half comes to lie low. */
CLIO_INLINE uint32_t clio_low_halves(uint32_t low, uint32_t high) {
    uint32_t r;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(r) : "r"(low), "r"(high));
    return r;
}

CLIO_INLINE uint32_t clio_high_halves(uint32_t low, uint32_t high) {
    uint32_t r;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(r) : "r"(high), "r"(low));
    return r;
}

/* Keeps the compiler from looking through these values: it would unroll a loop of few iterations, and split its pointers,
 * until the accumulators no longer fit the registers. */
#define CLIO_OPAQUE(a, b, c) __asm__("" : "+r"(a), "+r"(b), "+r"(c))
#define CLIO_HIDE(a) __asm__("" : "+r"(a))

/* A word from any address: single loads may be unaligned. */
CLIO_INLINE uint32_t clio_load(const int8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* A word to the address of any int16. */
CLIO_INLINE void clio_store(int16_t *p, uint32_t v) {
    memcpy(p, &v, sizeof v);
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

/* The low bytes of four values, side by side. */
CLIO_INLINE uint32_t clio_pack_4(int32_t a, int32_t b, int32_t c, int32_t d) {
    __asm__("bfi %0, %1, #8, #8" : "+r"(a) : "r"(b));
    __asm__("bfi %0, %1, #16, #8" : "+r"(a) : "r"(c));
    __asm__("bfi %0, %1, #24, #8" : "+r"(a) : "r"(d));
    return (uint32_t)a;
}

/* One word instead of four bytes. */
CLIO_INLINE void clio_store_4(int8_t *y, int32_t a, int32_t b, int32_t c, int32_t d) {
    uint32_t bytes = clio_pack_4(a, b, c, d);
    memcpy(y, &bytes, sizeof bytes);
}

/* Four compares at once set the flags by which SEL takes the bytes of one operand or the other. */
CLIO_INLINE uint32_t clio_clamp_4(uint32_t bytes, int32_t lo, int32_t hi) {
    uint32_t low = (uint8_t)lo * 0x01010101u, high = (uint8_t)hi * 0x01010101u, t;
    if (hi < 127) {
        __asm__("ssub8 %1, %2, %0\n\tsel %0, %0, %2" : "+r"(bytes), "=&r"(t) : "r"(high) : "cc");
    }
    if (lo > -128) {
        __asm__("ssub8 %1, %0, %2\n\tsel %0, %0, %2" : "+r"(bytes), "=&r"(t) : "r"(low) : "cc");
    }
    return bytes;
}

CLIO_INLINE void clio_store_4_clamped(int8_t *y, int32_t a, int32_t b, int32_t c, int32_t d, int32_t lo,
                                      int32_t hi) {
    uint32_t bytes;
    if (lo == 0) {
        bytes = clio_pack_4(clio_saturate_relu(a), clio_saturate_relu(b), clio_saturate_relu(c),
                            clio_saturate_relu(d));
        lo = -128;
    } else {
        bytes = clio_pack_4(clio_saturate(a), clio_saturate(b), clio_saturate(c), clio_saturate(d));
    }
    bytes = clio_clamp_4(bytes, lo, hi);
    memcpy(y, &bytes, sizeof bytes);
}

/* Saturated to 7 bits for a lower bound of 0, to int8 for one of -128; the shift costs nothing. */
CLIO_INLINE int32_t clio_shifted_up(int32_t acc, int32_t shift, int32_t lo) {
    int32_t r;
    if (!__builtin_constant_p(shift)) {
        return lo == 0 ? clio_saturate_relu(acc >> shift) : clio_saturate(acc >> shift);
    }
    if (lo == 0) {
        __asm__("usat %0, #7, %1, asr %2" : "=r"(r) : "r"(acc), "i"(shift));
    } else {
        __asm__("ssat %0, #8, %1, asr %2" : "=r"(r) : "r"(acc), "i"(shift));
    }
    return r;
}

/* Down again from where int8 ends: four bytes, or one. */
CLIO_INLINE uint32_t clio_shifted_down(uint32_t bytes, uint32_t below, int32_t lo) {
    if (lo == 0) {
        __asm__("uqsub8 %0, %0, %1" : "+r"(bytes) : "r"(below));
    } else {
        __asm__("qsub8 %0, %0, %1" : "+r"(bytes) : "r"(below));
    }
    return bytes;
}

CLIO_INLINE int32_t clio_shifted(int32_t acc, int32_t shift, int32_t lo, int32_t hi) {
    int32_t v = clio_shifted_up(acc, shift, lo);
    return hi == 127 ? v : (int8_t)clio_shifted_down((uint32_t)v, (uint32_t)(127 - hi), lo);
}

CLIO_INLINE void clio_store_4_shifted(int8_t *y, int32_t a, int32_t b, int32_t c, int32_t d, int32_t shift,
                                      int32_t lo, int32_t hi) {
    uint32_t bytes = clio_pack_4(clio_shifted_up(a, shift, lo), clio_shifted_up(b, shift, lo),
                                 clio_shifted_up(c, shift, lo), clio_shifted_up(d, shift, lo));
    if (hi < 127) {
        bytes = clio_shifted_down(bytes, (uint32_t)(127 - hi) * 0x01010101u, lo);
    }
    memcpy(y, &bytes, sizeof bytes);
}

#include "clio_matmul.h"
#include "clio_wide.h"
#include "clio_depthwise.h"
#include "clio_planar.h"
#include "clio_elementwise.h"
#include "clio_pool.h"

#endif
