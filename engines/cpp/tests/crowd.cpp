// crowd BUNDLE IMAGE.jpg THREADS OPENERS SECONDS: threads that share one engine, and others that open, use and close
// their own. All must get the same logits. Prints how many inferences the first had, and the resident memory in KiB
// after a quarter of the time and at the end.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <vector>

#include "failure.hpp"
#include "files.hpp"
#include "gne/gne.hpp"

namespace {

using Clock = std::chrono::steady_clock;

long resident_kib() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 6, "VmRSS:") == 0) return std::atol(line.c_str() + 6);
  }
  return -1;
}

struct Shared {
  const char* bundle;
  const gne::engine& engine;
  const std::vector<uint8_t>& jpeg;
  const std::vector<float>& expected;
  std::atomic<bool> stop{false};
  std::atomic<long> runs{0};
  std::atomic<int> wrong{0};
};

void check(const gne::engine& engine, Shared& shared) {
  if (engine.run(engine.pixels_of_jpeg(shared.jpeg.data(), shared.jpeg.size())) != shared.expected) ++shared.wrong;
}

void work(Shared& shared) {
  for (; !shared.stop; ++shared.runs) check(shared.engine, shared);
}

void open_and_close(Shared& shared) {
  while (!shared.stop) check(gne::engine(shared.bundle), shared);
}

int run_crowd(Shared& shared, int threads, int openers, std::chrono::milliseconds time) {
  std::vector<std::thread> crowd;
  for (int i = 0; i < threads; ++i) crowd.emplace_back([&] { work(shared); });
  for (int i = 0; i < openers; ++i) crowd.emplace_back([&] { open_and_close(shared); });
  (void)resident_kib();  // the code that reads it takes memory, too
  std::this_thread::sleep_for(time / 4);
  const long early = resident_kib();
  std::this_thread::sleep_for(time * 3 / 4);
  const long late = resident_kib();
  shared.stop = true;
  for (std::thread& each : crowd) each.join();
  std::printf("%ld %ld %ld\n", shared.runs.load(), early, late);
  return shared.wrong ? 1 : 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) return 2;
  try {
    const gne::engine engine(arguments[1]);
    const auto jpeg = gne_sdk::read_file(arguments[2], SIZE_MAX, GNE_BAD_IMAGE);
    const auto expected = engine.run(engine.pixels_of_jpeg(jpeg.data(), jpeg.size()));
    Shared shared{arguments[1], engine, jpeg, expected};
    const auto time = std::chrono::milliseconds(static_cast<long>(1000 * std::atof(arguments[5])));
    return run_crowd(shared, std::atoi(arguments[3]), std::atoi(arguments[4]), time);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "crowd: %s\n", problem.what());
    return 1;
  }
}
