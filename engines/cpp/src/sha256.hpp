// SHA-256, FIPS 180-4.
#pragma once

#include <string>

#include "bytes.hpp"

namespace gne_sdk {

// 64 lower-case hexadecimal digits.
std::string sha256(Bytes bytes);

}  // namespace gne_sdk
