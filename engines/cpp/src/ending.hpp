// What computes when the process ends. A runtime's own state is destroyed then, also under a thread that still uses it;
// so at the end inferences that run are waited for, and no other begins.
#pragma once

#include <shared_mutex>

namespace gne_sdk {

// Throws Failure with GNE_CLOSED in the thread that ends the process, which must not wait for those that wait below.
void refuse_at_the_end();

// Held while something computes. Once the process ends, other threads wait here until they are gone with it.
class Computing {
 public:
  Computing();

 private:
  std::shared_lock<std::shared_timed_mutex> lock_;
};

// Called when a runtime has computed once: what it made until then is destroyed after inferences have ended.
void stop_computing_at_exit();

}  // namespace gne_sdk
