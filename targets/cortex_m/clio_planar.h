/* Micro-kernels of depthwise 3x3 convolutions over planes for Arm's DSP extension; clio_micro.h includes this. */
#ifndef CLIO_PLANAR_H
#define CLIO_PLANAR_H

CLIO_SHARED void clio_planar_clear(int16_t *plane, int32_t count, int32_t step, int32_t channels) {
    uint32_t zeros = 0;
    CLIO_HIDE(zeros); /* or the compiler would call memset, which may go byte by byte */
    for (; channels > 0; --channels, plane += step) {
        for (int32_t i = 0; i < count; i += 2) {
            clio_store(plane + i, zeros);
        }
    }
}

CLIO_SHARED void clio_planar_keep(int16_t *plane, int32_t step, int32_t from, int32_t count) {
    for (int32_t c = 0; c < 4; ++c, plane += step) {
        const int16_t *source = plane + from;
        for (int32_t i = 0; i < count; i += 4) {
            uint32_t a, b;
            CLIO_LOAD2(a, b, source);
            clio_store(plane + i, a);
            clio_store(plane + i + 2, b);
        }
    }
}

/* Two pixels of four channels: each plane gets a word. */
#define CLIO_PLANAR_PAIR(u, v)                                                           \
    do {                                                                                 \
        uint32_t first = clio_load(u), second = clio_load((u) + x_pixel);                \
        uint32_t odd = clio_sxtb16_odd(first), odd2 = clio_sxtb16_odd(second);           \
        uint32_t even = clio_sxtb16(first), even2 = clio_sxtb16(second);                 \
        clio_store(v, clio_low_halves(even, even2));                                     \
        clio_store((v) + step, clio_low_halves(odd, odd2));                              \
        clio_store((v) + 2 * step, clio_high_halves(even, even2));                       \
        clio_store((v) + 3 * step, clio_high_halves(odd, odd2));                         \
    } while (0)

CLIO_INLINE void clio_planar_gather(int16_t *plane, int32_t step, int32_t pitch, const int8_t *x,
                                    int32_t x_row, int32_t x_pixel, int32_t rows, int32_t columns,
                                    int32_t channels) {
    for (; rows > 0; --rows, x += x_row, plane += pitch) {
        int32_t done = 0;
        if (channels == 4) {
            const int8_t *u = x;
            int16_t *v = plane, *end = plane + (columns & ~3);
            done = columns & ~1;
            CLIO_HIDE(end); /* or a short loop would be unrolled whole */
            if (columns > 3) {
                do {
                    CLIO_PLANAR_PAIR(u, v);
                    CLIO_PLANAR_PAIR(u + 2 * x_pixel, v + 2);
                    u += 4 * x_pixel;
                    v += 4;
                } while (v != end);
            }
            if (columns & 2) {
                CLIO_PLANAR_PAIR(u, v);
            }
        }
        for (; done < columns; ++done) {
            for (int32_t c = 0; c < channels; ++c) {
                plane[c * step + done] = x[done * x_pixel + c];
            }
        }
    }
}

/* How accumulators become outputs; what is constant takes no register. */
typedef struct {
    int32_t multiplier, shift, lo, hi;
    int32_t mode; /* 0: alike, 1: shift, 2: multiply */
} clio_planar_epilogue;

CLIO_INLINE int8_t clio_planar_output(int32_t acc, clio_planar_epilogue e) {
    if (e.mode == 0) {
        return (int8_t)clio_shifted(acc, e.shift, e.lo, e.hi);
    }
    acc = e.mode == 1 ? acc >> e.shift : clio_mulshift(acc, e.multiplier, e.shift);
    if (e.lo == 0) {
        acc = clio_saturate_relu(acc);
        return (int8_t)(e.hi < 127 && acc > e.hi ? e.hi : acc);
    }
    return (int8_t)(e.lo == -128 && e.hi == 127 ? clio_saturate(acc) : clio_clamp(acc, e.lo, e.hi));
}

/* The weights of a window in registers, as pairs. */
typedef struct {
    uint32_t w01[3], w12[3];
} clio_planar_window;

/* Adds row r of the window to outputs side by side, whose taps in plane row `at` begin at `plane`. */
#define CLIO_PLANAR_TAPS(a, b, start_a, start_b, r)         \
    do {                                                    \
        a = clio_smlad(x01, w.w01[r], start_a);             \
        a = clio_smlabt(x23, w.w12[r], a);                  \
        if (columns == 2) {                                 \
            b = clio_smlatb(x01, w.w01[r], start_b);        \
            b = clio_smlad(x23, w.w12[r], b);               \
        }                                                   \
    } while (0)

/* One or two rows of one or two outputs side by side. The second row begins with what the first one loaded last: loading its
 * first taps again takes an instruction, four accumulators at once would take more to find registers. */
