// libgne_tensorrt: plans on a GPU or a DLA. Built on the device, against the TensorRT (8.5 or newer) and the CUDA (11.4 or
// newer) that are there.
//
// One execution context and one stream; calls take turns. As engines/tensorrt_runtime.py, with CUDA graphs as there.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "plugin.h"

namespace {

constexpr const char *kPixels = "pixels", *kLogits = "logits";
constexpr int kDevice = 0;
constexpr int kSteady = 3;  // a batch size that came so often in a row will come again: it is worth a CUDA graph

using Problem = std::runtime_error;

// TensorRT's last error of this thread, since the plugin was called, for a sentence of ours.
thread_local char reason[256] = "";

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kERROR) return;
    std::strncpy(reason, text, sizeof reason - 1);
  }
};

Logger& logger() {
  static auto* const only = new Logger;  // TensorRT keeps the first logger of a process, as long as that lives
  return *only;
}

// CUDA keeps a thread's last error, which the caller's own next check would take for its own.
void forget(cudaError_t code) {
  if (code != cudaSuccess) (void)cudaGetLastError();
}

void check(cudaError_t code, const char* doing) {
  if (code == cudaSuccess) return;
  forget(code);
  throw Problem(std::string(doing) + " (" + cudaGetErrorString(code) + ")");
}

[[noreturn]] void fail(const char* what, const char* advice = "") {
  (void)cudaGetLastError();  // what TensorRT may have left
  throw Problem("TensorRT " + std::string(what) + ": " + (*reason ? reason : "it says no reason") + advice);
}

struct Version {
  int major, minor, patch;
};

Version library_version() {
  const int number = getInferLibVersion();  // 8601 is 8.6.1, 100300 is 10.3.0
  if (number < 10000) return {number / 1000, number / 100 % 10, number % 100};
  return {number / 10000, number / 100 % 100, number % 100};
}

// Its objects have virtual functions: with another major version than that of the headers, the wrong ones are called.
void check_library() {
  const int major = library_version().major;
  if (major == NV_TENSORRT_MAJOR) return;
  throw Problem("the plugin was built for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + ", this process has " +
                std::to_string(major) + "; build the plugin again, on this device");
}

std::string library_name() {
  const Version version = library_version();
  return "tensorrt " + std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
         std::to_string(version.patch);
}

std::string gpu_name() {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, kDevice), "CUDA finds no GPU");
  return std::string(properties.name) + ", " + std::to_string(properties.multiProcessorCount) +
         " SMs, compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor);
}

// Makes the GPU, in its primary context, the current device of this thread; at its end the caller's own is that again. A
// context that the caller made with the driver's interface (cuCtxCreate) is not current afterwards.
class OnDevice {
 public:
  OnDevice() {
    constexpr const char* kNone = "CUDA finds no GPU";
    check(cudaGetDevice(&before_), kNone);
    check(cudaSetDevice(kDevice), kNone);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (before_ != kDevice) forget(cudaSetDevice(before_));
  }

 private:
  int before_ = kDevice;
};

struct FreeDevice {
  void operator()(void* memory) const { forget(cudaFree(memory)); }
};

struct FreeHost {
  void operator()(void* memory) const { forget(cudaFreeHost(memory)); }
};

struct DestroyStream {
  void operator()(cudaStream_t stream) const { forget(cudaStreamDestroy(stream)); }
};

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { forget(cudaGraphDestroy(graph)); }
};

struct DestroyRecorded {
  void operator()(cudaGraphExec_t recorded) const { forget(cudaGraphExecDestroy(recorded)); }
};

// Memory on the device, and as much page-locked memory.
class Buffer {
 public:
  explicit Buffer(size_t size) {
    constexpr const char* kFull = "the GPU has no memory for a batch";
    void* memory = nullptr;
    check(cudaMalloc(&memory, size), kFull);
    device_.reset(memory);
    check(cudaMallocHost(&memory, size), kFull);
    host_.reset(memory);
  }
  void* device() const { return device_.get(); }
  void* host() const { return host_.get(); }

