// The orientation that a camera notes in a JPEG: EXIF's tag 0x0112, or XMP's tiff:Orientation.
#pragma once

#include "bytes.hpp"

namespace gne_sdk {

// 1 to 8, where 1 is upright, also where nothing is noted or it cannot be read.
int orientation_of(Bytes jpeg);

}  // namespace gne_sdk
