#include "processor.hpp"

#include <sched.h>

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

size_t usable_cores() {
  cpu_set_t cores;
  const bool told = ::sched_getaffinity(0, sizeof cores, &cores) == 0;  // not where there are more than 1,024
  return told ? static_cast<size_t>(CPU_COUNT(&cores)) : std::thread::hardware_concurrency();
}

}  // namespace gne_sdk
