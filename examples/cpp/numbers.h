// How far one array is from another: `difference` of validate.py.

#pragma once

#include <cmath>
#include <string>

#include "files.h"

struct Difference {
  double error = INFINITY, cosine = -1, sqnr_db = -INFINITY;
  std::string mismatch;  // why the two cannot be compared

  // The worst of both, of several samples.
  void add(const Difference& other) {
    error = std::max(error, other.error);
    cosine = std::min(cosine, other.cosine);
    sqnr_db = std::min(sqnr_db, other.sqnr_db);
    if (mismatch.empty()) mismatch = other.mismatch;
  }
};

// Every `stride`-th element, flat, where it is above 1.
inline Array thinned(const Array& array, size_t stride) {
  if (stride == 1) return array;
  Array found;
  found.type = array.type;
  for (size_t i = 0; i < array.size(); i += stride) found.bytes += array.bytes.substr(i * array.width(), array.width());
  found.dims = {static_cast<int64_t>(found.size())};
  return found;
}

inline Difference share_of_equal(const Array& reference, const Array& values) {
  size_t size = reference.size(), equal = 0;
  for (size_t i = 0; i < size; ++i) equal += reference.whole(i) == values.whole(i);
  double share = size ? static_cast<double>(equal) / static_cast<double>(size) : 1;
  return {1 - share, share, INFINITY, ""};
}

// Where the two have no number, or none that is finite; empty where that agrees.
inline std::string misplaced(const Array& reference, const Array& values) {
  const std::pair<const char*, bool (*)(double)> kinds[] = {
      {"NaN", [](double x) { return std::isnan(x); }},
      {"+inf", [](double x) { return x == INFINITY; }},
      {"-inf", [](double x) { return x == -INFINITY; }}};
  for (const auto& [name, is_one] : kinds)
    for (size_t i = 0; i < reference.size(); ++i)
      if (is_one(reference.at(i)) != is_one(values.at(i))) return std::string(name) + " at other positions";
  return "";
}

inline Difference distance(const Array& reference, const Array& values) {
  double largest = 0, aa = 0, bb = 0, ab = 0, dd = 0;
  bool same = true;
  for (size_t i = 0; i < reference.size(); ++i) {
    double a = reference.at(i);
    if (!std::isfinite(a)) continue;
    largest = std::max(largest, std::fabs(a));
    same &= a == values.at(i);
  }
  if (same) return {0, 1, INFINITY, ""};
  if (largest == 0) return {INFINITY, 0, -INFINITY, ""};
  Difference found{0, 0, 0, ""};
  for (size_t i = 0; i < reference.size(); ++i) {
    double a = reference.at(i) / largest, b = values.at(i) / largest;  // squares must not overflow
    if (!std::isfinite(a)) continue;
    found.error = std::max(found.error, std::fabs(b - a));
    aa += a * a, bb += b * b, ab += a * b, dd += (b - a) * (b - a);
  }
  found.cosine = bb > 0 ? ab / std::sqrt(aa) / std::sqrt(bb) : 0;
  found.sqnr_db = 10 * std::log10(aa / dd);
  return found;
}

inline Difference difference(const Array& reference, const Array& values) {
  Difference worst;
  if (reference.dims != values.dims) worst.mismatch = "shape " + values.shape() + ", expected " + reference.shape();
  else if (std::string(reference.kind()) != values.kind())
    worst.mismatch = std::string(values.kind()) + ", expected " + reference.kind();
  else if (!reference.is_float()) return share_of_equal(reference, values);
  else if (worst.mismatch = misplaced(reference, values); worst.mismatch.empty()) return distance(reference, values);
  return worst;
}
