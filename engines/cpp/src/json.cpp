#include "json.hpp"

#include <charconv>
#include <utility>

#include "letters.hpp"

namespace gne_sdk {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMostDigits = 32;  // of a number in a message

void append_utf8(std::string& to, uint32_t code) {
  const auto last = [&](int shift) { to += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    to += static_cast<char>(code);
  } else if (code < 0x800) {
    to += static_cast<char>(0xc0 | code >> 6);
    last(0);
  } else if (code < 0x10000) {
    to += static_cast<char>(0xe0 | code >> 12);
    last(6), last(0);
  } else {
    to += static_cast<char>(0xf0 | code >> 18);
    last(12), last(6), last(0);
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json whole() {
    Json value = parse_value(0);
    skip_space();
    if (at_ < text_.size()) fail("something follows the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw JsonError(std::string(what) + " at byte " + std::to_string(at_));
  }

  // The next byte, or 0 at the end; no byte of a whole JSON text is 0.
  char next() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  char take() {
    if (at_ >= text_.size()) fail("the text ends too early");
    return text_[at_++];
  }
  bool take_if(char wanted) {
    if (next() != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!take_if(wanted)) fail("a character is out of place");
  }
  void skip_space() {
    while (next() == ' ' || next() == '\n' || next() == '\t' || next() == '\r') ++at_;
  }
  bool next_is_digit() const { return next() >= '0' && next() <= '9'; }

  Json parse_value(int depth) {
    if (depth > kMaxDepth) fail("there are too many levels");
    skip_space();
    switch (next()) {
      case '{':
        return Json::Value(parse_object(depth));
      case '[':
        return Json::Value(parse_array(depth));
      case '"':
        return Json::Value(parse_string());
      case 't':
        return parse_word("true", true);
      case 'f':
        return parse_word("false", false);
      case 'n':
        return parse_word("null", Json::Null{});
      default:
        return Json::Value(parse_number());
    }
  }

  Json parse_word(std::string_view word, Json::Value value) {
    if (text_.substr(at_, word.size()) != word) fail("a word is unknown");
    at_ += word.size();
    return value;
  }

  Json::Object parse_object(int depth) {
    Json::Object members;
    expect('{');
    skip_space();
    if (take_if('}')) return members;
    do {
      skip_space();
      std::string name = parse_string();
      skip_space();
      expect(':');
      if (!members.emplace(std::move(name), parse_value(depth + 1)).second) fail("a name stands twice");
      skip_space();
    } while (take_if(','));
    expect('}');
    return members;
  }

  Json::Array parse_array(int depth) {
    Json::Array elements;
    expect('[');
    skip_space();
    if (take_if(']')) return elements;
    do {
      elements.push_back(parse_value(depth + 1));
      skip_space();
    } while (take_if(','));
    expect(']');
    return elements;
  }

  Json::Number parse_number() {
    const size_t start = at_;
    take_if('-');
    if (!take_if('0')) take_digits();
    if (take_if('.')) take_digits();
    if (take_if('e') || take_if('E')) {
      if (!take_if('+')) take_if('-');
      take_digits();
    }
    return {std::string(text_.substr(start, at_ - start))};
  }

  void take_digits() {
    if (!next_is_digit()) fail("a digit is missing");
    while (next_is_digit()) ++at_;
  }

  std::string parse_string() {
    std::string text;
    expect('"');
    for (char c = take(); c != '"'; c = take()) {
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character stands in a string");
      if (c == '\\') {
        append_escape(text);
      } else {
        text += c;
      }
    }
    if (!is_utf8(text)) fail("a string is not UTF-8");
    return text;
  }

  void append_escape(std::string& text) {
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const char name = take();
    if (name == 'u') {
      append_utf8(text, parse_code_point());
    } else if (const size_t which = kNames.find(name); which != std::string_view::npos) {
      text += kMeanings[which];
    } else {
      fail("an escape is unknown");
    }
  }

  uint32_t parse_code_point() {
    const uint32_t first = parse_hex4();
    if (first < 0xd800 || first > 0xdfff) return first;
    if (first > 0xdbff || !take_if('\\') || !take_if('u')) fail("half a surrogate pair stands alone");
    const uint32_t second = parse_hex4();
    if (second < 0xdc00 || second > 0xdfff) fail("half a surrogate pair stands alone");
    return 0x10000 + (first - 0xd800) * 0x400 + (second - 0xdc00);
  }

  uint32_t parse_hex4() {
    const std::string_view digits = text_.substr(at_, 4);
    uint32_t code = 0;
    const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16).ptr;
    if (end - digits.data() != 4) fail("an escape is cut off");
    at_ += 4;
    return code;
  }

  std::string_view text_;
  size_t at_ = 0;
};

template <typename Kind>
const Kind& as(const Json::Value& value, const char* kind) {
  const Kind* found = std::get_if<Kind>(&value);
  if (!found) throw JsonError(std::string("a value is not ") + kind);
  return *found;
}

}  // namespace

Json::Json(Value value) : value_(std::make_unique<Value>(std::move(value))) {}
Json::Json(Json&&) noexcept = default;
Json::~Json() = default;

const Json& Json::at(std::string_view name) const {
  const Object& members = object();
  const auto found = members.find(name);
  if (found == members.end()) throw JsonError("\"" + std::string(name) + "\" is missing");
  return found->second;
}

const Json::Object& Json::object() const { return as<Object>(*value_, "an object"); }

const std::string& Json::string() const { return as<std::string>(*value_, "a string"); }

int64_t Json::integer(int64_t least, int64_t most) const {
  const std::string& text = as<Number>(*value_, "a number").text;
  int64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || end != text.data() + text.size() || number < least || number > most) {
    const std::string shown = text.size() <= kMostDigits ? text : "a long number";
    throw JsonError(shown + " is not a whole number of " + std::to_string(least) + " to " + std::to_string(most));
  }
  return number;
}

Json parse_json(std::string_view text) { return Parser(text).whole(); }

}  // namespace gne_sdk
