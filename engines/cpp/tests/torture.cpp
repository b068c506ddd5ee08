// torture bundles BUNDLE FOLDER COUNT: opens COUNT damaged copies of a bundle, half of them forged so that hashes fit.
// torture images BUNDLE IMAGE.jpg COUNT: reads COUNT damaged copies of an image.
//
// Each must end with a status, never with a crash; built with sanitizers. Prints how often each status came.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "failure.hpp"
#include "files.hpp"
#include "gne/gne.h"
#include "mutation.hpp"

namespace {

using Tally = std::map<gne_status, int>;

void count(Tally& tally, gne_status status) {
  ++tally[status];
  if (status != GNE_OK && !*gne_last_error()) {
    std::fprintf(stderr, "%s came without a text\n", gne_status_name(status));
    std::exit(1);
  }
}

// Sentences for which there is no room, and which end at either half of a letter.
void fail_at_length(std::string folder) {
  for (int i = 0; i < 5000; ++i) folder += "µ";
  gne_engine* engine = nullptr;
  for (size_t start = 0; start < 2; ++start) gne_open(folder.c_str() + start, nullptr, &engine);
}

Tally torture_bundles(const char* bundle, const std::string& folder, unsigned total) {
  fail_at_length(folder);
  const gne_test::Files whole = gne_test::read_folder(bundle);
  Tally tally;
  for (unsigned seed = 0; seed < total; ++seed) {
    std::mt19937 random(seed);
    gne_test::Files files = whole;
    for (unsigned i = 0; i <= random() % 3; ++i) gne_test::damage(files, random);
    if (seed % 2) gne_test::seal(files);
    gne_test::write_folder(folder, files);
    gne_engine* engine = nullptr;
    count(tally, gne_open(folder.c_str(), nullptr, &engine));
    gne_close(engine);
  }
  return tally;
}

Tally torture_images(const char* bundle, const char* path, unsigned total) {
  gne_engine* engine = nullptr;
  if (gne_open(bundle, nullptr, &engine) != GNE_OK) {
    std::fprintf(stderr, "%s\n", gne_last_error());
    std::exit(1);
  }
  gne_info info{};
  info.size = sizeof info;
  gne_describe(engine, &info);
  std::vector<uint8_t> pixels(size_t{info.crop} * info.crop * 3);
  const auto whole = gne_sdk::read_file(path, SIZE_MAX, GNE_BAD_IMAGE);
  Tally tally;
  for (unsigned seed = 0; seed < total; ++seed) {
    std::mt19937 random(seed);
    std::vector<uint8_t> jpeg = whole;
    for (unsigned i = 0; i <= random() % 3; ++i) gne_test::damage(jpeg, random);
    // in a block of exactly its size, so that a sanitizer sees every byte too many
    const std::vector<uint8_t> exact(jpeg);
    count(tally, gne_pixels_of_jpeg(engine, exact.data(), exact.size(), pixels.data(), pixels.size()));
  }
  gne_close(engine);
  return tally;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 5) return 2;
  const auto total = static_cast<unsigned>(std::atoi(arguments[4]));
  const bool bundles = std::strcmp(arguments[1], "bundles") == 0;
  const Tally tally =
      bundles ? torture_bundles(arguments[2], arguments[3], total) : torture_images(arguments[2], arguments[3], total);
  for (const auto& [status, times] : tally) std::printf("%s %d\n", gne_status_name(status), times);
}
