#include "processor.hpp"

#include <sched.h>

#include <fstream>
#include <string>
#include <thread>

namespace gne_sdk {

bool saturates_u8s8(std::string_view cpuinfo) {
  // x86 lists its instruction sets in a line that starts with "flags", Arm with "Features"
  const bool first = cpuinfo.substr(0, 5) == "flags";
  const size_t start = first ? 0 : cpuinfo.find("\nflags");
  if (start == std::string_view::npos) return false;
  const size_t end = cpuinfo.find('\n', start + 1);
  const std::string flags = std::string(cpuinfo.substr(start, end - start)) + " ";
  return flags.find(" avx512_vnni ") == std::string::npos && flags.find(" avx_vnni ") == std::string::npos;
}

bool this_processor_saturates_u8s8() {
  std::ifstream file("/proc/cpuinfo");
  std::string text, line;
  while (std::getline(file, line)) {
    text += line + "\n";
    if (line.compare(0, 5, "flags") == 0) break;
  }
  return saturates_u8s8(text);
}

size_t usable_cores() {
  cpu_set_t cores;
  const bool told = ::sched_getaffinity(0, sizeof cores, &cores) == 0;  // not where there are more than 1,024
  return told ? static_cast<size_t>(CPU_COUNT(&cores)) : std::thread::hardware_concurrency();
}

}  // namespace gne_sdk
