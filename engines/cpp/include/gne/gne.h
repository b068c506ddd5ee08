/* libgne: classifies images with a bundle that `gnet-edge build` wrote.
 *
 * Every function returns a status and never throws, aborts or prints. After a status that is not GNE_OK,
 * gne_last_error() says in one sentence what was wrong, where, and what to do. There are two exceptions. In a process
 * whose memory runs out libgne returns GNE_NO_MEMORY, but ONNX Runtime, TensorRT, CUDA, or the C++ library may end it
 * before. And a model is a program for the runtime: one that was made to harm may end the process, and no hash tells it
 * from others. Open a bundle only from whom you would run a program.
 *
 * Threads: every function may be called from any thread at any time, also on the same engine. An engine that is closed
 * while another thread computes with it goes on living until that call has returned; the texts that it gave do not. On
 * a processor, one engine runs no more inferences at once than the thread that opened it had cores for; others wait.
 *
 * Ending: while a process ends, what runs is waited for, ten seconds at most, and nothing else begins: a call that
 * would does not return, so no thread that may be in one is to be joined then. In the thread that ends the process it
 * returns GNE_CLOSED. Only the first gne_open of each runtime must have returned before. Fork before it; a process that
 * was forked later may only exec or _exit.
 *
 * Versions: structs that the caller fills carry their own size, so that a program built with this header works with
 * every later libgne of the same GNE_ABI (the SOVERSION).
 */
#ifndef GNE_GNE_H
#define GNE_GNE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define GNE_API __attribute__((visibility("default")))
#else
#define GNE_API
#endif

#define GNE_ABI 1

/* What became of a call. New values may come; treat unknown ones as failures. */
typedef enum gne_status {
  GNE_OK = 0,
  GNE_BAD_ARGUMENT = 1, /* a null pointer, an impossible size, stride or k */
  GNE_CLOSED = 2,       /* the engine was closed, or was never opened, or the process ends */
  GNE_BAD_BUNDLE = 3,   /* damaged, of another schema, for another device, or it computes something else here */
  GNE_BAD_RUNTIME = 4,  /* ONNX Runtime, or a plan and what runs it, is missing, does not fit, or failed */
  GNE_BAD_IMAGE = 5,    /* the image is missing, damaged, too large, or no JPEG */
  GNE_NO_MEMORY = 6,
  GNE_INTERNAL = 7 /* a bug in libgne: please report the text */
} gne_status;

/* An open bundle. Never dereferenced, never reused: a closed one is recognized. */
typedef struct gne_engine gne_engine;

/* How a bundle is opened; start from GNE_OPTIONS. */
typedef struct gne_options {
  size_t size;         /* sizeof(gne_options) */
  uint32_t threads;    /* processor threads of one inference, 1 or more */
  const char* runtime; /* path of libonnxruntime.so, NULL: $GNE_ONNXRUNTIME, else the loader's search path; for a bundle
                        * for a GPU, of libgne's plugin for TensorRT, NULL: $GNE_TENSORRT, else the same */
} gne_options;

#define GNE_OPTIONS \
  { sizeof(gne_options), 1, NULL }

/* What an open engine is. The texts live until it is closed: do not read them where another thread may do that. */
typedef struct gne_info {
  size_t size;                 /* sizeof(gne_info), filled in by the caller; then how much of it is known */
  uint32_t crop;               /* the model reads pixels uint8 (count, crop, crop, 3), RGB */
  uint32_t resize;             /* the short side of an image before the centre crop */
  uint32_t classes;            /* it gives logits float (count, classes) */
  uint32_t threads;            /* of one inference */
  const char* precision;       /* "fp32", "fp16" or "int8" */
  const char* runtime_version; /* of ONNX Runtime, such as "1.19.2", or "tensorrt 10.3.0" */
} gne_info;

/* A class of an image; its label lives until the engine is closed, by whichever thread. */
typedef struct gne_prediction {
  const char* label;  /* UTF-8 */
  size_t index;       /* the place among the logits */
  double probability; /* softmax of the logits */
} gne_prediction;

