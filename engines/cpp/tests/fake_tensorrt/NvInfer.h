// A stand-in for the part of TensorRT that plugins/tensorrt.cpp uses, of the version FAKE_MAJOR.3.0 at build time.
//
// A plan is the text "colours CROP CLASSES MOST": a network that answers with the mean of each colour channel, as that of
// tests/tiny_bundles.py does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_runtime_api.h"

#ifndef FAKE_MAJOR
#define FAKE_MAJOR 10
#endif
#define NV_TENSORRT_MAJOR FAKE_MAJOR

extern "C" int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

struct Dims {
  int32_t nbDims;
  int64_t d[8];
};

enum class DataType : int32_t { kFLOAT = 0, kUINT8 = 5 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, const char* text) noexcept = 0;
  virtual ~ILogger() = default;
};

class IExecutionContext {
 public:
  virtual ~IExecutionContext() noexcept = default;
  virtual bool setTensorAddress(const char* name, void* address) noexcept = 0;
  virtual bool setInputShape(const char* name, const Dims& shape) noexcept = 0;
  virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine {
 public:
  virtual ~ICudaEngine() noexcept = default;
  virtual int32_t getNbIOTensors() const noexcept = 0;
  virtual Dims getTensorShape(const char* name) const noexcept = 0;
  virtual DataType getTensorDataType(const char* name) const noexcept = 0;
  virtual Dims getProfileShape(const char* name, int32_t profile, OptProfileSelector select) const noexcept = 0;
  virtual IExecutionContext* createExecutionContext() noexcept = 0;
};

class IRuntime {
 public:
  virtual ~IRuntime() noexcept = default;
  virtual void setDLACore(int32_t core) noexcept = 0;
  virtual ICudaEngine* deserializeCudaEngine(const void* plan, size_t size) noexcept = 0;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
