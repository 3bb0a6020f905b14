#include "clio_kernels.h"

static int32_t clamp(int32_t value) {
    return value < -128 ? -128 : value > 127 ? 127 : value;
}

void clio_double_add(const int8_t *a, const int8_t *b, int8_t *y) {
    volatile int8_t wide[64]; /* something to find on the stack */
    int32_t i;
    for (i = 0; i < 8; i++) {
        wide[i * 8] = (int8_t)clamp(2 * a[i] + b[i]);
    }
    for (i = 0; i < 8; i++) {
        y[i] = wide[i * 8];
    }
}

void clio_lookup(const int8_t *x, int8_t *y) {
    int32_t i;
    for (i = 0; i < 8; i++) {
        y[i] = clio_table[(uint8_t)x[i]];
    }
}
