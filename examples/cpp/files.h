// The files of a bundle: hashes (SHA-256, FIPS 180-4), and the arrays of `.npz` files.

#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "json.h"

namespace fs = std::filesystem;

inline std::string read_file(const fs::path& path, uintmax_t limit, const std::string& name) {
  fs::file_status status = fs::symlink_status(path);
  if (!fs::exists(status)) throw Broken("`" + name + "` is missing");
  if (!fs::is_regular_file(status) || fs::file_size(path) > limit)
    throw Broken("`" + name + "` is not a regular file of reasonable size");
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream content;
  content << stream.rdbuf();
  if (!stream) throw Broken("`" + name + "` cannot be read");
  return content.str();
}

class Sha256 {
 public:
  void add(const unsigned char* bytes, size_t size) {
    total_ += size;
    for (size_t index = 0; index < size; ++index) {
      block_[used_++] = bytes[index];
      if (used_ == 64) mix();
    }
  }

  std::string hexadecimal() {
    uint64_t bits = total_ * 8;
    unsigned char end = 0x80, zero = 0;
    add(&end, 1);
    while (used_ != 56) add(&zero, 1);
    for (int shift = 56; shift >= 0; shift -= 8) {
      unsigned char byte = static_cast<unsigned char>(bits >> shift);
      add(&byte, 1);
    }
    char text[65];
    for (int word = 0; word < 8; ++word) std::snprintf(text + 8 * word, 9, "%08x", state_[word]);
    return text;
  }

 private:
  static uint32_t turn(uint32_t x, int by) { return x >> by | x << (32 - by); }

  // The constants are the fractions of the roots of the first primes, as the standard defines them.
  static const std::array<uint32_t, 64>& constants() {
    static const std::array<uint32_t, 64> table = [] {
      std::array<uint32_t, 64> found{};
      int count = 0;
      for (int number = 2; count < 64; ++number) {
        bool is_prime = true;
        for (int by = 2; by * by <= number; ++by) is_prime &= number % by != 0;
        if (is_prime) found[count++] = fraction(std::cbrt(static_cast<long double>(number)));
      }
      return found;
    }();
    return table;
  }

  static uint32_t fraction(long double root) {
    return static_cast<uint32_t>((root - std::floor(root)) * 4294967296.0L);
  }

  void mix() {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i)
      w[i] = uint32_t{block_[4 * i]} << 24 | block_[4 * i + 1] << 16 | block_[4 * i + 2] << 8 | block_[4 * i + 3];
    for (int i = 16; i < 64; ++i) {
      uint32_t a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
      uint32_t b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    std::array<uint32_t, 8> s = state_;
    for (int i = 0; i < 64; ++i) {
      uint32_t one = s[7] + (turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + constants()[i] + w[i];
      uint32_t two = (turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {one + two, s[0], s[1], s[2], s[3] + one, s[4], s[5], s[6]};
    }
    for (int i = 0; i < 8; ++i) state_[i] += s[i];
    used_ = 0;
  }

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_{};
  size_t used_ = 0;
  uint64_t total_ = 0;
};

inline std::string file_sha256(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::vector<char> block(1 << 20);
  Sha256 digest;
  while (stream) {
    stream.read(block.data(), static_cast<std::streamsize>(block.size()));
    digest.add(reinterpret_cast<unsigned char*>(block.data()), static_cast<size_t>(stream.gcount()));
  }
  return digest.hexadecimal();
}

struct Array {
  std::string type;  // of numpy: "<f4"
  std::vector<int64_t> dims;
  std::string bytes;

  size_t width() const { return type == "|b1" || type == "|i1" || type == "|u1" ? 1 : static_cast<size_t>(type.back() - '0'); }
  bool is_float() const { return type[1] == 'f'; }
  const char* kind() const { return is_float() ? "floats" : type[1] == 'b' ? "booleans" : "integers"; }
  size_t size() const { return bytes.size() / width(); }

  double at(size_t index) const {
    const char* place = bytes.data() + index * width();
    auto as = [&](auto kind) {
      std::memcpy(&kind, place, sizeof kind);
      return kind;
    };
    if (type == "<f4") return as(float{});
    if (type == "<f8") return as(double{});
    if (type == "<f2") return half(as(uint16_t{}));
    throw Broken("an array of " + type + " is no array of floats");
  }

  // An integer by its sign and its lowest 64 bits, in which those of all widths can be compared.
  std::pair<bool, uint64_t> whole(size_t index) const {
    const char* place = bytes.data() + index * width();
    bool is_negative = type[1] == 'i' && static_cast<signed char>(place[width() - 1]) < 0;
    uint64_t bits = is_negative ? ~uint64_t{0} : 0;
    std::memcpy(&bits, place, width());  // the least byte comes first here and in the file
    return {is_negative, bits};
  }

  // The dimensions as Python writes them: `(3,)`.
  std::string shape() const {
    std::string text;
    for (int64_t size : dims) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "(" + text + (dims.size() == 1 ? ",)" : ")");
  }

  static double half(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1 + fraction / 1024.0, exponent - 15) : std::ldexp(fraction / 1024.0, -14));
  }
};

