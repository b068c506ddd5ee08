// Damage of every kind to files, the same for the same seed.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace gne_test {

using Bytes = std::vector<uint8_t>;
using Files = std::map<std::string, Bytes>;

// Flips a few bits, cuts the end off, takes a piece out, doubles a piece, or fills a piece with one value.
void damage(Bytes& bytes, std::mt19937& random);

// Damages one file, or swaps the contents of two.
void damage(Files& bundle, std::mt19937& random);

// Writes the sizes and hashes that the files now have into the manifest, and its own, as far as it can still be read:
// what somebody would do who forges a bundle.
void seal(Files& bundle);

Files read_folder(const std::string& folder);
void write_folder(const std::string& folder, const Files& files);

}  // namespace gne_test
