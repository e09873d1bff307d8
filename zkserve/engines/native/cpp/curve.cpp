#include "curve.hpp"

namespace zkserve {

static Fq decimal(const char* digits) {
  Fq value = Fq::zero(), ten = Fq::from_u64(10);
  for (; *digits; digits++) value = value * ten + Fq::from_u64(*digits - '0');
  return value;
}

G2Affine G2Affine::generator() {
  static const G2Affine point(
      {decimal("10857046999023057135944570762232829481370756359578518086990519993285655852781"),
       decimal("11559732032986387107991004021392285783925812861821192530917403151452391805634")},
      {decimal("8495653923123431417604973247489272438418190587263600148770280649306958101930"),
       decimal("4082367875863433681332203403145435568316851327593401208105741076214120093531")});
  return point;
}

bool G2Affine::is_on_curve() const {
  static const Fq2 b = Fq2{Fq::from_u64(9), Fq::one()}.inverse() * Fq::from_u64(3);
  return is_infinity() || y.square() == x.square() * x + b;
}

bool G2Affine::is_in_subgroup() const { return G2::multiply(*this, ScalarModulus::limbs).is_infinity(); }

bool G2Affine::from_bytes(const uint8_t in[128], G2Affine& out) {
  G2Affine point;
  if (!Fq::from_bytes(in, point.x.imaginary) || !Fq::from_bytes(in + 32, point.x.real) ||
      !Fq::from_bytes(in + 64, point.y.imaginary) || !Fq::from_bytes(in + 96, point.y.real) ||
      !point.is_on_curve() || !point.is_in_subgroup())
    return false;
  out = point;
  return true;
}

void G2Affine::to_bytes(uint8_t out[128]) const {
  x.imaginary.to_bytes(out);
  x.real.to_bytes(out + 32);
  y.imaginary.to_bytes(out + 64);
  y.real.to_bytes(out + 96);
}

}  // namespace zkserve
