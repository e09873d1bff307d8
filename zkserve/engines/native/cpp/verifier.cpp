#include "verifier.hpp"

#include <algorithm>
#include <iterator>

#include "functionals.hpp"
#include "msm.hpp"
#include "pairing.hpp"
#include "threads.hpp"

namespace zkserve {
namespace {

void need(bool condition) {
  if (!condition) throw Refused("the proof is rejected");
}

constexpr int64_t output_bound = int64_t(1) << 62;

using Points = std::vector<G1Affine>;

// The parts of a proof, in the order of section 12; all values are canonical once it is parsed.
struct Proof {
  Digest context;
  const uint8_t* weight_bytes;
  const uint8_t* input_bytes;  // of C_X; hidden mode only
  std::vector<uint32_t> multipliers;
  Points weights, input, fresh, helpers;  // C_W, C_X, C_w, C_h
  Fr V;
  std::vector<Vector> rounds;
  Vector E;
  Fr s_M;
  std::vector<Vector> final_rounds;
  Points opening;  // [h], [q*], [g], [S]
  Vector values;   // g(zeta), g(1/zeta), h(zeta), h(1/zeta), S(zeta), 1/zeta
  Points quotients;  // [W1], [W2]
};

class ProofReader {
 public:
  ProofReader(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}

