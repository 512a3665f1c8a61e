// JSON, as much of it as a manifest needs: strict, without repeated keys, and the schema's keywords.

#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
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
  std::map<std::string, Json> keys;

  bool has(const std::string& key) const { return keys.count(key) > 0; }

  const Json& operator[](const std::string& key) const {
    auto found = keys.find(key);
    if (found == keys.end()) throw Broken("`" + key + "` is missing");
    return found->second;
  }

  const char* kind_name() const {
    static const char* names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    return names[kind];
  }

  bool equals(const Json& other) const {
    if (kind == kString || other.kind == kString) return kind == other.kind && text == other.text;
    if (kind >= kArray || other.kind >= kArray) return false;
    return kind == other.kind && number == other.number && boolean == other.boolean;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json whole() {
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
      if (!value.keys.emplace(key, read(depth + 1)).second) fail("a key is there twice");
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
    value.kind = found[1].matched || found[2].matched ? Json::kNumber : Json::kInteger;
    value.number = std::strtod(found.str(0).c_str(), nullptr);
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
      code = 0x10000 + ((code - 0xd800) << 10) + (quad() - 0xdc00);
    }
    if (code < 0x80) {
      *found += static_cast<char>(code);
      return;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *found += static_cast<char>((0xf00 >> more & 0xff) | (code >> 6 * more));
    while (more-- > 0) *found += static_cast<char>(0x80 | (code >> 6 * more & 0x3f));
  }

  const std::string& text_;
  size_t at_ = 0;
};

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
  if (!known) fail("has an unknown value");
  if (value.kind == Json::kString && schema.has("pattern") && !std::regex_match(value.text, std::regex(schema["pattern"].text)))
    fail("has a malformed value");
  if ((value.kind == Json::kInteger || value.kind == Json::kNumber) && schema.has("minimum") && value.number < schema["minimum"].number)
    fail("is too small");
  if (value.kind == Json::kArray && schema.has("items"))
    for (size_t index = 0; index < value.items.size(); ++index)
      check_schema(value.items[index], schema["items"], defs, where + std::to_string(index) + ".");
  if (value.kind != Json::kObject) return;
  if (schema.has("required"))
    for (const Json& key : schema["required"].items)
      if (!value.has(key.text)) fail_at(where + key.text, "is missing");
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

inline std::string json_text(const std::string& text) {
  std::string found = "\"";
  for (unsigned char sign : text) {
    char code[8];
    std::snprintf(code, sizeof code, sign == '"' || sign == '\\' ? "\\%c" : sign < 0x20 ? "\\u%04x" : "%c", sign);
    found += code;
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
