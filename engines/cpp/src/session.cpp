#include "session.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>

#include "failure.hpp"
#include "processor.hpp"

namespace gne_sdk {
namespace {

constexpr const char *kLoading = "ONNX Runtime cannot load the model", *kRunning = "ONNX Runtime failed on a batch";
constexpr size_t kMostReason = 500;  // of the runtime's text: a hostile model's names may be longer

[[noreturn]] void refuse_model() {
  throw Failure(GNE_BAD_BUNDLE,
                "the model is not one that gnet-edge lowered: expected one input uint8 (N, crop, crop, 3)"
                " and one output float32 (N, classes); build the bundle again");
}

}  // namespace

Session::Session(Bytes model, const SessionSettings& settings)
    : api_(ort::load(settings.runtime)),
      env_(made<ort::Env>([&](auto** env) { return api_.CreateEnv(ort::kFatalOnly, "gne", env); }, api_.ReleaseEnv,
                          "ONNX Runtime cannot start")),
      session_(load(model, settings)),
      memory_(made<ort::MemoryInfo>(
          [&](auto** memory) { return api_.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kDefaultMemory, memory); },
          api_.ReleaseMemoryInfo, kLoading)) {
  read_interface();
}

void Session::check(ort::Status* status, const char* doing) const {
  if (!status) return;
  const Owned<ort::Status> owned(status, api_.ReleaseStatus);
  const std::string_view text = api_.GetErrorMessage(status);
  for (const std::string_view sign : {"std::bad_alloc", "Failed to allocate memory", "smaller than requested bytes"}) {
    if (text.find(sign) != std::string_view::npos) throw std::bad_alloc();
  }
  const std::string_view line = text.substr(0, std::min(text.find('\n'), kMostReason));
  throw Failure(GNE_BAD_RUNTIME, std::string(doing) + " (" + std::string(line) +
                                     "); upgrade ONNX Runtime, or build the bundle again");
}

template <typename T, typename Create, typename Release>
std::unique_ptr<T, Release> Session::made(Create create, Release release, const char* doing) const {
  T* pointer = nullptr;
  ort::Status* const status = create(&pointer);
  std::unique_ptr<T, Release> owned(pointer, release);
  check(status, doing);
  if (!pointer) throw std::bad_alloc();  // without memory for a status, the runtime gives none, as after a success
  return owned;
}

Session::Owned<ort::SessionOptions> Session::make_options(const SessionSettings& settings) const {
  auto options = made<ort::SessionOptions>([&](auto** to) { return api_.CreateSessionOptions(to); },
                                           api_.ReleaseSessionOptions, kLoading);
  check(api_.SetSessionLogSeverityLevel(options.get(), ort::kFatalOnly), kLoading);
  check(api_.SetIntraOpNumThreads(options.get(), static_cast<int>(settings.threads)), kLoading);
  check(api_.SetInterOpNumThreads(options.get(), 1), kLoading);
  if (settings.weight_bits == 8 && saturates_u8s8()) {
    check(api_.AddSessionConfigEntry(options.get(), "session.x64quantprecision", "1"), kLoading);
  }
  return options;
}

Session::Owned<ort::Session> Session::load(Bytes model, const SessionSettings& settings) const {
  const auto options = make_options(settings);
  return made<ort::Session>(
      [&](auto** session) {
        return api_.CreateSessionFromArray(env_.get(), model.data, model.size, options.get(), session);
      },
      api_.ReleaseSession, kLoading);
}