 private:
  std::unique_ptr<void, FreeDevice> device_;
  std::unique_ptr<void, FreeHost> host_;
};

class Engine {
 public:
  Engine(const void* plan, size_t size, int dla_core) : records_(dla_core < 0) {  // a DLA records nothing
    runtime_.reset(nvinfer1::createInferRuntime(logger()));
    if (!runtime_) fail("does not start");
    if (dla_core >= 0) runtime_->setDLACore(dla_core);
    engine_.reset(runtime_->deserializeCudaEngine(plan, size));
    if (!engine_) {
      fail("does not load the plan", "; remove gnet-edge/plans in your cache folder, and build the bundle here again");
    }
    read_interface();
    pixels_ = std::make_unique<Buffer>(most_ * image_bytes());
    logits_ = std::make_unique<Buffer>(most_ * row_bytes());
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "the GPU has no memory for a stream");
    stream_.reset(stream);
    context_.reset(engine_->createExecutionContext());
    if (!context_) fail("has no memory for an execution context");
    if (!context_->setTensorAddress(kPixels, pixels_->device())) fail("does not take the address of the pixels");
    if (!context_->setTensorAddress(kLogits, logits_->device())) fail("does not take the address of the logits");
  }

  gne_plugin_shape shape() const { return {crop_, classes_, static_cast<uint32_t>(most_)}; }

  void run(const uint8_t* pixels, size_t count, float* logits) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::memcpy(pixels_->host(), pixels, count * image_bytes());
    try {
      take_size(count);
      copy_pixels();
      compute();
      finish();
    } catch (...) {
      forget(cudaStreamSynchronize(stream_.get()));  // the buffers must be idle for the next run
      forget_size();
      throw;
    }
    std::memcpy(logits, logits_->host(), count * row_bytes());
    if (++in_a_row_ == kSteady && records_) record(logits);
  }

 private:
  size_t image_bytes() const { return size_t{crop_} * crop_ * 3; }
  size_t row_bytes() const { return classes_ * sizeof(float); }

  void take_size(size_t count) {
    if (count == count_) return;
    forget_size();
    nvinfer1::Dims shape = engine_->getTensorShape(kPixels);
    shape.d[0] = static_cast<std::remove_reference_t<decltype(shape.d[0])>>(count);
    if (!context_->setInputShape(kPixels, shape)) fail("does not take a batch of this size");
    count_ = count;
  }

  // The next run tells the context its size, and enqueues: TensorRT lets no graph outlive a change of its context.
  void forget_size() {
    recorded_.reset();
    count_ = 0;
    in_a_row_ = 0;
  }

  void copy_pixels() {
    check(cudaMemcpyAsync(pixels_->device(), pixels_->host(), count_ * image_bytes(), cudaMemcpyHostToDevice,
                          stream_.get()),
          "CUDA cannot copy the pixels");
  }

  void compute() {
    if (recorded_) {
      check(cudaGraphLaunch(recorded_.get(), stream_.get()), "CUDA failed on a batch");
    } else if (!context_->enqueueV3(stream_.get())) {
      fail("failed on a batch");
    }
  }

  void finish() {
    check(cudaMemcpyAsync(logits_->host(), logits_->device(), count_ * row_bytes(), cudaMemcpyDeviceToHost,
                          stream_.get()),
          "CUDA cannot copy the logits");
    check(cudaStreamSynchronize(stream_.get()), "CUDA failed on a batch");
  }

  // Records what gave these logits, and launches it from then on. Where that fails, or its launch gives others, nothing
  // is recorded any more: the engine computes as it did.
  void record(const float* logits) noexcept {
    try {
      capture();
      records_ = gives(logits);
    } catch (...) {
      (void)cudaStreamSynchronize(stream_.get());
      (void)cudaGetLastError();
      records_ = false;
    }
    if (!records_) recorded_.reset();
  }

  void capture() {
    check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "CUDA does not record");
    const bool enqueued = context_->enqueueV3(stream_.get());
    cudaGraph_t captured = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &captured);  // else it would record for ever
    const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph> graph(captured);
    check(ended, "CUDA does not record");
    if (!enqueued) fail("does not let itself be recorded");
    cudaGraphExec_t recorded = nullptr;
    check(cudaGraphInstantiateWithFlags(&recorded, graph.get(), 0), "the GPU has no memory for a graph");
    recorded_.reset(recorded);
  }

  // Whether the graph does: the pixels are still there.
  bool gives(const float* logits) {
    auto* host = static_cast<float*>(logits_->host());
    std::fill_n(host, count_ * classes_, std::numeric_limits<float>::quiet_NaN());  // what computes nothing leaves it
    check(cudaMemcpyAsync(logits_->device(), host, count_ * row_bytes(), cudaMemcpyHostToDevice, stream_.get()),
          "CUDA cannot copy the logits");
    compute();
    finish();
    return std::memcmp(host, logits, count_ * row_bytes()) == 0;
  }

  void read_interface() {
    using nvinfer1::DataType;
    const nvinfer1::Dims in = engine_->getTensorShape(kPixels), out = engine_->getTensorShape(kLogits);
    const bool fits = engine_->getNbIOTensors() == 2 && in.nbDims == 4 && in.d[1] > 0 && in.d[1] == in.d[2] &&
                      in.d[3] == 3 && out.nbDims == 2 && out.d[1] > 0 &&
                      engine_->getTensorDataType(kPixels) == DataType::kUINT8 &&
                      engine_->getTensorDataType(kLogits) == DataType::kFLOAT;
    const auto most =
        fits ? engine_->getProfileShape(kPixels, 0, nvinfer1::OptProfileSelector::kMAX).d[0] : 0;
    if (most < 1) throw Problem("the plan is not one of gnet-edge; build the bundle again");
    crop_ = static_cast<uint32_t>(in.d[1]);
    classes_ = static_cast<uint32_t>(out.d[1]);
    most_ = static_cast<size_t>(most);
  }

  uint32_t crop_ = 0, classes_ = 0;
  size_t most_ = 0, count_ = 0;  // of a batch; of that before, 0: of none
  int in_a_row_ = 0;             // how often that came
  bool records_;
  std::mutex mutex_;
  // given back from the last to the first: the graph before the context that it was recorded from, the context before the memory that it reads, the plan before the runtime
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<Buffer> pixels_, logits_;
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream> stream_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyRecorded> recorded_;
};

