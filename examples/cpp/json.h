// JSON, as much of it as a manifest needs: strict, without repeated keys, and the schema's keywords.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <regex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// The bundle or the device is not what the manifest says: exit status 2.
struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The bundle is whole, but gives other numbers or misses a goal: exit status 1.
struct Wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A check that cannot be made here, though nothing is wrong.
struct Skipped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Json {
  enum Kind { kNull, kBoolean, kInteger, kNumber, kString, kArray, kObject };
  Kind kind = kNull;
  bool boolean = false;
  double number = 0;
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> keys;  // in the order of the file, in which things are told

  bool has(const std::string& key) const { return places_.count(key) > 0; }

  const Json& operator[](const std::string& key) const {
    auto found = places_.find(key);
    if (found == places_.end()) throw Broken("`" + key + "` is missing");
    return keys[found->second].second;
  }

  // Returns false where the key is there.
  bool add(const std::string& key, Json value) {
    if (!places_.emplace(key, keys.size()).second) return false;
    keys.emplace_back(key, std::move(value));
    return true;
  }

  // A number of things, which no memory holds more of than 2^53.
  size_t count() const { return static_cast<size_t>(std::min(std::max(number, 0.0), 9007199254740992.0)); }

  const char* kind_name() const {
    static const char* names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    return names[kind];
  }

  bool equals(const Json& other) const {
    if (kind == kString || other.kind == kString) return kind == other.kind && text == other.text;
    if (kind >= kArray || other.kind >= kArray) return false;
    return kind == other.kind && number == other.number && boolean == other.boolean;
  }

 private:
  std::map<std::string, size_t> places_;
};

// How many bytes the character at `at` has in UTF-8; 0 where there is none (RFC 3629).
inline size_t character_bytes(const std::string& text, size_t at) {
  auto byte = [&](size_t place) { return static_cast<unsigned char>(place < text.size() ? text[place] : 0); };
  unsigned first = byte(at), second = byte(at + 1);
  size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  for (size_t more = 1; more < length; ++more)
    if (byte(at + more) >> 6 != 2) return 0;
  bool is_too_long = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  bool is_outside = (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f);
  return is_too_long || is_outside ? 0 : length;
}

inline bool is_text(const std::string& bytes) {
  for (size_t at = 0, length; at < bytes.size(); at += length)
    if (!(length = character_bytes(bytes, at))) return false;
  return true;
}

// As JSON, whatever bytes there are: those that are no text become what Python makes of them.
inline std::string json_text(const std::string& text) {
  static const std::map<char, const char*> names = {{'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"},
                                                    {'\n', "\\n"}, {'\r', "\\r"},   {'\t', "\\t"}};
  std::string found = "\"";
  for (size_t at = 0, length; at < text.size(); at += length) {
    unsigned char sign = static_cast<unsigned char>(text[at]);
    char code[8];
    std::snprintf(code, sizeof code, "\\u%04x", sign < 0x80 ? sign : 0xdc00u + sign);
    length = character_bytes(text, at);
    if (auto name = names.find(text[at]); name != names.end()) found += name->second;
    else found += sign < 0x20 || !length ? code : text.substr(at, length);
    length = length ? length : 1;
  }
  return found + "\"";
}

// JSON has no number for what is infinite.
inline std::string numeral(double value) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

inline std::string quoted(const Json& value) {
  if (value.kind == Json::kString) return json_text(value.text);
  if (value.kind == Json::kBoolean) return value.boolean ? "true" : "false";
  return value.kind == Json::kNull ? "null" : numeral(value.number);
}

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json whole() {
    if (!is_text(text_)) fail("it is not text in UTF-8");
    Json value = read(0);
    skip();
    if (at_ != text_.size()) fail("something follows it");
    return value;
  }

 private:
  static constexpr int kDeepest = 100;

  [[noreturn]] void fail(const std::string& why) const { throw Broken("`manifest.json` is not valid JSON: " + why); }

  void skip() {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
  }

  char peek() {
    skip();
    if (at_ >= text_.size()) fail("it ends too early");
    return text_[at_];
  }

  void expect(char sign) {
    if (peek() != sign) fail(std::string("expected ") + sign);
    ++at_;
  }

  bool take(const char* word) {
    std::string wanted(word);
    if (text_.compare(at_, wanted.size(), wanted) != 0) return false;
    at_ += wanted.size();
    return true;
  }

  Json read(int depth) {
    if (depth > kDeepest) fail("it is too deep");
    Json value;
    char first = peek();
    if (first == '{') return object(depth);
    if (first == '[') return array(depth);
    if (first == '"') {
      value.kind = Json::kString;
      value.text = string();
    } else if (take("true") || take("false")) {
      value.kind = Json::kBoolean;
      value.boolean = text_[at_ - 2] == 'u';
    } else if (!take("null")) {
      return numeral();
    }
    return value;
  }

  Json object(int depth) {
    Json value;
    value.kind = Json::kObject;
    expect('{');
    while (peek() != '}') {
      if (!value.keys.empty()) expect(',');
      if (peek() != '"') fail("a key is no string");
      std::string key = string();
      expect(':');
      if (!value.add(key, read(depth + 1))) fail("a key is there twice");
    }
    ++at_;
    return value;
  }

  Json array(int depth) {
    Json value;
    value.kind = Json::kArray;
    expect('[');
    while (peek() != ']') {
      if (!value.items.empty()) expect(',');
      value.items.push_back(read(depth + 1));
    }
    ++at_;
    return value;
  }

  Json numeral() {
    static const std::regex form("-?(?:0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?");
    std::smatch found;
    std::string head = text_.substr(at_, 64);
    if (!std::regex_search(head, found, form, std::regex_constants::match_continuous)) fail("a value is none");
    at_ += found.length(0);
    Json value;
    value.number = std::strtod(found.str(0).c_str(), nullptr);
    value.kind = std::floor(value.number) == value.number && std::isfinite(value.number) ? Json::kInteger : Json::kNumber;
    return value;
  }

  std::string string() {
    std::string found;
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (static_cast<unsigned char>(text_[at_]) < 0x20) fail("a string has a control character");
      if (text_[at_] == '\\') escape(&found);
      else found += text_[at_];
    }
    if (at_ >= text_.size()) fail("a string does not end");
    ++at_;
    return found;
  }

  void escape(std::string* found) {
    static const std::string names = "\"\\/bfnrt", signs = "\"\\/\b\f\n\r\t";
    char name = ++at_ < text_.size() ? text_[at_] : ' ';
    if (auto place = names.find(name); place != std::string::npos) *found += signs[place];
    else if (name == 'u') point(found);
    else fail("an escape is unknown");
  }

  unsigned quad() {
    std::string digits = text_.substr(at_ + 1, 4);
    if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
      fail("an escape is unknown");
    at_ += 4;
    return static_cast<unsigned>(std::stoul(digits, nullptr, 16));
  }

  void point(std::string* found) {
    unsigned code = quad();
    if (code >= 0xd800 && code < 0xdc00 && text_.compare(at_ + 1, 2, "\\u") == 0) {
      at_ += 2;
      unsigned low = quad();
      if (low >= 0xdc00 && low < 0xe000) code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      else encode(code, found), code = low;
    }
    encode(code, found);
  }

  static void encode(unsigned code, std::string* found) {
    if (code < 0x80) {
      *found += static_cast<char>(code);
      return;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *found += static_cast<char>((0xf00 >> (more + 1) & 0xff) | (code >> 6 * more));
    while (more-- > 0) *found += static_cast<char>(0x80 | (code >> 6 * more & 0x3f));
  }

  const std::string& text_;
  size_t at_ = 0;
};

