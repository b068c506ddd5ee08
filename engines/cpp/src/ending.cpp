#include "ending.hpp"

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

void stop_computing() {
  ending = true;
  (void)mutex().try_lock_for(kLongest);  // and it is never given back
}

}  // namespace

Computing::Computing() {
  if (ending) throw Failure(GNE_CLOSED, "the process ends, and nothing is computed any more; classify before");
  lock_ = std::shared_lock(mutex());
}

void stop_computing_at_exit() {
  static const int registered = std::atexit(stop_computing);
  (void)registered;
}

}  // namespace gne_sdk
