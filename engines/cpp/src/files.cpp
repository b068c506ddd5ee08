#include "files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "failure.hpp"

namespace gne_sdk {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int number() const { return number_; }

 private:
  int number_;
};

std::string reason(int error) { return std::generic_category().message(error); }

// Reads until the end or until the buffer is full; returns errno, or 0.
int fill(int file, std::vector<uint8_t>& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(file, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  bytes.resize(done);
  return 0;
}

}  // namespace

std::vector<uint8_t> read_file(const std::string& path, uint64_t limit, gne_status status) {
  // O_NONBLOCK: a named pipe in the place of a file must not make the program wait
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info {};
  if (file.number() < 0 || ::fstat(file.number(), &info) != 0) {
    const int error = errno;
    throw Failure(status, error == ENOENT ? path + " is missing" : path + " cannot be read: " + reason(error));
  }
  if (!S_ISREG(info.st_mode)) throw Failure(status, path + " is not a file");
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > limit) {
    throw Failure(status, path + " has " + std::to_string(size) + " bytes where at most " + std::to_string(limit) +
                              " are expected; it is not what it should be");
  }
  std::vector<uint8_t> bytes(size);
  if (const int error = fill(file.number(), bytes)) throw Failure(status, path + " cannot be read: " + reason(error));
  return bytes;
}

std::vector<std::string> names_in(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(folder.c_str()), ::closedir);
  if (!entries) {
    const int error = errno;
    throw Failure(GNE_BAD_BUNDLE, folder + " cannot be read: " + reason(error));
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  return names;
}

}  // namespace gne_sdk
