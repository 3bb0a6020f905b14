/* Micro-kernels of matrix products with widened weights for Arm's DSP extension; clio_micro.h includes this. */
#ifndef CLIO_WIDE_H
#define CLIO_WIDE_H

/* Two words to a 4-byte aligned pointer, which moves on. */
#define CLIO_STORE2(a, b, p) __asm__ volatile("strd %1, %2, [%0], #8" : "+r"(p) : "r"(a), "r"(b) : "memory")

/* Blocks of loads, SXTB16 and one store of many registers, which must come in order; not r7, which may be the frame pointer. */
#define CLIO_WIDENED "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "memory"

/* Four lanes of each channel of a tile. */
#define CLIO_WIDE_WEIGHTS_2                            \
    "ldrd r6, r8, [%[w]], #8\n\t"               \
    "sxtb16 r4, r6\n\t"                         \
    "sxtb16 r5, r8\n\t"                         \
    "sxtb16 r6, r6, ror #8\n\t"                 \
    "sxtb16 r8, r8, ror #8\n\t"                 \
    "stmia %[dst]!, {r4-r6, r8}"
#define CLIO_WIDE_WEIGHTS_4                            \
    "ldrd r9, r10, [%[w]], #8\n\t"              \
    "ldrd r11, r12, [%[w]], #8\n\t"             \
    "sxtb16 r4, r9\n\t"                         \
    "sxtb16 r5, r10\n\t"                        \
    "sxtb16 r6, r11\n\t"                        \
    "sxtb16 r8, r12\n\t"                        \
    "sxtb16 r9, r9, ror #8\n\t"                 \
    "sxtb16 r10, r10, ror #8\n\t"               \
    "sxtb16 r11, r11, ror #8\n\t"               \
    "sxtb16 r12, r12, ror #8\n\t"               \
    "stmia %[dst]!, {r4-r6, r8-r12}"
#define CLIO_WIDE_WEIGHTS(tile) __asm__ volatile(tile : [dst] "+r"(dst), [w] "+r"(weight) : : CLIO_WIDENED)

CLIO_SHARED void clio_widen_2(int16_t *dst, const int8_t *weight, const int32_t *bias, const int8_t *shift, int32_t k,
                              int32_t channels) {
    for (; channels > 0; channels -= 2, bias += 2, shift += 2) {
        int32_t left = k;
        CLIO_STORE2(bias[0], bias[1], dst);
        CLIO_OPAQUE(dst, weight, left);
        for (; left > 0; left -= 4) {
            CLIO_WIDE_WEIGHTS(CLIO_WIDE_WEIGHTS_2);
        }
        CLIO_STORE2((int32_t)shift[0], (int32_t)shift[1], dst);
    }
}

CLIO_SHARED void clio_widen_4(int16_t *dst, const int8_t *weight, const int32_t *bias, const int8_t *shift, int32_t k,
                              int32_t channels) {
    for (; channels > 0; channels -= 4, bias += 4, shift += 4) {
        int32_t left = k;
        CLIO_STORE2(bias[0], bias[1], dst);
        CLIO_STORE2(bias[2], bias[3], dst);
        CLIO_OPAQUE(dst, weight, left);
        for (; left > 0; left -= 4) {
            CLIO_WIDE_WEIGHTS(CLIO_WIDE_WEIGHTS_4);
        }
        CLIO_STORE2((int32_t)shift[0], (int32_t)shift[1], dst);
        CLIO_STORE2((int32_t)shift[2], (int32_t)shift[3], dst);
    }
}

/* Four lanes of both pixels. */
#define CLIO_GATHER_4(even_p, even_q, odd_p, odd_q) \
    "ldr " odd_p ", [%[p]], #4\n\t"                 \
    "ldr " odd_q ", [%[q]], #4\n\t"                 \
    "sxtb16 " even_p ", " odd_p "\n\t"              \
    "sxtb16 " even_q ", " odd_q "\n\t"              \
    "sxtb16 " odd_p ", " odd_p ", ror #8\n\t"       \
    "sxtb16 " odd_q ", " odd_q ", ror #8\n\t"
