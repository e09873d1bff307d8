#include "challenges.hpp"

#include <utility>

namespace zkserve {
namespace {

void scale_by(Vector& v, const std::vector<uint32_t>& multipliers, size_t first) {
  for (size_t i = 0; i < v.size(); ++i) v[i] *= Fr::from_u64(multipliers[first + i]);
}

Vector pull(Vector v, const std::vector<View>& views, const std::vector<Extent>& extents, bool rows) {
  for (size_t i = views.size(); i-- > 0;) {
    const View& view = views[i];
    const uint32_t size = rows ? extents[i].height : extents[i].width;
    const unsigned window = rows ? view.kh : view.kw, stride = rows ? view.sh : view.sw, pad = rows ? view.ph : view.pw;
    Vector pulled(size, Fr::zero());
    for (size_t o = 0; o < v.size(); ++o)
      for (unsigned a = 0; a < window; ++a) {
        const int64_t at = int64_t(stride * o + a) - pad;
        if (at >= 0 && at < int64_t(size)) pulled[at] += v[o];
      }
    v = std::move(pulled);
  }
  return v;
}

}  // namespace

EquationVectors equation_vectors(const Description& D, const Equation& e, const Vector& point,
                                 const std::vector<uint32_t>& multipliers) {
  EquationVectors v;
  const uint64_t sizes[] = {e.groups, e.group_outputs, D.batch, e.grid_height, e.grid_width};
  Vector* const parts[] = {&v.e_g, &v.e_c, &v.e_b, &v.e_Y, &v.e_X};
  const Fr* at = point.data();
  for (size_t i = 0; i < 5; at += e.point_bits[i++]) *parts[i] = truncated_eq(at, e.point_bits[i], sizes[i]);

  v.hat_g = v.e_g;
  v.hat_c = v.e_c;
  if (e.per_channel) scale_by(e.groups == 1 ? v.hat_c : v.hat_g, multipliers, e.first_multiplier);
  v.multiplier = e.raw || e.per_channel ? Fr::one() : Fr::from_u64(multipliers[e.first_multiplier]);
  v.channel = outer_product(v.e_g, v.e_c);
  v.hat_channel = outer_product(v.hat_g, v.hat_c);

  if (e.pooled) {
    v.u_Y.assign(e.grid_height / e.eh, Fr::zero());
    v.u_X.assign(e.grid_width / e.ew, Fr::zero());
    v.bar_Y.assign(e.oh, Fr::zero());
    v.bar_X.assign(e.ow, Fr::zero());
    for (size_t i = 0; i < v.e_Y.size(); ++i) {
      v.u_Y[i / e.eh] += v.e_Y[i];
      v.bar_Y[e.pool_row(i / e.eh, unsigned(i % e.eh))] += v.e_Y[i];
    }
    for (size_t i = 0; i < v.e_X.size(); ++i) {
      v.u_X[i / e.ew] += v.e_X[i];
      v.bar_X[e.pool_column(i / e.ew, unsigned(i % e.ew))] += v.e_X[i];
    }
  } else {
    v.u_Y = v.bar_Y = v.e_Y;
    v.u_X = v.bar_X = v.e_X;
  }
  return v;
}

Vector pull_rows(const Vector& v, const std::vector<View>& views, const std::vector<Extent>& extents) {
  return pull(v, views, extents, true);
}
Vector pull_columns(const Vector& v, const std::vector<View>& views, const std::vector<Extent>& extents) {
  return pull(v, views, extents, false);
}

uint32_t scaled_multiplier(const Equation& e, size_t index, const std::vector<uint32_t>& multipliers) {
  if (e.scaled[index].constant) return e.scaled[index].constant;
  size_t at = e.first_multiplier + e.multiplier_count;
  for (size_t i = 0; i < index; ++i) at += e.scaled[i].constant == 0;
  return multipliers[at];
}

void draw_lookup_challenges(Transcript& t, Challenges& c) {
  c.alpha = t.challenge();
  c.lambda = t.challenge();
}

void draw_constraint_challenges(const Description& D, const std::vector<uint32_t>& multipliers, Transcript& t,
                                Challenges& c) {
  c.eta = t.challenge();
  c.tau = t.challenges(D.n);
  c.equations.clear();
  for (const Equation& e : D.equations) {
    size_t bits = 0;
    for (unsigned b : e.point_bits) bits += b;
    c.equations.push_back(equation_vectors(D, e, t.challenges(bits), multipliers));
  }
  size_t bits = 0;
  for (unsigned b : D.output_bits) bits += b;
  c.output_point = t.challenges(bits);
}

void draw_mask_challenges(const Description& D, Transcript& t, Challenges& c) {
  c.chi_x = t.challenge();
  c.chi = t.challenges(D.k);
}

}  // namespace zkserve
