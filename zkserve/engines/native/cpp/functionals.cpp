#include "functionals.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

namespace zkserve {
namespace {

Shared share(Vector v) { return std::make_shared<const Vector>(std::move(v)); }

Vector powers(const Fr& base, size_t count) {
  Vector out(count, Fr::one());
  for (size_t i = 1; i < count; ++i) out[i] = out[i - 1] * base;
  return out;
}

// The first `count` entries of eq(u).
Vector truncated_eq(const Fr* u, unsigned bits, uint64_t count) {
  Vector v = eq_vector(u, bits);
  v.resize(count);
  return v;
}

Vector slice(const Vector& v, size_t begin, size_t count) { return Vector(v.begin() + begin, v.begin() + begin + count); }
Vector last(const Vector& r, unsigned count) { return slice(r, r.size() - count, count); }

Vector outer(const Vector& a, const Vector& b) {
  Vector out;
  out.reserve(a.size() * b.size());
  for (const Fr& x : a)
    for (const Fr& y : b) out.push_back(x * y);
  return out;
}

void scale_by(Vector& v, const std::vector<uint32_t>& multipliers, size_t first) {
  for (size_t i = 0; i < v.size(); ++i) v[i] *= Fr::from_u64(multipliers[first + i]);
}

// eq(u, index) for the `bits` low bits of index.
Fr eq_at(const Fr* u, unsigned bits, uint64_t index) {
  Fr out = Fr::one();
  for (unsigned j = 0; j < bits; ++j) out *= (index >> (bits - 1 - j)) & 1 ? u[j] : Fr::one() - u[j];
  return out;
}

// <teq(u, count), eq(rho)>, in O(bits).
Fr truncated_eqv(const Fr* u, const Fr* rho, unsigned bits, uint64_t count) {
  if (count >> bits) return eqv(u, rho, bits);
  Vector suffix(bits + 1, Fr::one());
  for (unsigned i = bits; i-- > 0;) suffix[i] = suffix[i + 1] * eqv(u + i, rho + i, 1);
  Fr total = Fr::zero(), prefix = Fr::one();
  for (unsigned i = 0; i < bits; ++i) {
    const Fr zero = (Fr::one() - u[i]) * (Fr::one() - rho[i]);
    if ((count >> (bits - 1 - i)) & 1) {
      total += prefix * zero * suffix[i + 1];
      prefix *= u[i] * rho[i];
    } else {
      prefix *= zero;
    }
  }
  return total;
}

// Sum of the first `count` entries of eq(u).
Fr truncated_sum(const Fr* u, unsigned bits, uint64_t count) {
  if (count >> bits) return Fr::one();
  Fr total = Fr::zero(), prefix = Fr::one();
  for (unsigned i = 0; i < bits; ++i) {
    if ((count >> (bits - 1 - i)) & 1) {
      total += prefix * (Fr::one() - u[i]);
      prefix *= u[i];
    } else {
      prefix *= Fr::one() - u[i];
    }
  }
  return total;
}

Fr sum_of(const Factor& f) {
  switch (f.kind) {
    case Factor::Kind::ones:
      return Fr::from_u64(f.count);
    case Factor::Kind::eq:
      return truncated_sum(f.values->data() + f.begin, f.bits, f.count);
    case Factor::Kind::dense:
      break;
  }
  Fr total = Fr::zero();
  for (uint64_t i = 0; i < f.count; ++i) total += (*f.values)[f.begin + i];
  return total;
}

Fr sums_of(const Factor& lead, const std::vector<Factor>& rest) {
  Fr out = sum_of(lead);
  for (const Factor& f : rest) out *= sum_of(f);
  return out;
}

// The entries of a leading factor that a piece holds; `coefficient` takes what all of them have in common.
Factor cut(const Factor& lead, const Piece& piece, Fr& coefficient) {
  const uint64_t size = uint64_t(1) << piece.log;
  const auto held = [&](uint64_t entries) { return std::min<uint64_t>(entries > piece.first ? entries - piece.first : 0, size); };
  if (lead.kind == Factor::Kind::eq && piece.log <= lead.bits && piece.first % size == 0) {
    const unsigned prefix = lead.bits - piece.log;
    coefficient *= eq_at(lead.values->data() + lead.begin, prefix, piece.first >> piece.log);
    return {Factor::Kind::eq, piece.log, lead.values, lead.begin + prefix, held(lead.count)};
  }
  Factor all = lead.kind == Factor::Kind::dense ? lead : Factor::dense(expand(lead), lead.bits);
  return {Factor::Kind::dense, piece.log, all.values, all.begin + piece.first, held(all.count)};
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
    if (t.flat) return {batch, Factor::dense(outer(rows, columns), t.rest_bits[1])};
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
    lead = channel_factor(t, p.s0, outer(group, truncated_eq(point.data() + begin, p.contraction_bits[0], p.group_inputs)));
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
  const Vector spatial = t.flat ? dense[2] : outer(dense[2], dense[3]);
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

Factor Factor::dense(Shared values, unsigned bits) {
  const uint64_t count = values->size();
  return {Kind::dense, bits, std::move(values), 0, count};
}
Factor Factor::dense(Vector values, unsigned bits) { return dense(share(std::move(values)), bits); }
Factor Factor::eq(Shared point, size_t begin, unsigned bits, uint64_t count) {
  return {Kind::eq, bits, std::move(point), begin, count};
}
Factor Factor::eq(Shared point) {
  const unsigned bits = unsigned(point->size());
  return {Kind::eq, bits, std::move(point), 0, uint64_t(1) << bits};
}
Factor Factor::ones(unsigned bits) { return {Kind::ones, bits, nullptr, 0, uint64_t(1) << bits}; }

Vector eq_vector(const Fr* u, unsigned bits) {
  Vector out(size_t(1) << bits);
  out[0] = Fr::one();
  // From the last variable to the first, so that each pass writes whole halves.
  for (unsigned i = 0; i < bits; ++i) {
    const Fr& x = u[bits - 1 - i];
    const size_t half = size_t(1) << i;
    for (size_t j = 0; j < half; ++j) {
      out[half + j] = out[j] * x;
      out[j] -= out[half + j];
    }
  }
  return out;
}

Fr eqv(const Fr* a, const Fr* b, unsigned bits) {
  Fr out = Fr::one();
  for (unsigned i = 0; i < bits; ++i) {
    const Fr both = a[i] * b[i];
    out *= Fr::one() - a[i] - b[i] + both + both;
  }
  return out;
}

Fr sum(const Vector& v) {
  Fr out = Fr::zero();
  for (const Fr& x : v) out += x;
  return out;
}

Vector rotated(const Vector& chi) {
  Vector out(chi.begin() + 1, chi.end());
  out.push_back(chi[0]);
  return out;
}

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
  v.channel = outer(v.e_g, v.e_c);
  v.hat_channel = outer(v.hat_g, v.hat_c);

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

Claims claims(const Description& D, const Statement& s, const Challenges& c, const Fr& V, const Vector& E,
              const Fr& g, const Fr& s_M) {
  return Collector(D, s, c).collect(V, E, g, s_M);
}

TileValues evaluate(const Description& D, const std::vector<Term>& terms, const Vector& rho) {
  TileValues out = {Vector(D.nW, Fr::zero()), Vector(D.nw, Fr::zero()), Vector(D.nh, Fr::zero()), Vector(1, Fr::zero())};
  // Many terms share factors, which then meet the same coordinates of rho.
  std::map<std::pair<unsigned, unsigned>, Vector> tables;
  std::map<std::tuple<const Vector*, size_t, uint64_t, unsigned, unsigned, bool>, Fr> known;
  const auto inner_product = [&](const Factor& f, unsigned first) {
    if (f.kind == Factor::Kind::ones) return Fr::one();
    const auto key = std::make_tuple(f.values.get(), f.begin, f.count, f.bits, first, f.kind == Factor::Kind::eq);
    const auto found = known.find(key);
    if (found != known.end()) return found->second;
    Fr value = Fr::zero();
    if (f.kind == Factor::Kind::eq) {
      value = truncated_eqv(f.values->data() + f.begin, rho.data() + first, f.bits, f.count);
    } else {
      Vector& table = tables[{first, f.bits}];
      if (table.empty()) table = eq_vector(rho.data() + first, f.bits);
      for (uint64_t i = 0; i < f.count; ++i) value += (*f.values)[f.begin + i] * table[i];
    }
    return known.emplace(key, value).first->second;
  };

  for (const Term& term : terms) {
    unsigned bits = 0;
    for (const Factor& f : term.factors) bits += f.bits;
    unsigned at = D.k - bits;
    Fr value = term.coefficient * eq_at(rho.data(), at, (term.offset & (D.N - 1)) >> bits);
    for (const Factor& f : term.factors) {
      value *= inner_product(f, at);
      at += f.bits;
    }
    out[unsigned(term.family)][term.offset >> D.k] += value;
  }
  return out;
}

Vector expand(const Factor& f) {
  Vector out;
  if (f.kind == Factor::Kind::ones) {
    out.assign(size_t(1) << f.bits, Fr::one());
  } else if (f.kind == Factor::Kind::eq) {
    out = eq_vector(f.values->data() + f.begin, f.bits);
    std::fill(out.begin() + std::min<uint64_t>(f.count, out.size()), out.end(), Fr::zero());
  } else {
    out.assign(size_t(1) << f.bits, Fr::zero());
    std::copy_n(f.values->begin() + f.begin, f.count, out.begin());
  }
  return out;
}

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