#define CLIO_GATHER_8 \
    CLIO_GATHER_4("r4", "r5", "r6", "r8") CLIO_GATHER_4("r9", "r10", "r11", "r12") "stmia %[dst]!, {r4-r6, r8-r12}\n\t"
#define CLIO_GATHER(lanes) __asm__ volatile(lanes : [dst] "+r"(dst), [p] "+r"(p), [q] "+r"(q) : : CLIO_WIDENED)

CLIO_SHARED void clio_gather_2(int16_t *dst, const int8_t *src, int32_t pixel, int32_t count, int32_t rows, int32_t row) {
    for (; rows > 0; --rows, src += row) {
        const int8_t *p = src, *q = src + pixel;
        int32_t left = count;
        CLIO_OPAQUE(p, q, left);
        for (; left >= 16; left -= 16) {
            CLIO_GATHER(CLIO_GATHER_8 CLIO_GATHER_8);
        }
        if (left & 8) {
            CLIO_GATHER(CLIO_GATHER_8);
        }
        if (left & 4) {
            CLIO_GATHER(CLIO_GATHER_4("r4", "r5", "r6", "r8") "stmia %[dst]!, {r4-r6, r8}\n\t");
        }
    }
}

CLIO_INLINE void clio_gather_staged(int16_t *dst, const int16_t *stage, int32_t k) {
    clio_gather_2(dst, (const int8_t *)stage, k, k, 1, 0);
}

/* Moves a word, or what is left of one; the compiler would make a call of a library function of a loop in C. */
#define CLIO_STAGE_BYTES(size, bytes)                                                              \
    __asm__ volatile("ldr" size " %[v], [%[src]], #" bytes "\n\tstr" size " %[v], [%[dst]], #" bytes \
                     : [dst] "+r"(dst), [src] "+r"(src), [v] "=&r"(v)                       \
                     :                                                                      \
                     : "memory")
#define CLIO_STAGE_ZEROS(size, bytes) \
    __asm__ volatile("str" size " %[v], [%[dst]], #" bytes : [dst] "+r"(dst) : [v] "r"(0) : "memory")

CLIO_INLINE int8_t *clio_stage_bytes(int8_t *dst, const int8_t *src, int32_t count) {
    uint32_t v;
    for (; count >= 16; count -= 16) {
        CLIO_STAGE_BYTES("", "4");
        CLIO_STAGE_BYTES("", "4");
        CLIO_STAGE_BYTES("", "4");
        CLIO_STAGE_BYTES("", "4");
    }
    if (count & 8) {
        CLIO_STAGE_BYTES("", "4");
        CLIO_STAGE_BYTES("", "4");
    }
    if (count & 4) {
        CLIO_STAGE_BYTES("", "4");
    }
    if (count & 2) {
        CLIO_STAGE_BYTES("h", "2");
    }
    if (count & 1) {
        CLIO_STAGE_BYTES("b", "1");
    }
    return dst;
}

CLIO_INLINE int8_t *clio_stage_zeros(int8_t *dst, int32_t count) {
    for (; count >= 4; count -= 4) {
        CLIO_STAGE_ZEROS("", "4");
    }
    if (count & 2) {
        CLIO_STAGE_ZEROS("h", "2");
    }
    if (count & 1) {
        CLIO_STAGE_ZEROS("b", "1");
    }
    return dst;
}

CLIO_INLINE void clio_copy(int16_t *stage, int32_t at, const int8_t *src, int32_t count) {
    clio_stage_bytes((int8_t *)stage + at, src, count);
}

