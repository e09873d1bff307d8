// Fiat-Shamir transcript and the digests of a statement (sections 2, 6 and 7 of docs/native-protocol.md).
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "curve.hpp"
#include "description.hpp"
#include "field.hpp"
#include "keccak.hpp"

namespace zkserve {

// Collects bytes of one hash.
class Hasher {
 public:
  Hasher& bytes(const uint8_t* data, size_t size) {
    buffer_.insert(buffer_.end(), data, data + size);
    return *this;
  }
  Hasher& text(const char* label) { return bytes(reinterpret_cast<const uint8_t*>(label), std::strlen(label)); }
  Hasher& digest(const Digest& d) { return bytes(d.data(), d.size()); }
  Hasher& u8(uint8_t v) { return bytes(&v, 1); }
  Hasher& u32(uint32_t v) {
    const uint8_t b[4] = {uint8_t(v >> 24), uint8_t(v >> 16), uint8_t(v >> 8), uint8_t(v)};
    return bytes(b, 4);
  }
  // A word: an integer of 32 bytes, negative ones as two's complement.
  Hasher& word(int64_t v) {
    uint8_t b[32];
    std::memset(b, v < 0 ? 0xff : 0, sizeof b);
    for (int i = 0; i < 8; ++i) b[31 - i] = uint8_t(uint64_t(v) >> (8 * i));
    return bytes(b, sizeof b);
  }
  Digest finish() const {
    Digest out;
    keccak256(buffer_.data(), buffer_.size(), out.data());
    return out;
  }

 private:
  std::vector<uint8_t> buffer_;
};

inline Digest hash_text(const char* label) { return Hasher().text(label).finish(); }

// `points` are the 64 * nW bytes of C_W.
inline Digest weights_digest(const uint8_t* points, size_t count, const std::vector<uint32_t>& multipliers) {
  Hasher h;
  h.digest(hash_text("zkserve/native/weights/v1")).u32(uint32_t(count)).bytes(points, 64 * count);
  h.u32(uint32_t(multipliers.size()));
  for (uint32_t m : multipliers) h.u32(m);
  return h.finish();
}

// The digest of C_X, which is the claim's input in hidden mode.
inline Digest hidden_input_digest(const uint8_t point[64]) {
  return Hasher().digest(hash_text("zkserve/native/input/v1")).bytes(point, 64).finish();
}

inline Digest outputs_digest(const std::vector<int64_t>& outputs) {
  Hasher h;
  for (int64_t y : outputs) h.word(y);
  return h.finish();
}

enum class Mode : unsigned { open_input = 0, hidden_input = 1 };

// What a proof states, beside D. In hidden mode `input` is the 32-byte digest of C_X.
struct Statement {
  Digest context;
  Mode mode;
  Digest srs;
  Digest weights;
  std::vector<uint8_t> input;
  std::vector<int64_t> outputs;
  std::vector<uint32_t> multipliers;
};

class Transcript {
 public:
  explicit Transcript(const char* label = "zkserve/native/transcript/v1") : state_(hash_text(label)) {}

  void absorb(const uint8_t* data, size_t size) { buffer_.insert(buffer_.end(), data, data + size); }
  void absorb(const Digest& d) { absorb(d.data(), d.size()); }
  void absorb(const Fr& v) {
    uint8_t word[32];
    v.to_bytes(word);
    absorb(word, sizeof word);
  }
  void absorb(const std::vector<Fr>& values) {
    for (const Fr& v : values) absorb(v);
  }
  void absorb(const G1Affine& point) {
    uint8_t b[64];
    point.to_bytes(b);
    absorb(b, sizeof b);
  }

  Fr challenge() {
    state_ = Hasher().digest(state_).bytes(buffer_.data(), buffer_.size()).u32(counter_++).finish();
    buffer_.clear();
    return Fr::reduce(Hasher().u8('c').digest(state_).finish().data());
  }
  std::vector<Fr> challenges(size_t count) {
    std::vector<Fr> out;
    out.reserve(count);
    for (size_t i = 0; i < count; ++i) out.push_back(challenge());
    return out;
  }

  // Step 0.
  void absorb(const Statement& s, const Digest& description) {
    absorb(s.context);
    uint8_t mode[32] = {};
    mode[31] = uint8_t(s.mode);
    absorb(mode, sizeof mode);
    absorb(s.srs);
    absorb(description);
    absorb(s.weights);
    if (s.mode == Mode::open_input) {
      Digest d;
      keccak256(s.input.data(), s.input.size(), d.data());
      absorb(d);
    } else {
      absorb(s.input.data(), s.input.size());
    }
    absorb(outputs_digest(s.outputs));
  }

  const Digest& state() const { return state_; }

 private:
  Digest state_;
  std::vector<uint8_t> buffer_;
  uint32_t counter_ = 0;
};

}  // namespace zkserve
