/* A library in the place of ONNX Runtime: of version FAKE_VERSION, with no API. */
#include <stddef.h>
#include <stdint.h>

typedef struct Base {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)(void);
} Base;

static const void* get_api(uint32_t version) {
  (void)version;
  return NULL;
}

static const char* get_version(void) { return FAKE_VERSION; }

const Base* OrtGetApiBase(void);
const Base* OrtGetApiBase(void) {
  static const Base base = {get_api, get_version};
  return &base;
}
