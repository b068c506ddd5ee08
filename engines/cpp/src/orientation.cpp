#include "orientation.hpp"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>
#include <vector>

namespace gne_sdk {
namespace {

using namespace std::string_view_literals;

constexpr uint32_t kTag = 0x0112, kNone = 0;
constexpr auto kExif = "Exif\0\0"sv, kXmp = "http://ns.adobe.com/xap/1.0/\0"sv;

bool starts_with(Bytes bytes, std::string_view prefix) { return bytes.text().substr(0, prefix.size()) == prefix; }

// The beginnings that Pillow accepts: two of them have the 42 in the wrong order, one is of a newer TIFF.
constexpr std::string_view kBeginnings[] = {"II*\0"sv, "MM\0*"sv, "II\0*"sv, "MM*\0"sv, "MM\0+"sv};

// Unsigned numbers of a TIFF, in its byte order; none beyond its end.
class Tiff {
 public:
  explicit Tiff(Bytes bytes) : bytes_(bytes), little_(starts_with(bytes, "II")) {}

  bool is_valid() const {
    return std::any_of(std::begin(kBeginnings), std::end(kBeginnings),
                       [this](std::string_view each) { return starts_with(bytes_, each); });
  }

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

// Bytes of one value of a type of TIFF; 0 where Pillow knows no such type, and goes on to the next entry.
constexpr size_t kSizes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};

// Whole numbers of at most 4 bytes. Of a BYTE or a text Pillow makes no number, either; of a fraction it does, and
// would turn the image by it, but nobody writes such an orientation.
bool is_whole(uint32_t type) {
  return type == 3 || type == 4 || type == 6 || type == 8 || type == 9 || type == 13;
}

struct Entry {
  uint32_t tag, type;
  uint64_t at, size;  // of its values: in the entry itself where they have no more than 4 bytes
};

std::optional<Entry> entry_at(const Tiff& tiff, size_t at) {
  const auto tag = tiff.number(at, 2), type = tiff.number(at + 2, 2), count = tiff.number(at + 4, 4);
  const auto place = tiff.number(at + 8, 4);
  if (!place) return std::nullopt;
  const uint64_t size = *type < std::size(kSizes) ? uint64_t{*count} * kSizes[*type] : 0;
  return Entry{*tag, *type, size > 4 ? *place : at + 8, size};
}

// The first of its values, of which the others are ignored: an orientation, or a number that is none.
uint32_t value_of(const Tiff& tiff, const Entry& entry) {
  return is_whole(entry.type) ? tiff.number(entry.at, kSizes[entry.type]).value_or(kNone) : kNone;
}

// What the first entry with the tag says; nothing where there is no such entry before the end or the first damage.
std::optional<uint32_t> from_exif(Bytes exif) {
  if (starts_with(exif, kExif)) exif = exif.from(kExif.size());  // some write it twice
  if (exif.size == 0) return std::nullopt;
  const Tiff tiff(exif);
  const auto start = tiff.number(4, 4);
  if (!tiff.is_valid() || !start) return kNone;  // then Pillow asks XMP no more
  const size_t count = tiff.number(*start, 2).value_or(0);
  uint64_t outside = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto entry = entry_at(tiff, size_t{*start} + 2 + 12 * i);
    if (!entry) break;
    if (entry->size > 4 && (outside += entry->size) > exif.size) continue;  // more than there is
    if (entry->size > 0 && exif.from(entry->at, entry->size).size < entry->size) break;
    if (entry->size > 0 && entry->tag == kTag) return value_of(tiff, *entry);
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
    notes.exif.insert(notes.exif.end(), tiff.data, tiff.data + tiff.size);
  } else if (starts_with(segment, kXmp)) {
    notes.xmp = segment.from(kXmp.size()).text();
  }
}

// Markers without a segment: a zero that escapes, restarts, and the start and end of an image.
bool stands_alone(uint8_t marker) { return marker == 0 || (marker >= 0xd0 && marker <= 0xd9); }

// The APP1 segments before the picture itself. What lies between segments is skipped, as libjpeg and Pillow do.
Notes read_notes(Bytes jpeg) {
  Notes notes;
  for (size_t at = 2; at + 4 <= jpeg.size;) {
    const uint8_t marker = jpeg.data[at + 1];
    if (jpeg.data[at] != 0xff || marker == 0xff) {  // a stray byte, or one that fills
      ++at;
    } else if (stands_alone(marker)) {
      at += 2;
    } else {
      if (marker == 0xda) break;
      const size_t length = std::max(jpeg.data[at + 2] << 8 | jpeg.data[at + 3], 2);  // which counts itself
      if (marker == 0xe1) take_note(jpeg.from(at + 4, length - 2), notes);
      at += 2 + length;
    }
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
