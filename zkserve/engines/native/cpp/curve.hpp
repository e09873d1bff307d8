// The groups G1 and G2 of BN254 (EIP-196, EIP-197).
#pragma once

#include <array>
#include <vector>

#include "field.hpp"

namespace zkserve {

// Fq[u] / (u^2 + 1).
struct Fq2 {
  Fq real, imaginary;

  static Fq2 zero() { return {Fq::zero(), Fq::zero()}; }
  static Fq2 one() { return {Fq::one(), Fq::zero()}; }
  bool is_zero() const { return real.is_zero() && imaginary.is_zero(); }
  friend bool operator==(const Fq2& a, const Fq2& b) { return a.real == b.real && a.imaginary == b.imaginary; }
  friend bool operator!=(const Fq2& a, const Fq2& b) { return !(a == b); }
  friend Fq2 operator+(const Fq2& a, const Fq2& b) { return {a.real + b.real, a.imaginary + b.imaginary}; }
  friend Fq2 operator-(const Fq2& a, const Fq2& b) { return {a.real - b.real, a.imaginary - b.imaginary}; }
  friend Fq2 operator*(const Fq2& a, const Fq2& b) {
    Fq both = a.real * b.real, neither = a.imaginary * b.imaginary;
    return {both - neither, (a.real + a.imaginary) * (b.real + b.imaginary) - both - neither};
  }
  friend Fq2 operator*(const Fq2& a, const Fq& b) { return {a.real * b, a.imaginary * b}; }
  Fq2 operator-() const { return {-real, -imaginary}; }
  Fq2& operator+=(const Fq2& b) { return *this = *this + b; }
  Fq2& operator-=(const Fq2& b) { return *this = *this - b; }
  Fq2& operator*=(const Fq2& b) { return *this = *this * b; }
  Fq2 square() const { return {(real + imaginary) * (real - imaginary), (real * imaginary).twice()}; }
  Fq2 twice() const { return *this + *this; }
  Fq2 conjugate() const { return {real, -imaginary}; }
  Fq2 inverse() const {
    Fq scale = (real.square() + imaginary.square()).inverse();
    return {real * scale, -(imaginary * scale)};
  }
};

// An affine point of y^2 = x^3 + b; infinity is (0, 0), which is on neither curve.
template <class Coordinate>
struct Affine {
  Coordinate x, y;

  static Affine infinity() { return {Coordinate::zero(), Coordinate::zero()}; }
  bool is_infinity() const { return x.is_zero() && y.is_zero(); }
  Affine operator-() const { return {x, -y}; }
  friend bool operator==(const Affine& a, const Affine& b) { return a.x == b.x && a.y == b.y; }
  friend bool operator!=(const Affine& a, const Affine& b) { return !(a == b); }
};

// A point as (X, Y, ZZ, ZZZ) with x = X / ZZ, y = Y / ZZZ, ZZ^3 = ZZZ^2; infinity is ZZ = 0.
// Formulas: "XYZZ coordinates for short Weierstrass curves" of the Explicit-Formulas Database
// (Sutherland), curves with a = 0.
template <class Coordinate>
struct Projective {
  using Point = Affine<Coordinate>;
  Coordinate x, y, zz, zzz;

  static Projective infinity() {
    return {Coordinate::zero(), Coordinate::zero(), Coordinate::zero(), Coordinate::zero()};
  }
  Projective() : Projective(infinity()) {}
  Projective(const Coordinate& x_, const Coordinate& y_, const Coordinate& zz_, const Coordinate& zzz_)
      : x(x_), y(y_), zz(zz_), zzz(zzz_) {}
  Projective(const Point& point)  // NOLINT: an affine point is a point
      : Projective(point.is_infinity() ? infinity()
                                       : Projective(point.x, point.y, Coordinate::one(), Coordinate::one())) {}

  bool is_infinity() const { return zz.is_zero(); }
  Projective negate() const { return {x, -y, zz, zzz}; }
  Projective operator-() const { return negate(); }

  Projective dbl() const {
    if (is_infinity()) return *this;
    Coordinate u = y.twice(), v = u.square(), w = u * v, s = x * v;
    Coordinate xx = x.square(), m = xx.twice() + xx;
    Coordinate x3 = m.square() - s.twice();
    return {x3, m * (s - x3) - w * y, v * zz, w * zzz};
  }
  Projective& operator+=(const Point& q) {
    if (q.is_infinity()) return *this;
    if (is_infinity()) return *this = q;
    return add(x, y, q.x * zz - x, q.y * zzz - y, zz, zzz);
  }
  Projective& operator+=(const Projective& q) {
    if (q.is_infinity()) return *this;
    if (is_infinity()) return *this = q;
    Coordinate u1 = x * q.zz, s1 = y * q.zzz;
    return add(u1, s1, q.x * zz - u1, q.y * zzz - s1, zz * q.zz, zzz * q.zzz);
  }
  friend Projective operator+(Projective a, const Projective& b) { return a += b; }
  friend bool operator==(const Projective& a, const Projective& b) {
    if (a.is_infinity() || b.is_infinity()) return a.is_infinity() && b.is_infinity();
    return a.x * b.zz == b.x * a.zz && a.y * b.zzz == b.y * a.zzz;
  }

