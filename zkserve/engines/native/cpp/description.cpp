#include "description.hpp"

#include <algorithm>
#include <cstring>

#include "keccak.hpp"

namespace zkserve {
namespace {

void need(bool condition, const char* otherwise) {
  if (!condition) throw Refused(otherwise);
}

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}

  const uint8_t* take(size_t size) {
    need(size_t(end_ - at_) >= size, "the description ends inside a value");
    const uint8_t* out = at_;
    at_ += size;
    return out;
  }
  uint32_t u8() { return unsigned_of(1); }
  uint32_t u16() { return unsigned_of(2); }
  uint32_t u32() { return unsigned_of(4); }
  bool flag() {
    const uint32_t v = u8();
    need(v <= 1, "a flag of the description is neither 0 nor 1");
    return v == 1;
  }
  Reader nested() {
    const uint32_t size = u32();
    return Reader(take(size), size);
  }
  void finish() const { need(at_ == end_, "the description has bytes that nothing reads"); }

  template <class F>
  auto list(F item) -> std::vector<decltype(item(std::declval<Reader&>()))> {
    std::vector<decltype(item(std::declval<Reader&>()))> out;
    for (uint32_t count = u32(); count; --count) {
      Reader r = nested();
      out.push_back(item(r));
      r.finish();
    }
    return out;
  }

 private:
  uint32_t unsigned_of(size_t size) {
    const uint8_t* b = take(size);
    uint32_t v = 0;
    for (size_t i = 0; i < size; ++i) v = v << 8 | b[i];
    return v;
  }

  const uint8_t* at_;
  const uint8_t* end_;
};

Piece read_piece(Reader& r) {
  Piece p;
  p.first = r.u32();
  p.log = r.u8();
  p.offset = r.u32();
  return p;
}

View read_view(Reader& r) {
  View v;
  for (unsigned* field : {&v.kh, &v.kw, &v.sh, &v.sw, &v.ph, &v.pw}) *field = r.u8();
  v.height = r.u32();
  v.width = r.u32();
  return v;
}

Tensor read_tensor(Reader& r) {
  Tensor t;
  t.flat = r.flag();
  t.channels = r.u32();
  t.height = r.u32();
  t.width = r.u32();
  t.zp = r.u32();
  t.function = r.u16();
  t.pieces = r.list(read_piece);
  return t;
}

Product read_product(Reader& r) {
  Product p;
  p.gemm = r.flag();
  p.source = r.u16();
  p.s0 = r.u32();
  p.sn = r.u32();
  p.order = r.flag();
  for (unsigned* field : {&p.kh, &p.kw, &p.sh, &p.sw, &p.dh, &p.dw, &p.ph, &p.pw}) *field = r.u8();
  p.views = r.list(read_view);
  p.pieces = r.list(read_piece);
  return p;
}

Scaled read_scaled(Reader& r) {
  Scaled s;
  s.source = r.u16();
  s.s0 = r.u32();
  s.constant = r.u32();
  s.views = r.list(read_view);
  return s;
}

Equation read_equation(Reader& r) {
  Equation e;
  e.target = r.u16();
  e.c0 = r.u32();
  e.cn = r.u32();
  e.oh = r.u32();
  e.ow = r.u32();
  e.per_channel = r.flag();
  for (unsigned* field : {&e.kh, &e.kw, &e.sh, &e.sw, &e.ph, &e.pw, &e.eh, &e.ew}) *field = r.u8();
  e.groups = r.u16();
  e.products = r.list(read_product);
  e.scaled = r.list(read_scaled);
  e.bias = r.list(read_piece);
  return e;
}

void read_header(Reader& r, Description& D) {
  need(r.u8() == 1, "the description is not of version 1");
  for (unsigned* field : {&D.k, &D.nr, &D.kt, &D.A, &D.RL, &D.AX, &D.PW, &D.NL}) *field = r.u8();
  need(r.u8() == 3, "lookups are grouped by three");
  D.output_kind = r.u8();
  need(r.u8() == Description::h_blinds, "a tile of family h has 16 blinds");
  for (uint32_t* field : {&D.nW, &D.nw, &D.nh}) *field = r.u16();
  D.batch = r.u32();

  need(D.k >= 9 && D.k <= 24, "k is not in 9 ... 24");
  need(D.nr <= D.k && D.kt <= D.k, "rows or table are larger than a tile");
  need(D.A == 1 || D.A == 2, "an activation has 1 or 2 bytes");
  need(D.RL == D.A + 1, "remainder limbs are not one more than the bytes of an activation");
  need(D.AX == 1 || D.AX == 2, "an input value has 1 or 2 bytes");
  need(D.PW == 0 || D.PW == 2 || D.PW == 4, "a pooling window has 0, 2 or 4 positions");
  need(D.NL == 2 * D.A + 1, "a pooling difference has 3 limbs with 8 bits and 5 with 16");
  need(D.output_kind <= 1, "the output kind is neither 0 nor 1");
  need(D.nW && D.nw && D.nh && D.batch, "a count of the header is zero");
  D.N = uint64_t(1) << D.k;
  D.S = 8 * D.RL;
  D.U = 8 * (D.RL + D.A + 1);
  D.top = (uint32_t(1) << 8 * D.A) - 1;
}

