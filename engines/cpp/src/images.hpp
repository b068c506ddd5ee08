// Images as rows of RGB: upright JPEGs and camera frames.
#pragma once

#include <memory>
#include <string>

#include "bytes.hpp"
#include "gne/gne.h"
#include "resample.hpp"

namespace gne_sdk {

constexpr uint64_t kMaxPixels = 150'000'000, kMaxFileBytes = 256u << 20;

// Decodes a JPEG and turns it upright; at 1/2, 1/4 or 1/8 of its size where 2 × `short_side` pixels remain, as
// googlenet_edge.images.decode_rgb does. `where` names it in messages. Throws Failure with GNE_BAD_IMAGE, or
// std::bad_alloc.
std::unique_ptr<Rows> decode_jpeg(Bytes jpeg, uint32_t short_side, const std::string& where);

// A frame's memory is read, not copied. Throws Failure with GNE_BAD_ARGUMENT.
std::unique_ptr<Rows> rows_of(const gne_frame& frame);

}  // namespace gne_sdk
