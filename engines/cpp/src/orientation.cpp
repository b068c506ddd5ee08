#include "orientation.hpp"

#include <optional>
#include <string_view>
#include <vector>

namespace gne_sdk {
namespace {

using namespace std::string_view_literals;

constexpr uint32_t kTag = 0x0112;
constexpr auto kExif = "Exif\0\0"sv, kXmp = "http://ns.adobe.com/xap/1.0/\0"sv;

bool starts_with(Bytes bytes, std::string_view prefix) { return bytes.text().substr(0, prefix.size()) == prefix; }

// Unsigned numbers of a TIFF, in its byte order; none beyond its end.
class Tiff {
 public:
  explicit Tiff(Bytes bytes) : bytes_(bytes), little_(starts_with(bytes, "II")) {}

  std::optional<uint32_t> number(size_t at, size_t size) const {
    const Bytes part = bytes_.from(at, size);
    if (part.size < size) return std::nullopt;
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i) value = value << 8 | part.data[little_ ? size - 1 - i : i];
    return value;
  }

 private:
  Bytes bytes_;
  bool little_;
};

// The value of an entry of 12 bytes: one BYTE, SHORT or LONG.
std::optional<uint32_t> value_at(const Tiff& tiff, size_t entry) {
  const auto type = tiff.number(entry + 2, 2), count = tiff.number(entry + 4, 4);
  if (!type || count != 1u) return std::nullopt;
  const size_t size = *type == 1 ? 1 : *type == 3 ? 2 : *type == 4 ? 4 : 0;
  return size ? tiff.number(entry + 8, size) : std::nullopt;
}

std::optional<uint32_t> from_exif(Bytes exif) {
  if (!starts_with(exif, "II*\0"sv) && !starts_with(exif, "MM\0*"sv)) return std::nullopt;
  const Tiff tiff(exif);
  const auto start = tiff.number(4, 4);
  const auto count = start ? tiff.number(*start, 2) : std::nullopt;
  if (!count) return std::nullopt;
  for (size_t i = 0; i < *count; ++i) {
    const size_t entry = size_t{*start} + 2 + 12 * i;
    const auto tag = tiff.number(entry, 2);
    if (!tag) return std::nullopt;
    if (*tag == kTag) return value_at(tiff, entry);
  }
  return std::nullopt;
}

std::optional<uint32_t> from_xmp(std::string_view xmp) {
  constexpr auto kName = "tiff:Orientation"sv;
  for (size_t at = xmp.find(kName); at != std::string_view::npos; at = xmp.find(kName, at + 1)) {
    std::string_view rest = xmp.substr(at + kName.size());
    const size_t before = rest.substr(0, 2) == "=\"" ? 2 : rest.substr(0, 1) == ">" ? 1 : 0;
    rest.remove_prefix(before);
    if (before && !rest.empty() && rest[0] >= '0' && rest[0] <= '9') return static_cast<uint32_t>(rest[0] - '0');
  }
  return std::nullopt;
}

struct Notes {
  std::vector<uint8_t> exif;  // several segments make one
  std::string_view xmp;
};

void take_note(Bytes segment, Notes& notes) {
  if (starts_with(segment, kExif)) {
    const Bytes tiff = segment.from(kExif.size());
    if (tiff.size) notes.exif.insert(notes.exif.end(), tiff.data, tiff.data + tiff.size);
  } else if (starts_with(segment, kXmp)) {
    notes.xmp = segment.from(kXmp.size()).text();
  }
}

// The APP1 segments before the picture itself.
Notes read_notes(Bytes jpeg) {
  Notes notes;
  for (size_t at = 2; at + 4 <= jpeg.size;) {
    if (jpeg.data[at] != 0xff) break;
    const uint8_t marker = jpeg.data[at + 1];
    if (marker == 0xff) {  // a fill byte
      ++at;
      continue;
    }
    if (marker == 0xda || marker == 0xd9) break;
    const size_t length = size_t{jpeg.data[at + 2]} << 8 | jpeg.data[at + 3];
    if (length < 2) break;
    if (marker == 0xe1) take_note(jpeg.from(at + 4, length - 2), notes);
    at += 2 + length;
  }
  return notes;
}

}  // namespace

int orientation_of(Bytes jpeg) {
  const Notes notes = read_notes(jpeg);
  auto noted = from_exif(notes.exif);
  if (!noted) noted = from_xmp(notes.xmp);
  return noted && *noted >= 1 && *noted <= 8 ? static_cast<int>(*noted) : 1;
}

}  // namespace gne_sdk