/* How pixels lie in memory. */
typedef enum gne_format {
  GNE_RGB = 0,       /* 3 bytes a pixel */
  GNE_BGR = 1,       /* 3 bytes a pixel, as OpenCV has them */
  GNE_NV12 = 2,      /* 8-bit Y, then one CbCr pair for 2×2 pixels; BT.601, limited range */
  GNE_NV12_BT709 = 3 /* the same, BT.709 */
} gne_format;

/* A camera frame; the caller keeps the memory. Sizes are bytes. */
typedef struct gne_frame {
  size_t size;            /* sizeof(gne_frame) */
  uint32_t format;        /* a gne_format */
  uint32_t width, height; /* pixels */
  const uint8_t* data;    /* the pixels; of NV12 the Y plane */
  size_t data_size;       /* readable bytes at data */
  size_t stride;          /* from one row to the next */
  const uint8_t* chroma;  /* of NV12 the CbCr plane, else NULL */
  size_t chroma_size;     /* readable bytes at chroma, else 0 */
  size_t chroma_stride;   /* from one CbCr row to the next, else 0 */
} gne_frame;

/* "0.1.0" */
GNE_API const char* gne_version(void);
/* GNE_ABI of the library, to be compared with that of the header. */
GNE_API uint32_t gne_abi(void);
/* The name of a status, such as "GNE_BAD_IMAGE". */
GNE_API const char* gne_status_name(int status);
/* What was wrong with the last failed call of this thread; valid until its next call. Never NULL. UTF-8; letters that
 * steer a terminal or cannot be seen, such as in a file's name, are question marks. */
GNE_API const char* gne_last_error(void);

/* Opens a bundle's folder: verifies schema and hashes, loads the model, and proves on the golden vectors that it
 * computes here what it computed where it was built. `options` may be NULL. On failure *engine is NULL. */
GNE_API gne_status gne_open(const char* bundle, const gne_options* options, gne_engine** engine);
/* Closes an engine. A second call gives GNE_CLOSED and does nothing; NULL is GNE_OK. */
GNE_API gne_status gne_close(gne_engine* engine);

GNE_API gne_status gne_describe(const gne_engine* engine, gne_info* info);
/* The label of a class, index 0 to classes - 1; it lives until the engine is closed. */
GNE_API gne_status gne_label(const gne_engine* engine, size_t index, const char** label);

/* The k most probable classes, best first, into predictions[k]; of equals the one with the lower index leads.
 * k is 1 to the number of classes. */
GNE_API gne_status gne_classify_file(const gne_engine* engine, const char* path, size_t k, gne_prediction* predictions);
GNE_API gne_status gne_classify_jpeg(const gne_engine* engine, const uint8_t* data, size_t size, size_t k,
                                     gne_prediction* predictions);
GNE_API gne_status gne_classify_frame(const gne_engine* engine, const gne_frame* frame, size_t k,
                                      gne_prediction* predictions);

/* The same in steps. An image becomes RGB pixels uint8 (crop, crop, 3), the same bytes as in Python;
 * pixels_size is the room, at least crop * crop * 3. */
GNE_API gne_status gne_pixels_of_jpeg(const gne_engine* engine, const uint8_t* data, size_t size, uint8_t* pixels,
                                      size_t pixels_size);
GNE_API gne_status gne_pixels_of_frame(const gne_engine* engine, const gne_frame* frame, uint8_t* pixels,
                                       size_t pixels_size);
/* uint8 (count, crop, crop, 3) → logits float (count, classes). The sizes are in elements and must fit exactly. */
GNE_API gne_status gne_run(const gne_engine* engine, const uint8_t* pixels, size_t pixels_size, float* logits,
                           size_t logits_size);
/* The k best of one row of logits, as gne_classify_file gives them. */
GNE_API gne_status gne_rank(const gne_engine* engine, const float* logits, size_t logits_size, size_t k,
                            gne_prediction* predictions);

#ifdef __cplusplus
}
#endif

#endif
