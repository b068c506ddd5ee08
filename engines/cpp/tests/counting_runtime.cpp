// ONNX Runtime as it is in REAL_RUNTIME, but it counts how many inferences are under way at once, and holds them where
// it is told to. One function may be replaced by one that does nothing and says so to nobody, as ONNX Runtime does
// without memory for a status.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <thread>

#include "onnxruntime.hpp"

using namespace gne_sdk::ort;

namespace {

constexpr size_t kRun = 9, kSlots = 131;  // the last slot that libgne uses is 130

struct Base {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

decltype(Api::Run) real_run;
std::atomic<int> under_way{0}, most{0};
std::atomic<bool> held{false};
int idle = -1;  // the slot of the function that does nothing

Status* run(Session* session, const RunOptions* options, const char* const* input_names, const Value* const* inputs,
            size_t input_count, const char* const* output_names, size_t output_count, Value** outputs) {
  const int now = ++under_way;
  std::this_thread::yield();  // for others to come, on one core, too
  for (int before = most; before < now && !most.compare_exchange_weak(before, now);) {
  }
  while (held) std::this_thread::yield();
  Status* status =
      real_run(session, options, input_names, inputs, input_count, output_names, output_count, outputs);
  --under_way;
  return status;
}

Status* do_nothing() { return nullptr; }

const Base* real_base() {
  void* library = ::dlopen(REAL_RUNTIME, RTLD_NOW | RTLD_LOCAL);
  return reinterpret_cast<const Base* (*)()>(::dlsym(library, "OrtGetApiBase"))();
}

const void* get_api(uint32_t version) {
  static const void* table[kSlots];
  const auto* real = static_cast<const void* const*>(real_base()->get_api(version));
  std::copy_n(real, kSlots, std::begin(table));
  real_run = reinterpret_cast<decltype(real_run)>(const_cast<void*>(table[kRun]));
  table[kRun] = reinterpret_cast<const void*>(&run);
  if (idle >= 0) table[idle] = reinterpret_cast<const void*>(&do_nothing);
  return table;
}

const char* get_version() { return real_base()->get_version(); }

}  // namespace

extern "C" const Base* OrtGetApiBase() {
  static const Base base = {get_api, get_version};
  return &base;
}

extern "C" int most_at_once() { return most; }
extern "C" int now_under_way() { return under_way; }
extern "C" void let_idle(int slot) { idle = slot; }
extern "C" void hold(int whether) { held = whether != 0; }
