// A piece of memory that somebody else keeps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace gne_sdk {

struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;

  Bytes() = default;
  Bytes(const uint8_t* start, size_t count) : data(start), size(count) {}
  Bytes(const std::vector<uint8_t>& all) : data(all.data()), size(all.size()) {}  // NOLINT: meant to convert

  // The piece from `start` on, of at most `count` bytes; empty where there is none.
  Bytes from(size_t start, size_t count = SIZE_MAX) const {
    if (start >= size) return {};
    return {data + start, count < size - start ? count : size - start};
  }
  std::string_view text() const { return {reinterpret_cast<const char*>(data), size}; }
};

}  // namespace gne_sdk