  const uint8_t* take(size_t size) {
    need(size_t(end_ - at_) >= size);
    at_ += size;
    return at_ - size;
  }
  Points points(size_t count) {
    Points out(count);
    for (G1Affine& p : out) need(G1Affine::from_bytes(take(64), p));
    return out;
  }
  Vector scalars(size_t count) {
    Vector out(count);
    for (Fr& x : out) need(Fr::from_bytes(take(32), x));
    return out;
  }
  uint32_t u32() {
    const uint8_t* b = take(4);
    return uint32_t(b[0]) << 24 | uint32_t(b[1]) << 16 | uint32_t(b[2]) << 8 | b[3];
  }
  void finish() const { need(at_ == end_); }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

Proof parse(const Description& D, Mode mode, const uint8_t* data, size_t size) {
  need(size == D.proof_bytes(unsigned(mode)));
  ProofReader r(data, size);
  Proof p;
  std::copy_n(r.take(32), 32, p.context.begin());
  ProofReader prefix = r;
  p.weight_bytes = prefix.take(64 * size_t(D.nW));
  p.weights = r.points(D.nW);
  p.input_bytes = mode == Mode::hidden_input ? prefix.take(64) : nullptr;
  p.input = r.points(mode == Mode::hidden_input ? 1 : 0);
  for (size_t i = 0; i < D.multipliers; ++i) {
    p.multipliers.push_back(r.u32());
    need(p.multipliers.back() >= 1 && p.multipliers.back() < 1 << 16);
  }
  p.fresh = r.points(D.nw);
  p.helpers = r.points(D.nh);
  p.V = r.scalars(1)[0];
  for (unsigned degree : D.degrees) p.rounds.push_back(r.scalars(degree));
  p.E = r.scalars(D.nE);
  p.s_M = r.scalars(1)[0];
  for (unsigned i = 0; i < D.k; ++i) p.final_rounds.push_back(r.scalars(2));
  p.opening = r.points(4);
  p.values = r.scalars(6);
  p.quotients = r.points(2);
  r.finish();
  for (const Points* points : {&p.weights, &p.input})
    for (const G1Affine& point : *points) need(!point.is_infinity());
  return p;
}

// s(r) for the round polynomial with all coefficients but the linear one sent: s(0) + s(1) = claim.
Fr next_claim(const Fr& claim, const Vector& sent, const Fr& r) {
  const Fr linear = claim - sent[0] - sum(sent);
  Fr out = Fr::zero();
  for (size_t i = sent.size(); i-- > 1;) out = (out + sent[i]) * r;
  return ((out + linear) * r) + sent[0];
}

// F: the main sumcheck's bracket at r, without g.
Fr bracket(const Description& D, const Challenges& c, const Vector& E) {
  const Fr half = Fr::inv2();
  Vector eta = {Fr::one()};
  while (eta.size() < D.equations.size() + 3 + D.groups3) eta.push_back(eta.back() * c.eta);
  Fr F = Fr::zero();
  for (size_t i = 0; i < D.products.size(); ++i) {
    const size_t l = D.products[i].equation;
    F += half.pow(D.n - D.product(D.products[i]).kappa) * eta[l] * c.equations[l].multiplier * E[2 * i] * E[2 * i + 1];
  }
  const Vector row(c.r.end() - D.nr, c.r.end()), table(c.r.end() - D.kt, c.r.end());
  F += half.pow(D.n - D.nr) * eqv(c.tau.data(), row.data(), D.nr) *
       rows_at(D, E.data() + 2 * D.products.size(), kinds_at(D, row), c);
  F += half.pow(D.n - D.kt) * eta.back() * eqv(c.tau.data(), table.data(), D.kt) *
       (E[D.nE - 2] * (c.alpha - table_at(D, table, c.lambda)) - E[D.nE - 1]);
  return F;
}

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

// Section 10: sum_t L_t(rho) P_t has the value e at rho.
bool check_opening(const Description& D, const G2Affine& g2_s, const Proof& p, const TileValues& L, const Vector& rho,
                   const Fr& e, Transcript& t) {
  t.absorb(p.opening[0]);
  const Fr theta = t.challenge(), gamma = t.challenge();
  for (size_t i = 1; i < 4; ++i) t.absorb(p.opening[i]);
  const Fr zeta = t.challenge();
  t.absorb(p.values);
  const Fr nu = t.challenge();
  for (const G1Affine& point : p.quotients) t.absorb(point);
  const Fr omega = t.challenge();

  const Fr &gz = p.values[0], &gi = p.values[1], &hz = p.values[2], &hi = p.values[3], &Sz = p.values[4],
           &inverse = p.values[5];
  need(zeta * inverse == Fr::one() && !theta.is_zero());
  const unsigned low_bits = D.k / 2, high_bits = D.k - low_bits;
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
  const Points* families[family_count] = {&p.weights, &p.fresh, &p.helpers, &p.input};
  for (unsigned f = 0; f < family_count; ++f)
    for (size_t i = 0; i < families[f]->size(); ++i) add((*families[f])[i], L[f][i]);
  add(p.opening[0], nu * (nu + omega));
  add(p.opening[1], -modulus);
  add(p.opening[2], nu + omega);
  add(p.opening[3], nu.square() * (nu + omega));
  add(G1Affine::generator(), -(y1 + omega * y2));
  add(p.quotients[0], zeta);
  add(p.quotients[1], omega * inverse);
  Threads here(1);
  const G1Affine left = msm(bases.data(), scalars.data(), bases.size(), here).to_affine();
  G1 right = G1::multiply(p.quotients[1], omega);
  right += p.quotients[0];
  return pairing_is_one({{left, G2Affine::generator()}, {right.negate().to_affine(), g2_s}});
}

bool accepts(const Description& D, const Digest& srs, const G2Affine& g2_s, const Digest* context, const Claim& claim,
             const uint8_t* data, size_t size) {
  const bool hidden = claim.mode == Mode::hidden_input;
  need(hidden || claim.mode == Mode::open_input);
  need(claim.input.size() == (hidden ? 32 : D.input_bytes));
  need(claim.outputs.size() == D.outputs);
  for (int64_t y : claim.outputs) need(-output_bound < y && y < output_bound);
  const Proof p = parse(D, claim.mode, data, size);
  need(!context || *context == p.context);
  need(weights_digest(p.weight_bytes, D.nW, p.multipliers) == claim.weights);
  if (hidden) {
    const Digest digest = hidden_input_digest(p.input_bytes);
    need(std::equal(digest.begin(), digest.end(), claim.input.begin()));
  }

  const Statement s = {p.context, claim.mode, srs, claim.weights, claim.input, claim.outputs, p.multipliers};
  Transcript t;
  Challenges c;
  t.absorb(s, D.digest);
  for (const G1Affine& point : p.fresh) t.absorb(point);
  draw_lookup_challenges(t, c);
  for (const G1Affine& point : p.helpers) t.absorb(point);
  draw_constraint_challenges(D, p.multipliers, t, c);

  t.absorb(p.V);
  Fr value = p.V;
  for (const Vector& sent : p.rounds) {
    t.absorb(sent);
    c.r.push_back(t.challenge());
    value = next_claim(value, sent, c.r.back());
  }
  t.absorb(p.E);
  draw_mask_challenges(D, t, c);
  t.absorb(p.s_M);
  c.beta = t.challenge();
  const Claims linear = claims(D, s, c, p.V, p.E, value - bracket(D, c, p.E), p.s_M);

  value = linear.value;
  Vector rho;
  for (const Vector& sent : p.final_rounds) {
    t.absorb(sent);
    rho.push_back(t.challenge());
    value = next_claim(value, sent, rho.back());
  }
  return check_opening(D, g2_s, p, evaluate(D, linear.terms, rho), rho, value, t);
}

}  // namespace

bool verify(const Description& D, const Digest& srs, const G2Affine& g2_s, const Digest* context, const Claim& claim,
            const uint8_t* proof, size_t size) noexcept {
  try {
    return accepts(D, srs, g2_s, context, claim, proof, size);
  } catch (...) {
    return false;
  }
}

}  // namespace zkserve
