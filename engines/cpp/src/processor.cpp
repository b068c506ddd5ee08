#include "processor.hpp"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>

namespace gne_sdk {

bool saturates_u8s8() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 5, "flags") != 0) continue;  // Arm has none, but "Features"
    line += " ";
    return line.find(" avx512_vnni ") == std::string::npos && line.find(" avx_vnni ") == std::string::npos;
  }
  return false;
}

size_t usable_cores(const char* quota) {
  cpu_set_t affine;
  const bool told = ::sched_getaffinity(0, sizeof affine, &affine) == 0;  // not where there are more than 1,024
  const size_t cores = told ? static_cast<size_t>(CPU_COUNT(&affine)) : std::thread::hardware_concurrency();
  std::ifstream file(quota);
  size_t most = 0, period = 0;
  if (!(file >> most >> period) || period == 0) return cores;  // no cgroup, or "max"
  const size_t whole = most / period + (most % period != 0);
  return std::min(cores, std::max<size_t>(1, whole));
}

}  // namespace gne_sdk
