// The C++17 face of libgne: owns the engine, throws gne::error, copies labels. Header only, over gne.h.
//
//   gne::engine engine("runs/demo/int8-cpu");
//   for (const gne::prediction& each : engine.classify_file("photo.jpg", 5)) std::cout << each.label << '\n';
#ifndef GNE_GNE_HPP
#define GNE_GNE_HPP

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gne/gne.h"

namespace gne {

// What a call threw: the status, and as what() the sentence of gne_last_error.
class error : public std::runtime_error {
 public:
  error(gne_status status, const char* text) : std::runtime_error(text), status_(status) {}
  gne_status status() const noexcept { return status_; }

 private:
  gne_status status_;
};

struct options {
  std::uint32_t threads = 1;  // processor threads of one inference
  std::string runtime;        // see gne_options: ONNX Runtime, or for a bundle for a GPU the plugin for TensorRT
};

struct prediction {
  std::string label;
  std::size_t index;   // the place among the logits
  double probability;  // softmax of the logits
};

struct info {
  std::uint32_t crop;     // pixels are uint8 (count, crop, crop, 3), RGB
  std::uint32_t resize;   // the short side of an image before the centre crop
  std::uint32_t classes;  // logits are float (count, classes)
  std::uint32_t threads;
  std::string precision;        // "fp32", "fp16" or "int8"
  std::string runtime_version;  // of ONNX Runtime, or "tensorrt 10.3.0"
};

// Rows of 3 bytes a pixel, GNE_RGB or GNE_BGR, `stride` bytes apart, as `height * stride` readable bytes but for the
// padding of the last row. The memory stays the caller's.
inline gne_frame interleaved(gne_format format, const std::uint8_t* data, std::uint32_t width, std::uint32_t height,
                             std::size_t stride) {
  const std::size_t last = std::size_t{width} * 3, before = height ? (height - std::size_t{1}) * stride : 0;
  return {
      sizeof(gne_frame), static_cast<std::uint32_t>(format), width, height, data, before + last, stride, nullptr, 0, 0};
}

// The two planes of NV12: `luma_stride` and `chroma_stride` bytes apart. The memory stays the caller's.
inline gne_frame nv12(gne_format format, std::uint32_t width, std::uint32_t height, const std::uint8_t* luma,
                      std::size_t luma_stride, const std::uint8_t* chroma, std::size_t chroma_stride) {
  const std::size_t rows = height, pairs = (rows + 1) / 2;
  return {sizeof(gne_frame),
          static_cast<std::uint32_t>(format),
          width,
          height,
          luma,
          rows * luma_stride,
          luma_stride,
          chroma,
          pairs * chroma_stride,
          chroma_stride};
}

// An open bundle. From any number of threads at once; moved, not copied.
class engine {
 public:
  // Opens and verifies a bundle's folder. Throws error.
  explicit engine(const std::string& bundle, const options& how = {}) {
    if (gne_abi() != GNE_ABI) throw error(GNE_INTERNAL, "libgne and gne.h are of different ABIs; install both anew");
    gne_options given = GNE_OPTIONS;
    given.threads = how.threads;
    given.runtime = how.runtime.empty() ? nullptr : how.runtime.c_str();
    check(gne_open(bundle.c_str(), &given, &handle_));
    try {
      info_ = read_info();
    } catch (...) {
      gne_close(handle_);
      throw;
    }
  }
  engine(engine&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)), info_(std::move(other.info_)) {}
  engine& operator=(engine&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(info_, other.info_);
    return *this;
  }
  engine(const engine&) = delete;
  engine& operator=(const engine&) = delete;
  ~engine() { gne_close(handle_); }

  const gne::info& info() const noexcept { return info_; }

  std::vector<std::string> labels() const {
    std::vector<std::string> all(info_.classes);
    for (std::size_t index = 0; index < all.size(); ++index) {
      const char* label = nullptr;
      check(gne_label(handle_, index, &label));
      all[index] = label;
    }
    return all;
  }

  // The k most probable classes, best first; five, or all where there are fewer.
  std::vector<prediction> classify_file(const std::string& path) const { return classify_file(path, usual_k()); }
  std::vector<prediction> classify_file(const std::string& path, std::size_t k) const {
    return predictions(k, [&](gne_prediction* to) { return gne_classify_file(handle_, path.c_str(), k, to); });
  }
  std::vector<prediction> classify_jpeg(const std::uint8_t* data, std::size_t size, std::size_t k) const {
    return predictions(k, [&](gne_prediction* to) { return gne_classify_jpeg(handle_, data, size, k, to); });
  }
  std::vector<prediction> classify(const gne_frame& frame) const { return classify(frame, usual_k()); }
  std::vector<prediction> classify(const gne_frame& frame, std::size_t k) const {
    return predictions(k, [&](gne_prediction* to) { return gne_classify_frame(handle_, &frame, k, to); });
  }

  // An image as the model reads it: uint8 (crop, crop, 3).
  std::vector<std::uint8_t> pixels_of_jpeg(const std::uint8_t* data, std::size_t size) const {
    std::vector<std::uint8_t> pixels(pixel_bytes());
    check(gne_pixels_of_jpeg(handle_, data, size, pixels.data(), pixels.size()));
    return pixels;
  }
  std::vector<std::uint8_t> pixels_of(const gne_frame& frame) const {
    std::vector<std::uint8_t> pixels(pixel_bytes());
    check(gne_pixels_of_frame(handle_, &frame, pixels.data(), pixels.size()));
    return pixels;
  }

  // uint8 (count, crop, crop, 3) → logits float (count, classes), row after row.
  std::vector<float> run(const std::vector<std::uint8_t>& pixels) const {
    std::vector<float> logits(pixels.size() / pixel_bytes() * info_.classes);
    check(gne_run(handle_, pixels.data(), pixels.size(), logits.data(), logits.size()));
    return logits;
  }
  // The k best of one row of logits.
  std::vector<prediction> rank(const std::vector<float>& logits, std::size_t k) const {
    return predictions(k, [&](gne_prediction* to) { return gne_rank(handle_, logits.data(), logits.size(), k, to); });
  }

 private:
  static void check(gne_status status) {
    if (status != GNE_OK) throw error(status, gne_last_error());
  }

  gne::info read_info() const {
    gne_info found{};
    found.size = sizeof found;
    check(gne_describe(handle_, &found));
    return {found.crop, found.resize, found.classes, found.threads, found.precision, found.runtime_version};
  }

  std::size_t pixel_bytes() const { return std::size_t{info_.crop} * info_.crop * 3; }
  std::size_t usual_k() const { return std::min<std::size_t>(5, info_.classes); }

  template <typename Call>
  std::vector<prediction> predictions(std::size_t k, Call call) const {
    // room for what is asked, but never for a k that the library is going to refuse
    std::vector<gne_prediction> found(std::min<std::size_t>(k, info_.classes) + 1);
    check(call(found.data()));
    std::vector<prediction> copies;
    for (std::size_t i = 0; i < k; ++i) copies.push_back({found[i].label, found[i].index, found[i].probability});
    return copies;
  }

  gne_engine* handle_ = nullptr;
  gne::info info_{};
};

}  // namespace gne

#endif