CLIO_SHARED void clio_stage(int16_t *stage, int32_t at, const int8_t *src, int32_t above, int32_t rows, int32_t below,
                            int32_t row, int32_t before, int32_t pieces, int32_t piece, int32_t after, int32_t spread) {
    int8_t *dst = clio_stage_zeros((int8_t *)stage + at, above);
    if (before + after == 0 && pieces == 1) {
        for (; rows > 0; --rows, src += row) {
            CLIO_OPAQUE(dst, src, piece);
            dst = clio_stage_bytes(dst, src, piece);
        }
    }
    for (; rows > 0; --rows, src += row) {
        const int8_t *from = src;
        CLIO_OPAQUE(before, pieces, after);
        dst = clio_stage_zeros(dst, before);
        for (int32_t i = pieces; i > 0; --i, from += spread) {
            CLIO_OPAQUE(dst, from, piece);
            dst = clio_stage_bytes(dst, from, piece);
        }
        dst = clio_stage_zeros(dst, after);
    }
    clio_stage_zeros(dst, below);
}

/* The products themselves are one assembly statement each: accumulators, operands and two pointers fill all registers, which no
 * compiler manages without spilling. It saves those that a compiler may have reserved, and keeps on the stack what it needs
 * between tiles: the address to enter its unrolled loop at, columns, their end, y, step, the end of y, bounds.
 *
 * 2x4: r0 weights, r1 columns, r2-r5 pixel 0's accumulators, r6-r9 pixel 1's, r10 r11 activations, r12 lr weights.
 * 2x2: r0 weights, r1 columns, r2 r3 pixel 0's, r4 r5 pixel 1's, r6-r9 activations, r10-lr weights. */

/* Four lanes, as operands of SMLAD's last register the sums so far: 88 and 40 bytes. */
#define CLIO_WIDE_2X4_HALF(b0, b1, b2, b3, a0, a1, a2, a3) \
    "ldrd r10, r11, [r1], #8\n\t"                          \
    "ldrd r12, lr, [r0], #8\n\t"                           \
    "smlad r2, r10, r12, " a0 "\n\t"                       \
    "smlad r6, r11, r12, " b0 "\n\t"                       \
    "smlad r3, r10, lr, " a1 "\n\t"                        \
    "smlad r7, r11, lr, " b1 "\n\t"                        \
    "ldrd r12, lr, [r0], #8\n\t"                           \
    "smlad r4, r10, r12, " a2 "\n\t"                       \
    "smlad r8, r11, r12, " b2 "\n\t"                       \
    "smlad r5, r10, lr, " a3 "\n\t"                        \
    "smlad r9, r11, lr, " b3 "\n\t"
#define CLIO_WIDE_2X4_NEXT CLIO_WIDE_2X4_HALF("r6", "r7", "r8", "r9", "r2", "r3", "r4", "r5")
#define CLIO_WIDE_2X4_FIRST \
    "ldmia r0!, {r6-r9}\n\t" CLIO_WIDE_2X4_HALF("r6", "r7", "r8", "r9", "r6", "r7", "r8", "r9") CLIO_WIDE_2X4_NEXT
#define CLIO_WIDE_2X4_BLOCK CLIO_WIDE_2X4_NEXT CLIO_WIDE_2X4_NEXT
#define CLIO_WIDE_2X4_LOOP CLIO_WIDE_2X4_BLOCK CLIO_WIDE_2X4_BLOCK CLIO_WIDE_2X4_BLOCK CLIO_WIDE_2X4_BLOCK

#define CLIO_WIDE_2X2(a0, a1)         \
    "ldmia r1!, {r6-r9}\n\t"          \
    "ldmia r0!, {r10-r12, lr}\n\t"    \
    "smlad r2, r6, r10, " a0 "\n\t"   \
    "smlad r3, r6, r11, " a1 "\n\t"   \
    "smlad r4, r7, r10, r4\n\t"       \
    "smlad r5, r7, r11, r5\n\t"       \
    "smlad r2, r8, r12, r2\n\t"       \
    "smlad r3, r8, lr, r3\n\t"        \
    "smlad r4, r9, r12, r4\n\t"       \
    "smlad r5, r9, lr, r5\n\t"
