#include "session.hpp"

#include <new>
#include <string_view>

#include "failure.hpp"
#include "processor.hpp"

namespace gne_sdk {
namespace {

constexpr const char* kLoading = "ONNX Runtime cannot load the model";

[[noreturn]] void refuse_model() {
  throw Failure(GNE_BAD_BUNDLE,
                "the model is not one that gnet-edge lowered: expected one input uint8 (N, crop, crop, 3)"
                " and one output float32 (N, classes); build the bundle again");
}

}  // namespace

Session::Session(Bytes model, const SessionSettings& settings)
    : api_(ort::load(settings.runtime)),
      env_(nullptr, api_.ReleaseEnv),
      session_(nullptr, api_.ReleaseSession),
      memory_(nullptr, api_.ReleaseMemoryInfo) {
  ort::Env* env = nullptr;
  check(api_.CreateEnv(ort::kFatalOnly, "gne", &env), "ONNX Runtime cannot start");
  env_.reset(env);
  const auto options = make_options(settings);
  ort::Session* session = nullptr;
  check(api_.CreateSessionFromArray(env, model.data, model.size, options.get(), &session), kLoading);
  session_.reset(session);
  ort::MemoryInfo* memory = nullptr;
  check(api_.CreateCpuMemoryInfo(ort::kArenaAllocator, ort::kDefaultMemory, &memory), kLoading);
  memory_.reset(memory);
  read_interface();
}

void Session::check(ort::Status* status, const char* doing) const {
  if (!status) return;
  const Owned<ort::Status> owned(status, api_.ReleaseStatus);
  const std::string_view text = api_.GetErrorMessage(status);
  for (const std::string_view sign : {"std::bad_alloc", "Failed to allocate memory", "smaller than requested bytes"}) {
    if (text.find(sign) != std::string_view::npos) throw std::bad_alloc();
  }
  throw Failure(GNE_BAD_RUNTIME, std::string(doing) + " (" + std::string(text.substr(0, text.find('\n'))) +
                                     "); upgrade ONNX Runtime, or build the bundle again");
}

Session::Owned<ort::SessionOptions> Session::make_options(const SessionSettings& settings) const {
  ort::SessionOptions* options = nullptr;
  check(api_.CreateSessionOptions(&options), kLoading);
  Owned<ort::SessionOptions> owned(options, api_.ReleaseSessionOptions);
  check(api_.SetSessionLogSeverityLevel(options, ort::kFatalOnly), kLoading);
  check(api_.SetIntraOpNumThreads(options, static_cast<int>(settings.threads)), kLoading);
  check(api_.SetInterOpNumThreads(options, 1), kLoading);
  if (settings.weight_bits == 8 && saturates_u8s8()) {
    check(api_.AddSessionConfigEntry(options, "session.x64quantprecision", "1"), kLoading);
  }
  return owned;
}

void Session::read_interface() {
  size_t inputs = 0, outputs = 0;
  check(api_.SessionGetInputCount(session_.get(), &inputs), kLoading);
  check(api_.SessionGetOutputCount(session_.get(), &outputs), kLoading);
  if (inputs != 1 || outputs != 1) refuse_model();
  ort::TypeInfo *input = nullptr, *output = nullptr;
  check(api_.SessionGetInputTypeInfo(session_.get(), 0, &input), kLoading);
  const std::vector<int64_t> in = shape_of(input, ort::kUint8);
  check(api_.SessionGetOutputTypeInfo(session_.get(), 0, &output), kLoading);
  const std::vector<int64_t> out = shape_of(output, ort::kFloat);
  const bool fits = in.size() == 4 && in[1] > 0 && in[1] == in[2] && in[3] == 3 && out.size() == 2 && out[1] > 0;
  if (!fits || in[1] > INT32_MAX) refuse_model();
  crop_ = static_cast<uint32_t>(in[1]);
  classes_ = static_cast<size_t>(out[1]);
  ort::Allocator* allocator = nullptr;
  check(api_.GetAllocatorWithDefaultOptions(&allocator), kLoading);
  char *input_name = nullptr, *output_name = nullptr;
  check(api_.SessionGetInputName(session_.get(), 0, allocator, &input_name), kLoading);
  input_ = owned_name(allocator, input_name);
  check(api_.SessionGetOutputName(session_.get(), 0, allocator, &output_name), kLoading);
  output_ = owned_name(allocator, output_name);
}

std::vector<int64_t> Session::shape_of(ort::TypeInfo* info, int wanted_type) const {
  const Owned<ort::TypeInfo> owned(info, api_.ReleaseTypeInfo);
  const ort::TensorInfo* tensor = nullptr;
  check(api_.CastTypeInfoToTensorInfo(info, &tensor), kLoading);
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

std::string Session::owned_name(ort::Allocator* allocator, char* name) const {
  const std::string copy = name;
  check(api_.AllocatorFree(allocator, name), kLoading);
  return copy;
}

Session::Owned<ort::Value> Session::tensor(void* data, size_t bytes, const std::vector<int64_t>& shape,
                                           int type) const {
  ort::Value* value = nullptr;
  check(api_.CreateTensorWithDataAsOrtValue(memory_.get(), data, bytes, shape.data(), shape.size(), type, &value),
        "ONNX Runtime takes no such batch");
  return {value, api_.ReleaseValue};
}

void Session::run(const uint8_t* pixels, size_t count, float* logits) const {
  const auto batch = static_cast<int64_t>(count), side = static_cast<int64_t>(crop_);
  const auto classes = static_cast<int64_t>(classes_);
  // the runtime's tensors have no const, but an input is only read
  const auto input =
      tensor(const_cast<uint8_t*>(pixels), count * crop_ * crop_ * 3, {batch, side, side, 3}, ort::kUint8);
  const auto output = tensor(logits, count * classes_ * sizeof(float), {batch, classes}, ort::kFloat);
  const char *input_name = input_.c_str(), *output_name = output_.c_str();
  const ort::Value* inputs[] = {input.get()};
  ort::Value* outputs[] = {output.get()};
  check(api_.Run(session_.get(), nullptr, &input_name, inputs, 1, &output_name, 1, outputs),
        "ONNX Runtime failed on a batch");
}

}  // namespace gne_sdk
