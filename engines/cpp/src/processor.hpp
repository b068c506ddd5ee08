// What the processor's instructions are good for; the same rule as googlenet_edge/processor.py.
#pragma once

#include <string_view>

namespace gne_sdk {

// Whether two products of u8 and s8 are added in 16 bits, which overflow with 8-bit weights: x86 without VNNI.
// `cpuinfo` is what Linux tells in /proc/cpuinfo.
bool saturates_u8s8(std::string_view cpuinfo);

// The same for the processor at hand.
bool this_processor_saturates_u8s8();

}  // namespace gne_sdk
