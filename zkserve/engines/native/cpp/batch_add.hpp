// Many additions of affine points for one inversion.
//
// An affine addition costs a division; Montgomery's trick shares one among all additions of a batch,
// which leaves six multiplications each, against ten for a mixed addition in XYZZ coordinates.
#pragma once

#include "lanes.hpp"
#include "secret.hpp"

namespace zkserve {

// Additions of points in memory: to[out] = from[left] + from[right], where an index may carry
// `negated`. Sums of equal, opposite or infinite points are right too, but slow.
template <class Lanes>
class BatchAdder {
 public:
  void clear() { left_.clear(), right_.clear(), out_.clear(); }
  void push(uint32_t left, uint32_t right, uint32_t out) {
    left_.push_back(left), right_.push_back(right), out_.push_back(out);
  }
  size_t size() const { return out_.size(); }

  void run(const G1Affine* from, G1Affine* to) {
    const size_t n = out_.size();
    if (n == 0) return;
    while (left_.size() % (width * chains)) push(left_[0], right_[0], out_[0]);  // ignored below
    const size_t groups = left_.size() / width;
    before_.resize(groups);
    skipped_.resize(groups);

    // Several groups at a time, operation by operation: a multiplication takes longer than the
    // processor needs until it can begin the next one, unless that waits for its result.
    Value chain[chains], denominator[chains];
    for (auto& value : chain) value = Lanes::one();
    for (size_t g = 0; g < groups; g += chains) {
      if (g + chains < groups) prefetch(from, g + chains);
      for (int c = 0; c < chains; c++) {
        auto a = Lanes::load(from, &left_[(g + c) * width]), b = Lanes::load(from, &right_[(g + c) * width]);
        skipped_[g + c] = static_cast<uint8_t>(Lanes::exceptional(a, b));
        denominator[c] = Lanes::replace(Lanes::subtract(b.x, a.x), skipped_[g + c], Lanes::one());
        before_[g + c] = chain[c];
      }
      for (int c = 0; c < chains; c++) chain[c] = Lanes::multiply(chain[c], denominator[c]);
    }
    Fq totals[chains * width];
    for (int c = 0; c < chains; c++) Lanes::extract(chain[c], totals + c * width);
    invert(totals);
    for (int c = 0; c < chains; c++) chain[c] = Lanes::insert(totals + c * width);

    exceptions_.clear();
    for (size_t g = groups; g > 0;) {
      g -= chains;
      if (g >= chains) prefetch(from, g - chains);
      typename Lanes::Points a[chains], b[chains];
      Value slope[chains], x[chains], y[chains];
      for (int c = 0; c < chains; c++) {
        a[c] = Lanes::load(from, &left_[(g + c) * width]);
        b[c] = Lanes::load(from, &right_[(g + c) * width]);
        denominator[c] = Lanes::replace(Lanes::subtract(b[c].x, a[c].x), skipped_[g + c], Lanes::one());
      }
      for (int c = 0; c < chains; c++) slope[c] = Lanes::multiply(chain[c], before_[g + c]);
      for (int c = 0; c < chains; c++) chain[c] = Lanes::multiply(chain[c], denominator[c]);
      for (int c = 0; c < chains; c++) slope[c] = Lanes::multiply(slope[c], Lanes::subtract(b[c].y, a[c].y));
      for (int c = 0; c < chains; c++) x[c] = Lanes::multiply(slope[c], slope[c]);
      for (int c = 0; c < chains; c++) x[c] = Lanes::abscissa(x[c], a[c].x, b[c].x);
      for (int c = 0; c < chains; c++) y[c] = Lanes::multiply(slope[c], Lanes::subtract(a[c].x, x[c]));
      for (int c = 0; c < chains; c++) y[c] = Lanes::ordinate(y[c], a[c].y);
      for (int c = 0; c < chains; c++) {
        const size_t first = (g + c) * width;
        if (first >= n) break;
        uint32_t present = n - first >= width ? every : every >> (width - (n - first));
        // Sums by other means, computed before anything is stored: `to` may be `from`.
        for (int i = 0; skipped_[g + c] & present && i < width; i++)
          if (skipped_[g + c] & present & 1U << i) exceptions_.push_back(exception(from, first + i));
        Lanes::store(to, &out_[first], present & ~static_cast<uint32_t>(skipped_[g + c]), x[c], y[c]);
      }
    }
    for (const auto& [out, sum] : exceptions_) to[out] = sum;
  }

 private:
  using Value = typename Lanes::Value;
  static constexpr int width = Lanes::width, chains = 4;
  static constexpr uint32_t every = (1U << width) - 1;

  // The points of the next groups: they come from all over the memory.
  void prefetch(const G1Affine* from, size_t group) const {
    for (int i = 0; i < width * chains; i++) {
      __builtin_prefetch(from + (left_[group * width + i] & ~negated));
      __builtin_prefetch(from + (right_[group * width + i] & ~negated));
    }
  }

  static void invert(Fq totals[chains * width]) {
    Fq before[chains * width], running = Fq::one();
    for (int i = 0; i < chains * width; i++) before[i] = running, running *= totals[i];
    running = running.inverse();
    for (int i = chains * width; i-- > 0;) {
      Fq inverse = running * before[i];
      running *= totals[i];
      totals[i] = inverse;
    }
  }

  std::pair<uint32_t, G1Affine> exception(const G1Affine* from, size_t i) const {
    auto signed_point = [&](uint32_t index) {
      const G1Affine& point = from[index & ~negated];
      return index & negated ? G1Affine(-point) : point;
    };
    G1Affine a = signed_point(left_[i]), b = signed_point(right_[i]);
    if (a.is_infinity()) return {out_[i], b};
    if (b.is_infinity()) return {out_[i], a};
    G1 sum = a;
    sum += b;
    return {out_[i], sum.to_affine()};
  }

  Secret<uint32_t> left_, right_, out_;
  Secret<Value> before_;
  Secret<uint8_t> skipped_;
  Secret<std::pair<uint32_t, G1Affine>> exceptions_;
};

}  // namespace zkserve
