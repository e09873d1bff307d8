// Proofs of one registered version of a network (docs/native-protocol.md).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend.hpp"
#include "commitments.hpp"
#include "main_sumcheck.hpp"
#include "proof_writer.hpp"
#include "random.hpp"

namespace zkserve {

// C_W: 64 bytes for each of the nW tiles of `cells`, with one blind each.
std::vector<uint8_t> commit_weights(const Description& D, Backend& backend, const int32_t* cells,
                                    const Secret<Fr>& blinds);

// The public input as section 6 packs it.
std::vector<uint8_t> pack_input(const Description& D, const int32_t* inputs);

// A version as loaded: read-only while proofs are made.
struct Version {
  Description D;
  Secret<int32_t> cells;  // nW * N
  Secret<Fr> blinds;      // nW
  std::vector<uint32_t> multipliers;
  std::vector<uint8_t> commitments;  // C_W
};

// One attempt at a proof, phase by phase. The network's cells are taken as they are: nothing here checks that they
// satisfy anything.
class Attempt {
 public:
  // All outlive this. `input_tile` and `input_blind` are those of C_X in hidden mode, otherwise unused.
  Attempt(const Version& version, const Commitments& commitments, Backend& backend, Threads& threads,
          const Statement& statement, const Witness& witness, const Secret<int32_t>& input_tile, const Fr& input_blind,
          Random& random, const Control& control);
  virtual ~Attempt() = default;

  // The proof, without its prefix (context, C_W, C_X, M). Throws Again or Cancelled.
  std::vector<uint8_t> run();

 protected:
  // alpha - T for every entry of the table that lookups of the witness meet.
  virtual Secret<Fr> lookup_terms() const;
  // The sum of the row constraints, which an honest witness makes zero.
  virtual Fr row_sum(const Rows&) const { return Fr::zero(); }
  virtual G1 fresh_commitment(size_t tile) const;
  virtual G1 helper_commitment(size_t tile) const;
  virtual Fr draw() { return random_.scalar(); }

  const Version& version_;
  const Description& D_;
  const Commitments& commitments_;
  Backend& backend_;
  Threads& threads_;
  const Statement& statement_;
  const Witness& witness_;
  Challenges challenges_;
  Secret<Fr> fresh_masks_, fresh_blinds_;  // of family w
  Secret<Fr> terms_, inverses_;            // of lookups, by table entry
  Secret<Fr> helpers_, helper_blinds_;     // family h: nh * N cells; 16 blinds for each tile

 private:
  void commit_fresh();
  void commit_helpers();
  void prove_constraints();
  void prove_claims();
  void open();

  Secret<Fr> scalars(size_t count);
  Fr mask_sum() const;
  Secret<Fr> columns_at(const Vector& point) const;

  const Secret<int32_t>& input_tile_;
  const Fr& input_blind_;
  Random& random_;
  const Control& control_;
  ProofWriter out_;

  std::unique_ptr<NetworkRows> rows_;
  Fr V_, g_, s_M_;
  Vector E_;
  std::vector<Tile> tiles_;
  Vector rho_, L_;
};

// Statement, inputs and proof as they leave the prover.
struct Proof {
  std::vector<uint8_t> input;
  std::vector<int64_t> outputs;
  std::vector<uint8_t> bytes;
};

class Prover {
 public:
  // Throws Refused if the description, the layout's certificate, a bound or a size is not as it has to be.
  Prover(const Srs& srs, Description description, Mode mode, const int32_t* cells, size_t count, Secret<Fr> blinds,
         std::vector<uint32_t> multipliers, unsigned threads);

  const Version& version() const { return version_; }
  Digest weights() const;

  // y for a batch of inputs.
  std::vector<int64_t> predict(const int32_t* inputs, size_t count);
  // C_X of the inputs.
  G1Affine commit_input(const int32_t* inputs, size_t count, const Fr& blind);
  // A proof that its own verification accepted. `input_blind` is C_X's, in hidden mode.
  Proof prove(const Digest& context, const int32_t* inputs, size_t count, const std::optional<Fr>& input_blind,
              const Secret<uint8_t>& owner_key, const Control& control);
  // The registration proof of section 16, which its own verification accepted. Throws Refused if the weights have
  // more bytes than declared.
  std::vector<uint8_t> prove_range(unsigned weight_bytes, const Secret<uint8_t>& owner_key,
                                   const Control& control);

 protected:
  Secret<int32_t> input_tile(const int32_t* inputs, size_t count) const;
  // The bytes in front of an attempt's.
  std::vector<uint8_t> prefix(const Statement& statement, const uint8_t* input_commitment) const;

  const Srs& srs_;
  Mode mode_;
  Version version_;
  Threads threads_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Commitments> commitments_;
  std::unique_ptr<Network> network_;
  std::mutex busy_;
};

}  // namespace zkserve
