#include <cstdlib>
#include <new>
#include <utility>

#include "failure.hpp"
#include "images.hpp"
#include "jpeg.h"
#include "orientation.hpp"

namespace gne_sdk {
namespace {

using Pixels = std::unique_ptr<uint8_t, void (*)(void*)>;

// What an orientation does to the rows: whether they become columns, and whether then either axis is turned round.
struct Turn {
  bool swaps, flips_x, flips_y;
};

constexpr Turn kTurns[9] = {{},
                            {false, false, false},  // upright
                            {false, true, false},   // mirrored
                            {false, true, true},    // upside down
                            {false, false, true},
                            {true, false, false},  // mirrored along the diagonal
                            {true, true, false},   // lying, the top to the right
                            {true, true, true},
                            {true, false, true}};

class Decoded final : public Rows {
 public:
  Decoded(uint32_t width, uint32_t height, Pixels pixels) : Rows(width, height), pixels_(std::move(pixels)) {}
  const uint8_t* row(uint32_t y, uint32_t, uint32_t) override { return pixels_.get() + size_t{y} * width() * 3; }

 private:
  Pixels pixels_;
};

Pixels allocate(size_t bytes) {
  auto* memory = static_cast<uint8_t*>(std::malloc(bytes));
  if (!memory) throw std::bad_alloc();
  return {memory, std::free};
}

std::unique_ptr<Rows> turned(const gne_jpeg& image, Pixels pixels, Turn turn) {
  const uint32_t width = turn.swaps ? image.height : image.width, height = turn.swaps ? image.width : image.height;
  if (!turn.swaps && !turn.flips_x && !turn.flips_y) return std::make_unique<Decoded>(width, height, std::move(pixels));
  Pixels upright = allocate(size_t{width} * height * 3);
  uint8_t* to = upright.get();
  for (uint32_t y = 0; y < height; ++y) {
    for (uint32_t x = 0; x < width; ++x, to += 3) {
      const uint32_t u = turn.flips_x ? width - 1 - x : x, v = turn.flips_y ? height - 1 - y : y;
      const uint8_t* from = pixels.get() + (turn.swaps ? size_t{u} * image.width + v : size_t{v} * image.width + u) * 3;
      to[0] = from[0], to[1] = from[1], to[2] = from[2];
    }
  }
  return std::make_unique<Decoded>(width, height, std::move(upright));
}

}  // namespace

std::unique_ptr<Rows> decode_jpeg(Bytes jpeg, uint32_t short_side, const std::string& where) {
  if (jpeg.text().substr(0, 3) != "\xff\xd8\xff") {
    throw Failure(GNE_BAD_IMAGE, where + " is no JPEG; decode other formats elsewhere and give the pixels as a frame");
  }
  gne_jpeg image;
  if (!gne_jpeg_decode(jpeg.data, jpeg.size, 2 * short_side, kMaxPixels, &image)) {
    if (image.out_of_memory) throw std::bad_alloc();
    throw Failure(GNE_BAD_IMAGE, where + " cannot be decoded: " + image.error + "; replace or remove it");
  }
  Pixels pixels(image.pixels, std::free);  // owned before anything else can throw
  const Turn& turn = kTurns[orientation_of(jpeg)];
  return turned(image, std::move(pixels), turn);
}

}  // namespace gne_sdk
