/* Micro-kernels of depthwise 3x3 convolutions over planes; clio_micro.h includes this.
 *
 * A plane holds some rows of one channel as int16, `pitch` (even) elements apart, zeros in the padding, 4-byte aligned. Further
 * channels' planes lie `step` elements behind each other. */
#ifndef CLIO_PLANAR_H
#define CLIO_PLANAR_H

/* Zeros `count` (even) elements of each of `channels` planes. */
CLIO_SHARED void clio_planar_clear(int16_t *plane, int32_t count, int32_t step, int32_t channels) {
    for (; channels > 0; --channels, plane += step) {
        for (int32_t i = 0; i < count; i += 2) {
            plane[i] = 0;
            plane[i + 1] = 0;
        }
    }
}

/* Copies `count` (a multiple of 4) elements from `from` >= count to the beginning of each of four planes. */
CLIO_SHARED void clio_planar_keep(int16_t *plane, int32_t step, int32_t from, int32_t count) {
    for (int32_t c = 0; c < 4; ++c, plane += step) {
        for (int32_t i = 0; i < count; ++i) {
            plane[i] = plane[from + i];
        }
    }
}

/* Copies `rows` rows of `columns` pixels, x_row and x_pixel bytes apart, into the planes of `channels` channels side by side. */
CLIO_SHARED void clio_planar_gather(int16_t *plane, int32_t step, int32_t pitch, const int8_t *x,
                                    int32_t x_row, int32_t x_pixel, int32_t rows, int32_t columns,
                                    int32_t channels) {
    for (; rows > 0; --rows, x += x_row, plane += pitch) {
        for (int32_t c = 0; c < channels; ++c) {
            for (int32_t i = 0; i < columns; ++i) {
                plane[c * step + i] = x[i * x_pixel + c];
            }
        }
    }
}

/* Returns the sum of a 3x3 window and `bias`. Weights are rows of (w0, w1, w1, w2). */
CLIO_INLINE int32_t clio_planar_sum(const int16_t *plane, int32_t pitch, const int16_t *w, int32_t bias) {
    for (int32_t r = 0; r < 3; ++r, plane += pitch, w += 4) {
        bias += plane[0] * w[0] + plane[1] * w[1] + plane[2] * w[3];
    }
    return bias;
}

/* clio_planar_*: `rows` rows of `columns` outputs of `channels` channels: window sums, whose weights are 12 int16 a channel,
 * requantized to [lo, hi] and stored y_row and y_pixel bytes apart. */

/* Every accumulator is shifted by `shift`; bias and bounds as clio_shifted has them. */
CLIO_SHARED void clio_planar_alike(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                   int32_t step, int32_t pitch, const int16_t *w, const int32_t *bias,
                                   int32_t rows, int32_t columns, int32_t channels, int32_t shift,
                                   int32_t lo, int32_t hi) {
    for (int32_t c = 0; c < channels; ++c, plane += step, w += 12) {
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t i = 0; i < columns; ++i) {
                int32_t acc = clio_planar_sum(plane + r * pitch + i, pitch, w, bias[c]);
                y[r * y_row + i * y_pixel + c] = (int8_t)clio_shifted(acc, shift, lo, hi);
            }
        }
    }
}

/* Every channel has its shift. */
CLIO_SHARED void clio_planar_shift(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                   int32_t step, int32_t pitch, const int16_t *w, const int32_t *bias,
                                   int32_t rows, int32_t columns, int32_t channels, const int8_t *shift,
                                   int32_t lo, int32_t hi) {
    for (int32_t c = 0; c < channels; ++c, plane += step, w += 12) {
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t i = 0; i < columns; ++i) {
                int32_t acc = clio_planar_sum(plane + r * pitch + i, pitch, w, bias[c]);
                y[r * y_row + i * y_pixel + c] = (int8_t)clio_clamp(acc >> shift[c], lo, hi);
            }
        }
    }
}

/* Every channel has its multiplier and shift. */
CLIO_SHARED void clio_planar_multiply(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                      int32_t step, int32_t pitch, const int16_t *w, const int32_t *bias,
                                      int32_t rows, int32_t columns, int32_t channels,
                                      const int32_t *multiplier, const int8_t *shift, int32_t lo,
                                      int32_t hi) {
    for (int32_t c = 0; c < channels; ++c, plane += step, w += 12) {
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t i = 0; i < columns; ++i) {
                int32_t acc = clio_planar_sum(plane + r * pitch + i, pitch, w, bias[c]);
                int32_t v = clio_mulshift(acc, multiplier[c], shift[c]);
                y[r * y_row + i * y_pixel + c] = (int8_t)clio_clamp(v, lo, hi);
            }
        }
    }
}

#endif
