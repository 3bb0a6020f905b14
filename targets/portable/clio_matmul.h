/* Micro-kernels of matrix products; clio_micro.h includes this.
 *
 * Matrix products read their operands in blocks of four lanes. A block of activations is stored in lane order: elements e0 e1
 * e2 e3 as int16 e0 e2 e1 e3. Weights are stored as they are. `columns` and `weight` must be 4-byte aligned. */
#ifndef CLIO_MATMUL_H
#define CLIO_MATMUL_H

/* Widens `count` bytes into blocks of four lanes, zeros up to a whole block. Block b goes to dst + b * step. */
CLIO_SHARED void clio_gather(int16_t *dst, int32_t step, const int8_t *src, int32_t count) {
    for (; count >= 4; count -= 4, src += 4, dst += step) {
        dst[0] = src[0];
        dst[1] = src[2];
        dst[2] = src[1];
        dst[3] = src[3];
    }
    if (count > 0) {
        dst[0] = src[0];
        dst[1] = (int16_t)(count > 2 ? src[2] : 0);
        dst[2] = (int16_t)(count > 1 ? src[1] : 0);
        dst[3] = 0;
    }
}

/* The same for `before` zeros, `count` bytes, `after` zeros. Not inlined: it runs on the border of an image only. */
CLIO_SHARED void clio_gather_padded(int16_t *dst, int32_t step, const int8_t *src, int32_t before, int32_t count, int32_t after) {
    int32_t end = (before + count + after + 3) / 4 * 4;
    for (int32_t i = 0; i < end; ++i) {
        int32_t lane = (i & 1) * 2 + ((i >> 1) & 1);
        int32_t from = i - before;
        dst[(i >> 2) * step + lane] = (int16_t)(from >= 0 && from < count ? src[from] : 0);
    }
}

/* The next block of row `c` of `m` times row `w`. */
CLIO_INLINE int32_t clio_block(const int16_t *c, const int8_t *w) {
    return c[0] * w[0] + c[1] * w[2] + c[2] * w[1] + c[3] * w[3];
}

/* The tile that most of the time is spent in is inlined, where k is a constant; others are shared, for short code.
 *
 * clio_matmul_MxN: acc[m * N + n] += sum over k of columns[m] * weight[n], for M pixels and N output channels.
 * Block b of pixel m is at columns + b * step + m * 4, that of channel n at weight + (b * N + n) * 4; k is a multiple of 4. */
CLIO_SHARED void clio_matmul_1x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 4) {
        acc[0] += clio_block(columns, weight);
    }
}

CLIO_SHARED void clio_matmul_2x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 4) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns + 4, weight);
    }
}

CLIO_SHARED void clio_matmul_3x1(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 4) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns + 4, weight);
        acc[2] += clio_block(columns + 8, weight);
    }
}

CLIO_SHARED void clio_matmul_1x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 8) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns, weight + 4);
    }
}

CLIO_SHARED void clio_matmul_2x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 8) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns, weight + 4);
        acc[2] += clio_block(columns + 4, weight);
        acc[3] += clio_block(columns + 4, weight + 4);
    }
}

CLIO_INLINE void clio_matmul_3x2(int32_t *acc, const int16_t *columns, int32_t step, const int8_t *weight, int32_t k) {
    for (; k > 0; k -= 4, columns += step, weight += 8) {
        acc[0] += clio_block(columns, weight);
        acc[1] += clio_block(columns, weight + 4);
        acc[2] += clio_block(columns + 4, weight);
        acc[3] += clio_block(columns + 4, weight + 4);
        acc[4] += clio_block(columns + 8, weight);
        acc[5] += clio_block(columns + 8, weight + 4);
    }
}

#endif
