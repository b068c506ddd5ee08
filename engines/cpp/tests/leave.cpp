// leave BUNDLE IMAGE.jpg: returns from main while two threads classify. Nothing may be written, and nothing go wrong.
#include <atomic>
#include <thread>

#include "gne/gne.hpp"

int main(int count, char** arguments) {
  if (count != 3) return 2;
  static const auto* const engine = new gne::engine(arguments[1]);
  static const char* const image = arguments[2];
  static std::atomic<int> done{0};
  for (int i = 0; i < 2; ++i) {
    std::thread([] {
      for (;; ++done) engine->classify_file(image, 1);
    }).detach();
  }
  while (done < 4) std::this_thread::yield();
}
