#include "letters.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace gne_sdk {
namespace {

constexpr std::pair<uint32_t, uint32_t> kUnseen[] = {{0, 0x1f},          {0x7f, 0x9f},       {0xad, 0xad},
                                                     {0x61c, 0x61c},     {0x200b, 0x200b},   {0x200e, 0x200f},
                                                     {0x2028, 0x202e},   {0x2060, 0x206f},   {0xfeff, 0xfeff},
                                                     {0xfff9, 0xfffb},   {0xe0000, 0xe007f}};

}  // namespace

std::optional<uint32_t> next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t offset) { return static_cast<unsigned char>(text[at + offset]); };
  const unsigned lead = byte(0);
  const size_t length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
  if (length == 0 || length > text.size() - at) return std::nullopt;
  uint32_t code = length == 1 ? lead : lead & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if (byte(i) >> 6 != 2) return std::nullopt;
    code = code << 6 | (byte(i) & 0x3fu);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return std::nullopt;
  at += length;
  return code;
}

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (!next_code_point(text, at)) return false;
  }
  return true;
}

bool is_unseen(uint32_t code) {
  return std::any_of(std::begin(kUnseen), std::end(kUnseen),
                     [&](const auto& range) { return range.first <= code && code <= range.second; });
}

}  // namespace gne_sdk
