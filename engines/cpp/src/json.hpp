// A strict reader of JSON (RFC 8259) for the manifest: nothing but what the grammar allows, no duplicate names,
// at most 64 levels. Numbers stay text, because the manifest's numbers that libgne computes with are whole.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace gne_sdk {

// What is wrong with a text or a value, in a few words.
class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  struct Null {};
  struct Number {
    std::string text;
  };
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json, std::less<>>;
  using Value = std::variant<Null, bool, Number, std::string, Array, Object>;

  Json(Value value);  // NOLINT: meant to convert
  Json(Json&&) noexcept;
  ~Json();

  // Each throws JsonError where the value is of another kind, or has no such member.
  const Json& at(std::string_view name) const;
  const Object& object() const;
  const std::string& string() const;
  int64_t integer(int64_t least, int64_t most) const;

 private:
  std::unique_ptr<Value> value_;
};

// Throws JsonError.
Json parse_json(std::string_view text);

}  // namespace gne_sdk
