// camera BUNDLE SOURCE [FPS [FRAMES]]: classifies the frames of a camera such as /dev/video0 until Ctrl-C, or plays the
// JPEGs of a folder, in the order of their names, as one with FPS frames a second (30). Says how many were done before
// the next one came, how many nobody had time for, and how many were damaged.
#include <signal.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "gne/gne.hpp"
#include "v4l2.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

std::vector<std::filesystem::path> jpegs_in(const char* folder) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::string ending = entry.path().extension();
    for (char& letter : ending) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    if (entry.is_regular_file() && (ending == ".jpg" || ending == ".jpeg")) found.push_back(entry.path());
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

// What became of the frames.
struct Tally {
  std::vector<double> latencies_ms;
  unsigned damaged = 0;
};

std::size_t seen(const Tally& tally) { return tally.latencies_ms.size() + tally.damaged; }

// Lets `classify` use a frame; one that cannot be decoded is counted, and the next one may be whole.
template <typename Classify>
void try_frame(Tally& tally, Classify classify) {
  try {
    classify();
  } catch (const gne::error& problem) {
    if (problem.status() != GNE_BAD_IMAGE) throw;
    ++tally.damaged;
  }
}

void show(const std::string& name, const gne::prediction& best, double latency_ms) {
  std::printf("%s  %s  %.0f %%  %.1f ms\n", name.c_str(), best.label.c_str(), 100 * best.probability, latency_ms);
}

// Classifies a frame whenever one is due; a frame that comes while the last one is still computed is late.
Tally play(const gne::engine& engine, const std::vector<std::filesystem::path>& paths, Clock::duration period) {
  Tally tally;
  Clock::time_point due = Clock::now();
  for (const auto& path : paths) {
    const std::vector<std::uint8_t> frame = bytes_of(path);
    std::this_thread::sleep_until(due);
    try_frame(tally, [&] {
      const auto best = engine.classify_jpeg(frame.data(), frame.size(), 1).front();
      tally.latencies_ms.push_back(Milliseconds(Clock::now() - due).count());
      show(path.filename(), best, tally.latencies_ms.back());
    });
    due = std::max(due + period, Clock::now());  // frames that nobody had time for are gone
  }
  return tally;
}

volatile sig_atomic_t stopped = 0;

// Ctrl-C ends the wait for a frame, and with it the loop.
void stop_at_interrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { stopped = 1; };
  sigaction(SIGINT, &action, nullptr);
}

gne::prediction best_of(const gne::engine& engine, const v4l2::Camera& camera, const v4l2::Frame& frame) {
  if (camera.jpeg()) return engine.classify_jpeg(frame.bytes, frame.size, 1).front();
  const v4l2_pix_format& shape = camera.shape();
  const gne_format format = camera.bt709() ? GNE_NV12_BT709 : GNE_NV12;
  const std::uint8_t* chroma = frame.bytes + std::size_t{shape.bytesperline} * shape.height;
  return engine
      .classify(gne::nv12(format, shape.width, shape.height, frame.bytes, shape.bytesperline, chroma,
                          shape.bytesperline),
                1)
      .front();
}

// Classifies the newest frame, again and again; the latency counts from when the driver had it.
Tally watch(const gne::engine& engine, const char* path, double fps, long frames) {
  v4l2::Camera camera(path, fps);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // a reader at the other end of a pipe sees each frame when it comes
  stop_at_interrupt();
  Tally tally;
  std::uint32_t expected = 0, missed = 0;
  const auto use = [&](const v4l2::Frame& frame) {
    const auto more = static_cast<std::int32_t>(frame.sequence - expected);  // below 0 where the driver does not count
    if (seen(tally) && more > 0) missed += static_cast<std::uint32_t>(more);
    expected = frame.sequence + 1;
    if (!frame.whole) {
      ++tally.damaged;
      return;
    }
    try_frame(tally, [&] {
      const auto best = best_of(engine, camera, frame);
      tally.latencies_ms.push_back(Milliseconds(Clock::now() - frame.taken).count());
      show(std::to_string(frame.sequence), best, tally.latencies_ms.back());
    });
  };
  while (!stopped && static_cast<long>(seen(tally)) < frames && camera.with_next(use)) {
  }
  std::printf("%u frames came while others were computed, or were lost\n", missed);
  return tally;
}

// Returns what main does: 1 where no frame was whole.
int report(const Tally& tally, double period_ms) {
  const std::vector<double>& latencies_ms = tally.latencies_ms;
  if (tally.damaged) std::printf("damaged frames: %u\n", tally.damaged);
  if (latencies_ms.empty()) return tally.damaged ? 1 : 0;
  const auto late = std::count_if(latencies_ms.begin(), latencies_ms.end(), [&](double ms) { return ms > period_ms; });
  std::printf("%zu frames, p50 %.1f ms, p99 %.1f ms, %td later than %.1f ms\n", latencies_ms.size(),
              percentile(latencies_ms, 0.5), percentile(latencies_ms, 0.99), late, period_ms);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const double fps = count > 3 ? std::atof(arguments[3]) : 30;
  const long frames = count > 4 ? std::atol(arguments[4]) : LONG_MAX;
  if (count < 3 || !(fps > 0 && fps <= 1000) || frames < 1) {
    std::fprintf(stderr, "usage: camera BUNDLE FOLDER|DEVICE [FPS [FRAMES]]\n");
    return 2;
  }
  try {
    const gne::engine engine(arguments[1]);
    const Milliseconds period(1000 / fps);
    if (std::filesystem::is_character_file(arguments[2])) {
      return report(watch(engine, arguments[2], fps, frames), period.count());
    }
    auto paths = jpegs_in(arguments[2]);
    if (paths.size() > static_cast<std::size_t>(frames)) paths.resize(static_cast<std::size_t>(frames));
    if (paths.empty()) throw std::runtime_error(std::string(arguments[2]) + " holds no .jpg");
    return report(play(engine, paths, std::chrono::duration_cast<Clock::duration>(period)), period.count());
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "camera: %s\n", problem.what());
    return 1;
  }
}
