#include "bundle.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>

#include "failure.hpp"
#include "files.hpp"
#include "letters.hpp"
#include "sha256.hpp"

namespace gne_sdk {
namespace {

constexpr const char *kManifest = "manifest.json", *kModel = "model.onnx", *kLabels = "labels.txt",
                     *kGolden = "golden.bin";
constexpr uint64_t kMaxManifestBytes = 1 << 20, kMaxTextBytes = 1 << 24, kMaxBytes = 1 << 30;
constexpr size_t kMostGolden = 64;  // as _MOST_GOLDEN in bundle.py

[[noreturn]] void refuse(const std::string& text) { throw Failure(GNE_BAD_BUNDLE, text); }

[[noreturn]] void refuse_changed(const std::string& file) {
  refuse(file + " was changed or damaged since it was written; copy the bundle again, or build it again");
}

bool exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 || (errno != ENOENT && errno != ENOTDIR);  // else reading it says why not
}

// TensorRT reads the cache when it compiles the model, libgne only verifies it.
bool quantized_by_cache(const Manifest& manifest) {
  return manifest.unit == kDla && manifest.precision == Precision::kInt8;
}

void check_file_set(const std::string& folder, const Manifest& manifest) {
  std::set<std::string> expected = {kModel, kLabels, kGolden};
  if (quantized_by_cache(manifest)) expected.insert(kCalibration);
  std::set<std::string> listed;
  for (const auto& [name, record] : manifest.files) listed.insert(name);
  if (listed != expected) refuse(folder + "/" + kManifest + " lists the wrong files; build the bundle again");
  const std::vector<std::string> names = names_in(folder);
  const std::set<std::string> present(names.begin(), names.end());
  for (const std::string& name : listed) {
    if (!present.count(name))
      refuse(folder + "/" + name + " is missing; copy the whole bundle again, or build it again");
  }
  for (const std::string& name : present) {
    if (!listed.count(name) && name != kManifest)
      refuse(folder + "/" + name + " does not belong to the bundle; remove it");
  }
}

// A file as the manifest records it; one of more than `most` bytes is refused before there is memory for it.
std::vector<uint8_t> read_recorded(const std::string& folder, const char* name, uint64_t most,
                                   const Manifest& manifest) {
  const FileRecord& record = manifest.files.find(name)->second;
  const std::string file = folder + "/" + name;
  std::vector<uint8_t> bytes = read_file(file, std::min(record.size, most), GNE_BAD_BUNDLE);
  if (bytes.size() != record.size || sha256(bytes) != record.sha256) refuse_changed(file);
  return bytes;
}

float little_endian_float(const uint8_t* bytes) {
  const uint32_t bits =
      uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 | uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The largest difference that another processor's kernels may make, as a share of the largest golden logit.
double logit_tolerance(const Manifest& manifest) {
  if (quantized_by_cache(manifest)) return 0.2;  // as DLA_TOLERANCE in bundle.py
  switch (manifest.precision) {
    case Precision::kFp32:
      return 1e-3;
    case Precision::kFp16:
      return 2e-2;
    case Precision::kInt8:
      return 5e-2;
  }
  return 0;
}

// The text is UTF-8.
bool has_unseen(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (is_unseen(next_code_point(text, at).value())) return true;
  }
  return false;
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

}  // namespace

std::vector<std::string> read_labels(Bytes text, const std::string& where) {
  std::string_view rest = text.text();
  if (!is_utf8(rest)) refuse(where + " has labels that are not UTF-8; build it again");
  if (!rest.empty() && rest.back() == '\n') rest.remove_suffix(1);
  std::vector<std::string> labels;
  for (size_t end = 0; end != std::string_view::npos;) {
    end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    if (line.empty() || has_unseen(line)) {
      refuse(where + " has an empty label, or one with a character that steers or cannot be seen; build it again");
    }
    labels.emplace_back(line);
    if (end != std::string_view::npos) rest.remove_prefix(end + 1);
  }
  return labels;
}

Golden read_golden(Bytes bytes, size_t crop, size_t classes, const std::string& where) {
  const size_t pixels = crop * crop * 3, each = pixels + 4 * classes;
  Golden golden;
  golden.count = bytes.size / each;
  const bool fits = golden.count >= 1 && golden.count <= kMostGolden && bytes.size % each == 0;
  if (!fits) refuse(where + " has golden vectors that do not fit it; build it again");
  const size_t end = golden.count * pixels;
  golden.pixels.assign(bytes.data, bytes.data + end);
  for (size_t at = end; at < bytes.size; at += 4) {
    golden.logits.push_back(little_endian_float(bytes.data + at));
    if (!std::isfinite(golden.logits.back())) refuse(where + " has a golden logit that is not finite; build it again");
  }
  return golden;
}

Bundle read_bundle(const std::string& folder) {
  const std::string file = folder + "/" + kManifest;
  if (!exists(file)) {
    refuse(folder + " is not a bundle: it has no " + kManifest + "; give a folder that gnet-edge build wrote");
  }
  Bundle bundle;
  bundle.where = folder;
  bundle.manifest = read_manifest(read_file(file, kMaxManifestBytes, GNE_BAD_BUNDLE), file);
  check_file_set(folder, bundle.manifest);
  bundle.labels = read_labels(read_recorded(folder, kLabels, kMaxTextBytes, bundle.manifest), folder);
  bundle.golden = read_golden(read_recorded(folder, kGolden, kMaxBytes, bundle.manifest), bundle.manifest.crop,
                              bundle.labels.size(), folder);
  bundle.model = read_recorded(folder, kModel, kMaxBytes, bundle.manifest);
  if (Bytes(bundle.model).text().find("location") != std::string_view::npos) {  // the key of ONNX's external data
    refuse(folder + "/" + kModel + " keeps weights in another file, which no hash covers; build the bundle again");
  }
  if (quantized_by_cache(bundle.manifest) &&
      read_recorded(folder, kCalibration, kMaxTextBytes, bundle.manifest).empty()) {
    refuse(folder + "/" + kCalibration + " is empty, and a DLA quantizes by it; build the bundle again");
  }
  return bundle;
}

void check_golden(const Bundle& bundle, const std::vector<float>& logits) {
  float largest = 0, difference = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    largest = std::max(largest, std::abs(bundle.golden.logits[i]));
    const float here = std::abs(logits[i] - bundle.golden.logits[i]);
    if (std::isnan(here) || here > difference) difference = here;  // a NaN is the largest one, and stays it
  }
  const Precision precision = bundle.manifest.precision;
  const double allowed = logit_tolerance(bundle.manifest) * static_cast<double>(largest);
  if (static_cast<double>(difference) <= allowed) return;
  refuse(bundle.where + " computes something else on this machine: its golden logits differ by " +
         short_number(static_cast<double>(difference)) + ", at most " + short_number(allowed) + " is allowed for " +
         name_of(precision) + "; upgrade the runtime, or build the bundle here");
}

}  // namespace gne_sdk
