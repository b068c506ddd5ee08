// classify BUNDLE IMAGE.jpg...: the five most probable classes of every image.
#include <cstdio>

#include "gne/gne.hpp"

namespace {

void show(const gne::engine& engine, const char* path) {
  const std::vector<gne::prediction> best = engine.classify_file(path);
  std::printf("%s\n", path);
  for (const gne::prediction& each : best) {
    std::printf("  %6.2f %%  %s\n", 100 * each.probability, each.label.c_str());
  }
}

// Shows every image; one that cannot be read is reported and does not end the rest.
int show_all(const gne::engine& engine, char** paths, int count) {
  int damaged = 0;
  for (int i = 0; i < count; ++i) {
    try {
      show(engine, paths[i]);
    } catch (const gne::error& problem) {
      if (problem.status() != GNE_BAD_IMAGE) throw;
      std::fprintf(stderr, "classify: %s\n", problem.what());
      ++damaged;
    }
  }
  return damaged ? 1 : 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: classify BUNDLE IMAGE.jpg...\n");
    return 2;
  }
  try {
    const gne::engine engine(arguments[1]);
    return show_all(engine, arguments + 2, count - 2);
  } catch (const gne::error& problem) {
    std::fprintf(stderr, "classify: %s\n", problem.what());
    return 1;
  }
}
