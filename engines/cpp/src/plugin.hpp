// A bundle's plan on a GPU or a DLA, through a plugin that was built on the device (plugins/tensorrt.cpp).
#pragma once

#include <memory>
#include <string>

#include "bundle.hpp"
#include "model.hpp"

namespace gne_sdk {

// Opens the plugin at `path`, or where that is empty the one that $GNE_TENSORRT or the loader's search path names, and
// with it the plan of the bundle. Throws Failure: GNE_BAD_RUNTIME.
std::unique_ptr<Model> open_plan(const Bundle& bundle, const std::string& path);

}  // namespace gne_sdk
