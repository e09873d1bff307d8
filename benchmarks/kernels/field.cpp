// Arithmetic in the scalar field of BN254 by the core's own headers, for benchmarks/native_kernels.py.
//
// Arguments: a number of steps. Prints {"chain": ns, "side by side": ns, "inverse": ns, "result":
// hexadecimal}: times of one operation, and what came out, for comparison with other libraries.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "curve.hpp"

using zkserve::Fr;

template <class Work>
double nanoseconds_each(size_t operations, Work work) {
  auto started = std::chrono::steady_clock::now();
  work();
  std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - started;
  return taken.count() / static_cast<double>(operations);
}

int main(int, char** arguments) {
  size_t steps = std::strtoull(arguments[1], nullptr, 10);
  Fr factor = Fr::from_u64(5), x = Fr::from_u64(3);
  double chain = nanoseconds_each(steps, [&] {
    for (size_t i = 0; i < steps; i++) x = x * factor;
  });
  Fr lanes[8];
  for (size_t j = 0; j < 8; j++) lanes[j] = Fr::from_u64(7 + j);
  double side_by_side = nanoseconds_each(steps, [&] {
    for (size_t i = 0; i < steps / 8; i++)
      for (Fr& lane : lanes) lane = lane * factor;
  });
  for (const Fr& lane : lanes) x = x + lane;
  double inverse = nanoseconds_each(steps / 256, [&] {
    for (size_t i = 0; i < steps / 256; i++) x = x.inverse() + factor;
  });
  uint8_t bytes[32];
  x.to_bytes(bytes);
  std::printf("{\"chain\": %.3f, \"side by side\": %.3f, \"inverse\": %.1f, \"result\": \"", chain, side_by_side, inverse);
  for (uint8_t byte : bytes) std::printf("%02x", byte);
  std::printf("\"}\n");
}
