// What computes when the process ends. A runtime's own state is destroyed then, also under a thread that still uses it;
// so at the end what runs is waited for, ten seconds at most, and nothing else begins.
#pragma once

#include <optional>
#include <shared_mutex>

#include "places.hpp"

namespace gne_sdk {

// Held while a bundle is opened, or while something computes in one of an engine's places. Once the process ends, other
// threads wait here until they are gone with it; the thread that ends it must not wait for them, and gets a Failure
// with GNE_CLOSED.
class Computing {
 public:
  explicit Computing(Places* places = nullptr);

 private:
  std::optional<Places::Taken> place_;
  std::shared_lock<std::shared_timed_mutex> lock_;
};

// Held while what a runtime made is given back. Does not wait: once the process ends, or in a process that was forked
// from the one that opened it, it is not allowed, and what was made is left as it is.
class GivingBack {
 public:
  GivingBack();
  bool is_allowed() const;

 private:
  std::shared_lock<std::shared_timed_mutex> lock_;
};

// Called whenever an opened bundle has computed once: what its runtime made until then is destroyed after inferences
// have ended. A process that is forked later waits for nobody, because the threads that compute are not in it.
void stop_computing_at_exit();

}  // namespace gne_sdk
