// camera BUNDLE FOLDER [FPS]: plays the JPEGs of a folder, in the order of their names, as a camera with FPS frames a
// second (30), classifies each, and says how many were done before the next one came.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "gne/gne.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

std::vector<std::filesystem::path> jpegs_in(const char* folder) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const auto extension = entry.path().extension();
    if (extension == ".jpg" || extension == ".jpeg") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::uint8_t> bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

// Classifies a frame whenever one is due; a frame that comes while the last one is still computed is late.
std::vector<double> play(const gne::engine& engine, const std::vector<std::filesystem::path>& paths,
                         Clock::duration period) {
  std::vector<double> latencies_ms;
  Clock::time_point due = Clock::now();
  for (const auto& path : paths) {
    const std::vector<std::uint8_t> frame = bytes_of(path);
    std::this_thread::sleep_until(due);
    const auto best = engine.classify_jpeg(frame.data(), frame.size(), 1).front();
    latencies_ms.push_back(Milliseconds(Clock::now() - due).count());
    std::printf("%s  %s  %.0f %%  %.1f ms\n", path.filename().c_str(), best.label.c_str(), 100 * best.probability,
                latencies_ms.back());
    due = std::max(due + period, Clock::now());  // frames that nobody had time for are gone
  }
  return latencies_ms;
}

void report(const std::vector<double>& latencies_ms, double period_ms) {
  const auto late = std::count_if(latencies_ms.begin(), latencies_ms.end(), [&](double ms) { return ms > period_ms; });
  std::printf("%zu frames, p50 %.1f ms, p99 %.1f ms, %td later than %.1f ms\n", latencies_ms.size(),
              percentile(latencies_ms, 0.5), percentile(latencies_ms, 0.99), late, period_ms);
}

}  // namespace

int main(int count, char** arguments) {
  const double fps = count > 3 ? std::atof(arguments[3]) : 30;
  if (count < 3 || !(fps > 0)) {
    std::fprintf(stderr, "usage: camera BUNDLE FOLDER [FPS]\n");
    return 2;
  }
  try {
    const gne::engine engine(arguments[1]);
    const auto paths = jpegs_in(arguments[2]);
    if (paths.empty()) throw std::runtime_error(std::string(arguments[2]) + " holds no .jpg");
    const Milliseconds period(1000 / fps);
    report(play(engine, paths, std::chrono::duration_cast<Clock::duration>(period)), period.count());
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "camera: %s\n", problem.what());
    return 1;
  }
}
