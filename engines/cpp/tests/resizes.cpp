// resizes: the SHA-256 of the centre square of images of many shapes, one a line, with the processor's vectors and
// without them.
#include <cstdio>
#include <vector>

#include "resample.hpp"
#include "sha256.hpp"

namespace {

constexpr uint32_t kResize = 37, kCrop = 32;

// Noise that ends where the image ends, so that a sanitizer sees who reads on.
class Noise final : public gne_sdk::Rows {
 public:
  Noise(uint32_t width, uint32_t height) : Rows(width, height), bytes_(size_t{width} * height * 3) {
    uint32_t state = width * 65537 + height;
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  }
  const uint8_t* row(uint32_t y, uint32_t, uint32_t) override { return bytes_.data() + size_t{y} * width() * 3; }

 private:
  std::vector<uint8_t> bytes_;
};

std::string resized(uint32_t width, uint32_t height, uint32_t resize, gne_sdk::Loops loops) {
  Noise image(width, height);
  std::vector<uint8_t> pixels(size_t{kCrop} * kCrop * 3);
  gne_sdk::resample_centre(image, resize, kCrop, pixels.data(), loops);
  return gne_sdk::sha256(gne_sdk::Bytes(pixels.data(), pixels.size()));
}

}  // namespace

int main() {
  for (const uint32_t resize : {kCrop, kResize}) {
    for (const uint32_t width : {1u, 2u, 3u, 31u, 32u, 33u, 100u, 1000u}) {
      for (const uint32_t height : {1u, 7u, 32u, 64u, 65u, 333u}) {
        const std::string fast = resized(width, height, resize, gne_sdk::fast_loops());
        std::printf("%s %s\n", fast.c_str(), resized(width, height, resize, gne_sdk::kPlainLoops).c_str());
      }
    }
  }
}
