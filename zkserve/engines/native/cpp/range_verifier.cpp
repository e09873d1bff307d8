#include "range.hpp"
#include "verification.hpp"

namespace zkserve {
namespace {

bool accepts(const Description& D, unsigned weight_bytes, const Digest& srs, const G2Affine& g2_s,
             const Digest& weights, const std::vector<uint8_t>& proof) {
  const RangeLayout layout(D, weight_bytes);
  need_proof(proof.size() == layout.proof_bytes());
  ProofReader r(proof.data(), proof.size());
  const uint8_t* weight_points = proof.data();
  const Points committed = r.points(D.nW);
  for (const G1Affine& point : committed) need_proof(!point.is_infinity());
  const std::vector<uint32_t> multipliers = r.multipliers(D.multipliers);
  const Points fresh = r.points(layout.tiles.nw), helpers = r.points(layout.tiles.nh);
  const Fr V = r.scalars(1)[0];
  std::vector<Vector> rounds, final_rounds;
  for (unsigned degree : layout.degrees) rounds.push_back(r.scalars(degree));
  const Vector E = r.scalars(layout.nE);
  const Fr s_M = r.scalars(1)[0];
  for (unsigned i = 0; i < D.k; ++i) final_rounds.push_back(r.scalars(2));
  const Opening opening = Opening::read(r);
  r.finish();
  need_proof(weights_digest(weight_points, D.nW, multipliers) == weights);
  const std::vector<std::vector<int64_t>> bounds = range_bounds(D, multipliers);

  Transcript t = range_transcript(D, weight_bytes, srs, weights);
  RangeChallenges c;
  for (const G1Affine& point : fresh) t.absorb(point);
  c.alpha = t.challenge();
  for (const G1Affine& point : helpers) t.absorb(point);
  draw_range_challenges(layout, [&] { return t.challenge(); }, c);
  t.absorb(V);
  Fr value = V;
  for (const Vector& sent : rounds) {
    t.absorb(sent);
    c.r.push_back(t.challenge());
    value = next_claim(value, sent, c.r.back());
  }
  t.absorb(E);
  c.chi_x = t.challenge();
  c.chi = t.challenges(D.k);
  t.absorb(s_M);
  c.beta = t.challenge();
  const Claims linear = range_claims(layout, bounds, c, V, E, value - range_bracket(layout, E, c), s_M);

  value = linear.value;
  Vector rho;
  for (const Vector& sent : final_rounds) {
    t.absorb(sent);
    rho.push_back(t.challenge());
    value = next_claim(value, sent, rho.back());
  }
  const Points no_input;
  const Points* tiles[family_count] = {&committed, &fresh, &helpers, &no_input};
  return check_opening(D.k, g2_s, opening, tiles, evaluate(layout.tiles, linear.terms, rho), rho, value, t);
}

}  // namespace

bool verify_range(const Description& D, unsigned weight_bytes, const Digest& srs, const G2Affine& g2_s,
                  const Digest& weights, const std::vector<uint8_t>& proof) noexcept {
  try {
    return accepts(D, weight_bytes, srs, g2_s, weights, proof);
  } catch (...) {
    return false;  // whatever goes wrong, nothing has been proven
  }
}

}  // namespace zkserve
