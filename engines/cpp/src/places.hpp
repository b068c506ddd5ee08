// A counting semaphore, as C++20's: so many threads at once, the others wait.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>

namespace gne_sdk {

class Places {
 public:
  explicit Places(size_t count) : free_(count) {}

  // A place, from its construction to its end.
  class Taken {
   public:
    explicit Taken(Places& places) : places_(places) {
      std::unique_lock lock(places_.mutex_);
      places_.changed_.wait(lock, [this] { return places_.free_ > 0; });
      --places_.free_;
    }
    ~Taken() {
      {
        const std::lock_guard lock(places_.mutex_);
        ++places_.free_;
      }
      places_.changed_.notify_one();
    }
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;

   private:
    Places& places_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t free_;
};

}  // namespace gne_sdk
