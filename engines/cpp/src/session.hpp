// A model that is loaded by ONNX Runtime on the CPU: uint8 (count, crop, crop, 3) → float (count, classes).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "model.hpp"
#include "onnxruntime.hpp"

namespace gne_sdk {

struct SessionSettings {
  uint32_t threads = 1;
  int weight_bits = 8;  // with 8, a processor whose 16-bit sums overflow takes an exact, slower way
  std::string runtime;  // see ort::load
};

class Session : public Model {
 public:
  // Loads and optimizes the bytes of a model.onnx, with the settings of engines/onnxruntime_cpu.py.
  // Throws Failure: GNE_BAD_RUNTIME, or GNE_BAD_BUNDLE where the model is of another kind.
  Session(Bytes model, const SessionSettings& settings);

  uint32_t crop() const override { return crop_; }
  size_t classes() const override { return classes_; }
  const std::string& runtime_version() const override { return api_.version; }
  void run(const uint8_t* pixels, size_t count, float* logits) const override;

 private:
  template <typename T>
  using Owned = std::unique_ptr<T, void (*)(T*)>;

  // Throws where a call failed; std::bad_alloc, where that was for lack of memory.
  void check(ort::Status* status, const char* doing) const;
  // What a call makes: `create` is given the address of a pointer. Every such call goes through here.
  template <typename T, typename Create, typename Release>
  std::unique_ptr<T, Release> made(Create create, Release release, const char* doing) const;

  Owned<ort::SessionOptions> make_options(const SessionSettings& settings) const;
  Owned<ort::Session> load(Bytes model, const SessionSettings& settings) const;
  void read_interface();
  std::vector<int64_t> shape_of(decltype(ort::Api::SessionGetInputTypeInfo) get, int wanted_type) const;
  std::string name_of(decltype(ort::Api::SessionGetInputName) get) const;
  void copy_logits(ort::Value* output, size_t count, float* logits) const;

  ort::Api api_;
  Owned<ort::Env> env_;
  Owned<ort::Session> session_;
  Owned<ort::MemoryInfo> memory_;
  std::string input_, output_;
  uint32_t crop_ = 0;
  size_t classes_ = 0;
};

}  // namespace gne_sdk
