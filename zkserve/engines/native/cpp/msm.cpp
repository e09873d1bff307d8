#include "msm.hpp"

#include <algorithm>
#include <vector>

namespace zkserve {

static G1 pippenger(const G1Affine* bases, const uint64_t (*scalars)[4], size_t n, int bits, const bool* negative,
                    Threads& threads) {
  int c = 8;
  int windows = (bits + c - 1) / c;
  std::vector<G1> sums(windows);
  threads.parallel(windows, 1, [&](size_t begin, size_t end, unsigned) {
    for (size_t w = begin; w < end; w++) {
      std::vector<G1> buckets(1 << c);
      for (size_t i = 0; i < n; i++) {
        size_t digit = scalars[i][w * c / 64] >> (w * c % 64) & 255;
        buckets[digit] += negative && negative[i] ? G1Affine(-bases[i]) : bases[i];
      }
      G1 running, total;
      for (size_t k = (1 << c) - 1; k > 0; k--) running += buckets[k], total += running;
      sums[w] = total;
    }
  });
  G1 result;
  for (int w = windows - 1; w >= 0; w--) {
    for (int i = 0; i < c; i++) result = result.dbl();
    result += sums[w];
  }
  return result;
}

G1 msm(const G1Affine* bases, const Fr* scalars, size_t n, Threads& threads) {
  std::vector<uint64_t> limbs(4 * n);
  for (size_t i = 0; i < n; i++) scalars[i].to_limbs(&limbs[4 * i]);
  return pippenger(bases, reinterpret_cast<const uint64_t(*)[4]>(limbs.data()), n, 256, nullptr, threads);
}

G1 msm_small(const G1Affine* bases, const int32_t* scalars, size_t n, Threads& threads) {
  std::vector<uint64_t> limbs(4 * n);
  std::vector<char> negative(n);
  for (size_t i = 0; i < n; i++) {
    limbs[4 * i] = static_cast<uint64_t>(std::abs(static_cast<int64_t>(scalars[i])));
    negative[i] = scalars[i] < 0;
  }
  return pippenger(bases, reinterpret_cast<const uint64_t(*)[4]>(limbs.data()), n, 32,
                   reinterpret_cast<const bool*>(negative.data()), threads);
}

}  // namespace zkserve
