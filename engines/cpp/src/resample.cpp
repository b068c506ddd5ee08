#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace gne_sdk {
namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr int32_t kHalf = 1 << (kPrecisionBits - 1);

// From where to where a resize samples along one axis; float, because Pillow passes its box so.
struct Span {
  float start, end;
};

// The input pixels that one output pixel is made from: `first`, and where their weights stand.
struct Taps {
  uint32_t first, count;
  size_t weights;
};

struct Filter {
  std::vector<Taps> taps;
  std::vector<int32_t> weights;

  uint32_t first() const { return taps.front().first; }
  uint32_t last() const { return taps.back().first + taps.back().count; }
};

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

// All weights are positive, so adding a half and cutting rounds to nearest.
int32_t fixed_point(double weight) { return static_cast<int32_t>(0.5 + weight * (1 << kPrecisionBits)); }

Filter make_filter(uint32_t input, Span span, uint32_t output) {
  const double scale = static_cast<double>(span.end - span.start) / output;
  const double support = std::max(scale, 1.0), inverse = 1.0 / support;
  Filter filter;
  std::vector<double> exact;
  for (uint32_t i = 0; i < output; ++i) {
    const double centre = static_cast<double>(span.start) + (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), static_cast<int>(input));
    exact.clear();
    double sum = 0;
    for (int x = first; x < last; ++x) {
      exact.push_back(triangle((x - centre + 0.5) * inverse));
      sum += exact.back();
    }
    filter.taps.push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(exact.size()), filter.weights.size()});
    for (const double weight : exact) filter.weights.push_back(fixed_point(sum != 0 ? weight / sum : weight));
  }
  return filter;
}

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255)); }

void resample_row(const uint8_t* row, const Filter& filter, uint8_t* out) {
  for (const Taps& taps : filter.taps) {
    const int32_t* weight = filter.weights.data() + taps.weights;
    const uint8_t* pixel = row + size_t{taps.first} * 3;
    int32_t red = kHalf, green = kHalf, blue = kHalf;
    for (uint32_t i = 0; i < taps.count; ++i, pixel += 3) {
      red += pixel[0] * weight[i];
      green += pixel[1] * weight[i];
      blue += pixel[2] * weight[i];
    }
    *out++ = to_byte(red), *out++ = to_byte(green), *out++ = to_byte(blue);
  }
}

// One output row from the rows that it is made from, which follow each other in memory.
void resample_column(const uint8_t* rows, const int32_t* weights, uint32_t count, size_t length, int32_t* sums,
                     uint8_t* out) {
  std::fill(sums, sums + length, kHalf);
  for (uint32_t i = 0; i < count; ++i, rows += length) {
    for (size_t x = 0; x < length; ++x) sums[x] += rows[x] * weights[i];
  }
  for (size_t x = 0; x < length; ++x) out[x] = to_byte(sums[x]);
}

}  // namespace

void resample_centre(Rows& image, uint32_t resize, uint32_t crop, uint8_t* pixels) {
  const double width = image.width(), height = image.height();
  const double side = std::min(width, height) * crop / resize;
  const double left = (width - side) / 2, top = (height - side) / 2;
  const Filter across = make_filter(image.width(), {static_cast<float>(left), static_cast<float>(left + side)}, crop);
  const Filter down = make_filter(image.height(), {static_cast<float>(top), static_cast<float>(top + side)}, crop);
  const size_t length = size_t{crop} * 3;
  std::vector<uint8_t> narrow(length * (down.last() - down.first()));
  for (uint32_t y = down.first(); y < down.last(); ++y) {
    resample_row(image.row(y, across.first(), across.last()), across, narrow.data() + (y - down.first()) * length);
  }
  std::vector<int32_t> sums(length);
  for (uint32_t y = 0; y < crop; ++y) {
    const Taps& taps = down.taps[y];
    resample_column(narrow.data() + (taps.first - down.first()) * length, down.weights.data() + taps.weights,
                    taps.count, length, sums.data(), pixels + y * length);
  }
}

}  // namespace gne_sdk
