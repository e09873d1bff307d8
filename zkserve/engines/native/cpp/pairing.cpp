// The optimal ate pairing of BN254 (Vercauteren 2008): f_{6x+2,Q}(P) and two more lines, then the
// power (q^12 - 1) / p. Points of the loop stay affine: one batched inversion a step costs less
// code than projective lines and about a millisecond in all.
#include "pairing.hpp"

namespace zkserve {

namespace {

constexpr uint64_t bn_x = 4965661367192848881;  // the curve's parameter

// (9 + u) a: the non-residue of both extensions above Fq2.
Fq2 times_xi(const Fq2& a) {
  Fq2 eight = a.twice().twice().twice();
  return {eight.real + a.real - a.imaginary, eight.imaginary + a.imaginary + a.real};
}

// Fq2[v] / (v^3 - 9 - u).
struct Fq6 {
  Fq2 a, b, c;  // a + b v + c v^2

  friend Fq6 operator+(const Fq6& x, const Fq6& y) { return {x.a + y.a, x.b + y.b, x.c + y.c}; }
  friend Fq6 operator-(const Fq6& x, const Fq6& y) { return {x.a - y.a, x.b - y.b, x.c - y.c}; }
  friend Fq6 operator*(const Fq6& x, const Fq6& y) {
    Fq2 aa = x.a * y.a, bb = x.b * y.b, cc = x.c * y.c;
    return {aa + times_xi((x.b + x.c) * (y.b + y.c) - bb - cc), (x.a + x.b) * (y.a + y.b) - aa - bb + times_xi(cc),
            (x.a + x.c) * (y.a + y.c) - aa - cc + bb};
  }
  Fq6 operator-() const { return {-a, -b, -c}; }
  Fq6 times_v() const { return {times_xi(c), a, b}; }
  Fq6 inverse() const {
    Fq2 r = a.square() - times_xi(b * c), s = times_xi(c.square()) - a * b, t = b.square() - a * c;
    Fq2 scale = (a * r + times_xi(c * s + b * t)).inverse();
    return {r * scale, s * scale, t * scale};
  }
};

// Fq6[w] / (w^2 - v).
struct Fq12 {
  Fq6 a, b;  // a + b w

