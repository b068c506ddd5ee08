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
constexpr uint64_t kMaxRecordBytes = 1 << 16;
constexpr int64_t kMaxPlanBytes = 1 << 30;
constexpr int64_t kMaxCore = 15;
constexpr size_t kFolderDigits = 16;

struct Record {
  std::string library, gpu, model_sha256, calibration_sha256, precision, unit, sha256;
  int64_t dla_core, size;
};

// As Path.home() in Python: a service may have no HOME, but it has a user.
std::string home_folder() {
  if (const char* home = std::getenv("HOME")) return home;
  char text[4096];
  struct passwd entry;
  struct passwd* found = nullptr;
  ::getpwuid_r(::getuid(), &entry, text, sizeof text, &found);
  return found ? found->pw_dir : "";
}

// As plans_folder in engines/tensorrt_runtime.py.
std::string plans_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  return (cache && *cache ? std::string(cache) : home_folder() + "/.cache") + "/gnet-edge/plans";
}

[[noreturn]] void refuse(const std::string& what, const std::string& bundle) {
  throw Failure(GNE_BAD_RUNTIME, what + "; compile the bundle here with: gnet-edge build " + bundle);
}

Record record_of(Bytes text) {
  const Json root = parse_json(text.text());
  if (root.at("schema").integer(0, INT64_MAX) != kRecordSchema) throw JsonError("it is of another schema");
  const Json& key = root.at("key");
  return {key.at("library").string(),
          key.at("gpu").string(),
          key.at("model_sha256").string(),
          key.at("calibration_sha256").string(),
          key.at("precision").string(),
          key.at("unit").string(),
          root.at("sha256").string(),
          key.at("dla_core").integer(0, kMaxCore),
          root.at("size").integer(1, kMaxPlanBytes)};
}

// Empty where the bundle has no cache.
std::string calibration_sha256(const Manifest& manifest) {
  const auto cache = manifest.files.find(kCalibration);
  return cache == manifest.files.end() ? "" : cache->second.sha256;
}

Record read_record(const std::string& file, const std::string& bundle) {
  try {
    return record_of(read_file(file, kMaxRecordBytes, GNE_BAD_RUNTIME));
  } catch (const Failure& problem) {
    refuse(problem.what(), bundle);
  } catch (const JsonError& problem) {
    refuse(file + " cannot be read: " + problem.what(), bundle);
  }
}

}  // namespace

Plan read_plan(const Manifest& manifest, const std::string& bundle, const std::string& library,
               const std::string& gpu) {
  const std::string& model = manifest.files.find("model.onnx")->second.sha256;
  const std::string calibration = calibration_sha256(manifest);
  std::string folder = plans_folder() + "/" + model.substr(0, kFolderDigits);
  if (!calibration.empty()) folder += "-" + calibration.substr(0, kFolderDigits);
  const std::string file = folder + "/engine.plan";
  const Record record = read_record(folder + "/plan.json", bundle);
  const auto same = [&](const char* what, const std::string& found, const std::string& wanted) {
    if (found != wanted) refuse(file + " was built for " + what + " " + found + ", not " + wanted, bundle);
  };
  same("the library", record.library, library);
  same("the GPU", record.gpu, gpu);
  same("the model", record.model_sha256, model);
  same("the calibration", record.calibration_sha256, calibration.empty() ? sha256({}) : calibration);
  same("the precision", record.precision, name_of(manifest.precision));
  same("the unit", record.unit, manifest.unit);
  Plan plan;
  plan.data = read_file(file, kMaxPlanBytes, GNE_BAD_RUNTIME);
  if (plan.data.size() != static_cast<uint64_t>(record.size) || sha256(plan.data) != record.sha256) {
    refuse(file + " is cut off or was changed", bundle);
  }
  plan.dla_core = manifest.unit == kDla ? static_cast<int>(record.dla_core) : -1;
  return plan;
}

}  // namespace gne_sdk
