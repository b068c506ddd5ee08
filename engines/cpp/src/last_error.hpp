// The text of a thread's last failed call.
//
// Nothing here needs memory to say that there is none. thread_local would, in a library that dlopen loaded, and the C
// library ends the process where it gets none.
#pragma once

namespace gne_sdk {

constexpr const char* kNoMemory = "there is not enough memory; free some, or use smaller images, or fewer at once";

// Keeps a text. What steers a terminal or cannot be seen, such as in a hostile file's name, becomes a question mark.
void keep_last_error(const char* text) noexcept;

// Valid until the thread's next call; never NULL.
const char* last_error() noexcept;

}  // namespace gne_sdk
