#include "plugin.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "failure.hpp"
#include "plan.hpp"
#include "plugin.h"

namespace gne_sdk {
namespace {

constexpr const char* kName = "libgne_tensorrt.so.1";
constexpr const char* kAdvice =
    "build it on this device with -DGNE_TENSORRT=ON, and name it in options.runtime or $GNE_TENSORRT";

[[noreturn]] void refuse(const std::string& what) { throw Failure(GNE_BAD_RUNTIME, what + "; " + kAdvice); }

std::string name_of_plugin(const std::string& path) {
  if (!path.empty()) return path;
  const char* named = ::secure_getenv("GNE_TENSORRT");
  return named && *named ? named : kName;
}

// The library stays open: CUDA does not survive being unloaded.
const gne_plugin& load_plugin(const std::string& path) {
  const std::string name = name_of_plugin(path);
  void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = ::dlerror();
    refuse("libgne's plugin for TensorRT cannot be loaded (" + std::string(reason ? reason : name) + ")");
  }
  const auto table = reinterpret_cast<gne_plugin_table_function>(::dlsym(library, "gne_plugin_table"));
  const gne_plugin* plugin = table ? table() : nullptr;
  if (!plugin) refuse(name + " is no plugin of libgne");
  if (plugin->abi != GNE_PLUGIN_ABI) {
    refuse(name + " is of the interface " + std::to_string(plugin->abi) + ", this libgne has " +
           std::to_string(GNE_PLUGIN_ABI));
  }
  return *plugin;
}

class PlanModel : public Model {
 public:
  PlanModel(const gne_plugin& plugin, const Bundle& bundle) : plugin_(plugin), engine_(nullptr, plugin.close) {
    char library[GNE_PLUGIN_TEXT], gpu[GNE_PLUGIN_TEXT];
    check([&](char* error) { return plugin_.identify(library, gpu, error); });
    version_ = library;
    const Plan plan = read_plan(bundle.manifest, bundle.where, library, gpu);
    void* engine = nullptr;
    check([&](char* error) {
      return plugin_.open(plan.data.data(), plan.data.size(), plan.dla_core, &shape_, &engine, error);
    });
    engine_.reset(engine);
  }

  uint32_t crop() const override { return shape_.crop; }
  size_t classes() const override { return shape_.classes; }
  const std::string& runtime_version() const override { return version_; }

  void run(const uint8_t* pixels, size_t count, float* logits) const override {
    const size_t image = size_t{shape_.crop} * shape_.crop * 3;
    for (size_t at = 0; at < count; at += shape_.most) {
      const size_t part = std::min<size_t>(shape_.most, count - at);
      check([&](char* error) {
        return plugin_.run(engine_.get(), pixels + at * image, part, logits + at * shape_.classes, error);
      });
    }
  }

 private:
  template <typename Call>
  static void check(Call call) {
    char error[GNE_PLUGIN_TEXT] = "";
    if (call(error) != 0) throw Failure(GNE_BAD_RUNTIME, error);
  }

  const gne_plugin& plugin_;
  std::unique_ptr<void, void (*)(void*)> engine_;
  gne_plugin_shape shape_{};
  std::string version_;
};

}  // namespace

std::unique_ptr<Model> open_plan(const Bundle& bundle, const std::string& path) {
  return std::make_unique<PlanModel>(load_plugin(path), bundle);
}

}  // namespace gne_sdk