  Point to_affine() const {
    if (is_infinity()) return Point::infinity();
    Coordinate i = zzz.inverse(), zz_inverse = (zz * i).square();  // ZZ / ZZZ = 1 / Z
    return {x * zz_inverse, y * i};
  }

  // The scalar's bits decide on every addition: not for secrets that others can time.
  static Projective multiply(const Point& point, const uint64_t scalar[4]) {
    Projective table[16];
    for (int i = 1; i < 16; i++) table[i] = table[i - 1] + Projective(point);
    Projective result;
    for (int nibble = 63; nibble >= 0; nibble--) {
      for (int i = 0; i < 4; i++) result = result.dbl();
      result += table[scalar[nibble / 16] >> (4 * (nibble % 16)) & 15];
    }
    return result;
  }
  static Projective multiply(const Point& point, const Fr& scalar) {
    uint64_t limbs[4];
    scalar.to_limbs(limbs);
    return multiply(point, limbs);
  }

 private:
  // The end of both additions: p and r are the differences of x and y on the common denominator.
  Projective& add(const Coordinate& u1, const Coordinate& s1, const Coordinate& p, const Coordinate& r,
                  const Coordinate& zz_both, const Coordinate& zzz_both) {
    if (p.is_zero()) return *this = r.is_zero() ? dbl() : infinity();
    Coordinate pp = p.square(), ppp = p * pp, q = u1 * pp;
    Coordinate x3 = r.square() - ppp - q.twice();
    return *this = {x3, r * (q - x3) - s1 * ppp, zz_both * pp, zzz_both * ppp};
  }
};

// Affine forms of n points for one inversion.
template <class Coordinate, class Point>
void batch_normalise(const Projective<Coordinate>* points, size_t n, Point* out) {
  std::vector<Coordinate> inverses(n);
  for (size_t i = 0; i < n; i++) inverses[i] = points[i].zzz;
  batch_inverse(inverses.data(), n);
  for (size_t i = 0; i < n; i++) {
    Coordinate zz_inverse = (points[i].zz * inverses[i]).square();
    out[i] = {points[i].x * zz_inverse, points[i].y * inverses[i]};
  }
}

struct G1Affine : Affine<Fq> {
  G1Affine() : Affine<Fq>(infinity()) {}
  G1Affine(const Fq& x_, const Fq& y_) : Affine<Fq>{x_, y_} {}
  G1Affine(const Affine<Fq>& point) : Affine<Fq>(point) {}  // NOLINT: the same thing

  static G1Affine generator() { return {Fq::one(), Fq::from_u64(2)}; }
  bool is_on_curve() const { return is_infinity() || y.square() == x.square() * x + Fq::from_u64(3); }

  // 64 bytes as EIP-196 has them; false unless canonical and on the curve. G1 is the whole curve.
  static bool from_bytes(const uint8_t in[64], G1Affine& out) {
    G1Affine point;
    if (!Fq::from_bytes(in, point.x) || !Fq::from_bytes(in + 32, point.y) || !point.is_on_curve()) return false;
    out = point;
    return true;
  }
  void to_bytes(uint8_t out[64]) const {
    x.to_bytes(out);
    y.to_bytes(out + 32);
  }
};
using G1 = Projective<Fq>;

struct G2Affine : Affine<Fq2> {
  G2Affine() : Affine<Fq2>(infinity()) {}
  G2Affine(const Fq2& x_, const Fq2& y_) : Affine<Fq2>{x_, y_} {}
  G2Affine(const Affine<Fq2>& point) : Affine<Fq2>(point) {}  // NOLINT: the same thing

  static G2Affine generator();
  bool is_on_curve() const;
  bool is_in_subgroup() const;

  // 128 bytes as EIP-197 has them (imaginary part first); false unless canonical, on the curve and
  // in the subgroup of order p.
  static bool from_bytes(const uint8_t in[128], G2Affine& out);
  void to_bytes(uint8_t out[128]) const;
};
using G2 = Projective<Fq2>;

}  // namespace zkserve
