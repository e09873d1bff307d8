// Secret randomness of one proof attempt.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif

#include "field.hpp"
#include "keccak.hpp"
#include "secret.hpp"
#include "wipe.hpp"

namespace zkserve {

// A hedged generator: uniform if either the operating system's randomness or the owner's key is
// unknown to the reader of the proofs, and never the same twice for different statements. Keccak-256
// serves as KDF and, over seed, label and counter, as stream. One thread each; `fork` gives others.
class Random {
 public:
  // Throws std::runtime_error if the operating system gives no randomness.
  Random(const Secret<uint8_t>& owner_key, const std::vector<uint8_t>& statement, uint64_t attempt) {
    uint8_t fresh[32];
    if (getentropy(fresh, sizeof fresh) != 0)
      throw std::runtime_error("the operating system gives no randomness: no proof can be made");
    Keccak256 kdf;
    absorb(kdf, "zkserve/native/random/seed/v1", 29);
    absorb(kdf, fresh, sizeof fresh);
    absorb(kdf, owner_key.data(), owner_key.size());
    absorb(kdf, statement.data(), statement.size());
    absorb(kdf, &attempt, sizeof attempt);
    kdf.finish(seed_);
    wipe(fresh, sizeof fresh);
    wipe(&kdf, sizeof kdf);
  }
  ~Random() { wipe(seed_, sizeof seed_); }
  Random(const Random&) = delete;
  Random& operator=(const Random&) = delete;

  // An independent generator for the use named by `label`; the same label gives the same one.
  Random fork(const std::string& label) const {
    Random child;
    Keccak256 kdf;
    absorb(kdf, "zkserve/native/random/fork/v1", 29);
    absorb(kdf, seed_, sizeof seed_);
    absorb(kdf, label.data(), label.size());
    kdf.finish(child.seed_);
    wipe(&kdf, sizeof kdf);
    return child;
  }

  void bytes(uint8_t out[32]) {
    Keccak256 stream;
    absorb(stream, "zkserve/native/random/next/v1", 29);
    absorb(stream, seed_, sizeof seed_);
    stream.update(&counter_, sizeof counter_);
    counter_++;
    stream.finish(out);
    wipe(&stream, sizeof stream);
  }

  // Exactly uniform: 254 bits until they are below p (three of four draws are).
  Fr scalar() {
    uint8_t draw[32];
    Fr value;
    do {
      bytes(draw);
      draw[0] &= 0x3f;
    } while (!Fr::from_bytes(draw, value));
    wipe(draw, sizeof draw);
    return value;
  }
  Fr nonzero() {
    Fr value;
    do value = scalar();
    while (value.is_zero());
    return value;
  }

 private:
  Random() = default;
  Random(Random&&) = default;

  // With its length in front, so that no two lists of inputs look alike.
  static void absorb(Keccak256& kdf, const void* data, uint64_t n) {
    kdf.update(&n, sizeof n);
    kdf.update(data, n);
  }

  uint8_t seed_[32] = {};
  uint64_t counter_ = 0;
};

}  // namespace zkserve
