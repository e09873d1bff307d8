// Many additions of affine points for one inversion.
//
// An affine addition costs a division; Montgomery's trick shares one among all additions of a batch,
// which leaves six multiplications each, against ten for a mixed addition in XYZZ coordinates.
#pragma once

#include <vector>

#include "lanes.hpp"

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
    for (size_t i = n; i % width; i++) push(left_[0], right_[0], out_[0]);  // ignored below
    const size_t groups = left_.size() / width;
    before_.resize(groups);
    skipped_.resize(groups);

    // Denominators: their running products, in a few chains so that products need not wait for
    // each other.
    Value chain[chains];
    for (auto& value : chain) value = Lanes::one();
    for (size_t g = 0; g < groups; g++) {
      auto a = Lanes::load(from, &left_[g * width]), b = Lanes::load(from, &right_[g * width]);
      skipped_[g] = static_cast<uint8_t>(Lanes::exceptional(a, b));
      before_[g] = chain[g % chains];
      Value denominator = Lanes::replace(Lanes::subtract(b.x, a.x), skipped_[g], Lanes::one());
      chain[g % chains] = Lanes::multiply(chain[g % chains], denominator);
    }
    Fq totals[chains * width];
    for (int c = 0; c < chains; c++) Lanes::extract(chain[c], totals + c * width);
    invert(totals);
    for (int c = 0; c < chains; c++) chain[c] = Lanes::insert(totals + c * width);

    exceptions_.clear();
    for (size_t g = groups; g-- > 0;) {
      auto a = Lanes::load(from, &left_[g * width]), b = Lanes::load(from, &right_[g * width]);
      Value inverse = Lanes::multiply(chain[g % chains], before_[g]);
      Value denominator = Lanes::replace(Lanes::subtract(b.x, a.x), skipped_[g], Lanes::one());
      chain[g % chains] = Lanes::multiply(chain[g % chains], denominator);
      Value slope = Lanes::multiply(Lanes::subtract(b.y, a.y), inverse);
      Value x = Lanes::abscissa(Lanes::multiply(slope, slope), a.x, b.x);
      Value y = Lanes::ordinate(Lanes::multiply(slope, Lanes::subtract(a.x, x)), a.y);
      uint32_t wanted = every & ~static_cast<uint32_t>(skipped_[g]);
      if (g == groups - 1) wanted &= every >> (groups * width - n);
      if (wanted != every) {
        // Sums by other means, computed before anything is stored: `to` may be `from`.
        for (int i = 0; i < width; i++)
          if (skipped_[g] >> i & 1 && g * width + i < n) exceptions_.push_back(exception(from, g * width + i));
      }
      Lanes::store(to, &out_[g * width], wanted, x, y);
    }
    for (const auto& [out, sum] : exceptions_) to[out] = sum;
  }

 private:
  using Value = typename Lanes::Value;
  static constexpr int width = Lanes::width, chains = 4;
  static constexpr uint32_t every = (1U << width) - 1;

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

  std::vector<uint32_t> left_, right_, out_;
  std::vector<Value> before_;
  std::vector<uint8_t> skipped_;
  std::vector<std::pair<uint32_t, G1Affine>> exceptions_;
};

}  // namespace zkserve
