#include <algorithm>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "failure.hpp"
#include "images.hpp"
#include "jpeg.h"
#include "orientation.hpp"

namespace gne_sdk {
namespace {

// What an orientation does to the rows: whether they become columns, and whether then either axis is turned round.
struct Turn {
  bool swaps, flips_x, flips_y;

  bool is_none() const { return !swaps && !flips_x && !flips_y; }
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

// libjpeg-turbo writes a row that begins at a multiple of 16 bytes past the cache, and here it is read at once.
constexpr size_t kOffset = 8;

// A JPEG while it is decoded, row by row.
class Decoder {
 public:
  Decoder(Bytes jpeg, uint32_t least, const std::string& where) : Decoder(where) {
    if (!gne_jpeg_open(jpeg.data, jpeg.size, least, kMaxPixels, &image_)) fail();
    row_.reset(new uint8_t[kOffset + size_t{image_.width} * 3]);
  }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() { gne_jpeg_close(&image_); }

  uint32_t width() const { return image_.width; }
  uint32_t height() const { return image_.height; }

  // Valid until the next call.
  const uint8_t* next() {
    uint8_t* row = row_.get() + kOffset;
    if (!gne_jpeg_read(&image_, row)) fail();
    return row;
  }

 private:
  explicit Decoder(const std::string& where) : where_(where), image_() {}

  [[noreturn]] void fail() const {
    if (image_.out_of_memory) throw std::bad_alloc();
    throw Failure(GNE_BAD_IMAGE, where_ + " cannot be decoded: " + image_.error + "; replace or remove it");
  }

  std::string where_;
  gne_jpeg image_;
  std::unique_ptr<uint8_t[]> row_;
};

// Decoded when they are asked for: there is never more than one of them in memory.
class Upright final : public Rows {
 public:
  explicit Upright(std::unique_ptr<Decoder> decoder)
      : Rows(decoder->width(), decoder->height()), decoder_(std::move(decoder)) {}

  const uint8_t* row(uint32_t y, uint32_t, uint32_t) override {
    read_up_to(y + 1);
    return row_;
  }
  void finish() override { read_up_to(height()); }

 private:
  void read_up_to(uint32_t end) {
    for (; read_ < end; ++read_) row_ = decoder_->next();
  }

  std::unique_ptr<Decoder> decoder_;
  const uint8_t* row_ = nullptr;
  uint32_t read_ = 0;
};

// All are in memory, because the first may be the last that is decoded.
class Turned final : public Rows {
 public:
  Turned(Decoder& decoder, Turn turn)
      : Rows(turn.swaps ? decoder.height() : decoder.width(), turn.swaps ? decoder.width() : decoder.height()),
        pixels_(size_t{width()} * height() * 3) {
    for (uint32_t v = 0; v < decoder.height(); ++v) {
      const uint8_t* row = decoder.next();
      for (uint32_t u = 0; u < decoder.width(); ++u, row += 3) std::copy_n(row, 3, place_of(u, v, turn));
    }
  }

  const uint8_t* row(uint32_t y, uint32_t, uint32_t) override { return at(0, y); }

 private:
  uint8_t* at(uint32_t x, uint32_t y) { return pixels_.data() + (size_t{y} * width() + x) * 3; }

  uint8_t* place_of(uint32_t u, uint32_t v, Turn turn) {
    const uint32_t x = turn.swaps ? v : u, y = turn.swaps ? u : v;
    return at(turn.flips_x ? width() - 1 - x : x, turn.flips_y ? height() - 1 - y : y);
  }

  std::vector<uint8_t> pixels_;
};

}  // namespace

std::unique_ptr<Rows> decode_jpeg(Bytes jpeg, uint32_t short_side, const std::string& where) {
  if (jpeg.text().substr(0, 3) != "\xff\xd8\xff") {
    throw Failure(GNE_BAD_IMAGE, where + " is no JPEG; decode other formats elsewhere and give the pixels as a frame");
  }
  auto decoder = std::make_unique<Decoder>(jpeg, 2 * short_side, where);
  const Turn turn = kTurns[orientation_of(jpeg)];
  if (turn.is_none()) return std::make_unique<Upright>(std::move(decoder));
  return std::make_unique<Turned>(*decoder, turn);
}

}  // namespace gne_sdk
