/* consumer BUNDLE IMAGE.jpg: what a C program does, and what it gets for calls that make no sense. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gne/gne.h"

static int mistakes = 0;

/* A call that has to be refused with a status and a text that contains `words`. */
static void refused(gne_status found, gne_status expected, const char* words) {
  if (found == expected && strstr(gne_last_error(), words)) return;
  fprintf(stderr, "expected %s with \"%s\", got %s with \"%s\"\n", gne_status_name(expected), words,
          gne_status_name(found), gne_last_error());
  ++mistakes;
}

static void check_null_pointers(const gne_engine* engine, const gne_frame* frame) {
  gne_prediction predictions[3];
  gne_engine* other = NULL;
  const char* label = NULL;
  uint8_t pixels[1] = {0};
  float logits[3] = {0};
  refused(gne_open(NULL, NULL, &other), GNE_BAD_ARGUMENT, "bundle is NULL");
  refused(gne_open("x", NULL, NULL), GNE_BAD_ARGUMENT, "engine is NULL");
  refused(gne_describe(engine, NULL), GNE_BAD_ARGUMENT, "info is NULL");
  refused(gne_label(engine, 0, NULL), GNE_BAD_ARGUMENT, "label is NULL");
  refused(gne_label(NULL, 0, &label), GNE_BAD_ARGUMENT, "the engine is NULL");
  refused(gne_classify_file(engine, NULL, 1, predictions), GNE_BAD_ARGUMENT, "path is NULL");
  refused(gne_classify_file(engine, "x", 1, NULL), GNE_BAD_ARGUMENT, "predictions is NULL");
  refused(gne_classify_jpeg(engine, NULL, 9, 1, predictions), GNE_BAD_ARGUMENT, "data is NULL");
  refused(gne_classify_frame(engine, NULL, 1, predictions), GNE_BAD_ARGUMENT, "frame is NULL");
  refused(gne_classify_frame(NULL, frame, 1, predictions), GNE_BAD_ARGUMENT, "the engine is NULL");
  refused(gne_pixels_of_jpeg(engine, pixels, 1, NULL, 9), GNE_BAD_ARGUMENT, "pixels is NULL");
  refused(gne_pixels_of_frame(engine, frame, NULL, 9), GNE_BAD_ARGUMENT, "pixels is NULL");
  refused(gne_run(engine, NULL, 3072, logits, 3), GNE_BAD_ARGUMENT, "pixels is NULL");
  refused(gne_run(engine, pixels, 3072, NULL, 3), GNE_BAD_ARGUMENT, "logits is NULL");
  refused(gne_rank(engine, NULL, 3, 1, predictions), GNE_BAD_ARGUMENT, "logits is NULL");
  refused(gne_rank(engine, logits, 3, 1, NULL), GNE_BAD_ARGUMENT, "predictions is NULL");
}

static void check_frames(const gne_engine* engine, gne_frame good) {
  gne_prediction predictions[3];
  gne_frame frame = good;
  frame.width = 0;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "the frame has 0×32 pixels");
  frame = good, frame.height = 4000000000u;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "pixels; give 1 to 150 megapixels");
  frame = good, frame.stride = 95;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT,
          "the frame has a stride of 95 bytes for its pixels, a row needs 96");
  frame = good, frame.stride = SIZE_MAX;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "fewer than 32 rows with a stride");
  frame = good, --frame.data_size;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "the frame has 3071 bytes of pixels");
  frame = good, frame.data_size = 95;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "the frame has 95 bytes of pixels");
  frame = good, frame.data = NULL;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "the frame has no pixels");
  frame = good, frame.format = GNE_NV12;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "the frame has no CbCr pairs");
  frame = good, frame.format = 99;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "unknown format 99");
  frame = good, frame.size = 8;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT, "frame.size is 8");
}

/* Of odd sides, so that the last pixels share a pair with none. */
static void check_nv12(const gne_engine* engine) {
  static const uint8_t luma[31][31], chroma[16][32];
  const gne_frame good = {sizeof good, GNE_NV12, 31, 31, luma[0], sizeof luma, 31, chroma[0], sizeof chroma, 32};
  gne_prediction predictions[1];
  gne_frame frame = good;
  if (gne_classify_frame(engine, &good, 1, predictions) != GNE_OK) ++mistakes;
  --frame.data_size;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT,
          "960 bytes of Y values, fewer than 31 rows with a stride of 31");
  frame = good, --frame.chroma_size;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT,
          "511 bytes of CbCr pairs, fewer than 16 rows with a stride of 32");
  frame = good, --frame.chroma_stride;
  refused(gne_classify_frame(engine, &frame, 1, predictions), GNE_BAD_ARGUMENT,
          "a stride of 31 bytes for its CbCr pairs, a row needs 32");
}

