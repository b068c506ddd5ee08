// The plan that `gnet-edge build BUNDLE` compiled on this device for a bundle: what engines/tensorrt_plans.py writes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace gne_sdk {

struct Plan {
  std::vector<uint8_t> data;  // as TensorRT wants it
  int dla_core;               // -1 where the GPU computes
};

// Reads and verifies the plan of a bundle; `library` and `gpu` are what is here, `bundle` names it in messages.
// Throws Failure: GNE_BAD_RUNTIME where there is none, it is damaged, or it was built for something else.
Plan read_plan(const Manifest& manifest, const std::string& bundle, const std::string& library, const std::string& gpu);

}  // namespace gne_sdk
