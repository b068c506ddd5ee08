// What the stand-ins do. FAKE_TENSORRT names the one thing that fails; FAKE_VERSION is what getInferLibVersion says.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "NvInfer.h"

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  Work waiting, captured;
  bool captures = false, valid = true;

  void add(std::function<void()> work) { (captures ? captured : waiting).push_back(std::move(work)); }
};

struct CUgraph_st {
  Work work;
};

struct CUgraphExec_st {
  Work work;
};

namespace {

int alive = 0, core = -1;  // objects and memory that were not given back; the DLA core that was asked for
int enqueued = 0, launched = 0;
thread_local int device = 0;
thread_local cudaError_t last_error = cudaSuccess;

// At the end of the process the library's own state goes; what is given back after that ends the program.
struct State {
  ~State() { is_gone = true; }
  static bool is_gone;
};
bool State::is_gone = false;
const State state;

void made() {
  if (device != 0) std::abort();
  ++alive;
}

void gave_back() {
  if (State::is_gone || device != 0) std::abort();
  --alive;
}

bool fails(const char* what) {
  const char* named = std::getenv("FAKE_TENSORRT");
  return named && std::string(named) == what;
}

cudaError_t ended(cudaError_t code) {
  if (code != cudaSuccess) last_error = code;
  return code;
}

struct Counted {
  Counted() { made(); }
  ~Counted() { gave_back(); }
};

struct Network {
  unsigned crop, classes, most;
};

class Context : public nvinfer1::IExecutionContext, Counted {
 public:
  explicit Context(const Network& network) : network_(network) {}

  bool setTensorAddress(const char* name, void* address) noexcept override {
    (std::string(name) == "pixels" ? pixels_ : logits_) = address;
    ++state_;
    return !fails("address");
  }

  bool setInputShape(const char*, const nvinfer1::Dims& shape) noexcept override {
    count_ = static_cast<size_t>(shape.d[0]);
    ++state_;
    return count_ <= network_.most && !fails("shape");
  }

  bool enqueueV3(cudaStream_t stream) noexcept override {
    if (device != 0) std::abort();
    ++enqueued;
    if (stream->captures) return record(stream);
    enqueued_in_ = state_;
    if (fails("enqueue")) {
      ended(cudaErrorLaunchFailure);
      return false;
    }
    stream->add([this] { compute(); });
    return true;
  }

 private:
  // As TensorRT, what is recorded was enqueued before in the same state, and is launched in that state alone.
  bool record(cudaStream_t stream) {
    if (enqueued_in_ != state_) std::abort();
    stream->valid = !fails("capture");
    if (fails("recorded enqueue")) {
      ended(cudaErrorLaunchFailure);
      return false;
    }
    const bool wrong = fails("other logits");
    stream->add([this, state = state_, wrong] {
      if (state != state_) std::abort();
      compute();
      if (wrong) *static_cast<float*>(logits_) += 1;
    });
    return true;
  }

  void compute() const {
    const auto* from = static_cast<const uint8_t*>(pixels_);
    auto* to = static_cast<float*>(logits_);
    const size_t pixels = size_t{network_.crop} * network_.crop;
    for (size_t image = 0; image < count_; ++image, from += 3 * pixels) {
      for (size_t channel = 0; channel < network_.classes; ++channel) {
        double sum = 0;
        for (size_t i = 0; i < pixels; ++i) sum += from[3 * i + channel % 3];
        *to++ = static_cast<float>(sum / static_cast<double>(pixels) * 0.031372549 - 4);
      }
    }
  }

  const Network network_;
  size_t count_ = 0;
  int state_ = 0, enqueued_in_ = -1;
  void *pixels_ = nullptr, *logits_ = nullptr;
};

class FakeEngine : public nvinfer1::ICudaEngine, Counted {
 public:
  explicit FakeEngine(const Network& network) : network_(network) {}

  int32_t getNbIOTensors() const noexcept override { return 2; }

  nvinfer1::Dims getTensorShape(const char* name) const noexcept override {
    if (std::string(name) == "pixels") return {4, {-1, network_.crop, network_.crop, 3}};
    return {2, {-1, network_.classes}};
  }

  nvinfer1::DataType getTensorDataType(const char* name) const noexcept override {
    return std::string(name) == "pixels" && !fails("type") ? nvinfer1::DataType::kUINT8 : nvinfer1::DataType::kFLOAT;
  }

