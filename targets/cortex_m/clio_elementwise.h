/* Micro-kernels of operators that go through elements one by one, four in a word; clio_micro.h includes this. */
#ifndef CLIO_ELEMENTWISE_H
#define CLIO_ELEMENTWISE_H

CLIO_INLINE void clio_store_bytes(int8_t *p, uint32_t v) {
    memcpy(p, &v, sizeof v);
}

CLIO_INLINE void clio_move(int8_t *y, const int8_t *x, int32_t count) {
    for (; count > 15; count -= 16, x += 16, y += 16) {
        /* Word by word: the two may overlap. */
        clio_store_bytes(y, clio_load(x));
        clio_store_bytes(y + 4, clio_load(x + 4));
        clio_store_bytes(y + 8, clio_load(x + 8));
        clio_store_bytes(y + 12, clio_load(x + 12));
    }
    for (; count > 3; count -= 4, x += 4, y += 4) {
        clio_store_bytes(y, clio_load(x));
    }
    CLIO_HIDE(count); /* a few bytes are no reason to call memcpy */
    for (; count > 0; --count) {
        *y++ = *x++;
    }
}

/* Four accumulators of lanes 0, 2 (even) and 1, 3 (odd) of a word, clamped after a constant shift. */
CLIO_INLINE uint32_t clio_narrow(int32_t a, int32_t b, int32_t c, int32_t d, int32_t shift, int32_t lo,
                                 int32_t hi) {
    int32_t end = lo == 0 ? 0 : -128;
    if (shift == 0) {
        a = end == 0 ? clio_saturate_relu(a) : clio_saturate(a);
        b = end == 0 ? clio_saturate_relu(b) : clio_saturate(b);
        c = end == 0 ? clio_saturate_relu(c) : clio_saturate(c);
        d = end == 0 ? clio_saturate_relu(d) : clio_saturate(d);
    } else {
        a = clio_shifted_up(a, shift, end);
        b = clio_shifted_up(b, shift, end);
        c = clio_shifted_up(c, shift, end);
        d = clio_shifted_up(d, shift, end);
    }
    return clio_clamp_4(clio_pack_4(a, b, c, d), lo == 0 ? -128 : lo, hi);
}

CLIO_INLINE void clio_rescale(int8_t *y, const int8_t *x, int32_t count, int32_t m, int32_t shift, int32_t lo,
                              int32_t hi) {
    int32_t rounding = (1 << shift) >> 1;
    for (; count > 3; count -= 4, x += 4, y += 4) {
        uint32_t bytes = clio_load(x), odd = clio_sxtb16_odd(bytes), even = clio_sxtb16(bytes);
        uint32_t v = clio_narrow(clio_smlabb(even, (uint32_t)m, rounding), clio_smlabb(odd, (uint32_t)m, rounding),
                                 clio_smlatb(even, (uint32_t)m, rounding), clio_smlatb(odd, (uint32_t)m, rounding),
                                 shift, lo, hi);
        clio_store_bytes(y, v);
    }
    for (; count > 0; --count, ++x) {
        *y++ = (int8_t)clio_clamp((*x * m + rounding) >> shift, lo, hi);
    }
}

CLIO_INLINE void clio_add(int8_t *y, const int8_t *a, const int8_t *b, int32_t count, int32_t ma, int32_t mb,
                          int32_t shift, int32_t lo, int32_t hi) {
    int32_t rounding = (1 << shift) >> 1;
    uint32_t m = (uint32_t)ma, n = (uint32_t)mb;
    for (; count > 3; count -= 4, a += 4, b += 4, y += 4) {
        uint32_t bytes = clio_load(a), odd = clio_sxtb16_odd(bytes), even = clio_sxtb16(bytes);
        int32_t v0 = clio_smlabb(even, m, rounding), v1 = clio_smlabb(odd, m, rounding);
        int32_t v2 = clio_smlatb(even, m, rounding), v3 = clio_smlatb(odd, m, rounding);
        bytes = clio_load(b);
        odd = clio_sxtb16_odd(bytes);
        even = clio_sxtb16(bytes);
        v0 = clio_smlabb(even, n, v0);
        v1 = clio_smlabb(odd, n, v1);
        v2 = clio_smlatb(even, n, v2);
        v3 = clio_smlatb(odd, n, v3);
        clio_store_bytes(y, clio_narrow(v0, v1, v2, v3, shift, lo, hi));
    }
    for (; count > 0; --count, ++a, ++b) {
        *y++ = (int8_t)clio_clamp((*a * ma + *b * mb + rounding) >> shift, lo, hi);
    }
}

