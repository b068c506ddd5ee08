// The blocks of SHA-256 with the processor's own instructions: x86 with SHA-NI, Arm with the SHA-2 extension.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace gne_sdk {

using Sha256State = std::array<uint32_t, 8>;

extern const std::array<uint32_t, 64> kSha256Rounds;

// Whether this processor has them, and this build knows them.
bool has_sha256_instructions();

// Adds blocks of 64 bytes to the state. Only where has_sha256_instructions().
void add_sha256_blocks(Sha256State& state, const uint8_t* blocks, size_t count);

}  // namespace gne_sdk
