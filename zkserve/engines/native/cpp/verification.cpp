#include "verification.hpp"

#include "msm.hpp"
#include "pairing.hpp"
#include "threads.hpp"

namespace zkserve {

void need_proof(bool condition) {
  if (!condition) throw Refused("the proof is rejected");
}

const uint8_t* ProofReader::take(size_t size) {
  need_proof(size_t(end_ - at_) >= size);
  at_ += size;
  return at_ - size;
}

Points ProofReader::points(size_t count) {
  Points out(count);
  for (G1Affine& p : out) need_proof(G1Affine::from_bytes(take(64), p));
  return out;
}

Vector ProofReader::scalars(size_t count) {
  Vector out(count);
  for (Fr& x : out) need_proof(Fr::from_bytes(take(32), x));
  return out;
}

std::vector<uint32_t> ProofReader::multipliers(size_t count) {
  std::vector<uint32_t> out(count);
  for (uint32_t& m : out) {
    const uint8_t* b = take(4);
    m = uint32_t(b[0]) << 24 | uint32_t(b[1]) << 16 | uint32_t(b[2]) << 8 | b[3];
    need_proof(m >= 1 && m < 1 << 16);
  }
  return out;
}

Fr next_claim(const Fr& claim, const Vector& sent, const Fr& r) {
  const Fr linear = claim - sent[0] - sum(sent);
  Fr out = Fr::zero();
  for (size_t i = sent.size(); i-- > 1;) out = (out + sent[i]) * r;
  return ((out + linear) * r) + sent[0];
}

namespace {

// sum_i eq(u, i) x^i
Fr eq_polynomial(const Fr* u, unsigned bits, const Fr& x) {
  Fr out = Fr::one(), power = x;
  for (unsigned i = bits; i-- > 0; power = power.square()) out *= Fr::one() - u[i] + u[i] * power;
  return out;
}

// sum_{j <= 2^bits} x^j
Fr geometric(unsigned bits, const Fr& x) {
  Fr out = Fr::one(), power = x;
  for (unsigned i = 0; i < bits; ++i, power = power.square()) out *= Fr::one() + power;
  return out + power;
}

}  // namespace

bool check_opening(unsigned k, const G2Affine& g2_s, const Opening& p, const Points* const tiles[family_count],
                   const TileValues& L, const Vector& rho, const Fr& e, Transcript& t) {
  t.absorb(p.points[0]);
  const Fr theta = t.challenge(), gamma = t.challenge();
  for (size_t i = 1; i < 4; ++i) t.absorb(p.points[i]);
  const Fr zeta = t.challenge();
  t.absorb(p.values);
  const Fr nu = t.challenge();
  for (const G1Affine& point : p.quotients) t.absorb(point);
  const Fr omega = t.challenge();

  const Fr &gz = p.values[0], &gi = p.values[1], &hz = p.values[2], &hi = p.values[3], &Sz = p.values[4],
           &inverse = p.values[5];
  need_proof(zeta * inverse == Fr::one() && !theta.is_zero());
  const unsigned low_bits = k / 2, high_bits = k - low_bits;
  const Fr *high = rho.data(), *low = rho.data() + high_bits;
  const auto Q = [&](const Fr& x) { return gamma * eq_polynomial(high, high_bits, x) - geometric(high_bits, theta * x); };
  const Fr two_gamma = gamma + gamma;
  const Fr Si = zeta * (gz * eq_polynomial(low, low_bits, inverse) + gi * eq_polynomial(low, low_bits, zeta) +
                        hz * Q(inverse) + hi * Q(zeta) - two_gamma * e - zeta * Sz);
  const Fr zeta_b = zeta.pow(uint64_t(1) << low_bits), modulus = zeta_b - theta;
  const Fr fz = gz - modulus * zeta_b * inverse * gi;
  const Fr y1 = fz + nu * (gz + nu * (hz + nu * Sz));
  const Fr y2 = gi + nu * (hi + nu * Si);

  Points bases;
  Vector scalars;
  const auto add = [&](const G1Affine& base, const Fr& scalar) {
    bases.push_back(base);
    scalars.push_back(scalar);
  };
  for (unsigned f = 0; f < family_count; ++f)
    for (size_t i = 0; i < tiles[f]->size(); ++i) add((*tiles[f])[i], L[f][i]);
  add(p.points[0], nu * (nu + omega));
  add(p.points[1], -modulus);
  add(p.points[2], nu + omega);
  add(p.points[3], nu.square() * (nu + omega));
  add(G1Affine::generator(), -(y1 + omega * y2));
  add(p.quotients[0], zeta);
  add(p.quotients[1], omega * inverse);
  Threads here(1);
  const G1Affine left = msm(bases.data(), scalars.data(), bases.size(), here).to_affine();
  G1 right = G1::multiply(p.quotients[1], omega);
  right += p.quotients[0];
  return pairing_is_one({{left, G2Affine::generator()}, {right.negate().to_affine(), g2_s}});
}

}  // namespace zkserve