// The bits of a size, which is at least 1 and at most a tile.
unsigned size_bits(const Description& D, uint64_t size) {
  need(size >= 1 && size <= D.N, "a size of the description is zero or larger than a tile");
  return clog(size);
}

// Cells [begin, begin + size) of a family.
struct Block {
  uint64_t begin, size;
};

void check_disjoint(std::vector<Block> blocks) {
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < blocks.size(); ++i)
    need(blocks[i - 1].begin + blocks[i - 1].size <= blocks[i].begin, "two blocks of the layout overlap");
}

// A block of 2^bits cells, aligned, inside one tile and inside the family.
Block aligned_block(const Description& D, uint64_t offset, unsigned bits, uint64_t family_cells) {
  need(bits <= D.k, "a block is larger than a tile");
  const uint64_t size = uint64_t(1) << bits;
  need(offset % size == 0, "a block is not aligned to its size");
  need(offset + size <= family_cells, "a block lies outside its family");
  return {offset, size};
}

// Pieces of a dimension of `size` entries, each of 2^rest cells.
void place_pieces(const Description& D, const std::vector<Piece>& pieces, uint64_t size, unsigned rest,
                  uint64_t cells, std::vector<Block>& blocks) {
  uint64_t next = 0;
  for (const Piece& p : pieces) {
    need(p.first == next && next < size, "pieces do not cover their dimension in order");
    need(p.log + rest <= D.k, "a piece is larger than a tile");
    blocks.push_back(aligned_block(D, p.offset, p.log + rest, cells));
    next += uint64_t(1) << p.log;
  }
  need(next >= size, "pieces do not cover their dimension");
}

void check_functions(const Description& D) {
  if (D.functions.empty()) return;
  need(D.A == 1, "16-bit circuits have no functions");
  need(D.functions.size() <= 0xffff, "there are more functions than a tensor can name");
  for (unsigned i = 0; i < 256; ++i) need(D.functions[0][i] == i, "the first function is not the identity");
}

void check_tensors(Description& D) {
  need(!D.tensors.empty(), "there is no input tensor");
  need(D.tensors.size() < Equation::raw_target, "there are too many tensors");
  const uint64_t rows = uint64_t(1) << D.nr;
  const unsigned batch_bits = size_bits(D, D.batch);
  std::vector<Block> activations, input;
  for (size_t i = 0; i < D.tensors.size(); ++i) {
    Tensor& t = D.tensors[i];
    size_bits(D, t.channels);
    const unsigned height = size_bits(D, t.height), width = size_bits(D, t.width);
    if (t.flat)
      t.rest_bits = {batch_bits, size_bits(D, uint64_t(t.height) * t.width)};
    else
      t.rest_bits = {batch_bits, height, width};
    t.block_bits = 0;
    for (unsigned b : t.rest_bits) t.block_bits += b;
    need(t.zp <= (i ? D.top : (uint32_t(1) << 8 * D.AX) - 1), "a zero point is out of range");
    need(t.function == 0 || (i && t.function < D.functions.size()), "a tensor names a function that is not there");
    place_pieces(D, t.pieces, t.channels, t.block_bits, rows, i ? activations : input);
  }
  need(!D.tensors[0].flat, "the input tensor is flat");
  check_disjoint(std::move(activations));
  check_disjoint(std::move(input));
}

std::vector<Extent> check_views(const Description& D, const Tensor& source, const std::vector<View>& views) {
  std::vector<Extent> extents = {{source.height, source.width}};
  for (const View& v : views) {
    need(v.kh && v.kw && v.sh && v.sw, "a view has a zero size or stride");
    size_bits(D, v.height);
    size_bits(D, v.width);
    extents.push_back({v.height, v.width});
  }
  return extents;
}

const Tensor& source_of(const Description& D, unsigned index, uint32_t first, uint32_t count) {
  need(index < D.tensors.size(), "a term reads a tensor that is not there");
  const Tensor& t = D.tensors[index];
  need(count >= 1 && uint64_t(first) + count <= t.channels, "a term reads channels that its source has not");
  return t;
}

