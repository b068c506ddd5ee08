// A bundle in memory: what googlenet_edge/engines/bundle.py writes.
#pragma once

#include <string>
#include <vector>

#include "manifest.hpp"

namespace gne_sdk {

// A few images with the logits that the model gave where it was built.
struct Golden {
  size_t count = 0;
  std::vector<uint8_t> pixels;  // (count, crop, crop, 3)
  std::vector<float> logits;    // (count, classes)
};

struct Bundle {
  Manifest manifest;
  std::vector<std::string> labels;
  std::vector<uint8_t> model;
  Golden golden;
  std::string where;
};

// Reads a folder and verifies all of it but what the model computes. Throws Failure with GNE_BAD_BUNDLE.
Bundle read_bundle(const std::string& folder);

// Throws Failure with GNE_BAD_BUNDLE where logits computed here differ too much from the golden ones.
void check_golden(const Bundle& bundle, const std::vector<float>& logits);

// Parts of read_bundle, for tests: the lines of labels.txt, and golden.bin. Throw Failure with GNE_BAD_BUNDLE.
std::vector<std::string> read_labels(Bytes text, const std::string& where);
Golden read_golden(Bytes bytes, size_t crop, size_t classes, const std::string& where);

}  // namespace gne_sdk