void write_text(char* to, const std::string& text) {
  const size_t size = std::min<size_t>(text.size(), GNE_PLUGIN_TEXT - 1);
  std::memcpy(to, text.data(), size);
  to[size] = '\0';
}

template <typename Call>
int guarded(char* error, Call call) noexcept {
  *reason = '\0';
  try {
    call();
    return 0;
  } catch (const std::exception& problem) {
    write_text(error, problem.what());
  } catch (...) {
    write_text(error, "an unknown exception");
  }
  return 1;
}

int identify(char* library, char* gpu, char* error) noexcept {
  return guarded(error, [&] {
    check_library();
    write_text(library, library_name());
    write_text(gpu, gpu_name());
  });
}

int open(const void* plan, size_t size, int dla_core, gne_plugin_shape* shape, void** engine, char* error) noexcept {
  return guarded(error, [&] {
    const OnDevice on_device;  // what was made is given back while it lives, where the rest fails
    auto made = std::make_unique<Engine>(plan, size, dla_core);
    *shape = made->shape();
    *engine = made.release();
  });
}

int run(void* engine, const uint8_t* pixels, size_t count, float* logits, char* error) noexcept {
  return guarded(error, [&] {
    const OnDevice on_device;
    static_cast<Engine*>(engine)->run(pixels, count, logits);
  });
}

void close(void* engine) noexcept {
  char error[GNE_PLUGIN_TEXT];  // nobody is there to read it: without a GPU nothing can be given back
  guarded(error, [&] {
    const OnDevice on_device;
    delete static_cast<Engine*>(engine);
  });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const gne_plugin* gne_plugin_table(void) {
  static const gne_plugin table = {GNE_PLUGIN_ABI, identify, open, run, close};
  return &table;
}
