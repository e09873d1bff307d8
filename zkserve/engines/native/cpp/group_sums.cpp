#include "group_sums.hpp"

#include <algorithm>
#include <numeric>

#include "batch_add.hpp"

namespace zkserve {
namespace {

constexpr size_t block = 16384;  // about 1 MB of points at work

// Sums one block of points, sorted by group and added pairwise as a tree.
class Summation {
 public:
  void run(const G1Affine* bases, const uint32_t* powers, const uint32_t* groups, size_t n, size_t count,
           G1Affine* out) {
    starts_.assign(count + 1, 0);
    for (size_t i = 0; i < n; ++i) ++starts_[groups[i] + 1];
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    sorted_.resize(n);
    next_.assign(starts_.begin(), starts_.end() - 1);
    for (size_t i = 0; i < n; ++i) sorted_[next_[groups[i]]++] = powers[i];

    // The first level reads the bases, the others what it left, at the place of each left neighbour.
    work_.resize(n);
    adder_.clear();
    for (size_t g = 0; g < count; ++g)
      for (uint32_t i = starts_[g]; i < starts_[g + 1]; i += 2) {
        if (i + 1 < starts_[g + 1])
          adder_.push(sorted_[i], sorted_[i + 1], i);
        else
          work_[i] = bases[sorted_[i]];
      }
    adder_.run(bases, work_.data());
    for (uint32_t stride = 2;; stride *= 2) {
      adder_.clear();
      for (size_t g = 0; g < count; ++g)
        for (uint32_t i = starts_[g]; i + stride < starts_[g + 1]; i += 2 * stride) adder_.push(i, i + stride, i);
      if (adder_.size() == 0) break;
      adder_.run(work_.data(), work_.data());
    }
    for (size_t g = 0; g < count; ++g)
      out[g] = starts_[g] < starts_[g + 1] ? work_[starts_[g]] : G1Affine();
  }

 private:
  Secret<uint32_t> starts_, next_, sorted_;
  Secret<G1Affine> work_;
  BatchAdder<FastLanes> adder_;
};

}  // namespace

Secret<G1Affine> group_sums(const G1Affine* bases, const std::vector<uint32_t>& powers,
                            const Secret<uint32_t>& groups, size_t count, Threads& threads) {
  const size_t n = powers.size();
  // At least one for each thread, but none so small that most groups have a single point in it.
  const size_t blocks = std::max<size_t>(1, std::max(n / block, std::min<size_t>(threads.count(), n / (8 * count))));
  Secret<G1Affine> parts(blocks * count);
  std::vector<Summation> scratch(threads.count());
  threads.parallel(blocks, 1, [&](size_t begin, size_t end, unsigned worker) {
    for (size_t i = begin; i < end; ++i) {
      const size_t first = n * i / blocks, last = n * (i + 1) / blocks;
      scratch[worker].run(bases, &powers[first], &groups[first], last - first, count, &parts[i * count]);
    }
  });
  if (blocks == 1) return parts;

  std::vector<uint32_t> indices;
  Secret<uint32_t> owners;
  for (size_t i = 0; i < parts.size(); ++i)
    if (!parts[i].is_infinity()) {
      indices.push_back(uint32_t(i));
      owners.push_back(uint32_t(i % count));
    }
  Secret<G1Affine> out(count);
  scratch[0].run(parts.data(), indices.data(), owners.data(), indices.size(), count, out.data());
  return out;
}

}  // namespace zkserve
