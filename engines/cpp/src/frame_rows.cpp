#include <algorithm>
#include <vector>

#include "failure.hpp"
#include "images.hpp"

namespace gne_sdk {
namespace {

[[noreturn]] void refuse(const std::string& text) { throw Failure(GNE_BAD_ARGUMENT, "the frame " + text); }

// One plane of a frame: rows of `row_bytes`, `stride` apart.
struct Plane {
  const uint8_t* data;
  size_t size, stride;
  const char* name;

  void check(size_t rows, size_t row_bytes) const {
    const std::string what = name;
    if (!data) refuse("has no " + what + "; give a pointer to them");
    if (stride < row_bytes) {
      refuse("has a stride of " + std::to_string(stride) + " bytes for its " + what + ", a row needs " +
             std::to_string(row_bytes) + "; give the bytes from one row to the next");
    }
    // (rows - 1) * stride + row_bytes <= size, without an overflow
    if (size < row_bytes || (size - row_bytes) / stride < rows - 1) {
      refuse("has " + std::to_string(size) + " bytes of " + what + ", fewer than " + std::to_string(rows) +
             " rows with a stride of " + std::to_string(stride) + "; give the size of the whole buffer");
    }
  }
  const uint8_t* row(size_t y) const { return data + y * stride; }
};

class RgbRows final : public Rows {
 public:
  RgbRows(const gne_frame& frame, Plane plane) : Rows(frame.width, frame.height), plane_(plane) {}
  const uint8_t* row(uint32_t y, uint32_t, uint32_t) override { return plane_.row(y); }

 private:
  Plane plane_;
};

class BgrRows final : public Rows {
 public:
  BgrRows(const gne_frame& frame, Plane plane)
      : Rows(frame.width, frame.height), plane_(plane), rgb_(size_t{frame.width} * 3) {}

  const uint8_t* row(uint32_t y, uint32_t first, uint32_t last) override {
    const uint8_t* bgr = plane_.row(y);
    for (size_t at = size_t{first} * 3; at < size_t{last} * 3; at += 3) {
      rgb_[at] = bgr[at + 2], rgb_[at + 1] = bgr[at + 1], rgb_[at + 2] = bgr[at];
    }
    return rgb_.data();
  }

 private:
  Plane plane_;
  std::vector<uint8_t> rgb_;
};

// Limited-range YCbCr → RGB in 1/256: luma, then Cr to red, Cb and Cr to green, Cb to blue.
struct Matrix {
  int luma, red_cr, green_cb, green_cr, blue_cb;
};
constexpr Matrix kBt601 = {298, 409, -100, -208, 516}, kBt709 = {298, 459, -55, -136, 541};

uint8_t to_byte(int value) { return static_cast<uint8_t>(std::clamp(value >> 8, 0, 255)); }

class Nv12Rows final : public Rows {
 public:
  Nv12Rows(const gne_frame& frame, Plane luma, Plane chroma, Matrix matrix)
      : Rows(frame.width, frame.height), luma_(luma), chroma_(chroma), matrix_(matrix), rgb_(size_t{frame.width} * 3) {}

  const uint8_t* row(uint32_t y, uint32_t first, uint32_t last) override {
    const uint8_t *luma = luma_.row(y), *chroma = chroma_.row(y / 2);
    for (size_t x = first; x < last; ++x) {
      const int base = matrix_.luma * (luma[x] - 16) + 128;
      const int cb = chroma[x / 2 * 2] - 128, cr = chroma[x / 2 * 2 + 1] - 128;
      uint8_t* to = rgb_.data() + x * 3;
      to[0] = to_byte(base + matrix_.red_cr * cr);
      to[1] = to_byte(base + matrix_.green_cb * cb + matrix_.green_cr * cr);
      to[2] = to_byte(base + matrix_.blue_cb * cb);
    }
    return rgb_.data();
  }

 private:
  Plane luma_, chroma_;
  Matrix matrix_;
  std::vector<uint8_t> rgb_;
};

std::unique_ptr<Rows> nv12(const gne_frame& frame, Matrix matrix) {
  const Plane luma = {frame.data, frame.data_size, frame.stride, "Y values"};
  const Plane chroma = {frame.chroma, frame.chroma_size, frame.chroma_stride, "CbCr pairs"};
  luma.check(frame.height, frame.width);
  chroma.check((size_t{frame.height} + 1) / 2, (size_t{frame.width} + 1) / 2 * 2);
  return std::make_unique<Nv12Rows>(frame, luma, chroma, matrix);
}

template <typename Kind>
std::unique_ptr<Rows> interleaved(const gne_frame& frame) {
  const Plane plane = {frame.data, frame.data_size, frame.stride, "pixels"};
  plane.check(frame.height, size_t{frame.width} * 3);
  return std::make_unique<Kind>(frame, plane);
}

}  // namespace

std::unique_ptr<Rows> rows_of(const gne_frame& frame) {
  const uint64_t pixels = uint64_t{frame.width} * frame.height;
  if (pixels == 0 || pixels > kMaxPixels) {
    refuse("has " + std::to_string(frame.width) + "×" + std::to_string(frame.height) + " pixels; give 1 to " +
           std::to_string(kMaxPixels / 1'000'000) + " megapixels");
  }
  switch (frame.format) {
    case GNE_RGB:
      return interleaved<RgbRows>(frame);
    case GNE_BGR:
      return interleaved<BgrRows>(frame);
    case GNE_NV12:
      return nv12(frame, kBt601);
    case GNE_NV12_BT709:
      return nv12(frame, kBt709);
  }
  refuse("has the unknown format " + std::to_string(static_cast<int>(frame.format)) + "; give a gne_format");
}

}  // namespace gne_sdk