static void check_numbers(const gne_engine* engine, const char* bundle) {
  gne_prediction predictions[5];
  gne_engine* other = NULL;
  gne_options options = GNE_OPTIONS;
  gne_info info;
  const char* label = NULL;
  uint8_t pixels[32 * 32 * 3] = {0};
  float logits[6] = {0};
  refused(gne_classify_jpeg(engine, pixels, 9, 4, predictions), GNE_BAD_ARGUMENT,
          "k is 4, but the bundle has 3 classes; ask for 1 to 3");
  refused(gne_rank(engine, logits, 3, 0, predictions), GNE_BAD_ARGUMENT, "k is 0, but the bundle has 3 classes");
  refused(gne_rank(engine, logits, 2, 1, predictions), GNE_BAD_ARGUMENT,
          "there are 2 logits, the bundle has 3 classes");
  refused(gne_label(engine, 3, &label), GNE_BAD_ARGUMENT, "index is 3, but the bundle has 3 classes; ask for 0 to 2");
  refused(gne_run(engine, pixels, 0, logits, 0), GNE_BAD_ARGUMENT, "the batch has 0 pixel bytes");
  refused(gne_run(engine, pixels, sizeof pixels - 1, logits, 3), GNE_BAD_ARGUMENT, "give 3072 and 3 for every image");
  refused(gne_run(engine, pixels, sizeof pixels, logits, 6), GNE_BAD_ARGUMENT, "room for 6 logits");
  refused(gne_run(engine, pixels, sizeof pixels, logits, 4), GNE_BAD_ARGUMENT, "room for 4 logits");
  refused(gne_pixels_of_jpeg(engine, pixels, 9, pixels, 3071), GNE_BAD_ARGUMENT,
          "pixels has room for 3071 bytes, 3072");
  refused(gne_classify_jpeg(engine, pixels, 0, 1, predictions), GNE_BAD_IMAGE, "the image is no JPEG");
  refused(gne_classify_jpeg(engine, NULL, 0, 1, predictions), GNE_BAD_IMAGE, "the image is no JPEG");
  refused(gne_pixels_of_jpeg(engine, NULL, 0, pixels, sizeof pixels), GNE_BAD_IMAGE, "the image is no JPEG");
  info.size = sizeof info - 1;
  refused(gne_describe(engine, &info), GNE_BAD_ARGUMENT, "info.size is ");
  options.threads = 0;
  refused(gne_open(bundle, &options, &other), GNE_BAD_ARGUMENT, "options.threads is 0; give 1 to 256");
  options.threads = 1, options.size = 1;
  refused(gne_open(bundle, &options, &other), GNE_BAD_ARGUMENT, "options.size is 1");
}

static void classify(const gne_engine* engine, const char* path) {
  gne_prediction predictions[3];
  const gne_status status = gne_classify_file(engine, path, 3, predictions);
  if (status != GNE_OK) {
    fprintf(stderr, "%s: %s\n", gne_status_name(status), gne_last_error());
    exit(1);
  }
  for (int i = 0; i < 3; ++i)
    printf("%s %zu %.9f\n", predictions[i].label, predictions[i].index, predictions[i].probability);
}

int main(int count, char** arguments) {
  static uint8_t red[32][32][3];
  const gne_frame frame = {sizeof frame, GNE_RGB, 32, 32, red[0][0], sizeof red, 96, NULL, 0, 0};
  gne_engine* engine = NULL;
  if (count != 3 || gne_abi() != GNE_ABI) return 2;
  if (gne_open(arguments[1], NULL, &engine) != GNE_OK) {
    fprintf(stderr, "%s\n", gne_last_error());
    return 1;
  }
  classify(engine, arguments[2]);
  check_null_pointers(engine, &frame);
  check_frames(engine, frame);
  check_nv12(engine);
  check_numbers(engine, arguments[1]);
  if (gne_close(engine) != GNE_OK || gne_close(NULL) != GNE_OK) ++mistakes;
  refused(gne_close(engine), GNE_CLOSED, "the engine is closed, or was never opened; open the bundle again");
  return mistakes;
}
