// ONNX Runtime's C API without its headers: the table of functions that OrtGetApiBase()->GetApi(16) gives.
//
// The table only grows: a function keeps its slot in every later release. tests/slots.cpp compares the numbers with the
// runtime's own header where one is installed, and the tests compare every logit with Python's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gne_sdk::ort {

struct Env;
struct Status;
struct MemoryInfo;
struct Session;
struct Value;
struct RunOptions;
struct TypeInfo;
struct TensorInfo;
struct SessionOptions;
struct Allocator;

constexpr uint32_t kApiVersion = 16;
constexpr int kFatalOnly = 4;          // OrtLoggingLevel: errors come as statuses, and libgne prints nothing
constexpr int kArenaAllocator = 1;     // OrtAllocatorType
constexpr int kDefaultMemory = 0;      // OrtMemType
constexpr int kFloat = 1, kUint8 = 2;  // ONNXTensorElementDataType

// The slots that libgne uses, with their numbers.
#define GNE_ORT_SLOTS(X)                                                                                          \
  X(2, const char*, GetErrorMessage, (const Status*))                                                             \
  X(3, Status*, CreateEnv, (int level, const char* name, Env**))                                                  \
  X(8, Status*, CreateSessionFromArray,                                                                           \
    (const Env*, const void* model, size_t size, const SessionOptions*, Session**))                               \
  X(9, Status*, Run,                                                                                              \
    (Session*, const RunOptions*, const char* const* input_names, const Value* const* inputs, size_t input_count, \
     const char* const* output_names, size_t output_count, Value** outputs))                                      \
  X(10, Status*, CreateSessionOptions, (SessionOptions**))                                                        \
  X(22, Status*, SetSessionLogSeverityLevel, (SessionOptions*, int level))                                        \
  X(24, Status*, SetIntraOpNumThreads, (SessionOptions*, int threads))                                            \
  X(25, Status*, SetInterOpNumThreads, (SessionOptions*, int threads))                                            \
  X(30, Status*, SessionGetInputCount, (const Session*, size_t*))                                                 \
  X(31, Status*, SessionGetOutputCount, (const Session*, size_t*))                                                \
  X(33, Status*, SessionGetInputTypeInfo, (const Session*, size_t index, TypeInfo**))                             \
  X(34, Status*, SessionGetOutputTypeInfo, (const Session*, size_t index, TypeInfo**))                            \
  X(36, Status*, SessionGetInputName, (const Session*, size_t index, Allocator*, char**))                         \
  X(37, Status*, SessionGetOutputName, (const Session*, size_t index, Allocator*, char**))                        \
  X(49, Status*, CreateTensorWithDataAsOrtValue,                                                                  \
    (const MemoryInfo*, void* data, size_t size, const int64_t* shape, size_t rank, int type, Value**))           \
  X(51, Status*, GetTensorMutableData, (Value*, void** data))                                                     \
  X(55, Status*, CastTypeInfoToTensorInfo, (const TypeInfo*, const TensorInfo**))                                 \
  X(60, Status*, GetTensorElementType, (const TensorInfo*, int*))                                                 \
  X(61, Status*, GetDimensionsCount, (const TensorInfo*, size_t*))                                                \
  X(62, Status*, GetDimensions, (const TensorInfo*, int64_t* dimensions, size_t rank))                            \
  X(64, Status*, GetTensorShapeElementCount, (const TensorInfo*, size_t*))                                        \
  X(65, Status*, GetTensorTypeAndShape, (const Value*, TensorInfo**))                                             \
  X(69, Status*, CreateCpuMemoryInfo, (int allocator_type, int memory_type, MemoryInfo**))                        \
  X(76, Status*, AllocatorFree, (Allocator*, void*))                                                              \
  X(78, Status*, GetAllocatorWithDefaultOptions, (Allocator**))                                                   \
  X(92, void, ReleaseEnv, (Env*))                                                                                 \
  X(93, void, ReleaseStatus, (Status*))                                                                           \
  X(94, void, ReleaseMemoryInfo, (MemoryInfo*))                                                                   \
  X(95, void, ReleaseSession, (Session*))                                                                         \
  X(96, void, ReleaseValue, (Value*))                                                                             \
  X(98, void, ReleaseTypeInfo, (TypeInfo*))                                                                       \
  X(99, void, ReleaseTensorTypeAndShapeInfo, (TensorInfo*))                                                       \
  X(100, void, ReleaseSessionOptions, (SessionOptions*))                                                          \
  X(130, Status*, AddSessionConfigEntry, (SessionOptions*, const char* key, const char* value))

// The functions of a loaded runtime, and its version, such as "1.19.2".
struct Api {
#define GNE_ORT_MEMBER(slot, result, name, parameters) result(*name) parameters;
  GNE_ORT_SLOTS(GNE_ORT_MEMBER)
#undef GNE_ORT_MEMBER
  std::string version;
};

// Opens libonnxruntime.so; `path` empty: $GNE_ONNXRUNTIME, else the loader's search path. It stays loaded until the
// process ends. Throws Failure with GNE_BAD_RUNTIME: missing, no ONNX Runtime, or older than 1.19.
Api load(const std::string& path);

}  // namespace gne_sdk::ort