#define CLIO_WIDE_2X2_FIRST "ldrd r4, r5, [r0], #8\n\t" CLIO_WIDE_2X2("r4", "r5")
#define CLIO_WIDE_2X2_BLOCK CLIO_WIDE_2X2("r2", "r3")
#define CLIO_WIDE_2X2_TWICE CLIO_WIDE_2X2_BLOCK CLIO_WIDE_2X2_BLOCK
#define CLIO_WIDE_2X2_LOOP CLIO_WIDE_2X2_TWICE CLIO_WIDE_2X2_TWICE CLIO_WIDE_2X2_TWICE CLIO_WIDE_2X2_TWICE

#define CLIO_WIDE_2X4_SHIFT              \
    "ldmia r0!, {r1, r10-r12}\n\t"       \
    "asr r2, r2, r1\n\t"                 \
    "asr r3, r3, r10\n\t"                \
    "asr r4, r4, r11\n\t"                \
    "asr r5, r5, r12\n\t"                \
    "asr r6, r6, r1\n\t"                 \
    "asr r7, r7, r10\n\t"                \
    "asr r8, r8, r11\n\t"                \
    "asr r9, r9, r12\n\t"
#define CLIO_WIDE_2X2_SHIFT              \
    "ldrd r10, r11, [r0], #8\n\t"        \
    "asr r2, r2, r10\n\t"                \
    "asr r3, r3, r11\n\t"                \
    "asr r4, r4, r10\n\t"                \
    "asr r5, r5, r11\n\t"

/* Bytes of both pixels into r2 and r6, or r2 and r4. Two channels in one register where they are known to fit 16 bits. */
#define CLIO_WIDE_2X4_RELU          \
    "pkhbt r2, r2, r4, lsl #16\n\t" \
    "pkhbt r3, r3, r5, lsl #16\n\t" \
    "pkhbt r6, r6, r8, lsl #16\n\t" \
    "pkhbt r7, r7, r9, lsl #16\n\t" \
    "usat16 r2, #7, r2\n\t"         \
    "usat16 r3, #7, r3\n\t"         \
    "usat16 r6, #7, r6\n\t"         \
    "usat16 r7, #7, r7\n\t"         \
    "orr r2, r2, r3, lsl #8\n\t"    \
    "orr r6, r6, r7, lsl #8\n\t"
#define CLIO_WIDE_2X2_RELU          \
    "pkhbt r2, r2, r3, lsl #16\n\t" \
    "pkhbt r4, r4, r5, lsl #16\n\t" \
    "usat16 r2, #7, r2\n\t"         \
    "usat16 r4, #7, r4\n\t"         \
    "orr r2, r2, r2, lsr #8\n\t"    \
    "orr r4, r4, r4, lsr #8\n\t"
#define CLIO_WIDE_2X4_SIGNED   \
    "ssat r2, #8, r2\n\t"      \
    "ssat r3, #8, r3\n\t"      \
    "ssat r4, #8, r4\n\t"      \
    "ssat r5, #8, r5\n\t"      \
    "ssat r6, #8, r6\n\t"      \
    "ssat r7, #8, r7\n\t"      \
    "ssat r8, #8, r8\n\t"      \
    "ssat r9, #8, r9\n\t"      \
    "bfi r2, r3, #8, #8\n\t"   \
    "bfi r2, r4, #16, #8\n\t"  \
    "bfi r2, r5, #24, #8\n\t"  \
    "bfi r6, r7, #8, #8\n\t"   \
    "bfi r6, r8, #16, #8\n\t"  \
    "bfi r6, r9, #24, #8\n\t"
#define CLIO_WIDE_2X2_SIGNED   \
    "ssat r2, #8, r2\n\t"      \
    "ssat r3, #8, r3\n\t"      \
    "ssat r4, #8, r4\n\t"      \
    "ssat r5, #8, r5\n\t"      \
    "bfi r2, r3, #8, #8\n\t"   \
    "bfi r4, r5, #8, #8\n\t"

