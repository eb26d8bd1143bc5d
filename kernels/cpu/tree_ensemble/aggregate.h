// How the scores that trees give to a target become one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace ingot::trees {

class Aggregate {
 public:
  enum Kind : int64_t { kAverage, kSum, kMinimum, kMaximum };

  explicit Aggregate(int64_t kind) : kind_(static_cast<Kind>(kind)) {}

  static bool Has(int64_t kind) { return kind >= kAverage && kind <= kMaximum; }
  bool Adds() const { return kind_ == kAverage || kind_ == kSum; }

  double Start() const {
    return kind_ == kMinimum   ? std::numeric_limits<double>::infinity()
           : kind_ == kMaximum ? -std::numeric_limits<double>::infinity()
                               : 0.0;
  }

  void Combine(double& score, double other) const {
    if (kind_ == kMinimum) {
      score = std::min(score, other);
    } else if (kind_ == kMaximum) {
      score = std::max(score, other);
    } else {
      score += other;
    }
  }

  // Makes the scores [parts, count] of parts of `trees` trees into those of all. A target that no leaf gives anything
  // to has the score 0.
  template <typename T>
  void Finish(const double* scores, int64_t parts, int64_t count, int64_t trees, T* to) const {
    for (int64_t i = 0; i < count; ++i) {
      double score = scores[i];
      for (int64_t part = 1; part < parts; ++part) Combine(score, scores[part * count + i]);
      if (kind_ == kAverage) {
        score /= static_cast<double>(std::max<int64_t>(trees, 1));
      } else if (score == Start()) {
        score = 0.0;
      }
      to[i] = static_cast<T>(score);
    }
  }

 private:
  Kind kind_;
};

}  // namespace ingot::trees
