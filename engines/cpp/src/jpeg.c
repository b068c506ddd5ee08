#include "jpeg.h"

#include <setjmp.h>
#include <stdio.h> /* before jpeglib.h, which needs it */
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h> /* after jpeglib.h */

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2000003
#error "libjpeg-turbo 2.0.3 or newer is needed: others decode to other bytes than Pillow"
#endif

/* libjpeg's error manager, and where to go and what to fill in after an error. */
typedef struct Errors {
  struct jpeg_error_mgr manager; /* first, so that libjpeg's pointer to it is a pointer to this */
  jmp_buf escape;
  gne_jpeg* image;
} Errors;

struct gne_jpeg_decoder {
  struct jpeg_decompress_struct info;
  struct jpeg_source_mgr source;
  struct jpeg_progress_mgr progress;
  Errors errors;
  JSAMPARRAY cmyk; /* one row of such an image; NULL for others */
};

static void leave(j_common_ptr info, const char* text) {
  Errors* errors = (Errors*)info->err;
  snprintf(errors->image->error, sizeof errors->image->error, "%s", text);
  longjmp(errors->escape, 1);
}

static void leave_out_of_memory(j_common_ptr info) {
  ((Errors*)info->err)->image->out_of_memory = 1;
  leave(info, "there is not enough memory");
}

static void on_error(j_common_ptr info) {
  char text[JMSG_LENGTH_MAX];
  const int code = info->err->msg_code;
  /* the second: more than the environment variable JPEGMEM allows, and libjpeg-turbo writes no files */
  if (code == JERR_OUT_OF_MEMORY || code == JERR_NO_BACKING_STORE) leave_out_of_memory(info);
  info->err->format_message(info, text);
  leave(info, text);
}

/* Warnings and traces: a JPEG that can be shown is one. */
static void on_message(j_common_ptr info, int level) { (void)info, (void)level; }

/* Whether every row was given out: what is missing after that is missed by nobody, as in Pillow. */
static int is_complete(j_decompress_ptr info) {
  return info->output_height && info->output_scanline == info->output_height;
}

/* The source is all there is: whoever asks for more before the last row has a JPEG that was cut off. */
static boolean on_more(j_decompress_ptr info) {
  if (!is_complete(info)) leave((j_common_ptr)info, "it is cut off");
  return FALSE;
}

static void on_skip(j_decompress_ptr info, long count) {
  struct jpeg_source_mgr* source = info->src;
  if (count <= 0) return;
  size_t step = (size_t)count;
  if (step > source->bytes_in_buffer) {
    if (!is_complete(info)) leave((j_common_ptr)info, "it is cut off");
    step = source->bytes_in_buffer;
  }
  source->next_input_byte += step;
  source->bytes_in_buffer -= step;
}

static void on_source(j_decompress_ptr info) { (void)info; }

/* Called for every few rows of every scan. Each scan costs the time of all pixels, and only a few bytes of the file. */
static void on_progress(j_common_ptr info) {
  char text[GNE_JPEG_TEXT];
  if (((j_decompress_ptr)info)->input_scan_number <= GNE_JPEG_SCANS) return;
  snprintf(text, sizeof text, "it has more than %d scans", GNE_JPEG_SCANS);
  leave(info, text);
}

static unsigned scale_for(uint32_t width, uint32_t height, uint32_t least) {
  const uint32_t across = width / least, down = height / least, scale = across < down ? across : down;
  return scale >= 8 ? 8 : scale >= 4 ? 4 : scale >= 2 ? 2 : 1;
}

static void read_header(struct jpeg_decompress_struct* info, uint32_t least, uint64_t most) {
  char text[GNE_JPEG_TEXT];
  jpeg_read_header(info, TRUE);
  if ((uint64_t)info->image_width * info->image_height > most) {
    snprintf(text, sizeof text, "it has %u×%u pixels, at most %u megapixels are decoded", info->image_width,
             info->image_height, (unsigned)(most / 1000000));
    leave((j_common_ptr)info, text);
  }
  info->out_color_space = info->num_components == 4 ? JCS_CMYK : JCS_RGB;
  info->scale_num = 1;
  info->scale_denom = scale_for(info->image_width, info->image_height, least);
  info->dct_method = JDCT_ISLOW;
}

/* One value of 0…255 times another, as a share of 255, rounded. */
static unsigned share(unsigned a, unsigned b) {
  const unsigned product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/* A row of CMYK, inverted as Adobe writes it → RGB. */
static void cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb, uint32_t width) {
  for (uint32_t x = 0; x < width; ++x, cmyk += 4) {
    const unsigned light = cmyk[3];
    for (int c = 0; c < 3; ++c) *rgb++ = (uint8_t)(light - share(255u - cmyk[c], light));
  }
}

static void start(struct gne_jpeg_decoder* decoder, uint32_t least, uint64_t most) {
  j_decompress_ptr info = &decoder->info;
  read_header(info, least, most);
  jpeg_start_decompress(info);
  if (info->out_color_space == JCS_CMYK) {
    decoder->cmyk = info->mem->alloc_sarray((j_common_ptr)info, JPOOL_IMAGE, info->output_width * 4, 1);
  }
}

static void read_row(struct gne_jpeg_decoder* decoder, uint8_t* row) {
  j_decompress_ptr info = &decoder->info;
  if (jpeg_read_scanlines(info, decoder->cmyk ? decoder->cmyk : &row, 1) != 1) {
    leave((j_common_ptr)info, "it is cut off");
  }
  if (decoder->cmyk) cmyk_to_rgb(decoder->cmyk[0], row, info->output_width);
  if (is_complete(info)) jpeg_finish_decompress(info); /* stops early where the end marker is missing */
}

static void set_up(struct gne_jpeg_decoder* decoder, const uint8_t* data, size_t size) {
  struct jpeg_source_mgr* source = &decoder->source;
  jpeg_create_decompress(&decoder->info);
  source->next_input_byte = data;
  source->bytes_in_buffer = size;
  source->init_source = on_source;
  source->fill_input_buffer = on_more;
  source->skip_input_data = on_skip;
  source->resync_to_restart = jpeg_resync_to_restart;
  source->term_source = on_source;
  decoder->info.src = source;
  decoder->progress.progress_monitor = on_progress;
  decoder->info.progress = &decoder->progress;
}

int gne_jpeg_open(const uint8_t* data, size_t size, uint32_t least, uint64_t most, gne_jpeg* image) {
  memset(image, 0, sizeof *image);
  image->decoder = calloc(1, sizeof *image->decoder);
  if (!image->decoder) {
    image->out_of_memory = 1;
    return 0;
  }
  Errors* errors = &image->decoder->errors;
  image->decoder->info.err = jpeg_std_error(&errors->manager);
  errors->manager.error_exit = on_error;
  errors->manager.emit_message = on_message;
  errors->image = image;
  if (setjmp(errors->escape)) {
    gne_jpeg_close(image);
    return 0;
  }
  set_up(image->decoder, data, size);
  start(image->decoder, least, most);
  image->width = image->decoder->info.output_width;
  image->height = image->decoder->info.output_height;
  return 1;
}

int gne_jpeg_read(gne_jpeg* image, uint8_t* row) {
  if (setjmp(image->decoder->errors.escape)) return 0;
  read_row(image->decoder, row);
  return 1;
}

void gne_jpeg_close(gne_jpeg* image) {
  if (!image->decoder) return;
  jpeg_destroy_decompress(&image->decoder->info);
  free(image->decoder);
  image->decoder = NULL;
}
