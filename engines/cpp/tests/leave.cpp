// leave BUNDLE IMAGE.jpg: returns from main while eight threads compute. What is destroyed then computes once more, and
// writes what it is told. Nothing else may be written, and nothing go wrong.
#include <atomic>
#include <cstdio>
#include <thread>

#include "failure.hpp"
#include "files.hpp"
#include "gne/gne.hpp"

namespace {

const gne::engine* engine;
const std::vector<uint8_t>* pixels;
std::atomic<int> done{0};

struct AtTheEnd {
  ~AtTheEnd() {
    try {
      engine->run(*pixels);
    } catch (const gne::error& problem) {
      std::puts(problem.what());
    }
  }
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  static const AtTheEnd last;
  engine = new gne::engine(arguments[1]);
  const auto jpeg = gne_sdk::read_file(arguments[2], SIZE_MAX, GNE_BAD_IMAGE);
  pixels = new auto(engine->pixels_of_jpeg(jpeg.data(), jpeg.size()));
  for (int i = 0; i < 8; ++i) {
    std::thread([] {
      for (;; ++done) engine->run(*pixels);
    }).detach();
  }
  while (done < 32) std::this_thread::yield();
}
