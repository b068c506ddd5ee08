// SHA-256, FIPS 180-4.
#pragma once

#include <string>

#include "bytes.hpp"

namespace gne_sdk {

// 64 lower-case hexadecimal digits; with the processor's instructions for it, where it has them.
std::string sha256(Bytes bytes);

// The same without them.
std::string sha256_portable(Bytes bytes);

}  // namespace gne_sdk
