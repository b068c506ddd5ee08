// The entry of images: libFuzzer's bytes as a JPEG, and as a frame whose numbers come from the first bytes.
#include <cstring>
#include <vector>

#include "failure.hpp"
#include "images.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using namespace gne_sdk;

constexpr uint32_t kResize = 18, kCrop = 16;
constexpr uint64_t kMostPixels = 1 << 20;  // larger ones only take long

void sample(Rows& rows) {
  std::vector<uint8_t> pixels(kCrop * kCrop * 3);
  if (uint64_t{rows.width()} * rows.height() <= kMostPixels) resample_centre(rows, kResize, kCrop, pixels.data());
}

void read_jpeg(Bytes bytes) {
  try {
    sample(*decode_jpeg(bytes, kResize, "fuzz"));
  } catch (const Failure&) {  // the one thing that may be thrown
  }
}

void read_frame(Bytes bytes) {
  uint16_t numbers[6];
  if (bytes.size < sizeof numbers) return;
  std::memcpy(numbers, bytes.data, sizeof numbers);
  const Bytes rest = bytes.from(sizeof numbers);
  const Bytes luma = rest.from(0, rest.size / 2), chroma = rest.from(rest.size / 2);
  const gne_frame frame = {sizeof(gne_frame), numbers[0] % 5u, numbers[1] % 256u, numbers[2] % 256u, luma.data,
                           luma.size,         numbers[3],      chroma.data,       chroma.size,       numbers[4]};
  try {
    sample(*rows_of(frame));
  } catch (const Failure&) {  // as above
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  read_jpeg({data, size});
  read_frame({data, size});
  return 0;
}