void check_product(const Description& D, const Equation& e, Product& p, std::vector<Block>& blocks) {
  const Tensor& source = source_of(D, p.source, p.s0, p.sn);
  need(p.sn % e.groups == 0, "groups do not divide the channels of a source");
  need(p.kh && p.kw && p.sh && p.sw && p.dh && p.dw, "a product has a zero size, stride or dilation");
  p.group_inputs = p.sn / e.groups;
  p.extents = check_views(D, source, p.views);
  const Extent read = p.extents.back();
  if (p.gemm) {
    need(p.kh == 1 && p.kw == 1 && p.sh == 1 && p.sw == 1 && p.dh == 1 && p.dw == 1 && p.ph == 0 && p.pw == 0,
         "a gemm has a kernel");
    need(e.oh == 1 && e.ow == 1 && e.groups == 1 && !e.pooled, "a gemm has a grid, groups or a pool");
    need(!source.flat || p.views.empty(), "a gemm views a flat source");
    if (source.flat)
      p.contraction = {p.group_inputs, read.height * read.width};
    else
      p.contraction = {p.group_inputs, read.height, read.width};
  } else {
    p.contraction = {p.group_inputs, p.kh, p.kw};
  }
  p.contraction_bits.clear();
  p.group_bits = clog(e.groups);
  p.kappa = p.group_bits;
  for (uint32_t size : p.contraction) {
    p.contraction_bits.push_back(size_bits(D, size));
    p.kappa += p.contraction_bits.back();
  }
  if (p.kappa == 0) p.contraction_bits.back() = p.kappa = 1;

  const unsigned inner = p.kappa - p.group_bits, outputs = clog(e.group_outputs);
  const uint64_t cells = uint64_t(D.nW) << D.k;
  if (e.groups > 1)
    place_pieces(D, p.pieces, e.groups, outputs + inner, cells, blocks);
  else if (p.order == 0)
    place_pieces(D, p.pieces, e.group_outputs, inner, cells, blocks);
  else
    place_pieces(D, p.pieces, p.group_inputs, outputs + inner - p.contraction_bits[0], cells, blocks);
}

void check_scaled(const Description& D, const Equation& e, Scaled& s) {
  const Tensor& source = source_of(D, s.source, s.s0, e.cn);
  need(s.constant < 1 << 16, "a constant of a scaled term is not below 2^16");
  s.extents = check_views(D, source, s.views);
  need(s.extents.back().height == e.oh && s.extents.back().width == e.ow,
       "a scaled term is not of the size of its equation");
}

void check_grid(const Equation& e, const Tensor& target, unsigned PW) {
  if (!e.pooled) {
    need(e.oh == target.height && e.ow == target.width, "an equation is not of the size of its target");
    return;
  }
  need(e.eh * e.ew == PW, "a window is not stretched to the window positions of the circuit");
  need(e.kh && e.kw && e.sh && e.sw, "a window has a zero size or stride");
  need(e.eh >= e.kh && e.ew >= e.kw, "a window is larger than what it is stretched to");
  need(e.ph < e.kh && e.pw < e.kw, "a window lies in the padding");
  need(int64_t(e.sh) * (int64_t(target.height) - 1) - e.ph < int64_t(e.oh) &&
           int64_t(e.sw) * (int64_t(target.width) - 1) - e.pw < int64_t(e.ow),
       "a window lies past the grid");
}

