// entries: what ONNX Runtime says to entries of a session's configuration: to a key that is too long, and to the one
// that session.cpp uses.
#include <cstdio>
#include <exception>
#include <string>

#include "onnxruntime.hpp"

int main() {
  try {
    const gne_sdk::ort::Api api = gne_sdk::ort::load("");
    gne_sdk::ort::SessionOptions* options = nullptr;
    if (api.CreateSessionOptions(&options) || !options) return 1;
    for (const std::string& key : {std::string(3000, 'x'), std::string("session.x64quantprecision")}) {
      gne_sdk::ort::Status* status = api.AddSessionConfigEntry(options, key.c_str(), "1");
      std::puts(status ? api.GetErrorMessage(status) : "taken");
      if (status) api.ReleaseStatus(status);
    }
    api.ReleaseSessionOptions(options);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "entries: %s\n", problem.what());
    return 1;
  }
}
