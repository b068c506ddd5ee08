// The open engines. A handle is a number that is never used twice, so that a closed one is recognized, and closing an
// engine while another thread computes with it is safe.
#pragma once

#include <memory>

#include "engine.hpp"
#include "gne/gne.h"

namespace gne_sdk {

gne_engine* add_handle(std::shared_ptr<const Engine> engine);

// The engine of a handle. Throws Failure: GNE_BAD_ARGUMENT of NULL, GNE_CLOSED of one that is not open.
std::shared_ptr<const Engine> find_handle(const gne_engine* handle);

// Forgets a handle; returns its engine, which lives on while a call uses it. Throws Failure as find_handle.
std::shared_ptr<const Engine> remove_handle(const gne_engine* handle);

}  // namespace gne_sdk
