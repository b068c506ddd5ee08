// What the processor is good for.
#pragma once

#include <cstddef>

namespace gne_sdk {

// Whether two products of u8 and s8 are added in 16 bits, which overflow with 8-bit weights: x86 without VNNI,
// the same rule as googlenet_edge/processor.py.
bool saturates_u8s8();

// The cores that the system lets this thread use: as many as `quota`, the processor time of a container (cgroup v2),
// fills. The same rule as googlenet_edge/processor.py.
size_t usable_cores(const char* quota = "/sys/fs/cgroup/cpu.max");

}  // namespace gne_sdk
