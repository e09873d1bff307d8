// The prover's messages: each goes into the proof and into the transcript.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

#include "transcript.hpp"

namespace zkserve {

class ProofWriter {
 public:
  Transcript transcript;
  std::vector<uint8_t> bytes;

  void send(const Fr& value) {
    bytes.resize(bytes.size() + 32);
    value.to_bytes(bytes.data() + bytes.size() - 32);
    transcript.absorb(value);
  }
  void send(const G1& point) {
    const G1Affine affine = point.to_affine();
    bytes.resize(bytes.size() + 64);
    affine.to_bytes(bytes.data() + bytes.size() - 64);
    transcript.absorb(affine);
  }
};

// A challenge fell on a value that the protocol excludes: a new attempt with new randomness is needed.
struct Again {};

struct Cancelled : std::runtime_error {
  Cancelled() : std::runtime_error("the proof was cancelled") {}
};

// How a caller follows and stops a proof.
struct Control {
  std::function<void(const char*)> progress;  // may be empty; called when a phase begins
  std::function<bool()> cancelled;            // may be empty

  void check() const {
    if (cancelled && cancelled()) throw Cancelled();
  }
  void phase(const char* name) const {
    check();
    if (progress) progress(name);
  }
};

}  // namespace zkserve
