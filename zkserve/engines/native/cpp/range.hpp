// The registration range proof (section 16 of docs/native-protocol.md): layout, bounds and claims.
//
// One column is one tile of the fresh family. The byte columns lie at the addresses of the weight cells,
// so that a single random point links all of them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "description.hpp"
#include "functionals.hpp"
#include "threads.hpp"
#include "transcript.hpp"

namespace zkserve {

constexpr unsigned range_bytes = 8;      // of a bias and of a slack
constexpr unsigned range_table_log = 8;  // bytes 0 ... 255

struct RangeLayout {
  // Throws Refused if the masks do not fit or a tensor's values are too many for the argument.
  RangeLayout(const Description& description, unsigned weight_bytes);

  // D with the sizes of this proof in place of an inference's.
  Description tiles;
  unsigned weight_bytes;
  uint32_t byte_columns;  // 2 * weight_bytes * nW
  uint32_t columns;       // and the auxiliary tiles
  uint32_t groups3;       // helper tiles
  size_t nE;
  std::vector<unsigned> degrees;
  unsigned degree_sum;
  unsigned scalar_bits, libra_bits;  // rb, gb
  uint64_t libra_offset;             // goff, in the last helper tile
  std::vector<uint64_t> h_masks, w_masks;  // cells of the last helper and the last fresh tile

  uint32_t column(unsigned sign, unsigned byte, uint32_t tile) const {
    return (sign * weight_bytes + byte) * tiles.nW + tile;
  }
  uint32_t table_tile() const { return groups3; }     // of the helpers: h_T
  uint32_t mask_tile() const { return groups3 + 1; }  // of the helpers: R, Libra, masks

  // Blocks of the auxiliary tiles, as cells counted from the first of them.
  struct BiasPiece {
    Piece at;                                       // in the weight cells
    uint64_t high[2][range_bytes];                  // [sign][byte], for bytes from weight_bytes on
  };
  struct SlackPiece {
    uint32_t first;
    unsigned log;
    uint64_t bytes[range_bytes];
  };
  struct Blocks {
    std::vector<BiasPiece> bias;
    std::vector<SlackPiece> slack;
  };
  std::vector<Blocks> blocks;  // for each equation

  size_t proof_bytes() const;
};

// Largest magnitude that a source takes in a term, over its views' windows.
uint64_t largest_value(const Description& D, unsigned source, const std::vector<View>& views);

// B_{l,c} for each equation and channel; throws Refused if one is negative.
std::vector<std::vector<int64_t>> range_bounds(const Description& D, const std::vector<uint32_t>& multipliers);

struct RangeChallenges {
  Fr alpha;  // after C_w
  Fr eta;    // after C_h
  Vector tau, u;
  Fr chi_W, xi;
  struct Outputs {
    Vector e_g, e_c, channel;
  };
  std::vector<Outputs> equations;
  Vector r;
  Fr chi_x;
  Vector chi;
  Fr beta;
};

// A transcript with step 0 absorbed.
Transcript range_transcript(const Description& D, unsigned weight_bytes, const Digest& srs, const Digest& weights);
// Draws eta, tau, u, chi_W, xi and the outputs' weights.
void draw_range_challenges(const RangeLayout& layout, const std::function<Fr()>& next, RangeChallenges& c);

// sum_g eta^g C_g from columns, then helpers.
Fr range_groups_at(const RangeLayout& layout, const Fr* values, const RangeChallenges& c);
// The bracket of the main sumcheck at r, without g.
Fr range_bracket(const RangeLayout& layout, const Vector& E, const RangeChallenges& c);

Claims range_claims(const RangeLayout& layout, const std::vector<std::vector<int64_t>>& bounds,
                    const RangeChallenges& c, const Fr& V, const Vector& E, const Fr& g, const Fr& s_M);

// The gate of section 14 for this layout: throws Refused unless its masks hide what a proof reveals.
void check_range_masking(const RangeLayout& layout, Threads& threads);

// Whether `proof` shows that the commitments behind `weights` are those of a quantised network.
bool verify_range(const Description& D, unsigned weight_bytes, const Digest& srs, const G2Affine& g2_s,
                  const Digest& weights, const std::vector<uint8_t>& proof) noexcept;

}  // namespace zkserve
