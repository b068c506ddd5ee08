#include "logits.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace gne_sdk {

std::vector<Ranked> ranked(const float* logits, size_t size, size_t count) {
  // a NaN, which only a caller's own logits can hold, ranks last
  const auto score = [&](size_t i) {
    return std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i];
  };
  std::vector<size_t> order(size);
  std::iota(order.begin(), order.end(), size_t{0});
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](size_t a, size_t b) { return score(a) != score(b) ? score(a) > score(b) : a < b; });
  const float largest = logits[order[0]];
  double sum = 0;
  for (size_t i = 0; i < size; ++i) sum += std::exp(static_cast<double>(logits[i] - largest));
  std::vector<Ranked> best(count);
  for (size_t i = 0; i < count; ++i)
    best[i] = {order[i], std::exp(static_cast<double>(logits[order[i]] - largest)) / sum};
  return best;
}

}  // namespace gne_sdk
