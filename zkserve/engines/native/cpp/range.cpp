#include "range.hpp"

#include <algorithm>

#include "masking.hpp"

namespace zkserve {
namespace {

using Wide = unsigned __int128;

void need(bool condition, const char* otherwise) {
  if (!condition) throw Refused(otherwise);
}

Fr power_of_two(unsigned e) { return Fr::from_u64(2).pow(e); }
Fr byte_weight(unsigned byte) { return power_of_two(8 * byte); }

// Distinct cells of a range, which a hash chooses.
std::vector<uint64_t> choose_masks(const Description& D, unsigned weight_bytes, uint8_t which, uint64_t first,
                                   uint64_t end, size_t count) {
  need(first < end && end - first >= count, "the range proof's masks do not fit its tiles: take a larger k");
  std::vector<uint64_t> out;
  for (uint32_t i = 0; out.size() < count; ++i) {
    const Digest d = Hasher()
                         .text("zkserve/native/range/masks/v1")
                         .digest(D.digest)
                         .u8(uint8_t(weight_bytes))
                         .u8(which)
                         .u32(i)
                         .finish();
    // The range has at most 2^24 cells, so the remainder of 256 bits is taken 32 bits at a time.
    uint64_t remainder = 0;
    for (size_t j = 0; j < d.size(); ++j) remainder = (remainder << 8 | d[j]) % (end - first);
    const uint64_t cell = first + remainder;
    if (std::find(out.begin(), out.end(), cell) == out.end()) out.push_back(cell);
  }
  return out;
}

// Entries first ... first + 2^log - 1 of a vector, zero past its end.
Factor cut(const Shared& v, uint32_t first, unsigned log) {
  Vector part(v->begin() + std::min<size_t>(first, v->size()),
              v->begin() + std::min<size_t>(first + (uint64_t(1) << log), v->size()));
  return Factor::dense(std::move(part), log);
}

}  // namespace

RangeLayout::RangeLayout(const Description& D, unsigned bytes) : tiles(D), weight_bytes(bytes) {
  need(bytes >= 1 && bytes <= 4, "a weight has 1 to 4 bytes");
  byte_columns = 2 * bytes * D.nW;

  struct Block {
    unsigned log;
    uint64_t* offset;
  };
  std::vector<Block> order;
  blocks.resize(D.equations.size());
  for (size_t l = 0; l < D.equations.size(); ++l) {
    const Equation& e = D.equations[l];
    for (const Piece& piece : e.bias) blocks[l].bias.push_back({piece, {}});
    const unsigned log = std::min(D.k, clog(e.cn));
    for (uint64_t first = 0; first < e.cn; first += uint64_t(1) << log)
      blocks[l].slack.push_back({uint32_t(first), log, {}});
  }
  for (Blocks& b : blocks) {
    for (BiasPiece& piece : b.bias)
      for (auto& sign : piece.high)
        for (unsigned a = bytes; a < range_bytes; ++a) order.push_back({piece.at.log, &sign[a]});
    for (SlackPiece& piece : b.slack)
      for (uint64_t& offset : piece.bytes) order.push_back({piece.log, &offset});
  }
  std::stable_sort(order.begin(), order.end(), [](const Block& a, const Block& b) { return a.log > b.log; });
  uint64_t end = 0;
  for (const Block& block : order) {
    *block.offset = end;
    end += uint64_t(1) << block.log;
  }
  columns = byte_columns + uint32_t((end + D.N - 1) >> D.k);
  groups3 = (columns + 2) / 3;
  nE = columns + groups3 + 2;
  degrees.assign(D.k, 5);
  degrees.back() = 9;
  degree_sum = 5 * (D.k - 1) + 9;
  tiles.nw = columns + 1;
  tiles.nh = groups3 + 2;
  // For the prover's sumcheck, which is that of a network whose rows are the cells of a tile.
  tiles.n = tiles.nr = D.k;
  tiles.degrees = degrees;
  tiles.degree_sum = degree_sum;
  tiles.columns = tiles.lookups = columns;
  tiles.groups3 = groups3;
  scalar_bits = clog(nE);
  libra_bits = clog(1 + degree_sum);
  need(std::max(scalar_bits, libra_bits) < D.k, "the range proof's scalars do not fit a tile: take a larger k");
  libra_offset = uint64_t(1) << std::max(scalar_bits, libra_bits);
  const uint64_t half = D.N / 2;
  h_masks = choose_masks(D, bytes, 0, libra_offset + (uint64_t(1) << libra_bits), half, 3 * D.k);
  const std::vector<uint64_t> upper = choose_masks(D, bytes, 1, half, D.N, 3 * D.k);
  h_masks.insert(h_masks.end(), upper.begin(), upper.end());
  w_masks = choose_masks(D, bytes, 2, uint64_t(1) << range_table_log, D.N, 4 * D.k);
  tiles.h_masks = h_masks;
  for (uint64_t& cell : tiles.h_masks) cell += uint64_t(mask_tile()) << D.k;
  tiles.w_masks = w_masks;
  for (uint64_t& cell : tiles.w_masks) cell += uint64_t(columns) << D.k;
}

size_t RangeLayout::proof_bytes() const {
  const size_t k = tiles.k;
  return 64 * (size_t(tiles.nW) + tiles.nw + tiles.nh) + 4 * tiles.multipliers +
         32 * (5 * k + 4 + nE + 2 * k) + 640;
}

uint64_t largest_value(const Description& D, unsigned source, const std::vector<View>& views) {
  const uint64_t top = source == 0 ? (uint64_t(1) << (8 * D.AX)) - 1 : D.top;
  const uint64_t zp = D.tensors[source].zp;
  Wide value = std::max(zp, top - zp);
  for (const View& v : views) {
    value *= Wide(v.kh) * v.kw;
    need(value < (Wide(1) << 32), "a pooled value is too large for the range proof");
  }
  return uint64_t(value);
}

std::vector<std::vector<int64_t>> range_bounds(const Description& D, const std::vector<uint32_t>& multipliers) {
  std::vector<std::vector<int64_t>> out;
  for (const Equation& e : D.equations) {
    __int128 scaled = 0;
    for (size_t i = 0; i < e.scaled.size(); ++i)
      scaled += __int128(scaled_multiplier(e, i, multipliers)) *
                largest_value(D, e.scaled[i].source, e.scaled[i].views);
    std::vector<int64_t> row(e.cn);
    for (uint32_t c = 0; c < e.cn; ++c) {
      __int128 bound;
      if (e.raw) {
        bound = (int64_t(1) << 62) - 1;
      } else {
        const uint32_t M = multipliers[e.first_multiplier + (e.per_channel ? c : 0)];
        const int64_t zp = D.tensors[e.target].zp;
        bound = ((int64_t(1) << (D.U - 1)) - (int64_t(1) << (D.S - 1)) - (zp << D.S) - 1) / int64_t(M);
        if (e.pooled) bound = std::min<__int128>(bound, ((int64_t(1) << (8 * D.NL)) - 1) / 2);
      }
      bound -= scaled;
      need(bound >= 0, "an accumulator can leave its range whatever the weights are");
      row[c] = int64_t(bound);
    }
    out.push_back(std::move(row));
  }
  return out;
}

Transcript range_transcript(const Description& D, unsigned weight_bytes, const Digest& srs, const Digest& weights) {
  Transcript t("zkserve/native/range/v1");
  t.absorb(srs);
  t.absorb(D.digest);
  uint8_t word[32] = {};
  word[31] = uint8_t(weight_bytes);
  t.absorb(word, sizeof word);
  t.absorb(weights);
  return t;
}

void draw_range_challenges(const RangeLayout& layout, const std::function<Fr()>& next, RangeChallenges& c) {
  const Description& D = layout.tiles;
  const auto many = [&](size_t count) {
    Vector out(count);
    for (Fr& v : out) v = next();
    return out;
  };
  c.eta = next();
  c.tau = many(D.k);
  c.u = many(D.k);
  c.chi_W = next();
  c.xi = next();
  for (const Equation& e : D.equations) {
    const unsigned g_bits = clog(e.groups), c_bits = clog(e.group_outputs);
    const Vector point = many(g_bits + c_bits);
    RangeChallenges::Outputs out{eq_vector(point.data(), g_bits), eq_vector(point.data() + g_bits, c_bits), {}};
    out.e_g.resize(e.groups);
    out.e_c.resize(e.group_outputs);
    for (const Fr& g : out.e_g)
      for (const Fr& v : out.e_c) out.channel.push_back(g * v);
    c.equations.push_back(std::move(out));
  }
}

Fr range_groups_at(const RangeLayout& layout, const Fr* values, const RangeChallenges& c) {
  const Fr* helpers = values + layout.columns;
  Fr total = Fr::zero();
  for (uint32_t g = layout.groups3; g-- > 0;) {
    const uint32_t first = 3 * g, size = std::min(layout.columns - first, 3U);
    const Fr f1 = c.alpha - values[first];
    Fr product = f1, sum = Fr::one();  // of the terms, and of the products that leave one out
    for (uint32_t i = 1; i < size; ++i) {
      const Fr f = c.alpha - values[first + i];
      sum = sum * f + product;
      product *= f;
    }
    total = total * c.eta + (helpers[g] * product - sum);
  }
  return total;
}

Fr range_bracket(const RangeLayout& layout, const Vector& E, const RangeChallenges& c) {
  const unsigned k = layout.tiles.k, log = range_table_log;
  const Fr* v = c.r.data() + (k - log);
  Fr table = Fr::zero();
  for (unsigned i = 0; i < log; ++i) table = table + table + v[i];
  const Fr& h_T = E[layout.nE - 2];
  const Fr& m = E[layout.nE - 1];
  return eqv(c.tau.data(), c.r.data(), k) * range_groups_at(layout, E.data(), c) +
         Fr::inv2().pow(k - log) * c.eta.pow(layout.groups3) * eqv(c.tau.data(), v, log) *
             (h_T * (c.alpha - table) - m);
}

Claims range_claims(const RangeLayout& layout, const std::vector<std::vector<int64_t>>& bounds,
                    const RangeChallenges& c, const Fr& V, const Vector& E, const Fr& g, const Fr& s_M) {
  const Description& D = layout.tiles;
  const unsigned k = D.k, log = range_table_log;
  Claims out{{}, V};
  const auto add = [&](Family family, uint64_t offset, std::vector<Factor> factors, const Fr& coefficient) {
    out.terms.push_back({family, offset, std::move(factors), coefficient});
  };
  const auto tile = [&](uint64_t t) { return t << k; };
  const auto column_cell = [&](unsigned sign, unsigned byte, uint64_t weight_cell) {
    return tile(layout.column(sign, byte, uint32_t(weight_cell >> k))) + (weight_cell & (D.N - 1));
  };
  const auto auxiliary = [&](uint64_t cell) { return tile(layout.byte_columns) + cell; };
  const Fr& beta = c.beta;
  const uint64_t masks = tile(layout.mask_tile()), h_T = tile(layout.table_tile());

  // 0 and 1: Libra, summed over the cube and at r.
  Vector over_cube(1 + layout.degree_sum, power_of_two(k - 1)), at_r{Fr::one()};
  over_cube[0] = power_of_two(k);
  for (unsigned i = 0; i < k; ++i) {
    Fr power = Fr::one();
    for (unsigned d = 0; d < layout.degrees[i]; ++d) at_r.push_back(power *= c.r[i]);
  }
  add(Family::helper, masks + layout.libra_offset, {Factor::dense(std::move(over_cube), layout.libra_bits)}, Fr::one());
  add(Family::helper, masks + layout.libra_offset, {Factor::dense(std::move(at_r), layout.libra_bits)}, beta);
  out.value += beta * g;

  // 2: the helpers' balance.
  Fr power = beta * beta;
  for (uint32_t i = 0; i < layout.groups3; ++i) add(Family::helper, tile(i), {Factor::ones(k)}, power);
  add(Family::helper, h_T, {Factor::ones(log)}, -power);

  // 3: the link between weights and their bytes.
  power *= beta;
  const Shared u = std::make_shared<Vector>(c.u);
  Vector tile_powers{power};
  for (uint32_t t = 1; t < D.nW; ++t) tile_powers.push_back(tile_powers.back() * c.chi_W);
  for (uint32_t t = 0; t < D.nW; ++t) {
    add(Family::weights, tile(t), {Factor::eq(u)}, tile_powers[t]);
    for (unsigned a = 0; a < layout.weight_bytes; ++a) {
      const Fr x = tile_powers[t] * byte_weight(a);
      add(Family::fresh, tile(layout.column(0, a, t)), {Factor::eq(u)}, -x);
      add(Family::fresh, tile(layout.column(1, a, t)), {Factor::eq(u)}, x);
    }
  }
  for (const RangeLayout::Blocks& blocks : layout.blocks) {
    for (const RangeLayout::BiasPiece& piece : blocks.bias) {
      const unsigned low = piece.at.log, prefix = k - low;
      const uint64_t index = (piece.at.offset & (D.N - 1)) >> low;
      Fr x = tile_powers[piece.at.offset >> k];
      for (unsigned i = 0; i < prefix; ++i)
        x *= index >> (prefix - 1 - i) & 1 ? c.u[i] : Fr::one() - c.u[i];
      for (unsigned a = layout.weight_bytes; a < range_bytes; ++a) {
        const Factor point = Factor::eq(u, prefix, low, uint64_t(1) << low);
        add(Family::fresh, auxiliary(piece.high[0][a]), {point}, -(x * byte_weight(a)));
        add(Family::fresh, auxiliary(piece.high[1][a]), {point}, x * byte_weight(a));
      }
    }
  }

  // 4: the masks.
  power *= beta;
  const Shared chi = std::make_shared<Vector>(c.chi), chi_w = std::make_shared<Vector>(rotated(c.chi));
  for (uint32_t t = 0; t < D.nh; ++t)
    add(Family::helper, tile(t), {Factor::eq(chi)}, power * (Fr::one() + Fr::from_u64(t) * c.chi_x));
  add(Family::fresh, tile(layout.columns), {Factor::eq(chi_w)}, power * c.chi_x.square());
  out.value += power * s_M;

  // 5 + i: the values at r.
  const Shared r = std::make_shared<Vector>(c.r);
  const Factor row_point = Factor::eq(r), table_point = Factor::eq(r, k - log, log, uint64_t(1) << log);
  const Fr z = c.r.back() * (Fr::one() - c.r.back());
  Vector scalars;
  for (size_t i = 0; i < layout.nE; ++i) {
    power *= beta;
    scalars.push_back(power * z);
    out.value += power * E[i];
    const size_t helper = i - layout.columns;
    if (i < layout.columns) add(Family::fresh, tile(i), {row_point}, power);
    else if (helper < layout.groups3) add(Family::helper, tile(helper), {row_point}, power);
    else if (helper == layout.groups3) add(Family::helper, h_T, {table_point}, power);
    else add(Family::fresh, tile(layout.columns), {table_point}, power);
  }
  add(Family::helper, masks, {Factor::dense(std::move(scalars), layout.scalar_bits)}, Fr::one());

  // 5 + nE: the bounds.
  power *= beta;
  Fr scale = power;
  for (size_t l = 0; l < D.equations.size(); ++l, scale *= c.xi) {
    const Equation& e = D.equations[l];
    const RangeChallenges::Outputs& outputs = c.equations[l];
    const Shared e_g = std::make_shared<Vector>(outputs.e_g), e_c = std::make_shared<Vector>(outputs.e_c),
                 channel = std::make_shared<Vector>(outputs.channel);
    Fr bound = Fr::zero();
    for (uint32_t i = 0; i < e.cn; ++i) bound += outputs.channel[i] * Fr::from_i64(bounds[l][i]);
    out.value += scale * bound;
    const auto add_bytes = [&](uint64_t weight_cell, unsigned end, const std::vector<Factor>& factors, const Fr& x) {
      for (unsigned a = 0; a < end; ++a)
        for (unsigned sign = 0; sign < 2; ++sign)
          add(Family::fresh, column_cell(sign, a, weight_cell), factors, x * byte_weight(a));
    };
    for (const Product& product : e.products) {
      const Fr x = scale * Fr::from_u64(largest_value(D, product.source, product.views));
      const std::vector<unsigned>& bits = product.contraction_bits;
      for (const Piece& piece : product.pieces) {
        // The pieces cut the first stored dimension: groups if there are any, else the outputs, or
        // with order 1 the contraction's first.
        std::vector<Factor> factors;
        const Factor outs = Factor::dense(e_c, clog(e.group_outputs));
        if (e.groups > 1) {
          factors.push_back(cut(e_g, piece.first, piece.log));
          if (product.order == 0) factors.push_back(outs);
          factors.push_back(Factor::ones(bits[0]));
          if (product.order == 1) factors.push_back(outs);
        } else if (product.order == 0) {
          factors.push_back(cut(e_c, piece.first, piece.log));
          factors.push_back(Factor::ones(bits[0]));
        } else {
          factors.push_back(Factor::ones(piece.log));
          factors.push_back(outs);
        }
        for (size_t i = 1; i < bits.size(); ++i) factors.push_back(Factor::ones(bits[i]));
        add_bytes(piece.offset, layout.weight_bytes, factors, x);
      }
    }
    for (const RangeLayout::BiasPiece& piece : layout.blocks[l].bias) {
      const Factor outs = cut(channel, piece.at.first, piece.at.log);
      add_bytes(piece.at.offset, layout.weight_bytes, {outs}, scale);
      for (const auto& sign : piece.high)
        for (unsigned a = layout.weight_bytes; a < range_bytes; ++a)
          add(Family::fresh, auxiliary(sign[a]), {outs}, scale * byte_weight(a));
    }
    for (const RangeLayout::SlackPiece& piece : layout.blocks[l].slack) {
      const Factor outs = cut(channel, piece.first, piece.log);
      for (unsigned a = 0; a < range_bytes; ++a)
        add(Family::fresh, auxiliary(piece.bytes[a]), {outs}, scale * byte_weight(a));
    }
  }
  return out;
}

void check_range_masking(const RangeLayout& layout, Threads& threads) {
  const Description& D = layout.tiles;
  const Digest circuit = Hasher().digest(D.digest).u8(uint8_t(layout.weight_bytes)).finish();
  threads.parallel(2, 1, [&](size_t sample, size_t, unsigned) {
    Sampler from(Hasher().text("zkserve/native/range/certificate/v1").digest(circuit).u8(0).u8(uint8_t(sample)));
    RangeChallenges c;
    c.alpha = from.next();
    draw_range_challenges(layout, [&] { return from.next(); }, c);
    c.r = from.next(D.k);
    c.chi_x = from.next();
    c.chi = from.next(D.k);
    c.beta = from.next();
    const MaskPoint at = MaskPoint::draw(D.k, c.chi_x, c.chi, from);
    // Terms do not depend on a claim's values, so any will do.
    std::vector<std::vector<int64_t>> bounds;
    for (const Equation& e : D.equations) bounds.emplace_back(e.cn, 0);
    const Claims any =
        range_claims(layout, bounds, c, Fr::zero(), Vector(layout.nE, Fr::zero()), Fr::zero(), Fr::zero());
    masking_rank(D, any.terms, at, from);
  });
}

}  // namespace zkserve
