#include "constraints.hpp"

#include <algorithm>

namespace zkserve {

Fr kinds_at(const Description& D, const Vector& row_point) {
  Fr out = Fr::from_u64(2);
  for (const Tensor& t : D.tensors) {
    if (t.function == 0) continue;
    for (const Piece& piece : t.pieces) {
      const unsigned bits = piece.log + t.block_bits;
      out += Fr::from_u64(t.function) * eq_at(row_point.data(), D.nr - bits, piece.offset >> bits);
    }
  }
  return out;
}

Fr table_at(const Description& D, const Vector& table_point, const Fr& lambda) {
  const Fr lambda2 = lambda.square();
  const unsigned segment_bits = D.kt - 8;
  const Vector segments = eq_vector(table_point.data(), segment_bits);
  const Fr* v = table_point.data() + segment_bits;
  Fr s = Fr::zero(), z = Fr::one();
  for (unsigned i = 0; i < 8; ++i) s += Fr::from_u64(128 >> i) * v[i];
  for (unsigned i = 1; i < 8; ++i) z *= Fr::one() - v[i];
  const Fr sel = v[0] * z, sat = v[0] * (Fr::one() - z);
  Fr out = segments[0] * s + segments[1] * (s + lambda + lambda2 * sel + lambda2 * lambda * sat);
  if (D.functions.empty()) return out;
  const Vector entries = eq_vector(v, 8);
  for (size_t j = 0; j < D.functions.size(); ++j) {
    Fr value = Fr::zero();
    for (unsigned i = 0; i < 256; ++i) value += Fr::from_u64(D.functions[j][i]) * entries[i];
    out += segments[2 + j] * (s + lambda * Fr::from_u64(2 + j) + lambda2 * value);
  }
  return out;
}

Fr rows_at(const Description& D, const Fr* values, const Fr& kind, const Challenges& c) {
  const Fr lambda2 = c.lambda.square();
  const auto limbs = [&](unsigned first, unsigned count) {
    Fr out = Fr::zero();
    for (unsigned i = 0; i < count; ++i) out += values[first + i] * Fr::from_u64(uint64_t(1) << 8 * i);
    return out;
  };
  Fr eta = c.eta.pow(D.equations.size());
  Fr out = eta * (values[D.z()] - values[D.sel()] * limbs(D.lo(0), D.A) - Fr::from_u64(D.top) * values[D.sat()]);
  eta *= c.eta;
  if (D.PW) {
    Fr product = Fr::one();
    for (unsigned w = 0; w < D.PW; ++w) product *= limbs(D.d(w, 0), D.NL);
    out += eta * product;
  }
  Vector f;
  for (unsigned column : D.range_columns) f.push_back(c.alpha - values[column]);
  f.push_back(c.alpha - (values[D.hi()] + c.lambda + lambda2 * values[D.sel()] + lambda2 * c.lambda * values[D.sat()]));
  if (!D.functions.empty()) f.push_back(c.alpha - (values[D.z()] + c.lambda * kind + lambda2 * values[D.y()]));
  for (unsigned g = 0; g < D.groups3; ++g) {
    eta *= c.eta;
    const size_t first = 3 * g, count = std::min<size_t>(3, f.size() - first);
    // The product of the group's terms, and the sum of products that leave one out.
    Fr all = Fr::one(), but_one = Fr::zero();
    for (size_t i = first; i < first + count; ++i) {
      but_one = but_one * f[i] + all;
      all *= f[i];
    }
    out += eta * (values[D.columns + g] * all - but_one);
  }
  return out;
}

}  // namespace zkserve