/* Four bytes each: (a - b) >> 1 and (a + b) >> 1 without overflow, a + b saturated. */
CLIO_INLINE uint32_t clio_shsub8(uint32_t a, uint32_t b) {
    uint32_t r;
    __asm__("shsub8 %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

CLIO_INLINE uint32_t clio_shadd8(uint32_t a, uint32_t b) {
    uint32_t r;
    __asm__("shadd8 %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

CLIO_INLINE uint32_t clio_qadd8(uint32_t a, uint32_t b) {
    uint32_t r;
    __asm__("qadd8 %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

/* The last halving of a sum rounds up: (a + b + 1) >> 1 is (a - ~b) >> 1; those before it may round down. */
CLIO_INLINE uint32_t clio_add_word(uint32_t a, uint32_t b, int32_t doubled, int32_t shift) {
    if (shift == doubled) {
        for (int32_t i = 1; i < doubled; ++i) {
            b = clio_shadd8(b, 0);
        }
        return clio_qadd8(a, doubled > 0 ? clio_shsub8(b, ~0u) : b);
    }
    for (int32_t i = 0; i < doubled; ++i) {
        b = clio_shadd8(b, 0);
    }
    if (shift == doubled + 1) {
        return clio_shsub8(a, ~b);
    }
    a = clio_shadd8(a, b);
    for (int32_t i = doubled + 2; i < shift; ++i) {
        a = clio_shadd8(a, 0);
    }
    return clio_shsub8(a, ~0u);
}

CLIO_INLINE void clio_add_bytes(int8_t *y, const int8_t *a, const int8_t *b, int32_t count, int32_t doubled,
                                int32_t shift, int32_t lo, int32_t hi) {
    for (; count > 7; count -= 8, a += 8, b += 8, y += 8) {
        uint32_t first = clio_add_word(clio_load(a), clio_load(b), doubled, shift);
        clio_store_bytes(y, clio_clamp_4(first, lo, hi));
        uint32_t second = clio_add_word(clio_load(a + 4), clio_load(b + 4), doubled, shift);
        clio_store_bytes(y + 4, clio_clamp_4(second, lo, hi));
    }
    for (; count > 0; --count) {
        int32_t v = (*a++ * (1 << doubled) + *b++ + ((1 << shift) >> 1)) >> shift;
        *y++ = (int8_t)clio_clamp(v, lo, hi);
    }
}

CLIO_INLINE void clio_mul(int8_t *y, const int8_t *a, const int8_t *b, int32_t count, int32_t shift, int32_t lo,
                          int32_t hi) {
    int32_t rounding = (1 << shift) >> 1;
    for (; count > 3; count -= 4, a += 4, b += 4, y += 4) {
        uint32_t bytes = clio_load(a), odd = clio_sxtb16_odd(bytes), even = clio_sxtb16(bytes);
        uint32_t others = clio_load(b), odd2 = clio_sxtb16_odd(others), even2 = clio_sxtb16(others);
        uint32_t v = clio_narrow(clio_smlabb(even, even2, rounding), clio_smlabb(odd, odd2, rounding),
                                 clio_smlatt(even, even2, rounding), clio_smlatt(odd, odd2, rounding), shift, lo, hi);
        clio_store_bytes(y, v);
    }
    for (; count > 0; --count, ++a, ++b) {
        *y++ = (int8_t)clio_clamp((*a * *b + rounding) >> shift, lo, hi);
    }
}

#endif
