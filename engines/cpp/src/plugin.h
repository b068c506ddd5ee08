/* What a plugin gives to libgne: a library of its own, because it links what a device has and libgne must not.
 *
 * Functions that can fail return 0, or write one sentence into `error`, which has room for GNE_PLUGIN_TEXT bytes, and
 * return something else. They may be called from any thread, whose current CUDA device is its own again afterwards.
 */
#ifndef GNE_PLUGIN_H
#define GNE_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GNE_PLUGIN_ABI 1
#define GNE_PLUGIN_TEXT 512

typedef struct gne_plugin_shape {
  uint32_t crop;
  uint32_t classes;
  uint32_t most; /* images at a time */
} gne_plugin_shape;

typedef struct gne_plugin {
  uint32_t abi; /* GNE_PLUGIN_ABI */
  /* The library in this process and the GPU, as a plan's key names them: "tensorrt 10.3.0", "Orin, 8 SMs, compute
   * capability 8.7". Each has room for GNE_PLUGIN_TEXT bytes. */
  int (*identify)(char* library, char* gpu, char* error);
  /* A plan's bytes → an engine; `dla_core` is -1 where the GPU computes. The bytes are not needed afterwards. */
  int (*open)(const void* plan, size_t size, int dla_core, gne_plugin_shape* shape, void** engine, char* error);
  /* uint8 (count, crop, crop, 3) → float (count, classes), with 1 to `most` images. */
  int (*run)(void* engine, const uint8_t* pixels, size_t count, float* logits, char* error);
  void (*close)(void* engine);
} gne_plugin;

/* The one function that a plugin exports, as "gne_plugin_table". */
typedef const gne_plugin* (*gne_plugin_table_function)(void);

#ifdef __cplusplus
}
#endif

#endif
