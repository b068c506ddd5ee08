#include "handles.hpp"

#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

#include "failure.hpp"

namespace gne_sdk {
namespace {

struct Table {
  std::shared_mutex mutex;
  std::unordered_map<uintptr_t, std::shared_ptr<const Engine>> engines;
  uintptr_t last = 0;
};

// Never destroyed: other threads may still compute while the process ends.
Table& table() {
  static auto* const all = new Table;
  return *all;
}

[[noreturn]] void refuse(const gne_engine* handle) {
  if (!handle) throw Failure(GNE_BAD_ARGUMENT, "the engine is NULL; give one from gne_open");
  throw Failure(GNE_CLOSED, "the engine is closed, or was never opened; open the bundle again");
}

}  // namespace

gne_engine* add_handle(std::shared_ptr<const Engine> engine) {
  const std::unique_lock lock(table().mutex);
  table().last += 16;  // as aligned as a pointer
  table().engines.emplace(table().last, std::move(engine));
  return reinterpret_cast<gne_engine*>(table().last);
}

std::shared_ptr<const Engine> find_handle(const gne_engine* handle) {
  const std::shared_lock lock(table().mutex);
  const auto found = table().engines.find(reinterpret_cast<uintptr_t>(handle));
  if (found == table().engines.end()) refuse(handle);
  return found->second;
}

std::shared_ptr<const Engine> remove_handle(const gne_engine* handle) {
  const std::unique_lock lock(table().mutex);
  const auto found = table().engines.find(reinterpret_cast<uintptr_t>(handle));
  if (found == table().engines.end()) refuse(handle);
  auto engine = std::move(found->second);
  table().engines.erase(found);
  return engine;
}

}  // namespace gne_sdk