  static Fq12 one() {
    Fq2 zero = Fq2::zero();
    return {{Fq2::one(), zero, zero}, {zero, zero, zero}};
  }
  friend Fq12 operator*(const Fq12& x, const Fq12& y) {
    Fq6 aa = x.a * y.a, bb = x.b * y.b;
    return {aa + bb.times_v(), (x.a + x.b) * (y.a + y.b) - aa - bb};
  }
  Fq12& operator*=(const Fq12& y) { return *this = *this * y; }
  Fq12 square() const {
    Fq6 ab = a * b;
    return {(a + b) * (a + b.times_v()) - ab - ab.times_v(), ab + ab};
  }
  // The power q^6, which inverts after the easy part of the final exponentiation.
  Fq12 conjugate() const { return {a, -b}; }
  Fq12 inverse() const {
    Fq6 scale = (a * a - (b * b).times_v()).inverse();
    return {a * scale, -(b * scale)};
  }
  Fq12 pow(uint64_t exponent) const {
    Fq12 result = one();
    for (int bit = 63; bit >= 0; bit--) {
      result = result.square();
      if (exponent >> bit & 1) result *= *this;
    }
    return result;
  }
};

// xi^(i (q - 1) / 6): what the q-th power multiplies the coefficient of w^i with.
const Fq2& frobenius_factor(int i) {
  static const auto factors = [] {
    std::array<Fq2, 6> powers;
    uint64_t exponent[4], remainder = 0;
    for (int limb = 3; limb >= 0; limb--) {
      u128 dividend = static_cast<u128>(remainder) << 64 | (BaseModulus::limbs[limb] - (limb == 0));
      exponent[limb] = static_cast<uint64_t>(dividend / 6);
      remainder = static_cast<uint64_t>(dividend % 6);
    }
    Fq2 xi{Fq::from_u64(9), Fq::one()}, root = Fq2::one();
    for (int bit = 255; bit >= 0; bit--) {
      root = root.square();
      if (exponent[bit / 64] >> (bit % 64) & 1) root *= xi;
    }
    powers[0] = Fq2::one();
    for (int j = 1; j < 6; j++) powers[j] = powers[j - 1] * root;
    return powers;
  }();
  return factors[i];
}

Fq12 frobenius(const Fq12& x) {
  auto times = [](const Fq2& c, int i) { return c.conjugate() * frobenius_factor(i); };
  return {{times(x.a.a, 0), times(x.a.b, 2), times(x.a.c, 4)}, {times(x.b.a, 1), times(x.b.b, 3), times(x.b.c, 5)}};
}

// The q-th power on the twist.
G2Affine frobenius(const G2Affine& q) {
  return {q.x.conjugate() * frobenius_factor(2), q.y.conjugate() * frobenius_factor(3)};
}

struct Loop {
  G1Affine p;
  G2Affine q, t;
};

// The line of the given slope through t, at p; untwisting takes (x, y) to (x w^2, y w^3).
Fq12 line(const Loop& loop, const Fq2& slope) {
  Fq2 zero = Fq2::zero();
  return {{{loop.p.y, Fq::zero()}, zero, zero}, {-(slope * loop.p.x), slope * loop.t.x - loop.t.y, zero}};
}

// f times the lines through t and the addend of every pair; t moves on to their sum.
template <class Addend>
void step(std::vector<Loop>& loops, Fq12& f, bool doubling, Addend addend) {
  std::vector<Fq2> numerators, denominators;
  for (auto& loop : loops) {
    if (doubling) {
      Fq2 xx = loop.t.x.square();
      numerators.push_back(xx.twice() + xx);
      denominators.push_back(loop.t.y.twice());
    } else {
      G2Affine other = addend(loop);
      numerators.push_back(other.y - loop.t.y);
      denominators.push_back(other.x - loop.t.x);
    }
  }
  batch_inverse(denominators.data(), denominators.size());
  for (size_t i = 0; i < loops.size(); i++) {
    Loop& loop = loops[i];
    Fq2 slope = numerators[i] * denominators[i];
    f *= line(loop, slope);
    Fq2 other_x = doubling ? loop.t.x : addend(loop).x;
    Fq2 x = slope.square() - loop.t.x - other_x;
    loop.t = G2Affine(x, slope * (loop.t.x - x) - loop.t.y);
  }
}

Fq12 miller_loop(std::vector<Loop>& loops) {
  constexpr u128 length = 6 * static_cast<u128>(bn_x) + 2;
  Fq12 f = Fq12::one();
  auto base = [](const Loop& loop) { return loop.q; };
  for (int bit = 63; bit >= 0; bit--) {  // bit 64 is the leading one
    f = f.square();
    step(loops, f, true, base);
    if (length >> bit & 1) step(loops, f, false, base);
  }
  step(loops, f, false, [](const Loop& loop) { return frobenius(loop.q); });
  step(loops, f, false, [](const Loop& loop) { return G2Affine(-frobenius(frobenius(loop.q))); });
  return f;
}

// f^((q^12 - 1) / p). The hard part is the addition chain of Scott, Benger, Charlemagne, Dominguez
// Perez and Kachisa, "On the final exponentiation for calculating pairings" (2009).
Fq12 final_exponentiation(const Fq12& miller) {
  Fq12 f = miller.conjugate() * miller.inverse();
  f = frobenius(frobenius(f)) * f;
  Fq12 fx = f.pow(bn_x), fxx = fx.pow(bn_x), fxxx = fxx.pow(bn_x);
  Fq12 f1 = frobenius(f), f2 = frobenius(f1), f3 = frobenius(f2);
  Fq12 y0 = f1 * f2 * f3, y1 = f.conjugate(), y2 = frobenius(frobenius(fxx)), y3 = frobenius(fx).conjugate();
  Fq12 y4 = (fx * frobenius(fxx)).conjugate(), y5 = fxx.conjugate(), y6 = (fxxx * frobenius(fxxx)).conjugate();
  Fq12 a = y6.square() * y4 * y5;
  Fq12 b = y3 * y5 * a;
  a *= y2;
  b = (b.square() * a).square();
  a = b * y1;
  b *= y0;
  return a.square() * b;
}

bool is_one(const Fq12& x) {
  return x.a.a == Fq2::one() && x.a.b.is_zero() && x.a.c.is_zero() && x.b.a.is_zero() && x.b.b.is_zero() &&
         x.b.c.is_zero();
}

}  // namespace

bool pairing_is_one(const std::vector<std::pair<G1Affine, G2Affine>>& pairs) {
  std::vector<Loop> loops;
  for (const auto& [p, q] : pairs)
    if (!p.is_infinity() && !q.is_infinity()) loops.push_back({p, q, q});
  return is_one(final_exponentiation(miller_loop(loops)));
}

}  // namespace zkserve
