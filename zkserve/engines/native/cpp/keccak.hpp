// Keccak-256 as the EVM has it: the padding of the SHA-3 contest, not of FIPS 202.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace zkserve {

class Keccak256 {
 public:
  Keccak256& update(const void* data, size_t n) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    while (n > 0) {
      size_t take = n < rate - filled_ ? n : rate - filled_;
      for (size_t i = 0; i < take; i++) absorb(filled_ + i, bytes[i]);
      filled_ += take, bytes += take, n -= take;
      if (filled_ == rate) permute(), filled_ = 0;
    }
    return *this;
  }
  void finish(uint8_t out[32]) {
    absorb(filled_, 0x01);
    absorb(rate - 1, 0x80);
    permute();
    for (int i = 0; i < 32; i++) out[i] = static_cast<uint8_t>(state_[i / 8] >> (8 * (i % 8)));
  }

 private:
  static constexpr size_t rate = 136;
  uint64_t state_[25] = {};
  size_t filled_ = 0;

  void absorb(size_t at, uint8_t byte) { state_[at / 8] ^= static_cast<uint64_t>(byte) << (8 * (at % 8)); }
  static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

  // Keccak-f[1600]; rho and pi walk the lanes in one cycle as in the reference's compact code.
  void permute() {
    static constexpr uint64_t round_constants[24] = {
        0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000,
        0x000000000000808b, 0x0000000080000001, 0x8000000080008081, 0x8000000000008009,
        0x000000000000008a, 0x0000000000000088, 0x0000000080008009, 0x000000008000000a,
        0x000000008000808b, 0x800000000000008b, 0x8000000000008089, 0x8000000000008003,
        0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
        0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008};
    static constexpr int rotations[24] = {1,  3,  6,  10, 15, 21, 28, 36, 45, 55, 2,  14,
                                          27, 41, 56, 8,  25, 43, 62, 18, 39, 61, 20, 44};
    static constexpr int lanes[24] = {10, 7,  11, 17, 18, 3, 5,  16, 8,  21, 24, 4,
                                      15, 23, 19, 13, 12, 2, 20, 14, 22, 9,  6,  1};
    uint64_t* s = state_;
    for (uint64_t round_constant : round_constants) {
      uint64_t column[5];
      for (int x = 0; x < 5; x++) column[x] = s[x] ^ s[x + 5] ^ s[x + 10] ^ s[x + 15] ^ s[x + 20];
      for (int x = 0; x < 5; x++) {
        uint64_t theta = column[(x + 4) % 5] ^ rotate(column[(x + 1) % 5], 1);
        for (int y = 0; y < 25; y += 5) s[y + x] ^= theta;
      }
      uint64_t moving = s[1];
#pragma GCC unroll 24
      for (int i = 0; i < 24; i++) {
        uint64_t next = s[lanes[i]];
        s[lanes[i]] = rotate(moving, rotations[i]);
        moving = next;
      }
      for (int y = 0; y < 25; y += 5) {
        uint64_t row[5] = {s[y], s[y + 1], s[y + 2], s[y + 3], s[y + 4]};
        for (int x = 0; x < 5; x++) s[y + x] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5]);
      }
      s[0] ^= round_constant;
    }
  }
};

inline void keccak256(const uint8_t* data, size_t n, uint8_t out[32]) { Keccak256().update(data, n).finish(out); }

}  // namespace zkserve
