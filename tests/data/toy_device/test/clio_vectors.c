#include <stdint.h>

extern const uint32_t clio_vector_count;
extern const int8_t clio_vectors[];
extern const uint32_t clio_expected[];

const uint32_t clio_vector_count = 3;
const int8_t clio_vectors[] = {
    -60, -96, 2, -68, 125, 102, 113, 66, -21, -80, 121, -114, 71, 93, -127, 100,
    8, -11, -76, 34, -113, -117, -115, -124, 67, -18, 88, -114, -15, 96, 125, -9,
    48, -10, -16, 107, 20, -117, 85, -77, -33, 23, -67, 42, 88, -31, 27, 17,
};
const uint32_t clio_expected[] = {
    0x5aced5a2u, 0x4bfea8c2u, 0x1bae66a5u, 0xb739b0dfu, 0x452bbbf5u, 0x7d95ddbbu,
};
