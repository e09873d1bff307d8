// The description D (sections 4 and 5 of docs/native-protocol.md): parsed, checked, with its derived sizes.
//
// Names of one or two letters are the document's symbols.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace zkserve {

using Digest = std::array<uint8_t, 32>;

// A description, a proof or an input that the document forbids.
class Refused : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// Number of bits of m - 1, for m >= 1.
inline unsigned clog(uint64_t m) {
  unsigned bits = 0;
  for (uint64_t v = m - 1; v; v >>= 1) ++bits;
  return bits;
}

// Entries first ... first + 2^log - 1 of a block's leading dimension, stored from cell `offset` on.
struct Piece {
  uint32_t first;
  unsigned log;
  uint64_t offset;
};

// Window sums of a source, as a tensor of height x width.
struct View {
  unsigned kh, kw, sh, sw, ph, pw;
  uint32_t height, width;
};

struct Tensor {
  bool flat;
  uint32_t channels, height, width, zp;
  unsigned function;
  std::vector<Piece> pieces;

  // Bits of the stored dimensions behind the channel: (batch, height, width) or (batch, height * width).
  std::vector<unsigned> rest_bits;
  unsigned block_bits;  // their sum
  // Bits of the stored dimensions in the document's order: channel, then rest_bits.
  std::vector<unsigned> bits() const;
};

// Size of a source before each view and, last, as the term reads it.
struct Extent {
  uint32_t height, width;
};

struct Product {
  bool gemm;
  unsigned source;
  uint32_t s0, sn;
  unsigned order;
  unsigned kh, kw, sh, sw, dh, dw, ph, pw;
  std::vector<View> views;
  std::vector<Piece> pieces;

  uint32_t group_inputs;                     // cig
  std::vector<Extent> extents;               // views.size() + 1 of them
  std::vector<uint32_t> contraction;         // sizes: (i, ky, kx), (i, y, x) or (i, y * x)
  std::vector<unsigned> contraction_bits;
  unsigned group_bits;
  unsigned kappa;                            // group_bits + sum of contraction_bits, at least 1
};

struct Scaled {
  unsigned source;
  uint32_t s0;
  uint32_t constant;  // 0: taken from M
  std::vector<View> views;

  std::vector<Extent> extents;
};

struct Equation {
  static constexpr unsigned raw_target = 0xffff;

  unsigned target;
  uint32_t c0, cn, oh, ow;
  bool per_channel;
  unsigned kh, kw, sh, sw, ph, pw, eh, ew;
  uint32_t groups;
  std::vector<Product> products;
  std::vector<Scaled> scaled;
  std::vector<Piece> bias;

  bool raw = false, pooled = false;
  uint32_t group_outputs;       // cog
  uint64_t grid_height, grid_width;  // Hs, Ws: what r_l ranges over
  std::vector<unsigned> point_bits;  // of r_l: groups, group outputs, batch, Hs, Ws
  size_t first_multiplier;      // index in M of this equation's own; scaled terms' follow
  size_t multiplier_count;      // 0, 1 or cn
  // Accumulator row read by row Y of the target at window row a, clamped into the grid; columns likewise.
  uint32_t pool_row(uint64_t Y, unsigned a) const;
  uint32_t pool_column(uint64_t X, unsigned b) const;
};

struct Description {
  std::vector<uint8_t> bytes;
  Digest digest;  // d = H(bytes)

  unsigned k, nr, kt, A, RL, AX, PW, NL, output_kind;
  uint32_t nW, nw, nh, batch;
  uint64_t roff, goff, hT, hoff, moff;
  std::vector<std::array<uint8_t, 256>> functions;
  std::vector<Tensor> tensors;
  std::vector<Equation> equations;
  std::vector<uint64_t> h_masks, w_masks;
  Digest certificate;

  uint64_t N;             // cells of a tile
  unsigned S, U;          // bits: requantisation shift, limbed value
  uint32_t top;
  static constexpr unsigned h_blinds = 16;

  // Indices of columns.
  unsigned rem(unsigned i) const { return i; }
  unsigned lo(unsigned i) const { return RL + i; }
  unsigned hi() const { return RL + A; }
  unsigned sel() const { return RL + A + 1; }
  unsigned sat() const { return RL + A + 2; }
  unsigned z() const { return RL + A + 3; }  // only with functions; else the same as y()
  unsigned y() const { return RL + A + 3 + (functions.empty() ? 0 : 1); }
  unsigned x(unsigned i) const { return y() + 1 + i; }
  unsigned d(unsigned w, unsigned limb) const { return y() + 1 + AX + w * NL + limb; }
  unsigned columns;                          // NCOL
  std::vector<unsigned> range_columns;       // looked up as bytes, in order
  unsigned lookups;                          // NF: those, the clamp, and the function
  unsigned groups3;                          // G3 = ceil(NF / 3): helper columns
  unsigned n;                                // variables of the main sumcheck
  std::vector<unsigned> degrees;             // D_1 ... D_n
  unsigned degree_sum;
  struct ProductIndex {
    size_t equation, product;
  };
  std::vector<ProductIndex> products;        // all product terms in order
  size_t nE;                                 // masked factors
  size_t multipliers;                        // |M|
  size_t outputs;                            // number of y
  std::vector<unsigned> output_bits;         // of r_out; empty for output kind 0
  // Public input: values per word, words per image row, bytes in all.
  unsigned values_per_word;
  uint32_t words_per_row;
  size_t input_bytes;

  const Product& product(const ProductIndex& i) const { return equations[i.equation].products[i.product]; }
  const Tensor& output_tensor() const { return tensors[equations.back().target]; }
  size_t proof_bytes(unsigned mode) const;
};

// Reads D with every refusal of sections 4 and 5, except the rank certificate's; throws Refused.
Description parse_description(const uint8_t* data, size_t size);

}  // namespace zkserve
