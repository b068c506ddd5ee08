// What logits mean: probabilities, and the order of the classes; the same rules as googlenet_edge/engines/predictor.py.
#pragma once

#include <cstddef>
#include <vector>

namespace gne_sdk {

struct Ranked {
  size_t index;
  double probability;
};

// The `count` largest of `size` logits, best first; of equals the lowest index leads.
std::vector<Ranked> ranked(const float* logits, size_t size, size_t count);

}  // namespace gne_sdk
