// leave BUNDLE IMAGE.jpg: returns from main while eight threads compute. Nothing may be written, and nothing go wrong.
#include <atomic>
#include <thread>

#include "failure.hpp"
#include "files.hpp"
#include "gne/gne.hpp"

int main(int count, char** arguments) {
  if (count != 3) return 2;
  static const auto* const engine = new gne::engine(arguments[1]);
  const auto jpeg = gne_sdk::read_file(arguments[2], SIZE_MAX, GNE_BAD_IMAGE);
  static const auto* const pixels = new auto(engine->pixels_of_jpeg(jpeg.data(), jpeg.size()));
  static std::atomic<int> done{0};
  for (int i = 0; i < 8; ++i) {
    std::thread([] {
      for (;; ++done) engine->run(*pixels);
    }).detach();
  }
  while (done < 32) std::this_thread::yield();
}
