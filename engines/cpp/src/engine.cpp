#include "engine.hpp"

#include <utility>

#include "failure.hpp"
#include "logits.hpp"

namespace gne_sdk {
namespace {

void check_device(const Bundle& bundle) {
  if (bundle.manifest.device == "cpu") return;
  throw Failure(GNE_BAD_BUNDLE, bundle.where + " is built for the device " + bundle.manifest.device +
                                    ", this libgne runs bundles for cpu; build it with --device cpu");
}

void check_fit(const Bundle& bundle, const Session& session) {
  const size_t classes = bundle.labels.size();
  if (session.crop() == bundle.manifest.crop && session.classes() == classes) return;
  throw Failure(GNE_BAD_BUNDLE, bundle.where + ": the model takes " + std::to_string(session.crop()) +
                                    " pixels and gives " + std::to_string(session.classes()) +
                                    " classes, the manifest says " + std::to_string(bundle.manifest.crop) + " and " +
                                    std::to_string(classes) + "; build the bundle again");
}

// One image after the other: a batch would leave the runtime with the memory of a batch.
std::vector<float> golden_logits(const Bundle& bundle, const Session& session) {
  const Golden& golden = bundle.golden;
  const size_t pixels = golden.pixels.size() / golden.count, classes = session.classes();
  std::vector<float> logits(golden.logits.size());
  for (size_t i = 0; i < golden.count; ++i)
    session.run(golden.pixels.data() + i * pixels, 1, logits.data() + i * classes);
  return logits;
}

}  // namespace

Engine Engine::open(const std::string& folder, const EngineOptions& options) {
  Bundle bundle = read_bundle(folder);
  check_device(bundle);
  Session session(bundle.model, {options.threads, bundle.manifest.weight_bits, options.runtime});
  bundle.model = {};  // its memory is given back before the golden vectors need theirs
  check_fit(bundle, session);
  check_golden(bundle, golden_logits(bundle, session));
  return Engine(std::move(bundle), std::move(session), options.threads);
}

Engine::Engine(Bundle&& bundle, Session&& session, uint32_t threads)
    : session_(std::move(session)),
      labels_(std::move(bundle.labels)),
      precision_(bundle.manifest.precision),
      crop_(bundle.manifest.crop),
      resize_(bundle.manifest.resize),
      threads_(threads) {}

gne_info Engine::info() const {
  return {sizeof(gne_info),
          crop_,
          resize_,
          static_cast<uint32_t>(labels_.size()),
          threads_,
          name_of(precision_),
          session_.runtime_version().c_str()};
}

void Engine::pixels_of(Bytes jpeg, const std::string& where, uint8_t* pixels) const {
  resample_centre(*decode_jpeg(jpeg, resize_, where), resize_, crop_, pixels);
}

void Engine::pixels_of(const gne_frame& frame, uint8_t* pixels) const {
  resample_centre(*rows_of(frame), resize_, crop_, pixels);
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
