// A camera of Linux (V4L2), as MJPEG or NV12: what `camera` reads frames from. Mapped buffers, nothing is copied.
#ifndef GNE_EXAMPLES_V4L2_HPP
#define GNE_EXAMPLES_V4L2_HPP

#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace v4l2 {

// What the driver filled. `bytes` live until the frame is given back.
struct Frame {
  const std::uint8_t* bytes;
  std::size_t size;
  bool whole;                                   // else the driver says that it is damaged, or bytes are missing
  std::uint32_t sequence;                       // counts all frames, also those that were lost; some drivers leave it 0
  std::chrono::steady_clock::time_point taken;  // when the driver had it
};

class Camera {
 public:
  // Asks for 1280×720 at `fps`; the driver may give something near. Throws std::runtime_error.
  Camera(const std::string& path, double fps) : path_(path), file_(path) {
    if (file_.number < 0) fail("cannot be opened");
    v4l2_capability able{};
    ask(VIDIOC_QUERYCAP, &able, "is no V4L2 device");
    const std::uint32_t has = able.capabilities & V4L2_CAP_DEVICE_CAPS ? able.device_caps : able.capabilities;
    if (!(has & V4L2_CAP_VIDEO_CAPTURE) || !(has & V4L2_CAP_STREAMING)) {
      throw std::runtime_error(path + " is no camera with mapped buffers");
    }
    negotiate(fps);
    map_buffers();
    int kind = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    ask(VIDIOC_STREAMON, &kind, "does not start");
  }

  // What a frame of `shape` needs at least: of NV12 both planes, of a JPEG nobody knows.
  std::size_t least_bytes() const {
    return jpeg() ? 1 : std::size_t{shape_.bytesperline} * (shape_.height + (shape_.height + 1) / 2);
  }

  bool jpeg() const { return shape_.pixelformat != V4L2_PIX_FMT_NV12; }
  const v4l2_pix_format& shape() const { return shape_; }

  // Whether the colours of an NV12 frame are those of BT.709, else of BT.601.
  bool bt709() const {
    const std::uint32_t encoding = encoding_of(shape_);
    return encoding == V4L2_YCBCR_ENC_709 || encoding == V4L2_YCBCR_ENC_XV709;
  }

  // Gives the newest frame to `use`; older ones that nobody had time for go back unseen. False after a signal. A frame
  // that the driver lost is one that is not whole, and has no bytes.
  template <typename Use>
  bool with_next(Use use) {
    if (!wait()) return false;
    v4l2_buffer newest = blank(0);
    const Taken first = take(newest);
    if (first == Taken::kNothing) fail("gives no frame");
    if (first == Taken::kLost) {
      use(Frame{nullptr, 0, false, ++sequence_, std::chrono::steady_clock::now()});
      return true;
    }
    for (v4l2_buffer next = blank(0); take(next) == Taken::kFrame;) {
      ask(VIDIOC_QBUF, &newest, "takes no buffer back");
      newest = next;
    }
    sequence_ = newest.sequence;
    const auto& place = *buffers_.at(newest.index);
    if (newest.bytesused > place.size) throw std::runtime_error(path_ + " says that a frame is larger than its buffer");
    const bool whole = !(newest.flags & V4L2_BUF_FLAG_ERROR) && newest.bytesused >= least_bytes();
    use(Frame{place.bytes, newest.bytesused, whole, newest.sequence, time_of(newest)});
    ask(VIDIOC_QBUF, &newest, "takes no buffer back");
    return true;
  }

 private:
  static constexpr std::uint32_t kBuffers = 4;
  static constexpr int kPatienceMs = 5000;
  static constexpr int kMostLost = 3;  // frames in a row

  enum class Taken { kFrame, kNothing, kLost };

