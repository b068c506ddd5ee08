// What computes a bundle: uint8 (count, crop, crop, 3) → float (count, classes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gne_sdk {

class Model {
 public:
  Model() = default;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  virtual ~Model() = default;

  virtual uint32_t crop() const = 0;
  virtual size_t classes() const = 0;
  virtual const std::string& runtime_version() const = 0;

  // `count` images → `count` rows of logits. From any number of threads at once. Throws Failure: GNE_BAD_RUNTIME.
  virtual void run(const uint8_t* pixels, size_t count, float* logits) const = 0;
};

}  // namespace gne_sdk
