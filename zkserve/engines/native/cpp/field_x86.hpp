// Kernels of field arithmetic for x86-64, where compilers do not see the carry chains.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

namespace zkserve::x86 {

using Limbs = const uint64_t (&)[4];

// (a + b) mod m.
inline void add(uint64_t out[4], Limbs a, Limbs b, Limbs m) {
  uint64_t s0 = a[0], s1 = a[1], s2 = a[2], s3 = a[3], r0, r1, r2, r3;
  __asm__(
      "addq 0(%[b]), %[s0]; adcq 8(%[b]), %[s1]; adcq 16(%[b]), %[s2]; adcq 24(%[b]), %[s3]\n\t"
      "movq %[s0], %[r0]; movq %[s1], %[r1]; movq %[s2], %[r2]; movq %[s3], %[r3]\n\t"
      "subq 0(%[m]), %[r0]; sbbq 8(%[m]), %[r1]; sbbq 16(%[m]), %[r2]; sbbq 24(%[m]), %[r3]\n\t"
      "cmovncq %[r0], %[s0]; cmovncq %[r1], %[s1]; cmovncq %[r2], %[s2]; cmovncq %[r3], %[s3]"
      : [s0] "+&r"(s0), [s1] "+&r"(s1), [s2] "+&r"(s2), [s3] "+&r"(s3), [r0] "=&r"(r0), [r1] "=&r"(r1),
        [r2] "=&r"(r2), [r3] "=&r"(r3)
      : [b] "r"(b), [m] "r"(m), "m"(b), "m"(m)
      : "cc");
  out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

// (a - b) mod m.
inline void subtract(uint64_t out[4], Limbs a, Limbs b, Limbs m) {
  uint64_t d0 = a[0], d1 = a[1], d2 = a[2], d3 = a[3], m0 = m[0], m1 = m[1], m2 = m[2], m3 = m[3], mask;
  __asm__(
      "subq 0(%[b]), %[d0]; sbbq 8(%[b]), %[d1]; sbbq 16(%[b]), %[d2]; sbbq 24(%[b]), %[d3]\n\t"
      "sbbq %[mask], %[mask]\n\t"
      "andq %[mask], %[m0]; andq %[mask], %[m1]; andq %[mask], %[m2]; andq %[mask], %[m3]\n\t"
      "addq %[m0], %[d0]; adcq %[m1], %[d1]; adcq %[m2], %[d2]; adcq %[m3], %[d3]"
      : [d0] "+&r"(d0), [d1] "+&r"(d1), [d2] "+&r"(d2), [d3] "+&r"(d3), [m0] "+&r"(m0), [m1] "+&r"(m1),
        [m2] "+&r"(m2), [m3] "+&r"(m3), [mask] "=&r"(mask)
      : [b] "r"(b), "m"(b)
      : "cc");
  out[0] = d0, out[1] = d1, out[2] = d2, out[3] = d3;
}

#if defined(__BMI2__) && defined(__ADX__)

// a b / 2^256 mod m: operand scanning with the two carry chains of ADX, one for the low halves of
// products and one for the high ones (Ozturk, Guilford, Gopal, Feghali, "New instructions
// supporting large integer arithmetic", Intel 2012), without the extra word (m's top bits are 0).
inline void multiply(uint64_t out[4], Limbs a, Limbs b, Limbs m, uint64_t inv) {
  uint64_t t0, t1, t2, t3, low, high, top;
  __asm__(
      "movq 0(%[b]), %%rdx\n\t"
      "mulxq 0(%[a]), %[t0], %[t1]\n\t"
      "mulxq 8(%[a]), %[low], %[t2]; addq %[low], %[t1]\n\t"
      "mulxq 16(%[a]), %[low], %[t3]; adcq %[low], %[t2]\n\t"
      "mulxq 24(%[a]), %[low], %[top]; adcq %[low], %[t3]\n\t"
      "adcq $0, %[top]\n\t"
#define ZKSERVE_REDUCE                                                                                \
  "movq %[inv], %%rdx; imulq %[t0], %%rdx\n\t"                                                        \
  "xorl %k[high], %k[high]\n\t" /* clears both carries */                                             \
  "mulxq 0(%[m]), %[low], %[high]; adcxq %[t0], %[low]; movq %[high], %[t0]\n\t"                      \
  "adcxq %[t1], %[t0]; mulxq 8(%[m]), %[low], %[t1]; adoxq %[low], %[t0]\n\t"                         \
  "adcxq %[t2], %[t1]; mulxq 16(%[m]), %[low], %[t2]; adoxq %[low], %[t1]\n\t"                        \
  "adcxq %[t3], %[t2]; mulxq 24(%[m]), %[low], %[t3]; adoxq %[low], %[t2]\n\t"                        \
  "movl $0, %k[high]; adcxq %[high], %[t3]; adoxq %[top], %[t3]\n\t"
#define ZKSERVE_PRODUCT(at)                                                                           \
  "movq " at "(%[b]), %%rdx\n\t"                                                                      \
  "xorl %k[high], %k[high]\n\t"                                                                       \
  "mulxq 0(%[a]), %[low], %[high]; adoxq %[low], %[t0]; adcxq %[high], %[t1]\n\t"                     \
  "mulxq 8(%[a]), %[low], %[high]; adoxq %[low], %[t1]; adcxq %[high], %[t2]\n\t"                     \
  "mulxq 16(%[a]), %[low], %[high]; adoxq %[low], %[t2]; adcxq %[high], %[t3]\n\t"                    \
  "mulxq 24(%[a]), %[low], %[top]; adoxq %[low], %[t3]\n\t"                                           \
  "movl $0, %k[high]; adcxq %[high], %[top]; adoxq %[high], %[top]\n\t"
      ZKSERVE_REDUCE ZKSERVE_PRODUCT("8") ZKSERVE_REDUCE ZKSERVE_PRODUCT("16") ZKSERVE_REDUCE
          ZKSERVE_PRODUCT("24") ZKSERVE_REDUCE
#undef ZKSERVE_REDUCE
#undef ZKSERVE_PRODUCT
      "movq %[t0], %[low]; movq %[t1], %[high]; movq %[t2], %[top]; movq %[t3], %%rdx\n\t"
      "subq 0(%[m]), %[low]; sbbq 8(%[m]), %[high]; sbbq 16(%[m]), %[top]; sbbq 24(%[m]), %%rdx\n\t"
      "cmovncq %[low], %[t0]; cmovncq %[high], %[t1]; cmovncq %[top], %[t2]; cmovncq %%rdx, %[t3]"
      : [t0] "=&r"(t0), [t1] "=&r"(t1), [t2] "=&r"(t2), [t3] "=&r"(t3), [low] "=&r"(low), [high] "=&r"(high),
        [top] "=&r"(top)
      : [a] "r"(a), [b] "r"(b), [m] "r"(m), [inv] "m"(inv), "m"(a), "m"(b), "m"(m)
      : "rdx", "cc");
  out[0] = t0, out[1] = t1, out[2] = t2, out[3] = t3;
}

#endif

}  // namespace zkserve::x86

#endif
