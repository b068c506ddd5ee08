// leave BUNDLE IMAGE.jpg run|open|fork [BUNDLE]: returns from main while eight threads compute, or open and close the
// bundle; "fork": children that have none of the threads return, too (ONNX Runtime's own end would wait for its threads there).
// What is destroyed at the end computes once more, and writes what it is told, and closes an engine. It is made before
// BUNDLE is opened, and after the other one where that is given. Nothing else may be written, and nothing go wrong.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string_view>
#include <thread>

#include "failure.hpp"
#include "files.hpp"
#include "gne/gne.hpp"

namespace {

constexpr unsigned kPatience = 5;  // seconds of a child; it would wait for ten

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
  std::unique_ptr<const gne::engine> closed_last;
};

void run() { engine->run(*pixels); }

// Children that exit as main does, while the threads of this process hold what they would wait for. Returns what main
// does.
int fork_some(AtTheEnd& last) {
  for (int i = 0; i < 8; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      (void)last.closed_last.release();  // whoever held the lock of the handles is not here
      ::alarm(kPatience);
      std::exit(0);
    }
    int status = 0;
    if (::waitpid(child, &status, 0) != child || status != 0) {
      std::fprintf(stderr, "a child ended with the status %d\n", status);
      return 1;
    }
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4 && count != 5) return 2;
  if (count == 5) new gne::engine(arguments[4]);
  static AtTheEnd last;
  const std::string_view how = arguments[3];
  static const char* const bundle = arguments[1];
  engine = new gne::engine(bundle);
  last.closed_last = std::make_unique<const gne::engine>(bundle);
  const auto jpeg = gne_sdk::read_file(arguments[2], SIZE_MAX, GNE_BAD_IMAGE);
  pixels = new auto(engine->pixels_of_jpeg(jpeg.data(), jpeg.size()));
  const auto work = how == "open" ? [] { gne::engine{bundle}; } : run;
  for (int i = 0; i < 8; ++i) {
    std::thread([work] {
      for (;; ++done) work();
    }).detach();
  }
  while (done < 32) std::this_thread::yield();
  return how == "fork" ? fork_some(last) : 0;
}
