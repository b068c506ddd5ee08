// What the processor is good for.
#pragma once

#include <cstddef>

namespace gne_sdk {

// Whether two products of u8 and s8 are added in 16 bits, which overflow with 8-bit weights: x86 without VNNI,
// the same rule as googlenet_edge/processor.py.
bool saturates_u8s8();

// The cores that the system lets this thread use.
size_t usable_cores();

}  // namespace gne_sdk
