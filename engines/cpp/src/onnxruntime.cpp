#include "onnxruntime.hpp"

#include <dlfcn.h>

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "failure.hpp"

namespace gne_sdk::ort {
namespace {

constexpr int kLeastMajor = 1, kLeastMinor = 19;
constexpr const char* kAdvice =
    "install ONNX Runtime 1.19 or newer and name its libonnxruntime.so in options.runtime or"
    " $GNE_ONNXRUNTIME";

struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// ONNX Runtime 1.29 and newer reports models and the machine to Microsoft, unless this is set when it is loaded. It is set
// when libgne is: where a program links that, there is no other thread yet that could be reading the environment.
[[gnu::constructor]] void report_nothing() { ::setenv("ORT_DISABLE_TELEMETRY", "1", 0); }

[[noreturn]] void refuse(const std::string& what) { throw Failure(GNE_BAD_RUNTIME, what + "; " + kAdvice); }

std::vector<std::string> candidates(const std::string& path) {
  if (!path.empty()) return {path};
  const char* named = ::secure_getenv("GNE_ONNXRUNTIME");
  if (named && *named) return {named};
  return {"libonnxruntime.so.1", "libonnxruntime.so"};
}

// Tries one name after the other; RTLD_LOCAL, because another copy of the runtime may be in the process.
std::pair<void*, std::string> open_first(const std::vector<std::string>& names) {
  std::string reason;
  for (const std::string& name : names) {
    if (void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return {library, name};
    if (reason.empty()) {
      const char* text = ::dlerror();
      reason = text ? text : name;
    }
  }
  refuse("ONNX Runtime cannot be loaded (" + reason + ")");
}

bool is_new_enough(std::string_view version) {
  int major = 0, minor = 0;
  const char* end = version.data() + version.size();
  const auto [dot, problem] = std::from_chars(version.data(), end, major);
  if (problem != std::errc() || dot == end || *dot != '.') return false;
  if (std::from_chars(dot + 1, end, minor).ec != std::errc()) return false;
  return major > kLeastMajor || (major == kLeastMajor && minor >= kLeastMinor);
}

}  // namespace

Api load(const std::string& path) {
  const auto [library, name] = open_first(candidates(path));
  using GetApiBase = const ApiBase* (*)();
  const auto get_base = reinterpret_cast<GetApiBase>(::dlsym(library, "OrtGetApiBase"));
  const ApiBase* base = get_base ? get_base() : nullptr;
  if (!base) refuse(name + " is not ONNX Runtime");
  const char* version = base->get_version();
  if (!version || !is_new_enough(version)) refuse(name + " is ONNX Runtime " + (version ? version : "of no version"));
  const auto table = static_cast<void (*const*)()>(base->get_api(kApiVersion));
  if (!table) refuse(name + " has no C API of version " + std::to_string(kApiVersion));
  Api api;
#define GNE_ORT_TAKE(slot, result, name, parameters) api.name = reinterpret_cast<decltype(api.name)>(table[slot]);
  GNE_ORT_SLOTS(GNE_ORT_TAKE)
#undef GNE_ORT_TAKE
  api.version = version;
  return api;
}

}  // namespace gne_sdk::ort