CLIO_INLINE void clio_planar_block(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                   int32_t pitch, clio_planar_window w, int32_t bias, int32_t rows,
                                   int32_t columns, clio_planar_epilogue e) {
    int32_t a, b = 0;
    uint32_t x01, x23;
    CLIO_LOAD2_AT(x01, x23, plane, 0);
    CLIO_PLANAR_TAPS(a, b, bias, bias, 0);
    CLIO_LOAD2_AT(x01, x23, plane, 2 * pitch);
    CLIO_PLANAR_TAPS(a, b, a, b, 1);
    CLIO_LOAD2_AT(x01, x23, plane, 4 * pitch);
    CLIO_PLANAR_TAPS(a, b, a, b, 2);
    y[0] = clio_planar_output(a, e);
    if (columns == 2) {
        y[y_pixel] = clio_planar_output(b, e);
    }
    if (rows == 2) {
        CLIO_PLANAR_TAPS(a, b, bias, bias, 1);
        CLIO_LOAD2_AT(x01, x23, plane, 2 * pitch);
        CLIO_PLANAR_TAPS(a, b, a, b, 0);
        CLIO_LOAD2_AT(x01, x23, plane, 6 * pitch);
        CLIO_PLANAR_TAPS(a, b, a, b, 2);
        y[y_row] = clio_planar_output(a, e);
        if (columns == 2) {
            y[y_row + y_pixel] = clio_planar_output(b, e);
        }
    }
}

CLIO_INLINE void clio_planar_rows(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                  int32_t pitch, clio_planar_window w, int32_t bias, int32_t rows,
                                  int32_t columns, clio_planar_epilogue e) {
    const int16_t *end = plane + (columns & ~1);
    CLIO_HIDE(end); /* or a short loop would be unrolled whole */
    if (columns > 1) {
        do {
            clio_planar_block(y, y_row, y_pixel, plane, pitch, w, bias, rows, 2, e);
            plane += 2;
            y += 2 * y_pixel;
        } while (plane != end);
    }
    if (columns & 1) {
        clio_planar_block(y, y_row, y_pixel, plane, pitch, w, bias, rows, 1, e);
    }
}

CLIO_INLINE void clio_planar_channel(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                     int32_t pitch, const int16_t *w, int32_t bias, int32_t rows,
                                     int32_t columns, clio_planar_epilogue e) {
    clio_planar_window v;
    for (int32_t r = 0; r < 3; ++r, w += 4) {
        CLIO_LOAD2_AT(v.w01[r], v.w12[r], w, 0);
    }
    for (int32_t r = rows >> 1; r > 0; --r, plane += 2 * pitch, y += 2 * y_row) {
        clio_planar_rows(y, y_row, y_pixel, plane, pitch, v, bias, 2, columns, e);
    }
    if (rows & 1) {
        clio_planar_rows(y, y_row, y_pixel, plane, pitch, v, bias, 1, columns, e);
    }
}

CLIO_INLINE void clio_planar_alike(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                   int32_t step, int32_t pitch, const int16_t *w, const int32_t *bias,
                                   int32_t rows, int32_t columns, int32_t channels, int32_t shift,
                                   int32_t lo, int32_t hi) {
    for (; channels > 0; --channels, ++y, plane += step, w += 12, ++bias) {
        clio_planar_epilogue e = {0, shift, lo, hi, 0};
        clio_planar_channel(y, y_row, y_pixel, plane, pitch, w, *bias, rows, columns, e);
    }
}

CLIO_INLINE void clio_planar_shift(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                   int32_t step, int32_t pitch, const int16_t *w, const int32_t *bias,
                                   int32_t rows, int32_t columns, int32_t channels, const int8_t *shift,
                                   int32_t lo, int32_t hi) {
    for (; channels > 0; --channels, ++y, plane += step, w += 12, ++bias, ++shift) {
        clio_planar_epilogue e = {0, *shift, lo, hi, 1};
        clio_planar_channel(y, y_row, y_pixel, plane, pitch, w, *bias, rows, columns, e);
    }
}

CLIO_INLINE void clio_planar_multiply(int8_t *y, int32_t y_row, int32_t y_pixel, const int16_t *plane,
                                      int32_t step, int32_t pitch, const int16_t *w, const int32_t *bias,
                                      int32_t rows, int32_t columns, int32_t channels,
                                      const int32_t *multiplier, const int8_t *shift, int32_t lo,
                                      int32_t hi) {
    for (; channels > 0; --channels, ++y, plane += step, w += 12, ++bias, ++multiplier, ++shift) {
        clio_planar_epilogue e = {*multiplier, *shift, lo, hi, 2};
        clio_planar_channel(y, y_row, y_pixel, plane, pitch, w, *bias, rows, columns, e);
    }
}

#endif
