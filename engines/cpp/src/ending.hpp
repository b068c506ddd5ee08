// What computes when the process ends. A runtime's own state is destroyed then, also under a thread that still uses it;
// so at the end what runs is waited for, ten seconds at most, and nothing else begins.
#pragma once

#include <shared_mutex>

namespace gne_sdk {

// Throws Failure with GNE_CLOSED in the thread that ends the process, which must not wait for those that wait below.
void refuse_at_the_end();

// Held while a bundle is opened or something computes. Once the process ends, other threads wait here until they are
// gone with it.
class Computing {
 public:
  Computing();

 private:
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