  nvinfer1::Dims getProfileShape(const char* name, int32_t, nvinfer1::OptProfileSelector) const noexcept override {
    nvinfer1::Dims shape = getTensorShape(name);
    shape.d[0] = network_.most;
    return shape;
  }

  nvinfer1::IExecutionContext* createExecutionContext() noexcept override {
    return fails("context") ? nullptr : new Context(network_);
  }

 private:
  const Network network_;
};

class Runtime : public nvinfer1::IRuntime, Counted {
 public:
  explicit Runtime(nvinfer1::ILogger& logger) : logger_(logger) {}
  ~Runtime() override { logger_.log(nvinfer1::ILogger::Severity::kERROR, "an error of a runtime that is gone"); }

  void setDLACore(int32_t wanted) noexcept override { core = wanted; }

  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* plan, size_t size) noexcept override {
    Network network{};
    const std::string text(static_cast<const char*>(plan), size);
    if (std::sscanf(text.c_str(), "colours %u %u %u", &network.crop, &network.classes, &network.most) != 3) {
      logger_.log(nvinfer1::ILogger::Severity::kWARNING, "a warning that nobody asked for");
      logger_.log(nvinfer1::ILogger::Severity::kERROR, "Magic tag does not match");
      return nullptr;
    }
    return new FakeEngine(network);
  }

 private:
  nvinfer1::ILogger& logger_;
};

cudaError_t allocate(void** memory, size_t size, const char* kind) {
  if (fails(kind)) return ended(cudaErrorMemoryAllocation);
  *memory = std::malloc(size);
  made();
  return cudaSuccess;
}

cudaError_t release(void* memory) {
  std::free(memory);
  gave_back();
  return cudaSuccess;
}

}  // namespace

extern "C" int fake_alive() { return alive; }
extern "C" int fake_core() { return core; }
extern "C" int fake_enqueued() { return enqueued; }
extern "C" int fake_launched() { return launched; }
extern "C" int fake_device() { return device; }
extern "C" int fake_last_error() { return last_error; }
extern "C" void fake_choose(int chosen) { device = chosen; }

extern "C" int32_t getInferLibVersion() noexcept {
  const char* version = std::getenv("FAKE_VERSION");
  return version ? std::atoi(version) : 100300;
}

nvinfer1::IRuntime* nvinfer1::createInferRuntime(ILogger& logger) noexcept {
  core = -1;
  return new Runtime(logger);
}

cudaError_t cudaGetDevice(int* current) {
  *current = device;
  return ended(fails("device") ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int chosen) {
  device = chosen;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  if (fails("device")) return ended(cudaErrorNoDevice);
  std::strcpy(properties->name, "Orin");
  properties->major = 8, properties->minor = 7, properties->multiProcessorCount = 8;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t size) { return allocate(memory, size, "memory"); }
cudaError_t cudaMallocHost(void** memory, size_t size) { return allocate(memory, size, "pinned memory"); }
cudaError_t cudaFree(void* memory) { return release(memory); }
cudaError_t cudaFreeHost(void* memory) { return release(memory); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (fails("stream")) return ended(cudaErrorMemoryAllocation);
  *stream = new CUstream_st;
  made();
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  gave_back();
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->captures) std::abort();
  for (const auto& work : stream->waiting) work();
  stream->waiting.clear();
  return ended(fails("batch") ? cudaErrorLaunchFailure : cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  stream->add([=] { std::memcpy(to, from, size); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->captures) std::abort();
  if (fails("begin")) return ended(cudaErrorLaunchFailure);
  stream->captures = stream->valid = true;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->captures) std::abort();
  Work captured = std::exchange(stream->captured, {});
  stream->captures = false;
  if (!stream->valid) return ended(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{std::move(captured)};
  made();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* recorded, cudaGraph_t graph, unsigned long long) {
  if (fails("graph memory")) return ended(cudaErrorMemoryAllocation);
  *recorded = new CUgraphExec_st{fails("empty graph") ? Work{} : graph->work};
  made();
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t recorded, cudaStream_t stream) {
  ++launched;
  if (fails("launch")) return ended(cudaErrorLaunchFailure);
  for (const auto& work : recorded->work) stream->add(work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  gave_back();
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t recorded) {
  delete recorded;
  gave_back();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return "no error";
  }
}
