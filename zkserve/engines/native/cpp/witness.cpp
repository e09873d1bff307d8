#include "witness.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "functionals.hpp"

namespace zkserve {
namespace {

// Addresses of the entries of a dimension stored in pieces, each entry of 2^rest cells.
std::vector<size_t> piece_addresses(const std::vector<Piece>& pieces, unsigned rest) {
  std::vector<size_t> out;
  for (const Piece& p : pieces)
    for (size_t i = 0; i < size_t(1) << p.log; ++i) out.push_back(p.offset + (i << rest));
  return out;
}

// Columns of the matrix that a product multiplies weights with: one for each cell of the grid.
template <class Integer>
Secret<Integer> unfold(const Equation& e, const Product& p, const Values& s, size_t group, size_t stride) {
  const size_t kernel = size_t(p.kh) * p.kw;
  Secret<Integer> out(p.group_inputs * kernel * stride, 0);
  for (size_t i = 0; i < p.group_inputs; ++i)
    for (size_t ky = 0; ky < p.kh; ++ky)
      for (size_t kx = 0; kx < p.kw; ++kx) {
        Integer* at = &out[(i * kernel + ky * p.kw + kx) * stride];
        for (size_t n = 0; n < s.batch; ++n)
          for (size_t oy = 0; oy < e.oh; ++oy, at += e.ow) {
            const int64_t y = int64_t(p.sh * oy + p.dh * ky) - p.ph;
            if (y < 0 || y >= int64_t(s.height)) continue;
            const int64_t* row = s.row(p.s0 + group * p.group_inputs + i, n, size_t(y));
            for (size_t ox = 0; ox < e.ow; ++ox) {
              const int64_t x = int64_t(p.sw * ox + p.dw * kx) - p.pw;
              if (x >= 0 && x < int64_t(s.width)) at[ox] = Integer(row[x]);
            }
          }
      }
  return out;
}

// sums[p] = sum_k weights[k] columns[k * stride + p], for `lanes` neighbouring positions.
template <class Integer, size_t lanes>
void dot_columns(const int32_t* weights, size_t length, const Integer* columns, size_t stride, Integer* sums) {
  Integer block[lanes] = {};
  for (size_t k = 0; k < length; ++k, columns += stride) {
    const Integer w = weights[k];
    for (size_t p = 0; p < lanes; ++p) block[p] += w * columns[p];
  }
  for (size_t p = 0; p < lanes; ++p) sums[p] = block[p];
}

template <class Integer>
int64_t dot(const int32_t* weights, const Integer* values, size_t length) {
  Integer sum = 0;
  for (size_t k = 0; k < length; ++k) sum += Integer(weights[k]) * values[k];
  return sum;
}

}  // namespace

RowMap::RowMap(const Tensor& t) : channel(piece_addresses(t.pieces, t.block_bits)) {
  batch_stride = size_t(1) << (t.block_bits - t.rest_bits[0]);
  height_stride = t.flat ? t.width : size_t(1) << t.rest_bits.back();
}

WeightMap::WeightMap(const Equation& e, const Product& p) : lead_g(0), lead_c(0), lead_i(0), in_c(0), in_i(0) {
  tail_bits = p.kappa - p.group_bits - p.contraction_bits[0];
  const unsigned output_bits = clog(e.group_outputs), input_bits = p.contraction_bits[0];
  const size_t tail = size_t(1) << tail_bits;
  if (p.order == 0) {
    in_i = tail;
    in_c = tail << input_bits;
  } else {
    in_c = tail;
    in_i = tail << output_bits;
  }
  if (e.groups > 1) {
    lead_g = 1;
    lead = piece_addresses(p.pieces, tail_bits + input_bits + output_bits);
  } else if (p.order == 0) {
    lead_c = 1;
    lead = piece_addresses(p.pieces, tail_bits + input_bits);
    in_c = 0;
  } else {
    lead_i = 1;
    lead = piece_addresses(p.pieces, tail_bits + output_bits);
    in_i = 0;
  }
}

std::vector<uint16_t> row_functions(const Description& D) {
  std::vector<uint16_t> out;
  if (D.functions.empty()) return out;
  out.resize(size_t(1) << D.nr);
  for (size_t t = 1; t < D.tensors.size(); ++t)
    for (const Piece& p : D.tensors[t].pieces)
      std::fill_n(&out[p.offset], size_t(1) << (p.log + D.tensors[t].block_bits), uint16_t(D.tensors[t].function));
  return out;
}

size_t active_rows(const Description& D) {
  size_t end = 0;
  for (const Tensor& t : D.tensors)
    for (const Piece& p : t.pieces) end = std::max(end, size_t(p.offset) + (size_t(1) << (p.log + t.block_bits)));
  return end;
}

Values view(const Values& source, const std::vector<View>& views) {
  Values s = source;
  for (const View& v : views) {
    Values sums{s.channels, s.batch, v.height, v.width, Secret<int64_t>(s.channels * s.batch * v.height * v.width)};
    int64_t* at = sums.data.data();
    for (size_t c = 0; c < s.channels; ++c)
      for (size_t n = 0; n < s.batch; ++n)
        for (size_t oy = 0; oy < v.height; ++oy)
          for (size_t ox = 0; ox < v.width; ++ox, ++at)
            for (size_t a = 0; a < v.kh; ++a) {
              const int64_t y = int64_t(v.sh * oy + a) - v.ph;
              if (y < 0 || y >= int64_t(s.height)) continue;
              const int64_t* row = s.row(c, n, size_t(y));
              for (size_t b = 0; b < v.kw; ++b) {
                const int64_t x = int64_t(v.sw * ox + b) - v.pw;
                if (x >= 0 && x < int64_t(s.width)) *at += row[x];
              }
            }
    s = std::move(sums);
  }
  return s;
}

Network::Network(const Description& description, const int32_t* cells, const std::vector<uint32_t>& multipliers)
    : D_(description) {
  if (multipliers.size() != D_.multipliers) throw Refused("there are not as many multipliers as the description has");
  for (uint32_t m : multipliers)
    if (m < 1 || m >= 1 << 16) throw Refused("a multiplier is not in [1, 2^16)");
  for (const Tensor& t : D_.tensors) rows_.emplace_back(t);
  for (const Equation& e : D_.equations) {
    Layer layer;
    for (const Product& p : e.products) {
      const WeightMap map(e, p);
      const size_t inputs = p.contraction[0];
      size_t length = inputs;
      for (size_t i = 1; i < p.contraction.size(); ++i) length *= p.contraction[i];
      Secret<int32_t> dense(size_t(e.cn) * length);
      int32_t* at = dense.data();
      // The tail's two dimensions, or one and a dimension of size 1.
      const size_t height = p.contraction.size() == 3 ? p.contraction[1] : 1, width = p.contraction.back();
      const unsigned width_bits = p.contraction_bits.back();
      for (size_t c = 0; c < e.cn; ++c)
        for (size_t i = 0; i < inputs; ++i) {
          const int32_t* tail = cells + map.at(c / e.group_outputs, c % e.group_outputs, i);
          for (size_t y = 0; y < height; ++y, at += width) std::copy_n(tail + (y << width_bits), width, at);
        }
      layer.weights.push_back(std::move(dense));
    }
    layer.bias.assign(e.cn, 0);
    for (const Piece& piece : e.bias)
      for (size_t i = 0; i < size_t(1) << piece.log && piece.first + i < e.cn; ++i)
        layer.bias[piece.first + i] = cells[piece.offset + i];
    layer.multipliers.assign(multipliers.begin() + ptrdiff_t(e.first_multiplier),
                             multipliers.begin() + ptrdiff_t(e.first_multiplier + e.multiplier_count));
    for (size_t i = 0; i < e.scaled.size(); ++i) layer.scales.push_back(scaled_multiplier(e, i, multipliers));
    check_bounds(e, layer);
    layers_.push_back(std::move(layer));
  }
}

void Network::check_bounds(const Equation& e, Layer& layer) const {
  constexpr u128 limit = u128(1) << 100;  // stops growing there, far above every bound
  auto saturate = [&](u128 v) { return std::min(v, limit); };
  auto largest = [&](unsigned source, const std::vector<View>& views) {
    const Tensor& t = D_.tensors[source];
    const uint64_t top = source ? D_.top : (uint64_t(1) << 8 * D_.AX) - 1;
    u128 v = std::max<uint64_t>(t.zp, top - t.zp);
    for (const View& w : views) v = saturate(v * (u128(w.kh) * w.kw));
    return v;
  };
  u128 widest = 0;
  for (const Product& p : e.products) widest = std::max(widest, largest(p.source, p.views));
  for (const Scaled& s : e.scaled) widest = std::max(widest, largest(s.source, s.views));
  // Beyond this, sums of field elements times values could overflow their accumulators.
  if (widest >= u128(1) << 34) throw Refused("a window sums more than this prover can hold");

  u128 common = 0;
  for (size_t i = 0; i < e.scaled.size(); ++i)
    common = saturate(common + layer.scales[i] * largest(e.scaled[i].source, e.scaled[i].views));
  for (size_t c = 0; c < e.cn; ++c) {
    u128 bound = common + u128(std::abs(int64_t(layer.bias[c])));
    for (size_t j = 0; j < e.products.size(); ++j) {
      const Secret<int32_t>& w = layer.weights[j];
      const size_t length = w.size() / e.cn;
      uint64_t magnitude = 0;
      for (size_t k = 0; k < length; ++k) magnitude += uint64_t(std::abs(int64_t(w[c * length + k])));
      bound = saturate(bound + saturate(u128(magnitude) * largest(e.products[j].source, e.products[j].views)));
    }
    widest = std::max(widest, bound);
    if (e.raw) {
      if (bound >= u128(1) << 62) throw Refused("a raw output may reach 2^62");
      continue;
    }
    const uint32_t m = layer.multipliers[e.per_channel ? c : 0];
    const u128 room = (u128(1) << (D_.U - 1)) - (u128(1) << (D_.S - 1)) - (u128(D_.tensors[e.target].zp) << D_.S) - 1;
    if (bound * m > room) throw Refused("an accumulator may leave the range of its limbs");
    if (e.pooled && 2 * bound >= u128(1) << 8 * D_.NL) throw Refused("a pooling difference may leave its limbs");
  }
  layer.narrow = widest < u128(1) << 31;
}

Witness Network::run(const int32_t* inputs, size_t count, Threads& threads) const {
  const Tensor& input = D_.tensors[0];
  if (count != size_t(D_.batch) * input.channels * input.height * input.width)
    throw std::invalid_argument("the input has another number of values than the description");
  if (std::any_of(inputs, inputs + count, [&](int32_t v) { return v < 0 || v >= int32_t(1) << 8 * D_.AX; }))
    throw std::invalid_argument("an input value is out of range");

  Witness w;
  w.cells.assign(size_t(D_.nw) << D_.k, 0);
  for (const Tensor& t : D_.tensors)
    w.tensors.push_back({t.channels, D_.batch, t.height, t.width,
                         Secret<int64_t>(size_t(t.channels) * D_.batch * t.height * t.width)});
  for (size_t t = 1; t < D_.tensors.size() && !D_.functions.empty(); ++t)
    for (const Piece& p : D_.tensors[t].pieces)
      std::fill_n(&w.cells[(size_t(D_.y()) << D_.nr) + p.offset], size_t(1) << (p.log + D_.tensors[t].block_bits),
                  int32_t(D_.functions[D_.tensors[t].function][0]));

  const int32_t* value = inputs;
  for (size_t n = 0; n < D_.batch; ++n)
    for (size_t c = 0; c < input.channels; ++c)
      for (size_t y = 0; y < input.height; ++y) {
        const size_t row = rows_[0].at(c, n, y);
        int64_t* cell = w.tensors[0].row(c, n, y);
        for (size_t x = 0; x < input.width; ++x, ++value) {
          cell[x] = int64_t(*value) - input.zp;
          for (unsigned a = 0; a < D_.AX; ++a)
            w.cells[(size_t(D_.x(a)) << D_.nr) + row + x] = *value >> 8 * a & 255;
        }
      }

  for (size_t l = 0; l < D_.equations.size(); ++l) {
    const Equation& e = D_.equations[l];
    const Secret<int64_t> accumulators = accumulate(l, w, threads);
    if (!e.raw) {
      requantise(l, accumulators, w);
      continue;
    }
    const size_t grid = size_t(e.oh) * e.ow;
    for (size_t n = 0; n < D_.batch; ++n)
      for (size_t c = 0; c < e.cn; ++c) {
        const int64_t* at = &accumulators[(c * D_.batch + n) * grid];
        w.outputs.insert(w.outputs.end(), at, at + grid);
      }
  }
  if (D_.output_kind == 1) {
    const Values& out = w.tensors[D_.equations.back().target];
    for (size_t n = 0; n < D_.batch; ++n)
      for (size_t c = 0; c < out.channels; ++c)
        w.outputs.insert(w.outputs.end(), out.row(c, n, 0), out.row(c, n, 0) + out.height * out.width);
  }
  count_lookups(w);
  return w;
}

Secret<int64_t> Network::accumulate(size_t equation, const Witness& witness, Threads& threads) const {
  const Equation& e = D_.equations[equation];
  const Layer& layer = layers_[equation];
  const size_t positions = size_t(D_.batch) * e.oh * e.ow;
  Secret<int64_t> accumulators(e.cn * positions);
  for (size_t c = 0; c < e.cn; ++c) std::fill_n(&accumulators[c * positions], positions, layer.bias[c]);
  for (size_t j = 0; j < e.products.size(); ++j) {
    const Product& p = e.products[j];
    const Values viewed = p.views.empty() ? Values{} : view(witness.tensors[p.source], p.views);
    const Values& source = p.views.empty() ? witness.tensors[p.source] : viewed;
    if (layer.narrow)
      multiply<int32_t>(e, p, layer.weights[j], source, accumulators.data(), threads);
    else
      multiply<int64_t>(e, p, layer.weights[j], source, accumulators.data(), threads);
  }
  for (size_t i = 0; i < e.scaled.size(); ++i) {
    const Values source = view(witness.tensors[e.scaled[i].source], e.scaled[i].views);
    const int64_t* at = source.row(e.scaled[i].s0, 0, 0);
    for (size_t k = 0; k < accumulators.size(); ++k) accumulators[k] += int64_t(layer.scales[i]) * at[k];
  }
  return accumulators;
}

template <class Integer>
void Network::multiply(const Equation& e, const Product& p, const Secret<int32_t>& weights, const Values& source,
                       int64_t* accumulators, Threads& threads) const {
  constexpr size_t lanes = 16;
  const size_t length = weights.size() / e.cn, positions = size_t(D_.batch) * e.oh * e.ow;
  const size_t grain = std::max<size_t>(1, (size_t(1) << 20) / (length * positions));
  if (p.gemm) {
    Secret<Integer> rows(D_.batch * length);
    const size_t image = source.height * source.width;
    for (size_t n = 0; n < D_.batch; ++n)
      for (size_t i = 0; i < p.group_inputs; ++i)
        std::copy_n(source.row(p.s0 + i, n, 0), image, &rows[n * length + i * image]);
    threads.parallel(e.cn, grain, [&](size_t begin, size_t end, unsigned) {
      for (size_t c = begin; c < end; ++c)
        for (size_t n = 0; n < D_.batch; ++n)
          accumulators[c * D_.batch + n] += dot(&weights[c * length], &rows[n * length], length);
    });
    return;
  }
  const size_t stride = (positions + lanes - 1) / lanes * lanes;
  for (size_t g = 0; g < e.groups; ++g) {
    const Secret<Integer> columns = unfold<Integer>(e, p, source, g, stride);
    threads.parallel(e.group_outputs, grain, [&](size_t begin, size_t end, unsigned) {
      Integer sums[lanes];
      for (size_t c = g * e.group_outputs + begin; c < g * e.group_outputs + end; ++c)
        for (size_t first = 0; first < positions; first += lanes) {
          dot_columns<Integer, lanes>(&weights[c * length], length, &columns[first], stride, sums);
          const size_t count = std::min(lanes, positions - first);
          for (size_t i = 0; i < count; ++i) accumulators[c * positions + first + i] += sums[i];
        }
    });
  }
}

void Network::requantise(size_t equation, const Secret<int64_t>& accumulators, Witness& witness) const {
  const Equation& e = D_.equations[equation];
  const Layer& layer = layers_[equation];
  const Tensor& t = D_.tensors[e.target];
  const uint8_t* function = D_.functions.empty() ? nullptr : D_.functions[t.function].data();
  auto column = [&](unsigned c) { return witness.cells.data() + (size_t(c) << D_.nr); };
  const int64_t offset = (int64_t(1) << (D_.S - 1)) + (int64_t(t.zp) << D_.S) + (int64_t(1) << (D_.U - 1));
  for (size_t c = 0; c < e.cn; ++c)
    for (size_t n = 0; n < D_.batch; ++n) {
      const int64_t* grid = &accumulators[(c * D_.batch + n) * e.oh * e.ow];
      const int64_t multiplier = layer.multipliers[e.per_channel ? c : 0];
      for (size_t y = 0; y < t.height; ++y) {
        int64_t* out = witness.tensors[e.target].row(e.c0 + c, n, y);
        for (size_t x = 0; x < t.width; ++x) {
          const size_t row = rows_[e.target].at(e.c0 + c, n, y) + x;
          int64_t m;
          if (e.pooled) {
            int64_t window[4];
            for (unsigned a = 0; a < e.eh; ++a)
              for (unsigned b = 0; b < e.ew; ++b)
                window[a * e.ew + b] = grid[size_t(e.pool_row(y, a)) * e.ow + e.pool_column(x, b)];
            m = *std::max_element(window, window + D_.PW);
            for (unsigned w = 0; w < D_.PW; ++w)
              for (unsigned l = 0; l < D_.NL; ++l) column(D_.d(w, l))[row] = int32_t((m - window[w]) >> 8 * l & 255);
          } else {
            m = grid[y * e.ow + x];
          }
          const int64_t u = multiplier * m + offset;
          for (unsigned i = 0; i < D_.RL; ++i) column(D_.rem(i))[row] = int32_t(u >> 8 * i & 255);
          for (unsigned i = 0; i < D_.A; ++i) column(D_.lo(i))[row] = int32_t(u >> (D_.S + 8 * i) & 255);
          const int32_t hi = int32_t(u >> (D_.U - 8)), sel = hi == 128, sat = hi > 128;
          column(D_.hi())[row] = hi;
          column(D_.sel())[row] = sel;
          column(D_.sat())[row] = sat;
          const int32_t z = sel * int32_t(u >> D_.S & D_.top) + sat * int32_t(D_.top);
          column(D_.z())[row] = z;
          const int32_t value = function ? function[z] : z;
          column(D_.y())[row] = value;
          out[x] = int64_t(value) - t.zp;
        }
      }
    }
}

void Network::count_lookups(Witness& witness) const {
  const std::vector<uint16_t> functions = row_functions(D_);
  const size_t active = active_rows(D_), lookups = D_.lookups;
  auto column = [&](unsigned c) { return witness.cells.data() + (size_t(c) << D_.nr); };
  witness.lookups.resize((active + 1) * lookups);
  for (unsigned i = 0; i < D_.range_columns.size(); ++i) {
    const int32_t* cells = column(D_.range_columns[i]);
    for (size_t row = 0; row < active; ++row) witness.lookups[row * lookups + i] = uint32_t(cells[row]);
  }
  const size_t clamp = D_.range_columns.size();
  for (size_t row = 0; row < active; ++row)
    witness.lookups[row * lookups + clamp] = 256 + uint32_t(column(D_.hi())[row]);
  witness.lookups[active * lookups + clamp] = 256;
  if (!functions.empty()) {
    for (size_t row = 0; row < active; ++row)
      witness.lookups[row * lookups + clamp + 1] = 512 + 256 * functions[row] + uint32_t(column(D_.z())[row]);
    witness.lookups[active * lookups + clamp + 1] = 512;
  }

  int32_t* counts = &witness.cells[D_.moff];
  for (size_t i = 0; i < active * lookups; ++i) ++counts[witness.lookups[i]];
  const int32_t blank = int32_t((size_t(1) << D_.nr) - active);
  for (size_t i = active * lookups; i < witness.lookups.size(); ++i) counts[witness.lookups[i]] += blank;
}

}  // namespace zkserve
