// An open bundle: what computes it, together with what its inputs and outputs mean.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "images.hpp"
#include "model.hpp"
#include "places.hpp"

namespace gne_sdk {

struct EngineOptions {
  uint32_t threads = 1;
  std::string runtime;  // see ort::load and open_plan
};

class Engine {
 public:
  Engine(Engine&&) = default;
  ~Engine();  // leaves the model as it is where the process ends

  // Opens and verifies a bundle's folder. Throws Failure.
  static Engine open(const std::string& folder, const EngineOptions& options);

  gne_info info() const;
  const std::vector<std::string>& labels() const { return labels_; }
  size_t pixel_bytes() const { return size_t{crop_} * crop_ * 3; }

  // The bytes of a JPEG, named by `where` in messages, or a frame → uint8 (crop, crop, 3). Throws Failure.
  void pixels_of(Bytes jpeg, const std::string& where, uint8_t* pixels) const;
  void pixels_of(const gne_frame& frame, uint8_t* pixels) const;
  // uint8 (count, crop, crop, 3) → float (count, classes). Throws Failure.
  void run(const uint8_t* pixels, size_t count, float* logits) const;
  void rank(const float* logits, size_t k, gne_prediction* predictions) const;
  // Throws Failure with GNE_BAD_ARGUMENT where k is not 1 to the number of classes.
  void check_k(size_t k) const;

 private:
  Engine(Bundle&& bundle, std::unique_ptr<Model> model, uint32_t threads);

  std::unique_ptr<Model> model_;
  std::unique_ptr<Places> places_;
  std::vector<std::string> labels_;
  Precision precision_;
  uint32_t crop_, resize_, threads_;
};

}  // namespace gne_sdk