inline Array read_npy(const std::string& content) {
  if (content.size() < 12 || content.compare(0, 6, "\x93NUMPY") != 0) throw Broken("it holds no array");
  auto byte = [&](size_t at) { return static_cast<unsigned char>(content[at]); };
  size_t start = content[6] == 1 ? 10 : 12;
  size_t length = byte(8) | byte(9) << 8;
  if (start == 12) length |= static_cast<size_t>(byte(10)) << 16 | static_cast<size_t>(byte(11)) << 24;
  constexpr size_t kLongestHeader = 4096;  // what is longer would fill the stack below
  if (start + length > content.size()) throw Broken("an array ends too early");
  if (length > kLongestHeader) throw Broken("an array has too long a header");
  std::string header = content.substr(start, length);
  std::smatch found;
  Array array;
  if (!std::regex_search(header, found, std::regex("'descr': *'([<|][a-z][1248])'"))) throw Broken("an array has a type that is not known here");
  array.type = found[1];
  if (header.find("'fortran_order': True") != std::string::npos) throw Broken("an array is in Fortran's order");
  if (!std::regex_search(header, found, std::regex("'shape': *\\(([^)]*)\\)"))) throw Broken("an array has no shape");
  static const std::regex numerals("[0-9]+");
  std::string shape = found[1];
  size_t count = 1;
  for (std::sregex_iterator number(shape.begin(), shape.end(), numerals), none; number != none; ++number) {
    array.dims.push_back(std::stoll(number->str()));
    count *= static_cast<size_t>(array.dims.back());
  }
  array.bytes = content.substr(start + length);
  if (array.bytes.size() != count * array.width()) throw Broken("an array ends too early");
  return array;
}

// An entry of an archive's table of contents (the ZIP format's central directory).
struct Entry {
  std::string name;
  size_t method = 0, sum = 0, stored_size = 0, unpacked_size = 0, start = 0;
};

// The check sum of the ZIP format: CRC-32 with the polynomial 0xedb88320.
inline uint32_t crc32(const std::string& bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> found{};
    for (uint32_t index = 0; index < 256; ++index) {
      found[index] = index;
      for (int bit = 0; bit < 8; ++bit) found[index] = found[index] >> 1 ^ (found[index] & 1 ? 0xedb88320u : 0);
    }
    return found;
  }();
  uint32_t sum = ~uint32_t{0};
  for (unsigned char byte : bytes) sum = sum >> 8 ^ table[(sum ^ byte) & 255];
  return ~sum;
}

class Archive {
 public:
  explicit Archive(const std::string& content) : content_(content) {
    size_t end = content.rfind("PK\x05\x06");
    if (end == std::string::npos) throw Broken("it is not a zip file");
    size_t at = number(end + 16, 4);
    for (size_t left = number(end + 10, 2); left > 0; --left) {
      Entry entry{{}, number(at + 10, 2), number(at + 16, 4), number(at + 20, 4), number(at + 24, 4), number(at + 42, 4)};
      size_t name_length = number(at + 28, 2);
      number(at + 46 + name_length, 0);  // it does not end within the name
      entry.name = content.substr(at + 46, name_length);
      entries.push_back(entry);
      at += 46 + name_length + number(at + 30, 2) + number(at + 32, 2);
    }
  }

  // The content of an entry that is stored as it is.
  std::string stored(const Entry& entry) const {
    size_t name_length = number(entry.start + 26, 2);
    size_t from = entry.start + 30 + name_length + number(entry.start + 28, 2);
    if (from + entry.stored_size > content_.size()) throw Broken("it ends too early");
    std::string found = content_.substr(from, entry.stored_size);
    if (found.size() != entry.unpacked_size || crc32(found) != entry.sum || content_.substr(entry.start + 30, name_length) != entry.name)
      throw Broken("`" + entry.name + "` is damaged");
    return found;
  }

  std::vector<Entry> entries;

 private:
  size_t number(size_t at, int bytes) const {
    uint64_t value = 0;
    if (at + static_cast<size_t>(bytes) > content_.size()) throw Broken("it ends too early");
    for (int i = bytes - 1; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(content_[at + static_cast<size_t>(i)]);
    return static_cast<size_t>(value);
  }

  const std::string& content_;
};

constexpr size_t kMaxRecordBytes = 64u << 20;  // twice what graphopt records in one bundle

// Throw `Broken` for a record that is a bomb, or is compressed; graphopt compresses none, and what
// is not unpacked here cannot fill the memory. What is no archive is told when it is read.
inline void check_record(const std::string& content, const std::string& name) {
  std::vector<Entry> entries;
  try {
    entries = Archive(content).entries;
  } catch (const Broken&) {
    return;
  }
  size_t total = 0;
  bool is_compressed = false;
  for (const Entry& entry : entries) {
    total += entry.unpacked_size;
    is_compressed |= entry.method != 0;
  }
  if (total > kMaxRecordBytes) throw Broken("`" + name + "` unpacks to " + std::to_string(total) + " bytes, more than " + std::to_string(kMaxRecordBytes));
  if (is_compressed) throw Broken("`" + name + "` is compressed, which is not read here");
}

inline std::map<std::string, Array> read_npz(const std::string& content) {
  Archive archive(content);
  std::map<std::string, Array> arrays;
  for (const Entry& entry : archive.entries) {
    std::string name = entry.name;
    if (entry.method != 0) throw Broken("it is compressed, which is not read here");
    if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) name.resize(name.size() - 4);
    arrays[name] = read_npy(archive.stored(entry));
  }
  return arrays;
}
