/* Decoding of JPEG with libjpeg-turbo, the decoder that Pillow has, so that the bytes are the same.
 *
 * In C, because libjpeg reports errors by longjmp, which must not leap over a C++ destructor. libjpeg's own interface
 * and not TurboJPEG's: that one refuses uncommon chroma sampling and cannot tell a warning from an error after a
 * warning.
 */
#ifndef GNE_JPEG_H
#define GNE_JPEG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GNE_JPEG_TEXT = 200 };

typedef struct gne_jpeg {
  uint8_t* pixels; /* RGB, 3 bytes a pixel, no padding; free() it */
  uint32_t width, height;
  int out_of_memory; /* whether that is the error, and nothing is wrong with the image */
  char error[GNE_JPEG_TEXT];
} gne_jpeg;

/* Decodes at 1/1, 1/2, 1/4 or 1/8 of the size, the smallest that leaves both sides `least` pixels, as
 * Pillow's draft mode does. Images of more than `most` pixels are refused. Returns 1, or 0 with a text in image->error
 * and no pixels. */
int gne_jpeg_decode(const uint8_t* data, size_t size, uint32_t least, uint64_t most, gne_jpeg* image);

#ifdef __cplusplus
}
#endif

#endif