/* Clamps bytes of [0, 127] from above: what is more than hi becomes 255 by adding 255 - hi. */
#define CLIO_WIDE_TOP(a, b)                 \
    "ldr lr, [sp, #24]\n\t"                 \
    "uqadd8 " a ", " a ", lr\n\t"           \
    "uqadd8 " b ", " b ", lr\n\t"           \
    "usub8 " a ", " a ", lr\n\t"            \
    "usub8 " b ", " b ", lr\n\t"
/* Clamps signed bytes: four compares at once set the flags by which SEL takes the bytes of one operand or the other. */
#define CLIO_WIDE_BETWEEN(a, b)             \
    "ldrd r12, lr, [sp, #24]\n\t"           \
    "ssub8 r10, r12, " a "\n\t"             \
    "sel " a ", " a ", r12\n\t"             \
    "ssub8 r10, r12, " b "\n\t"             \
    "sel " b ", " b ", r12\n\t"             \
    "ssub8 r10, " a ", lr\n\t"              \
    "sel " a ", " a ", lr\n\t"              \
    "ssub8 r10, " b ", lr\n\t"              \
    "sel " b ", " b ", lr\n\t"

#define CLIO_WIDE_2X4_STORE  \
    "str r6, [r10, r11]\n\t" \
    "str r2, [r10], #4\n\t"
#define CLIO_WIDE_2X2_STORE   \
    "strh r4, [r10, r11]\n\t" \
    "strh r2, [r10], #2\n\t"

/* Never called: it stands in the compiler's call graph, by which stacks are added up, for the bytes that the assembly pushes. */
CLIO_SHARED void clio_wide_pushes(void) {
    uint8_t pushed[56];
    __asm__ volatile("" : : "r"(pushed) : "memory");
}

/* The body of a function. Its loop of `blocks` (a power of 2) blocks of `bytes` is entered so that it ends with the lanes. */
#define CLIO_WIDE(first, loop, blocks, bytes, finish, store, bound0, bound1)                                        \
    __asm__("" : "+r"(k)); /* or the compiler would see that k is never negative */                                 \
    if (k < 0) {                                                                                                    \
        clio_wide_pushes();                                                                                         \
    }                                                                                                               \
    register int8_t *r0 __asm__("r0") = y;                                                                          \
    register const int16_t *r1 __asm__("r1") = columns;                                                             \
    register const int16_t *r2 __asm__("r2") = weight;                                                              \
    register int32_t r3 __asm__("r3") = k;                                                                          \
    register int32_t r4 __asm__("r4") = channels;                                                                   \
    register int32_t r5 __asm__("r5") = step;                                                                       \
    register uint32_t r6 __asm__("r6") = (bound0) * 0x01010101u;                                                    \
    register uint32_t r12 __asm__("r12") = (bound1) * 0x01010101u;                                                  \
    __asm__ volatile(                                                                                               \
        "push {r7-r11, lr}\n\t"                                                                                     \
        "sub sp, #32\n\t"                                                                                           \
        "strd r6, r12, [sp, #24]\n\t"                                                                               \
        "add r4, r0, r4\n\t"                                                                                        \
        "strd r0, r5, [sp, #12]\n\t"                                                                                \
        "str r4, [sp, #20]\n\t"                                                                                     \
        "add r4, r1, r3, lsl #2\n\t"                                                                                \
        "strd r1, r4, [sp, #4]\n\t"                                                                                 \
        "sub r3, r3, #8\n\t"                                                                                        \
        "lsr r3, r3, #2\n\t"                                                                                        \
        "and r3, r3, #" blocks "-1\n\t"                                                                             \
        "add r3, r3, #1\n\t"                                                                                        \
        "mov r4, #" bytes "\n\t"                                                                                    \
        "mul r3, r3, r4\n\t"                                                                                        \
        "adr.w r4, 3f\n\t"                                                                                          \
        "sub r4, r4, r3\n\t"                                                                                        \
        "orr r4, r4, #1\n\t"                                                                                        \
        "str r4, [sp]\n\t"                                                                                          \
        "mov r0, r2\n"                                                                                              \
        "1:\n\t"                                                                                                    \
        "ldr r1, [sp, #4]\n\t" first                                                                                \
        "ldr pc, [sp]\n\t"                                                                                          \
        ".balign 4\n"                                                                                               \
        "2:\n\t" loop                                                                                               \
        "3:\n\t"                                                                                                    \
        "ldr r12, [sp, #8]\n\t"                                                                                     \
        "cmp r1, r12\n\t"                                                                                           \
        "bne.w 2b\n\t" finish                                                                                       \
        "ldrd r10, r11, [sp, #12]\n\t" store                                                                        \
        "str r10, [sp, #12]\n\t"                                                                                    \
        "ldr r11, [sp, #20]\n\t"                                                                                    \
        "cmp r10, r11\n\t"                                                                                          \
        "bne.w 1b\n\t"                                                                                              \
        "add sp, #32\n\t"                                                                                           \
        "pop {r7-r11, lr}\n\t"                                                                                      \
        : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r12)                           \
        :                                                                                                           \
        : "memory", "cc")
