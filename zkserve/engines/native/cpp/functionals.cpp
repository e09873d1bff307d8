#include "functionals.hpp"

#include <algorithm>
#include <utility>

namespace zkserve {
namespace {

Shared share(Vector v) { return std::make_shared<const Vector>(std::move(v)); }

Vector slice(const Vector& v, size_t begin, size_t count) { return Vector(v.begin() + begin, v.begin() + begin + count); }
Vector last(const Vector& r, unsigned count) { return slice(r, r.size() - count, count); }

Fr sums_of(const Factor& lead, const std::vector<Factor>& rest) {
  Fr out = sum_of(lead);
  for (const Factor& f : rest) out *= sum_of(f);
  return out;
}

// Functionals of one proof, collected term by term.
class Collector {
 public:
  Collector(const Description& D, const Statement& s, const Challenges& c) : D_(D), s_(s), c_(c) {}

  Claims collect(const Fr& V, const Vector& E, const Fr& g, const Fr& s_M);

 private:
  const Description& D_;
  const Statement& s_;
  const Challenges& c_;
  Claims out_;

  void add(Family family, uint64_t offset, std::vector<Factor> factors, const Fr& coefficient) {
    out_.terms.push_back({family, offset, std::move(factors), coefficient});
  }

  // A vector over a stored block: the leading factor cut to each piece.
  void add_pieces(Family family, uint64_t base, const std::vector<Piece>& pieces, const Factor& lead,
                  const std::vector<Factor>& rest, const Fr& coefficient) {
    for (const Piece& piece : pieces) {
      Fr c = coefficient;
      std::vector<Factor> factors = {cut(lead, piece, c)};
      if (factors[0].count == 0) continue;
      factors.insert(factors.end(), rest.begin(), rest.end());
      add(family, base + piece.offset, std::move(factors), c);
    }
  }
  void add_column(unsigned column, const Tensor& t, const Factor& lead, const std::vector<Factor>& rest,
                  const Fr& coefficient) {
    add_pieces(Family::fresh, uint64_t(column) << D_.nr, t.pieces, lead, rest, coefficient);
  }
  // The value of a tensor's cells: a column, or the bytes of the input.
  void add_value(unsigned tensor, const Factor& lead, const std::vector<Factor>& rest, const Fr& coefficient) {
    const Tensor& t = D_.tensors[tensor];
    if (tensor) return add_column(D_.y(), t, lead, rest, coefficient);
    for (unsigned a = 0; a < D_.AX; ++a)
      add_column(D_.x(a), t, lead, rest, coefficient * Fr::from_u64(uint64_t(1) << 8 * a));
  }

  Factor channel_factor(const Tensor& t, size_t first, const Vector& v) const {
    Vector all(t.channels, Fr::zero());
    std::copy(v.begin(), v.end(), all.begin() + first);
    return Factor::dense(std::move(all), clog(t.channels));
  }
  // Factors of the stored dimensions behind the channel.
  std::vector<Factor> rest_factors(const Tensor& t, const Factor& batch, const Vector& rows, const Vector& columns) const {
    if (t.flat) return {batch, Factor::dense(outer_product(rows, columns), t.rest_bits[1])};
    return {batch, Factor::dense(rows, t.rest_bits[1]), Factor::dense(columns, t.rest_bits[2])};
  }
  Factor batch_factor(const Shared& e_b) const { return Factor::dense(e_b, clog(D_.batch)); }

