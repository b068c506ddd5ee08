// hashes FILE: the SHA-256 of the first 0, 1, 2, … bytes of a file, one a line, with the processor's instructions and
// without them.
#include <cstdio>

#include "failure.hpp"
#include "files.hpp"
#include "sha256.hpp"

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const auto all = gne_sdk::read_file(arguments[1], SIZE_MAX, GNE_BAD_ARGUMENT);
  for (size_t size = 0; size <= all.size(); ++size) {
    const gne_sdk::Bytes start(all.data(), size);
    std::printf("%s %s\n", gne_sdk::sha256(start).c_str(), gne_sdk::sha256_portable(start).c_str());
  }
}
