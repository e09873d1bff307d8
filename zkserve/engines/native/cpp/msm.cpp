// Pippenger's bucket method on affine buckets.
//
// Scalars are cut into windows of c bits. For each window, points are sorted by digit and the runs
// of equal digits, the buckets, are summed pairwise, as a tree whose levels are batches of affine
// additions. The sum of d * bucket[d] is then taken by the bits of d, again in batches: the work of
// a window is one kind of loop over memory, whatever the scalars. A zero digit goes to a bucket of
// its own, summed like the others and dropped: time does not tell how many zeros there were. All
// memory is wiped, for scalars may be secrets.
#include "msm.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "batch_add.hpp"
#include "secret.hpp"

namespace zkserve {

namespace {

// What one thread needs for one window after the other.
class Window {
 public:
  // sum over i in [begin, end) of digit(i) * bases[i], |digit| < buckets.
  template <class Digit>
  G1 sum(const G1Affine* bases, size_t begin, size_t end, uint32_t buckets, Digit digit) {
    sort(begin, end, buckets, digit);
    // A power of two, and as much again for the levels of `weigh`.
    size_t padded = 1;
    while (padded < buckets) padded *= 2;
    points_.assign(2 * padded, G1Affine());
    for (size_t from = 0; from < sorted_.size(); from += chunk)
      add_to_buckets(bases, from, std::min(from + chunk, sorted_.size()));
    return weigh(padded);
  }

 private:
  static constexpr size_t chunk = 16384;  // about 1 MB of points at work
  struct Run {
    uint32_t bucket, at, count;
  };

  // Counting sort of the points' signed indices by |digit|.
  template <class Digit>
  void sort(size_t begin, size_t end, uint32_t buckets, Digit digit) {
    size_t n = end - begin;
    digits_.resize(n);
    sorted_.resize(n);
    starts_.assign(buckets + 1, 0);
    for (size_t i = 0; i < n; i++) {
      int32_t d = digit(begin + i);
      digits_[i] = d;
      starts_[std::abs(d) + 1]++;
    }
    for (uint32_t b = 0; b < buckets; b++) starts_[b + 1] += starts_[b];
    ends_.assign(starts_.begin(), starts_.end() - 1);
    for (size_t i = 0; i < n; i++) {
      int32_t d = digits_[i];
      sorted_[ends_[std::abs(d)]++] = static_cast<uint32_t>(begin + i) | (d < 0 ? negated : 0);
    }
  }

  // points_[b] += the points of bucket b among sorted_[from, to), for every b.
  void add_to_buckets(const G1Affine* bases, size_t from, size_t to) {
    runs_.clear();
    work_.clear();
    adder_.clear();
    uint32_t bucket =
        static_cast<uint32_t>(std::upper_bound(ends_.begin(), ends_.end(), from) - ends_.begin());
    uint32_t at = 0;
    singles_.clear();
    for (size_t i = from; i < to; bucket++) {
      uint32_t count = static_cast<uint32_t>(std::min<size_t>(ends_[bucket], to) - i);
      if (count == 0) continue;
      for (uint32_t k = 0; k + 1 < count; k += 2) adder_.push(sorted_[i + k], sorted_[i + k + 1], at + k / 2);
      if (count % 2) singles_.push_back({sorted_[i + count - 1], at + count / 2});
      runs_.push_back({bucket, at, (count + 1) / 2});
      at += (count + 1) / 2;
      i += count;
    }
    work_.resize(at);
    adder_.run(bases, work_.data());
    for (auto [index, out] : singles_) {
      const G1Affine& point = bases[index & ~negated];
      work_[out] = index & negated ? G1Affine(-point) : point;
    }
    collapse(work_.data());
    for (const Run& run : runs_) {
      G1Affine& held = points_[run.bucket];
      if (held.is_infinity()) {
        held = work_[run.at];
      } else {  // a bucket that began in the chunk before
        G1 sum = held;
        sum += work_[run.at];
        held = sum.to_affine();
      }
    }
  }

  // Sum every run of runs_ into its first point.
  void collapse(G1Affine* points) {
    for (uint32_t stride = 1;; stride *= 2) {
      adder_.clear();
      for (const Run& run : runs_)
        for (uint32_t k = 0; k + stride < run.count; k += 2 * stride)
          adder_.push(run.at + k, run.at + k + stride, run.at + k);
      if (adder_.size() == 0) return;
      adder_.run(points, points);
    }
  }

  // sum_d d * points_[d] for the first n = 2^m points: bit j of d contributes 2^j times the sum of
  // the odd points of level j, where level 0 holds the points and each further one the sums of
  // pairs of the one below.
  G1 weigh(size_t n) {
    runs_.clear();
    work_.clear();
    size_t level = 0;
    for (size_t size = n; size > 1; size /= 2) {
      runs_.push_back({0, static_cast<uint32_t>(work_.size()), static_cast<uint32_t>(size / 2)});
      adder_.clear();
      for (size_t k = 0; k < size / 2; k++) {
        work_.push_back(points_[level + 2 * k + 1]);
        adder_.push(static_cast<uint32_t>(level + 2 * k), static_cast<uint32_t>(level + 2 * k + 1),
                    static_cast<uint32_t>(level + size + k));
      }
      if (size > 2) adder_.run(points_.data(), points_.data());
      level += size;
    }
    collapse(work_.data());
    G1 total;
    for (size_t j = runs_.size(); j-- > 0;) {
      total = total.dbl();
      total += work_[runs_[j].at];
    }
    return total;
  }