void check_equations(Description& D) {
  need(!D.equations.empty(), "there are no equations");
  std::vector<std::vector<bool>> produced;
  for (const Tensor& t : D.tensors) produced.emplace_back(t.channels, false);
  // Channels of each tensor still to be produced; the input has none.
  std::vector<uint64_t> missing;
  for (const Tensor& t : D.tensors) missing.push_back(t.channels);
  missing[0] = 0;

  std::vector<Block> blocks;
  D.multipliers = 0;
  for (size_t l = 0; l < D.equations.size(); ++l) {
    Equation& e = D.equations[l];
    const bool last = l + 1 == D.equations.size();
    size_bits(D, e.cn);
    size_bits(D, e.oh);
    size_bits(D, e.ow);
    e.raw = e.target == Equation::raw_target;
    e.pooled = !(e.kh == 1 && e.kw == 1 && e.sh == 1 && e.sw == 1 && e.ph == 0 && e.pw == 0 && e.eh == 1 &&
                 e.ew == 1);
    need(e.raw == (last && D.output_kind == 0), "the public output is not the last equation's");
    need(e.groups >= 1 && e.cn % e.groups == 0, "groups do not divide the channels of a target");
    e.group_outputs = e.cn / e.groups;
    need(!e.per_channel || e.groups == 1 || e.group_outputs == 1,
         "multipliers per channel need one group or one channel a group");

    for (Product& p : e.products) check_product(D, e, p, blocks);
    for (Scaled& s : e.scaled) check_scaled(D, e, s);
    for (const Product& p : e.products)
      need(missing[p.source] == 0, "an equation reads a tensor that is not complete before it");
    for (const Scaled& s : e.scaled)
      need(missing[s.source] == 0, "an equation reads a tensor that is not complete before it");
    if (!e.bias.empty()) place_pieces(D, e.bias, e.cn, 0, uint64_t(D.nW) << D.k, blocks);

    e.grid_height = e.oh;
    e.grid_width = e.ow;
    if (e.raw) {
      need(e.c0 == 0 && !e.per_channel && !e.pooled, "the public output has a channel offset, multipliers or a pool");
    } else {
      need(e.target >= 1 && e.target < D.tensors.size(), "an equation has no target");
      const Tensor& t = D.tensors[e.target];
      need(uint64_t(e.c0) + e.cn <= t.channels, "an equation has channels that its target has not");
      check_grid(e, t, D.PW);
      if (e.pooled) {
        e.grid_height = uint64_t(t.height) * e.eh;
        e.grid_width = uint64_t(t.width) * e.ew;
      }
      for (uint32_t c = e.c0; c < e.c0 + e.cn; ++c) {
        need(!produced[e.target][c], "a channel is the target of two equations");
        produced[e.target][c] = true;
      }
      missing[e.target] -= e.cn;
    }
    e.point_bits = {clog(e.groups), clog(e.group_outputs), clog(D.batch), clog(e.grid_height), clog(e.grid_width)};
    e.first_multiplier = D.multipliers;
    e.multiplier_count = e.raw ? 0 : e.per_channel ? e.cn : 1;
    D.multipliers += e.multiplier_count;
    for (const Scaled& s : e.scaled) D.multipliers += s.constant == 0;
  }
  for (uint64_t channels : missing) need(channels == 0, "a channel is the target of no equation");
  check_disjoint(std::move(blocks));
}

// Sizes that follow from the header, the functions and the equations.
void derive(Description& D) {
  D.columns = D.d(D.PW, 0);
  D.range_columns.clear();
  for (unsigned i = 0; i < D.RL; ++i) D.range_columns.push_back(D.rem(i));
  for (unsigned i = 0; i < D.A; ++i) D.range_columns.push_back(D.lo(i));
  for (unsigned i = D.x(0); i < D.columns; ++i) D.range_columns.push_back(i);
  D.lookups = unsigned(D.range_columns.size()) + 1 + (D.functions.empty() ? 0 : 1);
  D.groups3 = (D.lookups + 2) / 3;

  D.n = std::max(D.nr, D.kt);
  D.products.clear();
  for (size_t l = 0; l < D.equations.size(); ++l)
    for (size_t j = 0; j < D.equations[l].products.size(); ++j) {
      D.products.push_back({l, j});
      D.n = std::max(D.n, D.equations[l].products[j].kappa);
    }
  D.degrees.assign(D.n, 5);
  D.degrees.back() = 9;
  D.degree_sum = 5 * (D.n - 1) + 9;
  D.nE = 2 * D.products.size() + D.columns + D.groups3 + 2;

  const Equation& last = D.equations.back();
  if (D.output_kind == 0) {
    const uint64_t grid = uint64_t(last.oh) * last.ow, channels = uint64_t(D.batch) * last.cn;
    need(channels <= D.N && grid <= D.N && channels * grid <= D.N, "there are more outputs than cells of a tile");
    D.outputs = channels * grid;
    D.output_bits.clear();
  } else {
    const Tensor& t = D.output_tensor();
    D.outputs = size_t(D.batch) * t.channels * t.height * t.width;
    D.output_bits = t.bits();
  }
  const Tensor& input = D.tensors[0];
  D.values_per_word = std::min<unsigned>(16 / D.AX, 1u << std::min(clog(input.width), 4u));
  D.words_per_row = (input.width + D.values_per_word - 1) / D.values_per_word;
  D.input_bytes =
      size_t(D.batch) * input.channels * input.height * D.words_per_row * D.values_per_word * D.AX;
}

