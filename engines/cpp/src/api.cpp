// The C boundary: checks what a caller can get wrong, and turns every exception into a status and a sentence.
#include <pthread.h>

#include <algorithm>
#include <new>

#include "failure.hpp"
#include "files.hpp"
#include "gne/gne.h"
#include "handles.hpp"
#include "last_error.hpp"

namespace {

using namespace gne_sdk;

constexpr uint32_t kMaxThreads = 256;

gne_status fail(gne_status status, const char* text) noexcept {
  keep_last_error(text);
  return status;
}

// While it lives, pthread_cancel ends the thread later: it unwinds by an exception that nobody may keep, and that could
// leave a runtime's locks taken.
class Uncancelled {
 public:
  Uncancelled() { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  Uncancelled(const Uncancelled&) = delete;
  Uncancelled& operator=(const Uncancelled&) = delete;
  ~Uncancelled() { ::pthread_setcancelstate(before_, nullptr); }

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

template <typename Call>
gne_status guarded(Call call) noexcept {
  const Uncancelled uncancelled;
  try {
    call();
    return GNE_OK;
  } catch (const Failure& failure) {
    return fail(failure.status(), failure.what());
  } catch (const std::bad_alloc&) {
    return fail(GNE_NO_MEMORY, kNoMemory);
  } catch (const std::exception& problem) {
    return fail(GNE_INTERNAL, problem.what());
  } catch (...) {
    return fail(GNE_INTERNAL, "an unknown exception");
  }
}

[[noreturn]] void refuse(const std::string& text) { throw Failure(GNE_BAD_ARGUMENT, text); }

void check_pointer(const void* pointer, const char* name) {
  if (!pointer) refuse(std::string(name) + " is NULL; give a pointer");
}

// An empty vector's pointer may be NULL: as an image it is a damaged one.
Bytes bytes_of(const uint8_t* data, size_t size) {
  if (size) check_pointer(data, "data");
  return {data, size};
}

// A struct of the caller's has its size. None was ever shorter than today; a later gne.h's may be longer.
template <typename Struct>
void check_size(const Struct* given, const char* name) {
  check_pointer(given, name);
  if (given->size >= sizeof(Struct)) return;
  refuse(std::string(name) + ".size is " + std::to_string(given->size) + "; set it to sizeof of the struct");
}

// The part of a struct that this library knows; what a later gne.h has beyond it must be zero.
template <typename Struct>
Struct known_part(const Struct* given, const char* name) {
  check_size(given, name);
  const size_t size = given->size, known = sizeof(Struct);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (size > 16 * known || std::any_of(bytes + known, bytes + size, [](unsigned char byte) { return byte != 0; })) {
    refuse(std::string(name) + ".size is " + std::to_string(size) + ", of a newer gne.h; upgrade libgne");
  }
  return *given;
}

EngineOptions read_options(const gne_options* given) {
  if (!given) return {};
  const gne_options options = known_part(given, "options");
  if (options.threads < 1 || options.threads > kMaxThreads) {
    refuse("options.threads is " + std::to_string(options.threads) + "; give 1 to " + std::to_string(kMaxThreads));
  }
  return {options.threads, options.runtime ? options.runtime : ""};
}

// The k best classes of what `fill` makes the pixels of.
template <typename Fill>
gne_status classify(const gne_engine* engine, size_t k, gne_prediction* predictions, Fill fill) noexcept {
  return guarded([&] {
    const auto opened = find_handle(engine);
    check_pointer(predictions, "predictions");
    opened->check_k(k);
    std::vector<uint8_t> pixels(opened->pixel_bytes());
    fill(*opened, pixels.data());
    std::vector<float> logits(opened->labels().size());
    opened->run(pixels.data(), 1, logits.data());
    opened->rank(logits.data(), k, predictions);
  });
}

void check_room(const Engine& engine, const uint8_t* pixels, size_t size) {
  check_pointer(pixels, "pixels");
  if (size < engine.pixel_bytes()) {
    refuse("pixels has room for " + std::to_string(size) + " bytes, " + std::to_string(engine.pixel_bytes()) +
           " are needed; see gne_describe");
  }
}

// How many images a batch holds.
size_t count_of(const Engine& engine, size_t pixels_size, size_t logits_size) {
  const size_t each = engine.pixel_bytes(), classes = engine.labels().size(), count = pixels_size / each;
  if (count == 0 || pixels_size % each || logits_size % classes || logits_size / classes != count) {
    refuse("the batch has " + std::to_string(pixels_size) + " pixel bytes and room for " + std::to_string(logits_size) +
           " logits; give " + std::to_string(each) + " and " + std::to_string(classes) + " for every image");
  }
  return count;
}

}  // namespace

const char* gne_version(void) { return GNE_VERSION_TEXT; }

uint32_t gne_abi(void) { return GNE_ABI; }

const char* gne_status_name(int status) {
  constexpr const char* kNames[] = {"GNE_OK",          "GNE_BAD_ARGUMENT", "GNE_CLOSED",    "GNE_BAD_BUNDLE",
                                    "GNE_BAD_RUNTIME", "GNE_BAD_IMAGE",    "GNE_NO_MEMORY", "GNE_INTERNAL"};
  return status >= GNE_OK && status <= GNE_INTERNAL ? kNames[status] : "an unknown status";
}

const char* gne_last_error(void) { return last_error(); }

gne_status gne_open(const char* bundle, const gne_options* options, gne_engine** engine) {
  return guarded([&] {
    check_pointer(engine, "engine");
    *engine = nullptr;
    check_pointer(bundle, "bundle");
    *engine = add_handle(std::make_shared<const Engine>(Engine::open(bundle, read_options(options))));
  });
}

gne_status gne_close(gne_engine* engine) {
  return guarded([&] {
    if (engine) remove_handle(engine);
  });
}

gne_status gne_describe(const gne_engine* engine, gne_info* info) {
  return guarded([&] {
    const auto opened = find_handle(engine);
    check_size(info, "info");
    *info = opened->info();
  });
}

gne_status gne_label(const gne_engine* engine, size_t index, const char** label) {
  return guarded([&] {
    const auto opened = find_handle(engine);
    check_pointer(label, "label");
    const auto& labels = opened->labels();
    if (index >= labels.size()) {
      refuse("index is " + std::to_string(index) + ", but the bundle has " + std::to_string(labels.size()) +
             " classes; ask for 0 to " + std::to_string(labels.size() - 1));
    }
    *label = labels[index].c_str();
  });
}

gne_status gne_classify_file(const gne_engine* engine, const char* path, size_t k, gne_prediction* predictions) {
  return classify(engine, k, predictions, [&](const Engine& opened, uint8_t* pixels) {
    check_pointer(path, "path");
    opened.pixels_of(read_file(path, kMaxFileBytes, GNE_BAD_IMAGE), path, pixels);
  });
}

gne_status gne_classify_jpeg(const gne_engine* engine, const uint8_t* data, size_t size, size_t k,
                             gne_prediction* predictions) {
  return classify(engine, k, predictions, [&](const Engine& opened, uint8_t* pixels) {
    opened.pixels_of(bytes_of(data, size), "the image", pixels);
  });
}

gne_status gne_classify_frame(const gne_engine* engine, const gne_frame* frame, size_t k, gne_prediction* predictions) {
  return classify(engine, k, predictions, [&](const Engine& opened, uint8_t* pixels) {
    opened.pixels_of(known_part(frame, "frame"), pixels);
  });
}

gne_status gne_pixels_of_jpeg(const gne_engine* engine, const uint8_t* data, size_t size, uint8_t* pixels,
                              size_t pixels_size) {
  return guarded([&] {
    const auto opened = find_handle(engine);
    const Bytes jpeg = bytes_of(data, size);
    check_room(*opened, pixels, pixels_size);
    opened->pixels_of(jpeg, "the image", pixels);
  });
}

gne_status gne_pixels_of_frame(const gne_engine* engine, const gne_frame* frame, uint8_t* pixels, size_t pixels_size) {
  return guarded([&] {
    const auto opened = find_handle(engine);
    check_room(*opened, pixels, pixels_size);
    opened->pixels_of(known_part(frame, "frame"), pixels);
  });
}

gne_status gne_run(const gne_engine* engine, const uint8_t* pixels, size_t pixels_size, float* logits,
                   size_t logits_size) {
  return guarded([&] {
    const auto opened = find_handle(engine);
    const size_t count = count_of(*opened, pixels_size, logits_size);  // first: an empty vector's pointer may be NULL
    check_pointer(pixels, "pixels");
    check_pointer(logits, "logits");
    opened->run(pixels, count, logits);
  });
}

gne_status gne_rank(const gne_engine* engine, const float* logits, size_t logits_size, size_t k,
                    gne_prediction* predictions) {
  return guarded([&] {
    const auto opened = find_handle(engine);
    if (logits_size != opened->labels().size()) {
      refuse("there are " + std::to_string(logits_size) + " logits, the bundle has " +
             std::to_string(opened->labels().size()) + " classes; give one row of gne_run");
    }
    check_pointer(logits, "logits");
    check_pointer(predictions, "predictions");
    opened->rank(logits, k, predictions);
  });
}