// This library's expressions call themselves for each character: a long one would fill the stack.
inline bool fits_pattern(const std::string& text, const std::string& pattern) {
  constexpr size_t kLongest = 1000;
  return text.size() <= kLongest && std::regex_match(text, std::regex(pattern));
}

// Throw `Broken` for the first way in which `value` breaks a schema; `where` ends with a point.
inline void check_schema(const Json& value, const Json& given, const Json& defs, const std::string& where) {
  const Json& schema = given.has("$ref") ? defs[given["$ref"].text.substr(given["$ref"].text.rfind('/') + 1)] : given;
  auto fail_at = [&](const std::string& place, const std::string& what) { throw Broken("`manifest.json` breaks the schema: `" + place + "` " + what); };
  auto fail = [&](const std::string& what) { fail_at(where.empty() ? where : where.substr(0, where.size() - 1), what); };
  if (schema.has("type")) {
    std::vector<Json> kinds = schema["type"].kind == Json::kArray ? schema["type"].items : std::vector<Json>{schema["type"]};
    bool fits = false;
    for (const Json& kind : kinds)
      fits |= kind.text == value.kind_name() || (kind.text == "number" && value.kind == Json::kInteger);
    if (!fits) fail(std::string("has the wrong type (") + value.kind_name() + ")");
  }
  bool known = !schema.has("enum") && !(schema.has("const") && !schema["const"].equals(value));
  for (const Json& one : schema.has("enum") ? schema["enum"].items : std::vector<Json>{}) known |= one.equals(value);
  if (!known) fail("has the unknown value " + quoted(value));
  if (value.kind == Json::kString && schema.has("pattern") && !fits_pattern(value.text, schema["pattern"].text))
    fail("has the malformed value " + quoted(value));
  bool is_number = value.kind == Json::kInteger || value.kind == Json::kNumber;
  if (is_number && schema.has("minimum") && value.number < schema["minimum"].number)
    fail("is " + numeral(value.number) + ", below " + numeral(schema["minimum"].number));
  if (value.kind == Json::kArray && schema.has("items"))
    for (size_t index = 0; index < value.items.size(); ++index)
      check_schema(value.items[index], schema["items"], defs, where + std::to_string(index) + ".");
  if (value.kind != Json::kObject) return;
  std::set<std::string> missing;
  for (const Json& key : schema.has("required") ? schema["required"].items : std::vector<Json>{})
    if (!value.has(key.text)) missing.insert(key.text);
  if (!missing.empty()) fail_at(where + *missing.begin(), "is missing");
  for (const auto& [key, item] : value.keys) {
    bool is_named = schema.has("properties") && schema["properties"].has(key);
    if (is_named) check_schema(item, schema["properties"][key], defs, where + key + ".");
    else if (schema.has("additionalProperties")) {
      const Json& others = schema["additionalProperties"];
      if (others.kind == Json::kBoolean && !others.boolean) fail_at(where + key, "is unknown");
      if (others.kind == Json::kObject) check_schema(item, others, defs, where + key + ".");
    }
  }
}
