// Pillow's antialiased bilinear resize of a box, bit for bit, on RGB rows.
//
// Source: Pillow 13's behaviour (src/libImaging/Resample.c): a triangle filter as wide as the reduction, weights in
// 22-bit fixed point, first along the rows, then along the columns, with 8-bit pixels in between; tall images the other
// way round.
#pragma once

#include <cstddef>
#include <cstdint>

#include "resample_loops.hpp"

namespace gne_sdk {

// Gives the rows of an image one after the other, from the top, as RGB, 3 bytes a pixel.
class Rows {
 public:
  Rows(uint32_t width, uint32_t height) : width_(width), height_(height) {}
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  virtual ~Rows() = default;

  uint32_t width() const { return width_; }
  uint32_t height() const { return height_; }
  // Row `y`, of which the pixels `first` to `last` - 1 are going to be read; valid until the next call.
  virtual const uint8_t* row(uint32_t y, uint32_t first, uint32_t last) = 0;
  // To be called after the last row that is needed: throws where what is below it is damaged.
  virtual void finish() {}

 private:
  uint32_t width_, height_;
};

// The centre square, `crop` / `resize` of the short side, sampled to uint8 (crop, crop, 3).
// The same as googlenet_edge.preprocess.Preprocess.pixels.
void resample_centre(Rows& image, uint32_t resize, uint32_t crop, uint8_t* pixels, Loops loops = fast_loops());

}  // namespace gne_sdk
