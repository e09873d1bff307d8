#include "factors.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

namespace zkserve {
namespace {

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

}  // namespace

Factor Factor::dense(Shared values, unsigned bits) {
  const uint64_t count = values->size();
  return {Kind::dense, bits, std::move(values), 0, count};
}
Factor Factor::dense(Vector values, unsigned bits) { return dense(std::make_shared<const Vector>(std::move(values)), bits); }
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

Vector truncated_eq(const Fr* u, unsigned bits, uint64_t count) {
  Vector v = eq_vector(u, bits);
  v.resize(count);
  return v;
}

Fr eq_at(const Fr* u, unsigned bits, uint64_t index) {
  Fr out = Fr::one();
  for (unsigned j = 0; j < bits; ++j) out *= (index >> (bits - 1 - j)) & 1 ? u[j] : Fr::one() - u[j];
  return out;
}

Vector powers(const Fr& base, size_t count) {
  Vector out(count, Fr::one());
  for (size_t i = 1; i < count; ++i) out[i] = out[i - 1] * base;
  return out;
}

Vector outer_product(const Vector& a, const Vector& b) {
  Vector out;
  out.reserve(a.size() * b.size());
  for (const Fr& x : a)
    for (const Fr& y : b) out.push_back(x * y);
  return out;
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

}  // namespace zkserve
