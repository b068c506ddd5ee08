/* A camera that is not there, for LD_PRELOAD: $FAKE_V4L2 is the path that is one (a character file, such as /dev/null),
 * $FAKE_V4L2_FRAMES a folder whose 0.jpg, 1.jpg … it gives as MJPEG, or 0.nv12 … of 64×48 where $FAKE_V4L2_FORMAT is
 * NV12; $FAKE_V4L2_COLOURS: the numbers of its colorspace, ycbcr_enc and quantization, for whoever asks for the last
 * two. Frames come in pairs: of each, the older is stale. Buffers that are used before they are queued end the program.
 * $FAKE_V4L2_FAULT: "format" (knows another one only), "capability", "used" (by another program), "busy" (has no
 * buffers), "gone" (while one waits), "silent" (no frame comes), "interrupt" (Ctrl-C in the third wait), "torn" (frame 1
 * is flagged, frame 3 empty), "half" (of frame 3 only the first 300 bytes came), "uncounted" (every frame is number 0),
 * "clock" (its times are those of another one), "lost" (EIO before frame 2),
 * "broken" (EIO from then on). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { BUFFERS = 3, ROOM = 1 << 20, WIDTH = 64, HEIGHT = 48 };

static int camera = -1, streams = 0, due = 0;
static unsigned sequence = 0;
static unsigned char* memory[BUFFERS];
static int queued[BUFFERS];

static int fault(const char* name) {
  const char* found = getenv("FAKE_V4L2_FAULT");
  return found && strcmp(found, name) == 0;
}

static int nv12(void) {
  const char* found = getenv("FAKE_V4L2_FORMAT");
  return found && strcmp(found, "NV12") == 0;
}

static int refused(int number) {
  errno = number;
  return -1;
}

/* The address of a function of the C library, in a pointer of any type. */
static void real_one(const char* name, void* pointer) {
  void* found = dlsym(RTLD_NEXT, name);
  memcpy(pointer, &found, sizeof found);
}

int open(const char* path, int flags, ...) {
  int (*real)(const char*, int, ...);
  real_one("open", &real);
  va_list rest;
  va_start(rest, flags);
  const int file = real(path, flags, flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0);
  va_end(rest);
  const char* mine = getenv("FAKE_V4L2");
  if (mine && strcmp(path, mine) == 0) camera = file;
  return file;
}

void* mmap(void* at, size_t length, int protection, int flags, int file, off_t offset) {
  void* (*real)(void*, size_t, int, int, int, off_t);
  real_one("mmap", &real);
  if (file < 0 || file != camera) return real(at, length, protection, flags, file, offset);
  void* pages = real(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memory[offset / ROOM] = pages;
  return pages;
}

int poll(struct pollfd* files, nfds_t count, int patience) {
  int (*real)(struct pollfd*, nfds_t, int);
  real_one("poll", &real);
  if (count != 1 || files->fd != camera) return real(files, count, patience);
  if (fault("interrupt") && sequence == 4) {
    raise(SIGINT);
    return refused(EINTR);
  }
  if (fault("silent")) return patience == 5000 ? 0 : refused(EINVAL); /* as if so many milliseconds had passed */
  due = 2;
  files->revents = fault("gone") ? POLLERR : POLLIN;
  return 1;
}

static int fill(struct v4l2_buffer* buffer) {
  int index = 0;
  while (index < BUFFERS && !queued[index]) ++index;
  if (!streams || due == 0 || index == BUFFERS) return refused(EAGAIN);
  --due;
  static int lost = 0;
  if (sequence == 2 && (fault("broken") || (fault("lost") && !lost++))) return refused(EIO);
  char path[4096];
  snprintf(path, sizeof path, "%s/%u.%s", getenv("FAKE_V4L2_FRAMES"), sequence, nv12() ? "nv12" : "jpg");
  FILE* file = fopen(path, "rb");
  if (!file) return refused(ENODEV);
  buffer->bytesused = (unsigned)fread(memory[index], 1, ROOM, file);
  fclose(file);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  buffer->timestamp.tv_sec = now.tv_sec;
  buffer->timestamp.tv_usec = now.tv_nsec / 1000;
  buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  if (fault("clock")) {
    buffer->timestamp.tv_sec += 1000000;
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_COPY;
  }
  if (fault("torn") && sequence == 1) buffer->flags |= V4L2_BUF_FLAG_ERROR;
  if (fault("torn") && sequence == 3) buffer->bytesused = 0;
  if (fault("half") && sequence == 3) buffer->bytesused = 300;
  buffer->index = (unsigned)index;
  buffer->sequence = fault("uncounted") ? 0 : sequence;
  ++sequence;
  queued[index] = 0;
  return 0;
}

static void set_colours(struct v4l2_pix_format* shape) {
  const char* colours = getenv("FAKE_V4L2_COLOURS");
  unsigned space = V4L2_COLORSPACE_SRGB, encoding = 0, range = 0;
  if (colours && sscanf(colours, "%u %u %u", &space, &encoding, &range) != 3) abort();
  if (shape->priv != V4L2_PIX_FMT_PRIV_MAGIC) encoding = range = 0;
  shape->colorspace = space;
  shape->ycbcr_enc = encoding;
  shape->quantization = range;
}

static int answer(unsigned long request, void* argument) {
  struct v4l2_buffer* buffer = argument;
  switch (request) {
    case VIDIOC_QUERYCAP: {
      struct v4l2_capability* able = argument;
      able->capabilities = V4L2_CAP_DEVICE_CAPS | V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
      able->device_caps = fault("capability") ? V4L2_CAP_META_CAPTURE : V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
      return 0;
    }
    case VIDIOC_S_FMT: {
      struct v4l2_pix_format* shape = &((struct v4l2_format*)argument)->fmt.pix;
      if (fault("used")) return refused(EBUSY);
      set_colours(shape);
      shape->width = WIDTH;
      shape->height = HEIGHT;
      shape->bytesperline = nv12() ? WIDTH : 0;
      shape->pixelformat = fault("format") ? V4L2_PIX_FMT_YUYV : nv12() ? V4L2_PIX_FMT_NV12 : V4L2_PIX_FMT_MJPEG;
      return 0;
    }
    case VIDIOC_REQBUFS:
      if (fault("busy")) return refused(EBUSY);
      ((struct v4l2_requestbuffers*)argument)->count = BUFFERS;
      return 0;
    case VIDIOC_QUERYBUF:
      buffer->length = ROOM;
      buffer->m.offset = buffer->index * ROOM;
      return 0;
    case VIDIOC_QBUF:
      if (queued[buffer->index]) abort();
      queued[buffer->index] = 1;
      return 0;
    case VIDIOC_STREAMON:
      streams = 1;
      return 0;
    case VIDIOC_DQBUF:
      return fill(buffer);
    default:
      return refused(ENOTTY);
  }
}

int ioctl(int file, unsigned long request, ...) {
  int (*real)(int, unsigned long, ...);
  real_one("ioctl", &real);
  va_list rest;
  va_start(rest, request);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  return file >= 0 && file == camera ? answer(request, argument) : real(file, request, argument);
}