  void equation_terms(size_t l, const Fr& weight);
  void libra_terms(const Fr& g, const Fr& beta);
  void open_input_terms(const Fr& beta);
  void hidden_input_terms(const Fr& beta);
  void left_factor_terms(const Equation& e, const EquationVectors& v, const Product& p, const Vector& point, const Fr& beta);
  Fr right_factor_terms(const Equation& e, const EquationVectors& v, const Product& p, const Vector& point, const Fr& beta);
  void output_terms(const Fr& beta);
  Fr raw_outputs(const EquationVectors& v) const;
};

// weight * (left - bias - scal) of equation l; its constant goes to the right side.
void Collector::equation_terms(size_t l, const Fr& weight) {
  const Equation& e = D_.equations[l];
  const EquationVectors& v = c_.equations[l];
  const Shared e_b = share(v.e_b);
  Fr constant = Fr::zero();
  if (e.raw) {
    constant = raw_outputs(v);
  } else {
    const Tensor& t = D_.tensors[e.target];
    const Factor lead = channel_factor(t, e.c0, v.channel);
    const std::vector<Factor> rest = rest_factors(t, batch_factor(e_b), v.u_Y, v.u_X);
    const unsigned limbs = D_.RL + D_.A + 1;  // REM, LO, HI are the first columns
    for (unsigned i = 0; i < limbs; ++i) add_column(i, t, lead, rest, weight * Fr::from_u64(uint64_t(1) << 8 * i));
    const uint64_t shift = (uint64_t(1) << (D_.S - 1)) + (uint64_t(t.zp) << D_.S) + (uint64_t(1) << (D_.U - 1));
    constant = -(Fr::from_u64(shift) * sums_of(lead, rest));
    if (e.pooled) {
      const Factor hat = channel_factor(t, e.c0, v.hat_channel);
      for (unsigned a = 0; a < e.eh; ++a)
        for (unsigned b = 0; b < e.ew; ++b) {
          Vector rows, columns;
          for (size_t i = a; i < v.e_Y.size(); i += e.eh) rows.push_back(v.e_Y[i]);
          for (size_t i = b; i < v.e_X.size(); i += e.ew) columns.push_back(v.e_X[i]);
          const std::vector<Factor> window = rest_factors(t, batch_factor(e_b), rows, columns);
          for (unsigned limb = 0; limb < D_.NL; ++limb)
            add_column(D_.d(a * e.ew + b, limb), t, hat, window,
                       -(weight * v.multiplier * Fr::from_u64(uint64_t(1) << 8 * limb)));
        }
    }
  }
  if (!e.bias.empty()) {
    const Fr once = sum(v.e_b) * sum(v.e_Y) * sum(v.e_X);
    add_pieces(Family::weights, 0, e.bias, Factor::dense(v.hat_channel, clog(e.cn)), {},
               -(weight * v.multiplier * once));
  }
  for (size_t i = 0; i < e.scaled.size(); ++i) {
    const Scaled& s = e.scaled[i];
    const Tensor& t = D_.tensors[s.source];
    const Fr m = v.multiplier * Fr::from_u64(scaled_multiplier(e, i, s_.multipliers));
    const Factor lead = channel_factor(t, s.s0, v.hat_channel);
    const std::vector<Factor> rest = rest_factors(t, batch_factor(e_b), pull_rows(v.bar_Y, s.views, s.extents),
                                                  pull_columns(v.bar_X, s.views, s.extents));
    add_value(s.source, lead, rest, -(weight * m));
    constant += m * Fr::from_u64(t.zp) * sums_of(lead, rest);
  }
  out_.value -= weight * constant;
}

Fr Collector::raw_outputs(const EquationVectors& v) const {
  Fr total = Fr::zero();
  const int64_t* y = s_.outputs.data();
  for (const Fr& batch : v.e_b)
    for (const Fr& channel : v.channel) {
      Fr image = Fr::zero();
      for (const Fr& row : v.bar_Y) {
        Fr line = Fr::zero();
        for (const Fr& column : v.bar_X) line += column * Fr::from_i64(*y++);
        image += row * line;
      }
      total += batch * channel * image;
    }
  return total;
}

// Claims 0 and 1 on the Libra coefficients.
void Collector::libra_terms(const Fr& g, const Fr& beta) {
  const Fr half = Fr::from_u64(2).pow(D_.n - 1);
  Vector weights = {half + half + beta};
  for (unsigned i = 0; i < D_.n; ++i) {
    Fr power = beta;
    for (unsigned e = 0; e < D_.degrees[i]; ++e) {
      power *= c_.r[i];
      weights.push_back(half + power);
    }
  }
  add(Family::helper, D_.goff, {Factor::dense(std::move(weights), clog(1 + D_.degree_sum))}, Fr::one());
  out_.value += beta * g;
}

void Collector::open_input_terms(const Fr& beta) {
  const Tensor& t = D_.tensors[0];
  const unsigned vpw = D_.values_per_word;
  const size_t word_bytes = size_t(vpw) * D_.AX;
  const size_t words = s_.input.size() / word_bytes;
  const Vector power = powers(c_.chi_x, words);
  Vector columns, rows, channels, batch;
  for (uint32_t i = 0; i < t.width; ++i)
    columns.push_back(power[i / vpw] * Fr::from_u64(2).pow(8 * D_.AX * (vpw - 1 - i % vpw)));
  const size_t row = D_.words_per_row, image = row * t.height;
  for (uint32_t i = 0; i < t.height; ++i) rows.push_back(power[i * row]);
  for (uint32_t i = 0; i < t.channels; ++i) channels.push_back(power[i * image]);
  for (uint32_t i = 0; i < D_.batch; ++i) batch.push_back(power[i * image * t.channels]);
  add_value(0, channel_factor(t, 0, channels), rest_factors(t, batch_factor(share(std::move(batch))), rows, columns),
            beta);
  Fr expected = Fr::zero();
  for (size_t i = 0; i < words; ++i) {
    uint8_t word[32] = {};
    std::copy_n(s_.input.data() + i * word_bytes, word_bytes, word + 32 - word_bytes);
    expected += power[i] * Fr::reduce(word);
  }
  out_.value += beta * expected;
}

void Collector::hidden_input_terms(const Fr& beta) {
  const Tensor& t = D_.tensors[0];
  std::vector<unsigned> bits = t.bits();
  bits.insert(bits.begin(), clog(D_.AX));
  const std::vector<uint64_t> sizes = {D_.AX, t.channels, D_.batch, t.height, t.width};
  Vector point;
  for (unsigned b : bits) point.resize(point.size() + b, Fr::zero());
  Fr power = c_.chi_x;
  for (size_t j = point.size(); j-- > 0; power = power.square()) point[j] = power;
  const Shared shared = share(point);
  std::vector<Factor> factors;
  size_t begin = 0;
  for (size_t i = 0; i < bits.size(); begin += bits[i++]) factors.push_back(Factor::eq(shared, begin, bits[i], sizes[i]));
  const Vector bytes = expand(factors[0]);
  for (unsigned a = 0; a < D_.AX; ++a)
    add_column(D_.x(a), t, factors[1], {factors.begin() + 2, factors.end()}, beta * bytes[a]);
  add(Family::input, 0, std::move(factors), -beta);
}

// A_j at its point, which is split over (g, i, y, x).
void Collector::left_factor_terms(const Equation& e, const EquationVectors& v, const Product& p, const Vector& point,
                                  const Fr& beta) {
  const Shared shared = share(point);
  size_t begin = 0;
  const auto next = [&](unsigned bits) {
    begin += bits;
    return Factor::eq(shared, begin - bits, bits, uint64_t(1) << bits);
  };
  std::vector<Factor> factors = {next(p.group_bits)};
  for (unsigned bits : p.contraction_bits) factors.push_back(next(bits));
  factors.insert(factors.begin() + (p.order == 0 ? 1 : 2), Factor::dense(v.hat_c, clog(e.group_outputs)));
  if (e.groups == 1) factors.erase(factors.begin());
  add_pieces(Family::weights, 0, p.pieces, factors[0], {factors.begin() + 1, factors.end()}, beta);
}

// B_j at its point; returns beta * zp * sums.
Fr Collector::right_factor_terms(const Equation& e, const EquationVectors& v, const Product& p, const Vector& point,
                                 const Fr& beta) {
  const Tensor& t = D_.tensors[p.source];
  const Shared shared = share(point);
  const Factor batch = batch_factor(share(v.e_b));
  size_t begin = p.group_bits;
  // The part of the point that belongs to contraction dimension `i`.
  const auto part = [&](size_t i) {
    size_t at = p.group_bits;
    for (size_t j = 0; j < i; ++j) at += p.contraction_bits[j];
    return at;
  };

  Factor lead;
  if (e.groups == 1 && p.sn == t.channels) {
    lead = Factor::eq(shared, begin, p.contraction_bits[0], p.sn);
  } else {
    Vector group = truncated_eq(point.data(), p.group_bits, e.groups);
    for (uint32_t g = 0; g < e.groups; ++g) group[g] *= v.hat_g[g];
    lead = channel_factor(t, p.s0, outer_product(group, truncated_eq(point.data() + begin, p.contraction_bits[0], p.group_inputs)));
  }

  std::vector<Factor> rest = {batch};
  if (!p.gemm) {
    // q = stride * o + dilation * tap - pad
    const auto convolve = [&](size_t dimension, unsigned taps, unsigned stride, unsigned dilation, unsigned pad,
                              const Vector& bar, uint32_t size) {
      const Vector tap = truncated_eq(point.data() + part(dimension), p.contraction_bits[dimension], taps);
      Vector out(size, Fr::zero());
      for (size_t a = 0; a < taps; ++a)
        for (size_t o = 0; o < bar.size(); ++o) {
          const int64_t q = int64_t(stride * o + dilation * a) - pad;
          if (q >= 0 && q < int64_t(size)) out[q] += tap[a] * bar[o];
        }
      return out;
    };
    const Extent read = p.extents.back();
    rest = rest_factors(t, batch,
                        pull_rows(convolve(1, p.kh, p.sh, p.dh, p.ph, v.bar_Y, read.height), p.views, p.extents),
                        pull_columns(convolve(2, p.kw, p.sw, p.dw, p.pw, v.bar_X, read.width), p.views, p.extents));
  } else {
    // A dimension of one entry may have got a bit in the instance which the tensor has not.
    const auto read = [&](size_t dimension, unsigned stored_bits) {
      const unsigned bits = p.contraction_bits[dimension];
      const uint32_t size = p.contraction[dimension];
      if (bits == stored_bits) return Factor::eq(shared, part(dimension), bits, size);
      return Factor::dense(truncated_eq(point.data() + part(dimension), bits, size), stored_bits);
    };
    if (p.views.empty()) {
      for (size_t i = 1; i < p.contraction.size(); ++i) rest.push_back(read(i, t.rest_bits[i]));
    } else {
      const auto whole = [&](size_t i) { return truncated_eq(point.data() + part(i), p.contraction_bits[i], p.contraction[i]); };
      rest = rest_factors(t, batch, pull_rows(whole(1), p.views, p.extents), pull_columns(whole(2), p.views, p.extents));
    }
  }
  add_value(p.source, lead, rest, beta);
  return beta * Fr::from_u64(t.zp) * sums_of(lead, rest);
}

// Output kind 1: the outputs are the cells of a tensor, less its zero point.
void Collector::output_terms(const Fr& beta) {
  const Tensor& t = D_.output_tensor();
  const Shared point = share(c_.output_point);
  std::vector<uint64_t> sizes = {t.channels, D_.batch};
  if (t.flat)
    sizes.push_back(uint64_t(t.height) * t.width);
  else
    sizes.insert(sizes.end(), {t.height, t.width});
  std::vector<Factor> factors;
  size_t begin = 0;
  for (size_t i = 0; i < sizes.size(); begin += D_.output_bits[i++])
    factors.push_back(Factor::eq(point, begin, D_.output_bits[i], sizes[i]));
  add_column(D_.y(), t, factors[0], {factors.begin() + 1, factors.end()}, beta);

  std::vector<Vector> dense;
  for (size_t i = 0; i < sizes.size(); ++i) {
    dense.push_back(expand(factors[i]));
    dense[i].resize(sizes[i]);
  }
  const Vector spatial = t.flat ? dense[2] : outer_product(dense[2], dense[3]);
  const int64_t* y = s_.outputs.data();
  Fr expected = Fr::zero();
  for (const Fr& batch : dense[1])
    for (const Fr& channel : dense[0]) {
      Fr image = Fr::zero();
      for (const Fr& position : spatial) image += position * Fr::from_i64(*y++ + t.zp);
      expected += batch * channel * image;
    }
  out_.value += beta * expected;
}

Claims Collector::collect(const Fr& V, const Vector& E, const Fr& g, const Fr& s_M) {
  const Vector beta = powers(c_.beta, 6 + D_.nE);
  out_.value = V;
  Fr eta = Fr::one();
  for (size_t l = 0; l < D_.equations.size(); ++l, eta *= c_.eta) equation_terms(l, eta);
  libra_terms(g, beta[1]);

  for (unsigned i = 0; i < D_.groups3; ++i)
    add(Family::helper, D_.hoff + (uint64_t(i) << D_.nr), {Factor::ones(D_.nr)}, beta[2]);
  add(Family::helper, D_.hT, {Factor::ones(D_.kt)}, -beta[2]);

  if (s_.mode == Mode::open_input)
    open_input_terms(beta[3]);
  else
    hidden_input_terms(beta[3]);

  const Factor chi = Factor::eq(share(c_.chi));
  Fr tile = Fr::one();
  for (uint64_t t = 0; t < D_.nh; ++t, tile += c_.chi_x) add(Family::helper, t << D_.k, {chi}, beta[4] * tile);
  add(Family::fresh, uint64_t(D_.nw - 1) << D_.k, {Factor::eq(share(rotated(c_.chi)))}, beta[4] * c_.chi_x.square());
  out_.value += beta[4] * s_M;

  size_t i = 0;
  const auto claim = [&](Family family, uint64_t offset, const Factor& point) {
    add(family, offset, {point}, beta[5 + i]);
    out_.value += beta[5 + i] * E[i];
    ++i;
  };
  for (const Description::ProductIndex& index : D_.products) {
    const Equation& e = D_.equations[index.equation];
    const EquationVectors& v = c_.equations[index.equation];
    const Product& p = D_.product(index);
    const Vector point = last(c_.r, p.kappa);
    left_factor_terms(e, v, p, point, beta[5 + i]);
    out_.value += beta[5 + i] * E[i];
    ++i;
    out_.value += right_factor_terms(e, v, p, point, beta[5 + i]);
    out_.value += beta[5 + i] * E[i];
    ++i;
  }
  const Factor row = Factor::eq(share(last(c_.r, D_.nr))), table = Factor::eq(share(last(c_.r, D_.kt)));
  for (uint64_t column = 0; column < D_.columns; ++column) claim(Family::fresh, column << D_.nr, row);
  for (uint64_t column = 0; column < D_.groups3; ++column) claim(Family::helper, D_.hoff + (column << D_.nr), row);
  claim(Family::helper, D_.hT, table);
  claim(Family::fresh, D_.moff, table);

  const Fr z = c_.r.back() * (Fr::one() - c_.r.back());
  Vector masks = slice(beta, 5, D_.nE);
  for (Fr& m : masks) m *= z;
  add(Family::helper, D_.roff, {Factor::dense(std::move(masks), clog(D_.nE))}, Fr::one());

  if (D_.output_kind == 1) output_terms(beta[5 + D_.nE]);
  return std::move(out_);
}

}  // namespace

Vector rotated(const Vector& chi) {
  Vector out(chi.begin() + 1, chi.end());
  out.push_back(chi[0]);
  return out;
}

Claims claims(const Description& D, const Statement& s, const Challenges& c, const Fr& V, const Vector& E,
              const Fr& g, const Fr& s_M) {
  return Collector(D, s, c).collect(V, E, g, s_M);
}

}  // namespace zkserve
