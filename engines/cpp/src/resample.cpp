#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace gne_sdk {
namespace {

// From where to where a resize samples along one axis; float, because Pillow passes its box so.
struct Span {
  float start, end;
};

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

// All weights are positive, so adding a half and cutting rounds to nearest.
int32_t fixed_point(double weight) { return static_cast<int32_t>(0.5 + weight * (1 << kWeightBits)); }

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
  filter.halve();
  return filter;
}

// The rows that the next output row is made from, one after the other in memory, and no others.
class Window {
 public:
  Window(size_t length, uint32_t first) : length_(length), first_(first), end_(first) {}

  uint32_t end() const { return end_; }
  const uint8_t* from(uint32_t y) const { return rows_.data() + (y - first_) * length_; }

  void drop_before(uint32_t y) {
    rows_.erase(rows_.begin(), rows_.begin() + static_cast<std::ptrdiff_t>((y - first_) * length_));
    first_ = y;
  }

  // Room for row `end()`.
  uint8_t* add() {
    rows_.resize((++end_ - first_) * length_);
    return rows_.data() + rows_.size() - length_;
  }

 private:
  size_t length_;
  uint32_t first_, end_;
  std::vector<uint8_t> rows_;
};

void across_then_down(Rows& image, const Filter& across, const Filter& down, Loops loops, uint8_t* pixels) {
  const size_t length = across.taps.size() * 3;
  Window narrow(length, down.first());
  std::vector<int32_t> sums(length);
  for (const Taps& taps : down.taps) {
    narrow.drop_before(taps.first);
    while (narrow.end() < taps.last()) {
      const uint8_t* row = image.row(narrow.end(), across.first(), across.last());
      loops.across(row + size_t{across.first()} * 3, across, narrow.add());
    }
    loops.down(narrow.from(taps.first), down.weights.data() + taps.weights, taps.count, sums, pixels);
    pixels += length;
  }
}

void down_then_across(Rows& image, const Filter& across, const Filter& down, Loops loops, uint8_t* pixels) {
  const size_t start = size_t{across.first()} * 3, length = size_t{across.last()} * 3 - start;
  Window box(length, down.first());
  std::vector<int32_t> sums(length);
  std::vector<uint8_t> low(length);
  for (const Taps& taps : down.taps) {
    box.drop_before(taps.first);
    while (box.end() < taps.last()) {
      const uint8_t* row = image.row(box.end(), across.first(), across.last());
      std::copy_n(row + start, length, box.add());
    }
    loops.down(box.from(taps.first), down.weights.data() + taps.weights, taps.count, sums, low.data());
    loops.across(low.data(), across, pixels);
    pixels += across.taps.size() * 3;
  }
}

// Whether Pillow 13 goes along the columns first, which rounds some values otherwise; older ones never do.
bool is_tall(const Rows& image, uint32_t crop) {
  const int64_t across = int64_t{image.width()} - crop, down = int64_t{image.height()} - crop;
  return down > 0 && down > 2 * across;
}

}  // namespace

void resample_centre(Rows& image, uint32_t resize, uint32_t crop, uint8_t* pixels, Loops loops) {
  const double width = image.width(), height = image.height();
  const double side = std::min(width, height) * crop / resize;
  const double left = (width - side) / 2, top = (height - side) / 2;
  const Filter across = make_filter(image.width(), {static_cast<float>(left), static_cast<float>(left + side)}, crop);
  const Filter down = make_filter(image.height(), {static_cast<float>(top), static_cast<float>(top + side)}, crop);
  (is_tall(image, crop) ? down_then_across : across_then_down)(image, across, down, loops, pixels);
  image.finish();
}

}  // namespace gne_sdk
