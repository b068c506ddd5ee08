#include "plan.hpp"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include "failure.hpp"
#include "files.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace gne_sdk {
namespace {

constexpr int64_t kRecordSchema = 1;
constexpr uint64_t kMaxRecordBytes = 1 << 16, kMaxPlanBytes = 1 << 30;
constexpr int64_t kMaxCore = 15;
constexpr size_t kFolderDigits = 16;
constexpr size_t kMaxEntry = 1 << 16;  // of the table of users

// As Path.home() in Python: a service may have no HOME, but it has a user.
std::string home_folder() {
  if (const char* home = ::secure_getenv("HOME")) return home;
  struct passwd entry;
  struct passwd* found = nullptr;
  std::vector<char> text(kMaxEntry);
  (void)::getpwuid_r(::getuid(), &entry, text.data(), text.size(), &found);
  return found ? found->pw_dir : "";
}

// As plans_folder in engines/tensorrt_runtime.py.
std::string plans_folder() {
  const char* cache = ::secure_getenv("XDG_CACHE_HOME");
  return (cache && *cache ? std::string(cache) : home_folder() + "/.cache") + "/gnet-edge/plans";
}

[[noreturn]] void refuse(const std::string& what, const std::string& bundle) {
  throw Failure(GNE_BAD_RUNTIME, what + "; compile the bundle here with: gnet-edge build " + bundle);
}

// Empty where the bundle has no cache.
std::string calibration_sha256(const Manifest& manifest) {
  const auto cache = manifest.files.find(kCalibration);
  return cache == manifest.files.end() ? "" : cache->second.sha256;
}

std::vector<uint8_t> read_part(const std::string& file, uint64_t limit, const std::string& bundle) {
  try {
    return read_file(file, limit, GNE_BAD_RUNTIME);
  } catch (const Failure& problem) {
    refuse(problem.what(), bundle);
  }
}

std::vector<uint8_t> read_data(const std::string& file, const Json& record, const std::string& bundle) {
  std::vector<uint8_t> data = read_part(file, kMaxPlanBytes, bundle);
  if (sha256(data) != record.at("sha256").string()) refuse(file + " is cut off or was changed", bundle);
  return data;
}

std::string folder_of(const std::string& model, const std::string& calibration) {
  const std::string folder = plans_folder() + "/" + model.substr(0, kFolderDigits);
  return calibration.empty() ? folder : folder + "-" + calibration.substr(0, kFolderDigits);
}

}  // namespace

Plan read_plan(const Manifest& manifest, const std::string& bundle, const std::string& library,
               const std::string& gpu) {
  const std::string& model = manifest.files.find("model.onnx")->second.sha256;
  const std::string calibration = calibration_sha256(manifest), folder = folder_of(model, calibration);
  const std::string file = folder + "/engine.plan", record = folder + "/plan.json";
  const std::vector<uint8_t> text = read_part(record, kMaxRecordBytes, bundle);
  try {
    const Json root = parse_json(Bytes(text).text());
    if (root.at("schema").integer(0, INT64_MAX) != kRecordSchema) throw JsonError("it is of another schema");
    const Json& key = root.at("key");
    const auto check = [&](const char* what, const char* name, const std::string& wanted) {
      const std::string& found = key.at(name).string();
      if (found != wanted) refuse(file + " was built for the " + what + " " + found + ", not " + wanted, bundle);
    };
    check("library", "library", library);
    check("GPU", "gpu", gpu);
    check("model", "model_sha256", model);
    check("calibration", "calibration_sha256", calibration.empty() ? sha256({}) : calibration);
    check("precision", "precision", name_of(manifest.precision));
    check("unit", "unit", manifest.unit);
    Plan plan;
    plan.dla_core = manifest.unit == kDla ? static_cast<int>(key.at("dla_core").integer(0, kMaxCore)) : -1;
    plan.data = read_data(file, root, bundle);
    return plan;
  } catch (const JsonError& problem) {
    refuse(record + " cannot be read: " + problem.what(), bundle);
  }
}

}  // namespace gne_sdk
