#include "ending.hpp"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>

#include "failure.hpp"

namespace gne_sdk {
namespace {

constexpr std::chrono::seconds kLongest{10};  // that is waited for

// Never destroyed, as the handles.
std::shared_timed_mutex& mutex() {
  static auto* const all = new std::shared_timed_mutex;
  return *all;
}

thread_local bool ending = false;
std::atomic<pid_t> opener{0};  // the process that opened a bundle; others were forked from it
std::atomic<bool> over{false};  // the lock alone would not end it: whoever shares it goes before who wants it alone

bool is_forked() { return opener != 0 && opener != ::getpid(); }

void stop_computing() {
  ending = true;
  if (over.exchange(true)) return;
  if (!is_forked()) (void)mutex().try_lock_for(kLongest);  // and it is never given back
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

GivingBack::GivingBack() : lock_(mutex(), std::defer_lock) {
  if (!is_forked()) (void)lock_.try_lock();  // only who ends the process wants it alone
}

bool GivingBack::is_allowed() const { return lock_.owns_lock() && !over; }

void stop_computing_at_exit() {
  pid_t nobody = 0;
  (void)opener.compare_exchange_strong(nobody, ::getpid());
  (void)std::atexit(stop_computing);  // of those that are registered, the last is the first that is called
}

}  // namespace gne_sdk