  Secret<int32_t> digits_;
  Secret<uint32_t> sorted_, starts_, ends_;
  Secret<G1Affine> points_, work_;
  Secret<std::pair<uint32_t, uint32_t>> singles_;
  Secret<Run> runs_;
  BatchAdder<FastLanes> adder_;
};

// Sums of all windows, each over all points, in jobs for the threads; then one sum by Horner's rule.
template <class Digit>
G1 sum_windows(const G1Affine* bases, size_t n, int windows, int bits, uint32_t buckets, Threads& threads,
               Digit digit) {
  // A thread takes a whole window where there are enough, else a part of its points.
  size_t parts = threads.count() == 1 ? 1 : (2 * threads.count() + windows - 1) / windows;
  parts = std::max<size_t>(1, std::min(parts, n / 1024));
  std::vector<Window> scratch(threads.count());
  Secret<G1> sums(windows * parts);
  threads.parallel(sums.size(), 1, [&](size_t begin, size_t end, unsigned worker) {
    for (size_t job = begin; job < end; job++) {
      int window = static_cast<int>(job / parts);
      size_t part = job % parts;
      sums[job] = scratch[worker].sum(bases, n * part / parts, n * (part + 1) / parts, buckets,
                                      [&](size_t i) { return digit(i, window); });
    }
  });
  G1 total;
  for (int window = windows - 1; window >= 0; window--) {
    for (int i = 0; i < bits; i++) total = total.dbl();
    for (size_t part = 0; part < parts; part++) total += sums[window * parts + part];
  }
  return total;
}

}  // namespace

G1 msm(const G1Affine* bases, const Fr* scalars, size_t n, Threads& threads) {
  if (n == 0) return G1();
  // Additions: one a point and window, two a bucket and window (measured: a bit more).
  int c = 4;
  double best = 1e300;
  for (int bits = 4; bits <= 16; bits++) {
    int windows = (255 + bits - 1) / bits;
    double cost = windows * (static_cast<double>(n) + 1.5 * (1 << bits) + 500);
    if (cost < best) best = cost, c = bits;
  }
  const int windows = (255 + c - 1) / c;
  const uint64_t half = uint64_t{1} << (c - 1), low_bits = 2 * half - 1;

  // Adding half a window to every digit but the top one makes signed digits independent of each
  // other: what is taken off again afterwards is a constant, and no digit carries.
  uint64_t offset[4] = {0, 0, 0, 0};
  for (int w = 0; w < windows - 1; w++) {
    int bit = w * c + c - 1;
    offset[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  Secret<uint64_t> limbs(4 * n);
  threads.parallel(n, 4096, [&](size_t begin, size_t end, unsigned) {
    for (size_t i = begin; i < end; i++) {
      uint64_t* out = &limbs[4 * i];
      scalars[i].to_limbs(out);
      u128 sum = 0;
      for (int j = 0; j < 4; j++) {
        sum += static_cast<u128>(out[j]) + offset[j];
        out[j] = static_cast<uint64_t>(sum);
        sum >>= 64;
      }
    }
  });
  return sum_windows(bases, n, windows, c, static_cast<uint32_t>(half) + 1, threads, [&](size_t i, int window) {
    int bit = window * c, word = bit / 64, shift = bit % 64;
    const uint64_t* limb = &limbs[4 * i];
    uint64_t digit = limb[word] >> shift;
    if (shift + c > 64 && word < 3) digit |= limb[word + 1] << (64 - shift);
    digit &= low_bits;
    return static_cast<int32_t>(digit) - (window < windows - 1 ? static_cast<int32_t>(half) : 0);
  });
}

G1 msm_small(const G1Affine* bases, const int32_t* scalars, size_t n, Threads& threads) {
  uint32_t any = 0;
  for (size_t i = 0; i < n; i++) any |= static_cast<uint32_t>(std::abs(static_cast<int64_t>(scalars[i])));
  int bits = 0;
  while (bits < 32 && any >> bits) bits++;
  bits = std::max(bits, 1);
  int c = 1;
  double best = 1e300;
  for (int width = 1; width <= std::min(bits, 16); width++) {
    double cost = (bits + width - 1) / width * (static_cast<double>(n) + 3.0 * (1 << width) + 500);
    if (cost < best) best = cost, c = width;
  }
  const uint32_t low_bits = (1U << c) - 1;
  return sum_windows(bases, n, (bits + c - 1) / c, c, low_bits + 1, threads, [&](size_t i, int window) {
    int64_t scalar = scalars[i];
    int32_t digit = static_cast<int32_t>(static_cast<uint64_t>(std::abs(scalar)) >> (window * c) & low_bits);
    return scalar < 0 ? -digit : digit;
  });
}

}  // namespace zkserve