  struct File {
    explicit File(const std::string& path) : number(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC)) {}
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() {
      if (number >= 0) ::close(number);
    }
    int number;
  };

  struct Mapping {
    Mapping(int file, std::size_t length, std::int64_t offset)
        : at(::mmap(nullptr, length, PROT_READ, MAP_SHARED, file, offset)),
          bytes(static_cast<const std::uint8_t*>(at)),
          size(length) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() {
      if (at != MAP_FAILED) ::munmap(at, size);
    }
    void* at;
    const std::uint8_t* bytes;
    std::size_t size;
  };

  [[noreturn]] void fail(const char* what) const {
    throw std::runtime_error(path_ + " " + what + ": " + std::strerror(errno));
  }

  int control(unsigned long request, void* argument) const {
    int result = 0;
    do {
      result = ::ioctl(file_.number, request, argument);
    } while (result < 0 && errno == EINTR);
    return result;
  }

  void ask(unsigned long request, void* argument, const char* failure) const {
    if (control(request, argument) < 0) fail(failure);
  }

  void negotiate(double fps) {
    for (const std::uint32_t wanted : {V4L2_PIX_FMT_MJPEG, V4L2_PIX_FMT_NV12}) {
      v4l2_format format{};
      format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
      format.fmt.pix.width = 1280;
      format.fmt.pix.height = 720;
      format.fmt.pix.pixelformat = wanted;
      format.fmt.pix.field = V4L2_FIELD_NONE;
      format.fmt.pix.priv = V4L2_PIX_FMT_PRIV_MAGIC;  // so that ycbcr_enc and quantization mean something
      if (control(VIDIOC_S_FMT, &format) < 0) {
        if (errno == EBUSY) fail("is used by another program");
        continue;
      }
      if (format.fmt.pix.pixelformat != wanted) continue;
      shape_ = format.fmt.pix;
      if (!jpeg()) check_colours();
      v4l2_streamparm rate{};
      rate.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
      rate.parm.capture.timeperframe = {1000, static_cast<std::uint32_t>(std::lround(1000 * fps))};
      control(VIDIOC_S_PARM, &rate);  // not every camera lets one choose
      return;
    }
    throw std::runtime_error(path_ + " gives neither MJPEG nor NV12");
  }

  // libgne knows two ways to write colours in NV12, both with Y of 16 to 235. A JPEG says itself what it has.
  void check_colours() const {
    const std::uint32_t encoding = encoding_of(shape_), colours = shape_.colorspace;
    std::uint32_t range = shape_.quantization;
    if (range == V4L2_QUANTIZATION_DEFAULT) range = V4L2_MAP_QUANTIZATION_DEFAULT(false, colours, encoding);
    if (range == V4L2_QUANTIZATION_FULL_RANGE) {
      throw std::runtime_error(path_ + " gives NV12 of full range, and libgne takes limited range; convert the frames");
    }
    if (!bt709() && encoding != V4L2_YCBCR_ENC_601 && encoding != V4L2_YCBCR_ENC_XV601) {
      throw std::runtime_error(path_ + " gives NV12 that is neither BT.601 nor BT.709; convert the frames");
    }
  }

  static std::uint32_t encoding_of(const v4l2_pix_format& shape) {
    if (shape.ycbcr_enc != V4L2_YCBCR_ENC_DEFAULT) return shape.ycbcr_enc;
    return V4L2_MAP_YCBCR_ENC_DEFAULT(shape.colorspace);
  }

  // When the driver had a frame: its own time where it is of the clock that steady_clock is, else now.
  static std::chrono::steady_clock::time_point time_of(const v4l2_buffer& buffer) {
    const bool steady = (buffer.flags & V4L2_BUF_FLAG_TIMESTAMP_MASK) == V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
    const std::chrono::microseconds taken(buffer.timestamp.tv_sec * 1000000LL + buffer.timestamp.tv_usec);
    return steady ? std::chrono::steady_clock::time_point(taken) : std::chrono::steady_clock::now();
  }

  void map_buffers() {
    v4l2_requestbuffers wanted{};
    wanted.count = kBuffers;
    wanted.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    wanted.memory = V4L2_MEMORY_MMAP;
    ask(VIDIOC_REQBUFS, &wanted, "has no mapped buffers");
    for (std::uint32_t index = 0; index < wanted.count; ++index) {
      v4l2_buffer buffer = blank(index);
      ask(VIDIOC_QUERYBUF, &buffer, "does not say where its buffers are");
      buffers_.push_back(std::make_unique<Mapping>(file_.number, buffer.length, buffer.m.offset));
      if (buffers_.back()->at == MAP_FAILED) fail("lets nobody map its buffers");
      ask(VIDIOC_QBUF, &buffer, "takes no buffer");
    }
  }

  bool wait() const {
    pollfd watched{file_.number, POLLIN, 0};
    const int ready = ::poll(&watched, 1, kPatienceMs);
    if (ready < 0 && errno == EINTR) return false;
    if (ready < 0) fail("cannot be waited for");
    if (ready == 0) throw std::runtime_error(path_ + " gave no frame for 5 seconds");
    if (watched.revents & (POLLERR | POLLHUP)) throw std::runtime_error(path_ + " is gone or stopped");
    return true;
  }

  // EIO is a bad signal, or the end of the camera: the driver keeps the buffer, so it cannot go on for long.
  Taken take(v4l2_buffer& next) {
    if (control(VIDIOC_DQBUF, &next) == 0) {
      lost_ = 0;
      return Taken::kFrame;
    }
    if (errno == EAGAIN) return Taken::kNothing;
    if (errno != EIO || ++lost_ > kMostLost) fail("gives no frame");
    return Taken::kLost;
  }

  static v4l2_buffer blank(std::uint32_t index) {
    v4l2_buffer buffer{};
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer.memory = V4L2_MEMORY_MMAP;
    buffer.index = index;
    return buffer;
  }

  std::string path_;
  File file_;
  v4l2_pix_format shape_{};
  int lost_ = 0;                // since the last frame that came
  std::uint32_t sequence_ = 0;  // of the newest frame
  std::vector<std::unique_ptr<Mapping>> buffers_;  // unmapped before the file is closed, which stops the stream
};

}  // namespace v4l2

#endif
