// Who made a bundle? The signature of its manifest, in the form of minisign 0.11: Ed25519 over the
// manifest (`Ed`) or over its BLAKE2b-512 (`ED`), and over signature and trusted comment together.
// The mathematics is libsodium's: build with -DGRAPHOPT_SODIUM and link with -lsodium. Without it
// whoever gives a key is told that nothing was checked, and the bundle is refused.

#pragma once

#include <string>
#include <vector>

#include "files.h"

#ifdef GRAPHOPT_SODIUM
#include <sodium.h>
#endif

constexpr uintmax_t kMaxSignatureBytes = 4096;

struct PublicKey {
  std::string identity, key;  // 8 bytes by which a signature names its key, and the key's 32
};

// A key's name as minisign prints it: a number whose first byte is the least.
inline std::string key_name(const std::string& identity) {
  std::string text;
  char digits[3];
  for (auto byte = identity.rbegin(); byte != identity.rend(); ++byte) {
    std::snprintf(digits, sizeof digits, "%02X", static_cast<unsigned char>(*byte));
    text += digits;
  }
  return text;
}

inline std::string from_base64(std::string text, const std::string& what) {
  static const std::string signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char* blank = " \t\r\n\f\v";
  text.erase(0, std::min(text.find_first_not_of(blank), text.size()));
  text.erase(text.find_last_not_of(blank) + 1);
  size_t filled = text.size() - std::min<size_t>(2, text.size() - std::min(text.find('='), text.size()));
  std::string found;
  unsigned bits = 0, kept = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    size_t value = signs.find(text[at]);
    if (at < filled ? value == std::string::npos : text[at] != '=') throw Broken(what + " is not base64");
    if (at >= filled) continue;
    bits = bits << 6 | static_cast<unsigned>(value), kept += 6;
    if (kept >= 8) kept -= 8, found += static_cast<char>(bits >> kept & 0xff);
  }
  if (text.size() % 4) throw Broken(what + " is not base64");
  return found;
}

inline std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines(1);
  for (char sign : text) {
    if (sign == '\n') lines.emplace_back();
    else lines.back() += sign;
  }
  return lines;
}

// Read the content of a `minisign.pub`, or its second line alone.
inline PublicKey read_public_key(const std::string& text) {
  std::string last;
  for (const std::string& line : split_lines(text))
    if (line.find_first_not_of(" \t\r\f\v") != std::string::npos) last = line;
  std::string content = from_base64(last, "the public key");
  if (content.size() != 42 || content.compare(0, 2, "Ed") != 0) throw Broken("the public key is not one of minisign");
  return {content.substr(2, 8), content.substr(10)};
}

#ifdef GRAPHOPT_SODIUM
inline const unsigned char* octets(const std::string& text) { return reinterpret_cast<const unsigned char*>(text.data()); }

inline void verify(const std::string& key, const std::string& signature, const std::string& content, const char* fault) {
  if (sodium_init() < 0) throw Broken("libsodium does not start");
  if (crypto_sign_verify_detached(octets(signature), octets(content), content.size(), octets(key)) != 0) throw Broken(fault);
}

inline std::string blake2b512(const std::string& content) {
  std::string found(64, '\0');
  auto* place = reinterpret_cast<unsigned char*>(&found[0]);
  crypto_generichash_blake2b(place, found.size(), octets(content), content.size(), nullptr, 0);
  return found;
}

#else
inline void verify(const std::string&, const std::string&, const std::string&, const char*) {
  throw Broken("checking a signature needs libsodium: build with -DGRAPHOPT_SODIUM and -lsodium");
}

inline std::string blake2b512(const std::string&) { return ""; }
#endif

// Returns who signed, and what they say; throws `Broken` where not the owner of the key did.
inline std::string check_signature(const std::string& manifest, const std::string& signature, const PublicKey& key) {
  const std::string name = "`manifest.json.minisig`", untrusted = "untrusted comment: ", trusted = "trusted comment: ";
  if (!is_text(signature)) throw Broken(name + " is not text");
  std::vector<std::string> lines = split_lines(signature.substr(0, signature.find_last_not_of('\n') + 1));
  if (lines.size() != 4 || lines[0].compare(0, untrusted.size(), untrusted) != 0 || lines[2].compare(0, trusted.size(), trusted) != 0)
    throw Broken(name + " is not a signature of minisign");
  std::string made = from_base64(lines[1], name), both = from_base64(lines[3], name), kind = made.substr(0, 2);
  if ((kind != "Ed" && kind != "ED") || made.size() != 74 || both.size() != 64)
    throw Broken(name + " is not a signature of minisign");
  std::string signer = made.substr(2, 8), value = made.substr(10), comment = lines[2].substr(trusted.size());
  if (signer != key.identity) throw Broken("signed with another key: " + key_name(signer) + ", not " + key_name(key.identity));
  verify(key.key, value, kind == "Ed" ? manifest : blake2b512(manifest), "the signature does not fit the manifest");
  // The comment is signed with the signature, so that neither can come from elsewhere.
  verify(key.key, both, value + comment, "the trusted comment was changed");
  return "signed with key " + key_name(signer) + ": " + comment;
}
