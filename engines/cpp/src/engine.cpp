#include "engine.hpp"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "ending.hpp"
#include "failure.hpp"
#include "logits.hpp"
#include "plugin.hpp"
#include "processor.hpp"
#include "session.hpp"

namespace gne_sdk {
namespace {

// What runs the bundles of a device.
enum class Runs { kOnnxRuntime, kTensorRt, kNothing, kUnknown };

struct Device {
  std::string_view name;
  Runs runs;
};

constexpr Device kDevices[] = {
    {"cpu", Runs::kOnnxRuntime},
    {"cuda", Runs::kTensorRt},
    {"orin-nano", Runs::kTensorRt},
    {"orin-nx", Runs::kTensorRt},
    {"agx-orin", Runs::kTensorRt},
    {"agx-thor", Runs::kTensorRt},
    {"nano", Runs::kNothing},  // JetPack 4.6 is the last one
    {"tx2", Runs::kNothing},
    {"xavier-nx", Runs::kNothing},  // JetPack 5
    {"agx-xavier", Runs::kNothing},
};

Runs runs_on(std::string_view device) {
  const auto* found = std::find_if(std::begin(kDevices), std::end(kDevices),
                                   [&](const Device& known) { return known.name == device; });
  return found == std::end(kDevices) ? Runs::kUnknown : found->runs;
}

// How many inferences may run at once: more would be no faster, and each needs memory of its own.
size_t most_at_once(size_t threads) { return std::max<size_t>(1, usable_cores() / threads); }

std::unique_ptr<Model> open_model(const Bundle& bundle, const EngineOptions& options) {
  const Manifest& manifest = bundle.manifest;
  const auto refuse = [&](const char* why) {
    return Failure(GNE_BAD_BUNDLE, bundle.where + " is built for the device " + manifest.device + ", " + why);
  };
  switch (runs_on(manifest.device)) {
    case Runs::kOnnxRuntime:
      if (manifest.unit == kDla) throw refuse("and for a DLA, which a processor has not; build it without --dla");
      return std::make_unique<Session>(bundle.model,
                                       SessionSettings{options.threads, manifest.weight_bits, options.runtime});
    case Runs::kTensorRt:
      return open_plan(bundle, options.runtime);
    case Runs::kNothing:
      throw refuse(
          "whose last JetPack is too old for gnet-edge to compile plans on it; pack it with gnet-edge package --for"
          " deepstream, for trtexec on the device");
    case Runs::kUnknown:
      break;
  }
  throw refuse("which this libgne does not know; build it for cpu, cuda or a Jetson");
}

void check_fit(const Bundle& bundle, const Model& model) {
  const size_t classes = bundle.labels.size();
  if (model.crop() == bundle.manifest.crop && model.classes() == classes) return;
  throw Failure(GNE_BAD_BUNDLE, bundle.where + ": the model takes " + std::to_string(model.crop()) +
                                    " pixels and gives " + std::to_string(model.classes()) +
                                    " classes, the manifest says " + std::to_string(bundle.manifest.crop) + " and " +
                                    std::to_string(classes) + "; build the bundle again");
}

// One image after the other: a batch would leave the runtime with the memory of a batch.
std::vector<float> golden_logits(const Bundle& bundle, const Model& model) {
  const Golden& golden = bundle.golden;
  const size_t pixels = golden.pixels.size() / golden.count, classes = model.classes();
  std::vector<float> logits(golden.logits.size());
  for (size_t i = 0; i < golden.count; ++i)
    model.run(golden.pixels.data() + i * pixels, 1, logits.data() + i * classes);
  return logits;
}

}  // namespace

Engine Engine::open(const std::string& folder, const EngineOptions& options) {
  Bundle bundle = read_bundle(folder);
  const Computing computing;
  std::unique_ptr<Model> model = open_model(bundle, options);
  std::vector<uint8_t>().swap(bundle.model);  // its memory is given back before the golden vectors need theirs
  check_fit(bundle, *model);
  check_golden(bundle, golden_logits(bundle, *model));
  stop_computing_at_exit();
  return Engine(std::move(bundle), std::move(model), options.threads);
}

Engine::Engine(Bundle&& bundle, std::unique_ptr<Model> model, uint32_t threads)
    : model_(std::move(model)),
      places_(std::make_unique<Places>(most_at_once(threads))),
      labels_(std::move(bundle.labels)),
      precision_(bundle.manifest.precision),
      crop_(bundle.manifest.crop),
      resize_(bundle.manifest.resize),
      threads_(threads) {}

Engine::~Engine() {
  const GivingBack giving_back;
  if (giving_back.is_allowed()) {
    model_.reset();
  } else {
    (void)model_.release();  // never freed: what its runtime would need for that may be gone
  }
}

gne_info Engine::info() const {
  return {sizeof(gne_info),
          crop_,
          resize_,
          static_cast<uint32_t>(labels_.size()),
          threads_,
          name_of(precision_),
          model_->runtime_version().c_str()};
}

void Engine::pixels_of(Bytes jpeg, const std::string& where, uint8_t* pixels) const {
  resample_centre(*decode_jpeg(jpeg, resize_, where), resize_, crop_, pixels);
}

void Engine::pixels_of(const gne_frame& frame, uint8_t* pixels) const {
  resample_centre(*rows_of(frame), resize_, crop_, pixels);
}

void Engine::run(const uint8_t* pixels, size_t count, float* logits) const {
  const Computing computing(places_.get());
  model_->run(pixels, count, logits);
}

void Engine::rank(const float* logits, size_t k, gne_prediction* predictions) const {
  check_k(k);
  for (const Ranked& each : ranked(logits, labels_.size(), k)) {
    *predictions++ = {labels_[each.index].c_str(), each.index, each.probability};
  }
}

void Engine::check_k(size_t k) const {
  if (k >= 1 && k <= labels_.size()) return;
  throw Failure(GNE_BAD_ARGUMENT, "k is " + std::to_string(k) + ", but the bundle has " +
                                      std::to_string(labels_.size()) + " classes; ask for 1 to " +
                                      std::to_string(labels_.size()));
}

}  // namespace gne_sdk