void check_masks(const Description& D, const std::vector<uint64_t>& masks, uint64_t cells,
                 std::vector<Block> blocks) {
  for (size_t i = 0; i < masks.size(); ++i) {
    need(i == 0 || masks[i - 1] < masks[i], "mask cells are not in ascending order");
    blocks.push_back(aligned_block(D, masks[i], 0, cells));
  }
  check_disjoint(std::move(blocks));
}

// Blocks of the families w and h, and the mask cells between them.
void check_layout(const Description& D) {
  const uint64_t w_cells = uint64_t(D.nw) << D.k, h_cells = uint64_t(D.nh) << D.k;
  std::vector<Block> w, h;
  for (unsigned c = 0; c < D.columns; ++c) w.push_back(aligned_block(D, uint64_t(c) << D.nr, D.nr, w_cells));
  w.push_back(aligned_block(D, D.moff, D.kt, w_cells));
  h.push_back(aligned_block(D, D.roff, clog(D.nE), h_cells));
  h.push_back(aligned_block(D, D.goff, clog(1 + D.degree_sum), h_cells));
  h.push_back(aligned_block(D, D.hT, D.kt, h_cells));
  // One block a column: together they need not be aligned, nor lie in one tile.
  for (unsigned g = 0; g < D.groups3; ++g)
    h.push_back(aligned_block(D, D.hoff + (uint64_t(g) << D.nr), D.nr, h_cells));
  check_masks(D, D.w_masks, w_cells, w);
  check_masks(D, D.h_masks, h_cells, h);

  size_t upper = 0, in_last = 0;
  for (uint64_t cell : D.h_masks) upper += (cell >> (D.k - 1)) & 1;
  for (uint64_t cell : D.w_masks) in_last += (cell >> D.k) == D.nw - 1;
  need(upper >= 2 * D.k && D.h_masks.size() - upper >= 2 * D.k,
       "there are fewer than 2k mask cells of h in one half of the tiles");
  need(in_last >= 3 * D.k, "there are fewer than 3k mask cells in the last w tile");
}

}  // namespace

std::vector<unsigned> Tensor::bits() const {
  std::vector<unsigned> out = {clog(channels)};
  out.insert(out.end(), rest_bits.begin(), rest_bits.end());
  return out;
}

namespace {
uint32_t clamped(uint64_t position, unsigned tap, unsigned size, unsigned stride, unsigned padding, uint32_t limit) {
  const int64_t o = int64_t(stride * position) + std::min(tap, size - 1) - padding;
  return uint32_t(std::min<int64_t>(std::max<int64_t>(o, 0), int64_t(limit) - 1));
}
}  // namespace

uint32_t Equation::pool_row(uint64_t Y, unsigned a) const { return clamped(Y, a, kh, sh, ph, oh); }
uint32_t Equation::pool_column(uint64_t X, unsigned b) const { return clamped(X, b, kw, sw, pw, ow); }

size_t Description::proof_bytes(unsigned mode) const {
  return 32 + 64 * (size_t(nW) + mode + nw + nh) + 4 * multipliers + 32 * (5 * size_t(n) + 4 + nE + 2 * k) + 640;
}

Description parse_description(const uint8_t* data, size_t size) {
  Description D;
  D.bytes.assign(data, data + size);
  keccak256(data, size, D.digest.data());
  Reader r(data, size);
  need(std::memcmp(r.take(8), "ZKSNATV1", 8) == 0, "these bytes are not a description");

  Reader header = r.nested();
  read_header(header, D);
  header.finish();
  Reader offsets = r.nested();
  for (uint64_t* field : {&D.roff, &D.goff, &D.hT, &D.hoff, &D.moff}) *field = offsets.u32();
  offsets.finish();
  Reader functions = r.nested();
  D.functions = functions.list([](Reader& item) {
    std::array<uint8_t, 256> table;
    std::memcpy(table.data(), item.take(table.size()), table.size());
    return table;
  });
  functions.finish();
  Reader tensors = r.nested();
  D.tensors = tensors.list(read_tensor);
  tensors.finish();
  Reader equations = r.nested();
  D.equations = equations.list(read_equation);
  equations.finish();
  Reader gate = r.nested();
  const auto cell = [](Reader& item) { return uint64_t(item.u32()); };
  D.h_masks = gate.list(cell);
  D.w_masks = gate.list(cell);
  std::memcpy(D.certificate.data(), gate.take(32), 32);
  gate.finish();
  r.finish();

  check_functions(D);
  need(D.kt == clog(512 + 256 * uint64_t(D.functions.size())), "the table is not of the size of its functions");
  check_tensors(D);
  check_equations(D);
  derive(D);
  check_layout(D);
  return D;
}

}  // namespace zkserve
