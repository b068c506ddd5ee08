// Files that are read whole.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gne/gne.h"

namespace gne_sdk {

// The bytes of a regular file of at most `limit` bytes. Throws Failure with `status`.
std::vector<uint8_t> read_file(const std::string& path, uint64_t limit, gne_status status);

// The names in a folder, without "." and "..". Throws Failure with GNE_BAD_BUNDLE.
std::vector<std::string> names_in(const std::string& folder);

}  // namespace gne_sdk
