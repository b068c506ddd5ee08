// Compiles only where the numbers in onnxruntime.hpp are those of ONNX Runtime's own header.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "onnxruntime.hpp"

#define CHECK_SLOT(slot, result, name, parameters) \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), #name " has another slot");
GNE_ORT_SLOTS(CHECK_SLOT)
