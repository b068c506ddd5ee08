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

/* The second: most scans of an image, as MAX_SCANS in images.py; encoders write about ten of a progressive one. */
enum { GNE_JPEG_TEXT = 200, GNE_JPEG_SCANS = 100 };

/* A JPEG while its rows are read, from the top. */
typedef struct gne_jpeg {
  uint32_t width, height; /* of what is read */
  int out_of_memory;      /* whether that is the error, and nothing is wrong with the image */
  char error[GNE_JPEG_TEXT];
  struct gne_jpeg_decoder* decoder;
} gne_jpeg;

/* Rows of 1/1, 1/2, 1/4 or 1/8 of the size, the smallest that leaves both sides `least` pixels, as Pillow's draft mode
 * does. Images of more than `most` pixels or GNE_JPEG_SCANS scans are refused. `data` and `image` stay where they are
 * until gne_jpeg_close. Returns 1, or 0 with a text in image->error. */
int gne_jpeg_open(const uint8_t* data, size_t size, uint32_t least, uint64_t most, gne_jpeg* image);

/* The next row: RGB, 3 bytes a pixel. At most image->height times; the last time, what is behind the rows is checked.
 * Returns 1, or 0 with a text in image->error. */
int gne_jpeg_read(gne_jpeg* image, uint8_t* row);

/* Nothing, where it is closed. */
void gne_jpeg_close(gne_jpeg* image);

#ifdef __cplusplus
}
#endif

#endif
