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
  if (info->num_components != 1 && info->num_components != 3 && info->num_components != 4) {
    leave((j_common_ptr)info, "it has neither 1, 3 nor 4 colour components");
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

/* A row of CMYK, inverted as Adobe writes it → RGB, in place. */
static void cmyk_to_rgb(uint8_t* row, uint32_t width) {
  const uint8_t* from = row;
  for (uint32_t x = 0; x < width; ++x, from += 4) {
    const unsigned light = from[3];
    for (int c = 0; c < 3; ++c) *row++ = (uint8_t)(light - share(255u - from[c], light));
  }
}

static void read_rows(struct jpeg_decompress_struct* info, uint8_t* pixels) {
  const size_t stride = (size_t)info->output_width * 3;
  const int is_cmyk = info->out_color_space == JCS_CMYK;
  JSAMPARRAY wide = NULL;
  if (is_cmyk) wide = info->mem->alloc_sarray((j_common_ptr)info, JPOOL_IMAGE, info->output_width * 4, 1);
  while (info->output_scanline < info->output_height) {
    JSAMPROW row = pixels + info->output_scanline * stride;
    if (jpeg_read_scanlines(info, is_cmyk ? wide : &row, 1) != 1) leave((j_common_ptr)info, "it is cut off");
    if (is_cmyk) {
      cmyk_to_rgb(wide[0], info->output_width);
      memcpy(row, wide[0], stride);
    }
  }
}

static void decode(struct jpeg_decompress_struct* info, uint32_t least, uint64_t most, gne_jpeg* image) {
  read_header(info, least, most);
  jpeg_start_decompress(info);
  image->width = info->output_width;
  image->height = info->output_height;
  image->pixels = malloc((size_t)image->width * image->height * 3);
  if (!image->pixels) leave_out_of_memory((j_common_ptr)info);
  read_rows(info, image->pixels);
  jpeg_finish_decompress(info); /* stops early where the end marker is missing */
}

typedef struct Decoder {
  struct jpeg_decompress_struct info;
  struct jpeg_source_mgr source;
  Errors errors;
} Decoder;

static void set_up(Decoder* decoder, const uint8_t* data, size_t size) {
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
}

int gne_jpeg_decode(const uint8_t* data, size_t size, uint32_t least, uint64_t most, gne_jpeg* image) {
  Decoder decoder;
  memset(image, 0, sizeof *image);
  memset(&decoder, 0, sizeof decoder);
  decoder.info.err = jpeg_std_error(&decoder.errors.manager);
  decoder.errors.manager.error_exit = on_error;
  decoder.errors.manager.emit_message = on_message;
  decoder.errors.image = image;
  if (setjmp(decoder.errors.escape)) {
    jpeg_destroy_decompress(&decoder.info);
    free(image->pixels);
    image->pixels = NULL;
    return 0;
  }
  set_up(&decoder, data, size);
  decode(&decoder.info, least, most, image);
  jpeg_destroy_decompress(&decoder.info);
  return 1;
}