void Session::read_interface() {
  size_t inputs = 0, outputs = 0;
  check(api_.SessionGetInputCount(session_.get(), &inputs), kLoading);
  check(api_.SessionGetOutputCount(session_.get(), &outputs), kLoading);
  if (inputs != 1 || outputs != 1) refuse_model();
  const std::vector<int64_t> in = shape_of(api_.SessionGetInputTypeInfo, ort::kUint8);
  const std::vector<int64_t> out = shape_of(api_.SessionGetOutputTypeInfo, ort::kFloat);
  const bool fits = in.size() == 4 && in[1] > 0 && in[1] == in[2] && in[3] == 3 && out.size() == 2 && out[1] > 0;
  if (!fits || in[1] > INT32_MAX) refuse_model();
  crop_ = static_cast<uint32_t>(in[1]);
  classes_ = static_cast<size_t>(out[1]);
  input_ = name_of(api_.SessionGetInputName);
  output_ = name_of(api_.SessionGetOutputName);
}

std::vector<int64_t> Session::shape_of(decltype(ort::Api::SessionGetInputTypeInfo) get, int wanted_type) const {
  const auto info = made<ort::TypeInfo>([&](auto** to) { return get(session_.get(), 0, to); },
                                        api_.ReleaseTypeInfo, kLoading);
  const ort::TensorInfo* tensor = nullptr;  // belongs to the info; none where it is of something else
  check(api_.CastTypeInfoToTensorInfo(info.get(), &tensor), kLoading);
  if (!tensor) refuse_model();
  int type = 0;
  check(api_.GetTensorElementType(tensor, &type), kLoading);
  if (type != wanted_type) refuse_model();
  size_t rank = 0;
  check(api_.GetDimensionsCount(tensor, &rank), kLoading);
  std::vector<int64_t> shape(rank);
  check(api_.GetDimensions(tensor, shape.data(), rank), kLoading);
  return shape;
}

std::string Session::name_of(decltype(ort::Api::SessionGetInputName) get) const {
  ort::Allocator* allocator = nullptr;  // the runtime's own
  check(api_.GetAllocatorWithDefaultOptions(&allocator), kLoading);
  if (!allocator) throw std::bad_alloc();
  const auto free = [&](char* name) {
    if (ort::Status* status = api_.AllocatorFree(allocator, name)) api_.ReleaseStatus(status);
  };
  return made<char>([&](char** name) { return get(session_.get(), 0, allocator, name); }, free, kLoading).get();
}

void Session::run(const uint8_t* pixels, size_t count, float* logits) const {
  const auto side = static_cast<int64_t>(crop_);
  const int64_t shape[] = {static_cast<int64_t>(count), side, side, 3};
  const auto input = made<ort::Value>(
      [&](auto** to) {
        // the runtime's tensors have no const, but an input is only read
        return api_.CreateTensorWithDataAsOrtValue(memory_.get(), const_cast<uint8_t*>(pixels),
                                                   count * crop_ * crop_ * 3, shape, 4, ort::kUint8, to);
      },
      api_.ReleaseValue, "ONNX Runtime takes no such batch");
  const char *input_name = input_.c_str(), *output_name = output_.c_str();
  const ort::Value* inputs[] = {input.get()};
  // the runtime makes the output: one that is there is the proof that it was computed
  const auto output = made<ort::Value>(
      [&](auto** to) {
        return api_.Run(session_.get(), nullptr, &input_name, inputs, 1, &output_name, 1, to);
      },
      api_.ReleaseValue, kRunning);
  copy_logits(output.get(), count, logits);
}

void Session::copy_logits(ort::Value* output, size_t count, float* logits) const {
  const auto info = made<ort::TensorInfo>([&](auto** to) { return api_.GetTensorTypeAndShape(output, to); },
                                          api_.ReleaseTensorTypeAndShapeInfo, kRunning);
  int type = 0;
  size_t elements = 0;
  check(api_.GetTensorElementType(info.get(), &type), kRunning);
  check(api_.GetTensorShapeElementCount(info.get(), &elements), kRunning);
  if (type != ort::kFloat || elements != count * classes_) refuse_model();  // whatever it says of its shape
  void* data = nullptr;
  check(api_.GetTensorMutableData(output, &data), kRunning);
  if (!data) throw std::bad_alloc();
  std::memcpy(logits, data, elements * sizeof *logits);
}

}  // namespace gne_sdk
