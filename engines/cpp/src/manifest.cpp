#include "manifest.hpp"

#include <algorithm>
#include <string_view>

#include "failure.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace gne_sdk {
namespace {

constexpr int64_t kMaxSide = 4096;
constexpr size_t kDigits = 64;
constexpr size_t kMostLetters = 32;  // of a device, a precision or a unit

// The manifest's last member is its own SHA-256, computed with an empty one in its place.
bool seal_fits(std::string_view text) {
  constexpr std::string_view kBefore = "\n  \"sha256\": \"", kAfter = "\"\n}\n";
  constexpr size_t kEnd = kBefore.size() + kDigits + kAfter.size();
  if (text.size() < kEnd) return false;
  const size_t start = text.size() - kEnd;
  const std::string_view digits = text.substr(start + kBefore.size(), kDigits);
  if (text.substr(start, kBefore.size()) != kBefore || text.substr(text.size() - kAfter.size()) != kAfter) return false;
  const std::string unsealed = std::string(text.substr(0, start + kBefore.size())) + std::string(kAfter);
  return sha256({reinterpret_cast<const uint8_t*>(unsealed.data()), unsealed.size()}) == digits;
}

void check_schema(int64_t schema, const std::string& where) {
  if (schema == kSchema) return;
  const std::string found =
      where + " has schema " + std::to_string(schema) + ", this libgne reads " + std::to_string(kSchema);
  throw Failure(GNE_BAD_BUNDLE, found + (schema > kSchema ? "; upgrade libgne" : "; build the bundle again"));
}

// A member that is a short word, so that it can be shown. Others are refused without being shown.
const std::string& word_of(const Json& root, const char* member) {
  const std::string& word = root.at(member).string();
  const auto fits = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  if (word.empty() || word.size() > kMostLetters || !std::all_of(word.begin(), word.end(), fits)) {
    throw JsonError("the " + std::string(member) + " is unknown");
  }
  return word;
}

Precision precision_of(const std::string& name) {
  for (const Precision each : {Precision::kFp32, Precision::kFp16, Precision::kInt8}) {
    if (name == name_of(each)) return each;
  }
  throw JsonError("the precision \"" + name + "\" is unknown");
}

FileRecord record_of(const Json& value) {
  return {static_cast<uint64_t>(value.at("size").integer(0, INT64_MAX)), value.at("sha256").string()};
}

Manifest manifest_of(const Json& root) {
  Manifest manifest;
  manifest.precision = precision_of(word_of(root, "precision"));
  manifest.device = word_of(root, "device");
  manifest.unit = word_of(root, "unit");
  if (manifest.unit != kMain && manifest.unit != kDla) throw JsonError("the unit \"" + manifest.unit + "\" is unknown");
  const Json& preprocess = root.at("preprocess");
  manifest.resize = static_cast<uint32_t>(preprocess.at("resize").integer(1, kMaxSide));
  manifest.crop = static_cast<uint32_t>(preprocess.at("crop").integer(1, manifest.resize));
  manifest.weight_bits = static_cast<int>(root.at("weight_bits").integer(7, 8));
  for (const auto& [name, value] : root.at("files").object()) manifest.files.emplace(name, record_of(value));
  return manifest;
}

}  // namespace

const char* name_of(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kFp16:
      return "fp16";
    case Precision::kInt8:
      return "int8";
  }
  return "unknown";
}

Manifest read_manifest(Bytes text, const std::string& where) {
  try {
    const Json root = parse_json(text.text());
    check_schema(root.at("schema").integer(0, INT64_MAX), where);
    if (!seal_fits(text.text())) {
      throw Failure(GNE_BAD_BUNDLE, where +
                                        " was changed or damaged since it was written; copy the bundle again, or"
                                        " build it again");
    }
    return manifest_of(root);
  } catch (const JsonError& problem) {
    throw Failure(GNE_BAD_BUNDLE, where + " cannot be read: " + problem.what() +
                                      "; copy the bundle again, or build it"
                                      " again");
  }
}

}  // namespace gne_sdk
