#include "ending.hpp"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "failure.hpp"

namespace gne_sdk {
namespace {

constexpr std::chrono::seconds kLongest{10};  // that is waited for

// Never destroyed, as the handles.
std::shared_timed_mutex& mutex() {
  static auto* const all = new std::shared_timed_mutex;
  return *all;
}

std::atomic<std::thread::id> ender{};  // the thread that ends the process
std::atomic<pid_t> opener{0};  // the process that opened a bundle; others were forked from it
std::atomic<bool> over{false};  // the lock alone would not end it: whoever shares it goes before who wants it alone

bool is_forked() { return opener != 0 && opener != ::getpid(); }

void stop_computing() {
  ender = std::this_thread::get_id();
  if (over.exchange(true)) return;
  if (!is_forked()) (void)mutex().try_lock_for(kLongest);  // and it is never given back
}

}  // namespace

Computing::Computing(Places* places) {
  if (ender.load() == std::this_thread::get_id()) {
    throw Failure(GNE_CLOSED, "the process ends, and nothing is computed any more; classify before");
  }
  if (places) place_.emplace(*places);  // before the lock, so that at the end nobody waits for those who wait here
  lock_ = std::shared_lock(mutex());
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
