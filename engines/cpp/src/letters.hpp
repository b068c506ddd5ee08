// The letters of a text in UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace gne_sdk {

// The code point at `at`, which moves behind it; none where the bytes are not UTF-8 as RFC 3629 has it: no overlong
// forms, no surrogates.
std::optional<uint32_t> next_code_point(std::string_view text, size_t& at);

bool is_utf8(std::string_view text);

// Whether a code point steers a terminal, turns text around or is not seen; as in files.py.
bool is_unseen(uint32_t code);

}  // namespace gne_sdk
