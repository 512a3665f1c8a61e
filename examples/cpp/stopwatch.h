// How long one run takes here: the method of validate.py without an original beside it.

#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "json.h"

struct Latency {
  double p10_ms, median_ms, p99_ms;
  size_t runs;
  double drift_ratio;  // the median of the last tenth over that of the first

  std::string json() const {
    return "{\"p10_ms\": " + numeral(p10_ms) + ", \"median_ms\": " + numeral(median_ms) + ", \"p99_ms\": " + numeral(p99_ms) +
           ", \"runs\": " + std::to_string(runs) + ", \"drift_ratio\": " + numeral(drift_ratio) + ", \"reference\": null}";
  }

  std::string sentence() const {
    constexpr double kNoticeableDrift = 1.1;
    char text[160], more[80] = "";
    if (drift_ratio >= kNoticeableDrift)
      std::snprintf(more, sizeof more, "; the last tenth took %.2f times the first: heat, or other work", drift_ratio);
    std::snprintf(text, sizeof text, "median %.3g ms, p99 %.3g ms, %zu runs%s", median_ms, p99_ms, runs, more);
    return text;
  }
};

// Between two values it lies on the line from one to the other, as numpy's percentile does.
inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  double place = share * static_cast<double>(values.size() - 1);
  size_t below = static_cast<size_t>(place), above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

inline Latency measure(const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kBudget = std::chrono::seconds(2);
  constexpr size_t kWarmUpRuns = 3, kFewest = 10, kMost = 1000;
  constexpr double kShortestSampleMs = 1;  // what is shorter is mostly the clock and the call
  auto sampled = [&](size_t repeats) {
    auto start = Clock::now();
    for (size_t index = 0; index < repeats; ++index) run();
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count() / static_cast<double>(repeats);
  };
  double shortest = INFINITY;
  for (size_t index = 0; index < kWarmUpRuns; ++index) shortest = std::min(shortest, sampled(1));
  size_t repeats = static_cast<size_t>(std::max(1.0, std::round(kShortestSampleMs / std::max(shortest, 1e-6))));
  std::vector<double> taken;
  auto end = Clock::now() + kBudget;
  while (taken.size() < kFewest || (taken.size() < kMost && Clock::now() < end)) taken.push_back(sampled(repeats));
  long tenth = static_cast<long>(std::max<size_t>(1, taken.size() / 10));
  double first = quantile({taken.begin(), taken.begin() + tenth}, 0.5), last = quantile({taken.end() - tenth, taken.end()}, 0.5);
  return {quantile(taken, 0.1), quantile(taken, 0.5), quantile(taken, 0.99), taken.size() * repeats, last / first};
}
