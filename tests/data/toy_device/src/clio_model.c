#include "clio_model.h"

#include "clio_kernels.h"

static int8_t clio_arena[CLIO_ARENA_BYTES];

int8_t *clio_input(uint32_t index) {
    return clio_arena + 8u * index;
}

const int8_t *clio_output(uint32_t index) {
    (void)index;
    return clio_arena + 24;
}

uint32_t clio_input_bytes(uint32_t index) {
    (void)index;
    return 8;
}

uint32_t clio_output_bytes(uint32_t index) {
    (void)index;
    return 8;
}

#ifdef CLIO_OP_HOOK
void clio_forget(void) {
    uint32_t i;
    for (i = 0; i < CLIO_ARENA_BYTES; i++) {
        clio_arena[i] = -91;
    }
}
#endif

void clio_run(void) {
#ifdef CLIO_OP_HOOK
    clio_op_begin(0);
#endif
    clio_double_add(clio_arena, clio_arena + 8, clio_arena + 16);
#ifdef CLIO_OP_HOOK
    clio_op_end(0, clio_arena + 16, 8);
    clio_op_begin(1);
#endif
    clio_lookup(clio_arena + 16, clio_arena + 24);
#ifdef CLIO_OP_HOOK
    clio_op_end(1, clio_arena + 24, 8);
#endif
}
