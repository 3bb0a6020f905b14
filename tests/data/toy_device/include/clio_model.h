/* A hand-written model with the public interface of generated ones: y = table[saturate(2 a + b)], 8 elements. */
#ifndef CLIO_MODEL_H
#define CLIO_MODEL_H

#include <stdint.h>

#define CLIO_INPUTS 2
#define CLIO_OUTPUTS 1
#define CLIO_OPS 2
#define CLIO_TAPS 0
#define CLIO_INPUT0_BYTES 8
#define CLIO_INPUT1_BYTES 8
#define CLIO_OUTPUT0_BYTES 8
#define CLIO_ARENA_BYTES 32

int8_t *clio_input(uint32_t index);
void clio_run(void);
const int8_t *clio_output(uint32_t index);
uint32_t clio_input_bytes(uint32_t index);
uint32_t clio_output_bytes(uint32_t index);

#ifdef CLIO_OP_HOOK
void clio_op_begin(uint32_t op);
void clio_op_end(uint32_t op, const int8_t *output, uint32_t bytes);
void clio_forget(void);
#endif

#endif
