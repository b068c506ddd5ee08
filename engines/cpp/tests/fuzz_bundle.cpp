// The readers of a bundle's files: libFuzzer's bytes as a manifest (with a seal that fits), as labels, and as golden
// vectors.
#include <string>

#include "bundle.hpp"
#include "failure.hpp"
#include "manifest.hpp"
#include "sha256.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using namespace gne_sdk;

template <typename Read>
void attempt(Read read) {
  try {
    read();
  } catch (const Failure&) {  // the one thing that may be thrown
  }
}

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

std::string sealed(Bytes body) {
  const std::string before = std::string(body.text()) + "\n  \"sha256\": \"", after = "\"\n}\n";
  return before + sha256(bytes_of(before + after)) + after;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes(data, size);
  attempt([&] { read_manifest(bytes, "fuzz"); });
  const std::string manifest = sealed(bytes);
  attempt([&] { read_manifest(bytes_of(manifest), "fuzz"); });
  attempt([&] { read_labels(bytes, "fuzz"); });
  attempt([&] { read_golden(bytes, 2, 3, "fuzz"); });
  return 0;
}
