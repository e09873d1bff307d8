// Exact integer inference (section 3 of docs/native-protocol.md) and the cells of family w that it fills.
#pragma once

#include <cstdint>
#include <vector>

#include "description.hpp"
#include "secret.hpp"
#include "threads.hpp"

namespace zkserve {

// What a term reads: a source less its zero point, after its views. Row-major (channel, batch, height, width).
struct Values {
  size_t channels, batch, height, width;
  Secret<int64_t> data;

  const int64_t* row(size_t c, size_t n, size_t y) const { return &data[((c * batch + n) * height + y) * width]; }
  int64_t* row(size_t c, size_t n, size_t y) { return &data[((c * batch + n) * height + y) * width]; }
};

struct Witness {
  Secret<int32_t> cells;         // family w: columns and multiplicities; mask cells are zero here
  Secret<uint32_t> lookups;      // table entries met by the NF lookups of each active row, then of a blank row
  std::vector<Values> tensors;   // of every tensor, without views
  std::vector<int64_t> outputs;  // y, row-major (batch, channel, height, width)
};

// Cell of the row space at which a channel of a tensor begins, and the strides behind it.
struct RowMap {
  explicit RowMap(const Tensor& t);
  size_t at(size_t c, size_t n, size_t y) const { return channel[c] + n * batch_stride + y * height_stride; }

  std::vector<size_t> channel;
  size_t batch_stride, height_stride;
};

// Addresses of a product's weights: cells of family W, by group, output of the group and contraction index.
struct WeightMap {
  WeightMap(const Equation& e, const Product& p);
  // First of the 2^tail_bits cells of (g, c', i): the contraction's remaining dimensions, the last of them fastest.
  size_t at(size_t g, size_t c, size_t i) const {
    return lead[g * lead_g + c * lead_c + i * lead_i] + c * in_c + i * in_i;
  }

  std::vector<size_t> lead;       // address of each entry of the leading dimension
  size_t lead_g, lead_c, lead_i;  // which index leads: one of them is 1
  size_t in_c, in_i;              // strides of the others
  unsigned tail_bits;
};

// A network of one version, ready to run.
class Network {
 public:
  // `cells` are the nW * N cells of family W. Throws Refused if a multiplier or a bound of section 3 does not hold,
  // so that no input can make a proof fail.
  Network(const Description& description, const int32_t* cells, const std::vector<uint32_t>& multipliers);

  // `inputs`: batch * C * H * W values in [0, 256^AX), row-major. Throws std::invalid_argument otherwise.
  Witness run(const int32_t* inputs, size_t count, Threads& threads) const;

 private:
  struct Layer {
    std::vector<Secret<int32_t>> weights;  // of each product, [output][contraction], without padding
    Secret<int32_t> bias;                  // cn, zero where there is none
    std::vector<uint32_t> multipliers;     // one, or cn
    std::vector<uint32_t> scales;          // of each scaled term
    bool narrow;                           // whether every accumulator and value fits 31 bits
  };

  void check_bounds(const Equation& e, Layer& layer) const;
  Secret<int64_t> accumulate(size_t equation, const Witness& witness, Threads& threads) const;
  template <class Integer>
  void multiply(const Equation& e, const Product& p, const Secret<int32_t>& weights, const Values& source,
                int64_t* accumulators, Threads& threads) const;
  void requantise(size_t equation, const Secret<int64_t>& accumulators, Witness& witness) const;
  void count_lookups(Witness& witness) const;

  const Description& D_;
  std::vector<Layer> layers_;
  std::vector<RowMap> rows_;
};

// Function of the tensor whose piece holds a row, 0 elsewhere; empty if there are no functions.
std::vector<uint16_t> row_functions(const Description& D);

// Rows from here on belong to no tensor: all their cells are zero in every witness.
size_t active_rows(const Description& D);

// `source` through a term's views.
Values view(const Values& source, const std::vector<View>& views);

}  // namespace zkserve
