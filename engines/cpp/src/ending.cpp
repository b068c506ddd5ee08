#include "ending.hpp"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>

#include "failure.hpp"

namespace gne_sdk {
namespace {

constexpr std::chrono::seconds kLongest{10};  // of an inference that is waited for

// Never destroyed, as the handles.
std::shared_timed_mutex& mutex() {
  static auto* const all = new std::shared_timed_mutex;
  return *all;
}

thread_local bool ending = false;
std::atomic<bool> over{false};  // the lock alone would not end it: whoever shares it goes before who wants it alone

void stop_computing() {
  ending = true;
  over = true;
  (void)mutex().try_lock_for(kLongest);  // and it is never given back
}

}  // namespace

void refuse_at_the_end() {
  if (ending) throw Failure(GNE_CLOSED, "the process ends, and nothing is computed any more; classify before");
}

Computing::Computing() : lock_(mutex()) {
  if (!over) return;
  lock_.unlock();
  for (;;) ::pause();
}

void stop_computing_at_exit() {
  static const int registered = std::atexit(stop_computing);
  (void)registered;
}

}  // namespace gne_sdk
