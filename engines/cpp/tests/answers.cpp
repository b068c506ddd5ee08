// answers BUNDLE IMAGE.jpg…: what libgne makes of each image, one a line: the SHA-256 of its pixels, then the logits as
// hexadecimal floats, which lose nothing.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "files.hpp"
#include "gne/gne.hpp"
#include "sha256.hpp"

int main(int count, char** arguments) {
  if (count < 3) return 2;
  try {
    const gne::engine engine(arguments[1]);
    for (int i = 2; i < count; ++i) {
      const auto jpeg = gne_sdk::read_file(arguments[i], SIZE_MAX, GNE_BAD_IMAGE);
      const auto pixels = engine.pixels_of_jpeg(jpeg.data(), jpeg.size());
      std::printf("%s", gne_sdk::sha256(pixels).c_str());
      for (const float logit : engine.run(pixels)) std::printf(" %a", static_cast<double>(logit));
      std::printf("\n");
    }
  } catch (const gne::error& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
}
