// cold BUNDLE IMAGE.jpg STARTED: the top five of an image in a fresh process. STARTED is the parent's monotonic clock
// in seconds just before. Prints the milliseconds since then, and the peak of the resident memory in KiB.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "gne/gne.hpp"

namespace {

long peak_kib() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 6, "VmHWM:") == 0) return std::atol(line.c_str() + 6);
  }
  return -1;
}

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) return 2;
  try {
    const gne::engine engine(arguments[1]);
    engine.classify_file(arguments[2]);
    std::printf("%.3f %ld\n", 1000 * (now_s() - std::atof(arguments[3])), peak_kib());
  } catch (const gne::error& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
}