#define CLIO_WIDE_2X4_BODY(finish, bound0, bound1)                                                          \
    CLIO_WIDE(CLIO_WIDE_2X4_FIRST, CLIO_WIDE_2X4_LOOP, "4", "88", CLIO_WIDE_2X4_SHIFT finish, CLIO_WIDE_2X4_STORE, \
              (uint32_t)(bound0), (uint32_t)(bound1))
#define CLIO_WIDE_2X2_BODY(finish, bound0, bound1)                                                          \
    CLIO_WIDE(CLIO_WIDE_2X2_FIRST, CLIO_WIDE_2X2_LOOP, "8", "40", CLIO_WIDE_2X2_SHIFT finish, CLIO_WIDE_2X2_STORE, \
              (uint32_t)(bound0), (uint32_t)(bound1))

CLIO_SHARED void clio_wide_2x4_relu(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                    int32_t step) {
    CLIO_WIDE_2X4_BODY(CLIO_WIDE_2X4_RELU, 0, 0);
}

CLIO_SHARED void clio_wide_2x4_relu_to(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k,
                                       int32_t channels, int32_t step, int32_t hi) {
    CLIO_WIDE_2X4_BODY(CLIO_WIDE_2X4_RELU CLIO_WIDE_TOP("r2", "r6"), 255 - hi, 0);
}

CLIO_SHARED void clio_wide_2x4_signed(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k,
                                      int32_t channels, int32_t step) {
    CLIO_WIDE_2X4_BODY(CLIO_WIDE_2X4_SIGNED, 0, 0);
}

CLIO_SHARED void clio_wide_2x4_clamp(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step, int32_t lo, int32_t hi) {
    CLIO_WIDE_2X4_BODY(CLIO_WIDE_2X4_SIGNED CLIO_WIDE_BETWEEN("r2", "r6"), (uint8_t)hi, (uint8_t)lo);
}

CLIO_SHARED void clio_wide_2x2_relu(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                    int32_t step) {
    CLIO_WIDE_2X2_BODY(CLIO_WIDE_2X2_RELU, 0, 0);
}

CLIO_SHARED void clio_wide_2x2_relu_to(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k,
                                       int32_t channels, int32_t step, int32_t hi) {
    CLIO_WIDE_2X2_BODY(CLIO_WIDE_2X2_RELU CLIO_WIDE_TOP("r2", "r4"), 255 - hi, 0);
}

CLIO_SHARED void clio_wide_2x2_signed(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k,
                                      int32_t channels, int32_t step) {
    CLIO_WIDE_2X2_BODY(CLIO_WIDE_2X2_SIGNED, 0, 0);
}

CLIO_SHARED void clio_wide_2x2_clamp(int8_t *y, const int16_t *columns, const int16_t *weight, int32_t k, int32_t channels,
                                     int32_t step, int32_t lo, int32_t hi) {
    CLIO_WIDE_2X2_BODY(CLIO_WIDE_2X2_SIGNED CLIO_WIDE_BETWEEN("r2", "r4"), (uint8_t)hi, (uint8_t)lo);
}

#endif
