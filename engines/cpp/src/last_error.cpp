#include "last_error.hpp"

#include <pthread.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "letters.hpp"

namespace gne_sdk {
namespace {

constexpr size_t kMaxText = 8192;  // a path may have half of it

// What a thread has: a buffer of its own from its first failure on, or kNoMemory, or nothing.
class Texts {
 public:
  Texts() : works_(::pthread_key_create(&key_, forget) == 0) {}

  char* buffer() const {
    void* const found = get();
    return found == no_memory() ? nullptr : static_cast<char*>(found);
  }
  const char* text() const {
    const void* const found = get();
    return found ? static_cast<const char*>(found) : "";
  }
  bool put(void* text) const { return works_ && ::pthread_setspecific(key_, text) == 0; }

  static void* no_memory() { return const_cast<char*>(kNoMemory); }

 private:
  static void forget(void* text) {
    if (text != no_memory()) std::free(text);
  }
  void* get() const { return works_ ? ::pthread_getspecific(key_) : nullptr; }

  pthread_key_t key_{};
  bool works_;
};

const Texts& texts() {
  static const Texts all;
  return all;
}

char* buffer_of_this_thread() {
  if (char* const there = texts().buffer()) return there;
  auto* const made = static_cast<char*>(std::malloc(kMaxText));
  if (made && texts().put(made)) return made;
  std::free(made);
  return nullptr;
}

bool is_space(uint32_t code) { return code == '\n' || code == '\t' || code == '\r'; }

// As much of the text as there is room for, not cut within a letter.
void write(std::string_view text, char* to) {
  char* const end = to + kMaxText - 1;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const auto code = next_code_point(text, at);
    if (!code) ++at;
    const bool shown = code && !is_unseen(*code);
    const size_t size = shown ? at - start : 1;
    if (size > static_cast<size_t>(end - to)) break;
    if (shown) {
      std::memcpy(to, text.data() + start, size);
    } else {
      *to = code && is_space(*code) ? ' ' : '?';
    }
    to += size;
  }
  *to = '\0';
}

}  // namespace

void keep_last_error(const char* text) noexcept {
  if (char* const to = buffer_of_this_thread()) {
    write(text, to);
  } else {
    (void)texts().put(Texts::no_memory());
  }
}

const char* last_error() noexcept { return texts().text(); }

}  // namespace gne_sdk
