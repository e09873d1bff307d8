#include "range_prover.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "accumulator.hpp"
#include "byte_rows.hpp"
#include "main_sumcheck.hpp"
#include "opening.hpp"

namespace zkserve {
namespace {

constexpr unsigned attempts = 8;
constexpr size_t table_entries = size_t(1) << range_table_log;

void need(bool condition, const char* otherwise) {
  if (!condition) throw Refused(otherwise);
}

// Sum of the magnitudes of each output channel's weights, times what their source can reach.
std::vector<unsigned __int128> largest_accumulators(const Description& D, const Equation& e, const int32_t* cells) {
  std::vector<unsigned __int128> out(e.cn, 0);
  for (const Product& p : e.products) {
    const uint64_t largest = largest_value(D, p.source, p.views);
    const unsigned c_bits = clog(e.group_outputs);
    unsigned contraction = 0;
    for (unsigned bits : p.contraction_bits) contraction += bits;
    // Behind the leading dimension lie the output channel, if it does not lead, and the contraction.
    const bool groups_lead = e.groups > 1, outputs_lead = !groups_lead && p.order == 0;
    const unsigned first_bits = p.contraction_bits[0], tail_bits = contraction - first_bits;
    const unsigned c_at = p.order == 0 ? contraction : tail_bits;  // bits behind the channel
    for (const Piece& piece : p.pieces) {
      const unsigned behind = groups_lead ? c_bits + contraction : outputs_lead ? contraction : c_bits + tail_bits;
      for (uint64_t cell = 0; cell < uint64_t(1) << (piece.log + behind); ++cell) {
        const uint64_t lead = piece.first + (cell >> behind);
        const uint64_t g = groups_lead ? lead : 0;
        const uint64_t c = outputs_lead ? lead : cell >> c_at & ((uint64_t(1) << c_bits) - 1);
        if (g < e.groups && c < e.group_outputs)
          out[g * e.group_outputs + c] +=
              (unsigned __int128)largest * uint64_t(std::abs(int64_t(cells[piece.offset + cell])));
      }
    }
  }
  for (const Piece& piece : e.bias)
    for (uint64_t i = 0; i < uint64_t(1) << piece.log && piece.first + i < e.cn; ++i)
      out[piece.first + i] += uint64_t(std::abs(int64_t(cells[piece.offset + i])));
  return out;
}

// The columns' cells, and behind them the tile of multiplicities without its masks.
Secret<int32_t> columns_of(const RangeLayout& layout, const Version& version) {
  const Description& D = version.D;
  const uint64_t N = D.N;
  Secret<int32_t> out((layout.columns + 1) * N, 0);
  const auto magnitude = [&](uint64_t cell) { return uint64_t(std::abs(int64_t(version.cells[cell]))); };
  const auto byte_of = [](uint64_t value, unsigned a) { return int32_t(value >> 8 * a & 255); };
  std::vector<bool> is_bias(version.cells.size(), false);
  int32_t* auxiliary = &out[layout.byte_columns * N];
  const std::vector<std::vector<int64_t>> bounds = range_bounds(D, version.multipliers);
  for (size_t l = 0; l < D.equations.size(); ++l) {
    const Equation& e = D.equations[l];
    for (const RangeLayout::BiasPiece& piece : layout.blocks[l].bias)
      for (uint64_t i = 0; i < uint64_t(1) << piece.at.log; ++i) {
        const uint64_t cell = piece.at.offset + i;
        is_bias[cell] = true;
        for (unsigned a = layout.weight_bytes; a < range_bytes; ++a)
          auxiliary[piece.high[version.cells[cell] < 0][a] + i] = byte_of(magnitude(cell), a);
      }
    const std::vector<unsigned __int128> largest = largest_accumulators(D, e, version.cells.data());
    for (const RangeLayout::SlackPiece& piece : layout.blocks[l].slack)
      for (uint64_t i = 0; i < uint64_t(1) << piece.log && piece.first + i < e.cn; ++i) {
        const uint64_t bound = uint64_t(bounds[l][piece.first + i]);
        need(largest[piece.first + i] <= bound, "an accumulator can leave its range: the weights are too large");
        const uint64_t slack = bound - uint64_t(largest[piece.first + i]);
        for (unsigned a = 0; a < range_bytes; ++a) auxiliary[piece.bytes[a] + i] = byte_of(slack, a);
      }
  }
  for (uint64_t cell = 0; cell < version.cells.size(); ++cell) {
    need(is_bias[cell] || magnitude(cell) >> (8 * layout.weight_bytes) == 0, "a weight has more bytes than declared");
    const unsigned sign = version.cells[cell] < 0;
    for (unsigned a = 0; a < layout.weight_bytes; ++a)
      out[layout.column(sign, a, uint32_t(cell / N)) * N + cell % N] = byte_of(magnitude(cell), a);
  }
  int32_t* counts = &out[layout.columns * N];
  for (size_t i = 0; i < layout.columns * N; ++i) ++counts[out[i]];
  return out;
}

class RangeAttempt {
 public:
  RangeAttempt(const RangeLayout& layout, const Version& version, const Secret<int32_t>& cells, const Srs& srs,
               const Digest& weights, Backend& backend, Threads& threads, Random& random, const Control& control)
      : layout_(layout), T_(layout.tiles), version_(version), cells_(cells), backend_(backend), threads_(threads),
        random_(random), control_(control) {
    out_.transcript = range_transcript(version.D, layout.weight_bytes, srs.digest, weights);
  }

  std::vector<uint8_t> run() {
    control_.phase("range commitment");
    commit_columns();
    control_.phase("range helper commitment");
    commit_helpers();
    control_.phase("range sumcheck");
    prove_rows();
    control_.phase("range claims");
    prove_claims();
    control_.phase("opening");
    open();
    return std::move(out_.bytes);
  }

 private:
  Secret<Fr> scalars(size_t count) {
    Secret<Fr> out(count);
    for (Fr& v : out) v = random_.scalar();
    return out;
  }

  void commit_columns() {
    fresh_blinds_ = scalars(T_.nw);
    fresh_masks_ = scalars(layout_.w_masks.size());
    std::vector<uint32_t> powers(T_.N);
    Secret<uint32_t> bytes(T_.N);
    std::iota(powers.begin(), powers.end(), 0);
    for (uint32_t t = 0; t < layout_.columns; ++t) {
      control_.check();
      std::copy_n(&cells_[t * T_.N], T_.N, bytes.begin());
      sums_.push_back(backend_.group_sums(powers, bytes, table_entries));
      G1 running, point;  // sum of v times the powers whose cell is v
      for (size_t v = table_entries - 1; v > 0; --v) point += running += sums_.back()[v];
      out_.send(point += backend_.commit(T_.N, &fresh_blinds_[t], 1));
    }
    G1 counts = backend_.commit_small(0, &cells_[layout_.columns * T_.N], table_entries);
    counts += commit_cells(layout_.w_masks, fresh_masks_);
    out_.send(counts += backend_.commit(T_.N, &fresh_blinds_[layout_.columns], 1));
    challenges_.alpha = out_.transcript.challenge();
  }

  G1 commit_cells(const std::vector<uint64_t>& cells, const Secret<Fr>& values) const {
    Secret<G1Affine> points;
    for (uint64_t cell : cells) points.push_back(backend_.power(cell));
    return backend_.sum(points, values);
  }

  // A helper is a sum of inverses of few different terms: the powers, summed by byte, give all helpers of a tile.
  G1 commit_group(uint32_t group) const {
    Secret<G1> by_byte(table_entries);
    for (uint32_t t = 3 * group; t < std::min(3 * group + 3, layout_.columns); ++t)
      for (size_t v = 0; v < table_entries; ++v) by_byte[v] += sums_[t][v];
    Secret<G1Affine> points(table_entries);
    batch_normalise(by_byte.data(), table_entries, points.data());
    return backend_.sum(points, inverses_);
  }

  void commit_helpers() {
    constexpr size_t entries = table_entries;
    terms_.resize(entries);
    for (size_t v = 0; v < entries; ++v) {
      terms_[v] = challenges_.alpha - Fr::from_u64(v);
      if (terms_[v].is_zero()) throw Again();
    }
    inverses_ = terms_;
    batch_inverse(inverses_.data(), entries);
    helpers_.assign(size_t(T_.nh) << T_.k, Fr::zero());
    const int32_t* counts = &cells_[layout_.columns * T_.N];
    Fr* table = &helpers_[layout_.table_tile() * T_.N];
    for (size_t v = 0; v < entries; ++v) table[v] = Fr::from_i64(counts[v]) * inverses_[v];
    Fr* last = &helpers_[layout_.mask_tile() * T_.N];
    for (size_t i = 0; i < layout_.nE; ++i) last[i] = random_.scalar();
    for (size_t i = 0; i <= layout_.degree_sum; ++i) last[layout_.libra_offset + i] = random_.scalar();
    for (uint64_t cell : layout_.h_masks) last[cell] = random_.scalar();
    helper_blinds_ = scalars(T_.nh * T_.h_blinds);

    const ByteRows rows(layout_, cells_.data(), terms_.data(), inverses_.data(), Fr::zero());
    threads_.parallel(T_.N, 256, [&](size_t begin, size_t end, unsigned) {
      Secret<Fr> row(layout_.groups3);
      for (size_t r = begin; r < end; ++r) {
        rows.helpers(r, row.data());
        for (uint32_t g = 0; g < layout_.groups3; ++g) helpers_[g * T_.N + r] = row[g];
      }
    });
    std::vector<uint64_t> used(layout_.nE);
    std::iota(used.begin(), used.end(), 0);
    for (size_t i = 0; i <= layout_.degree_sum; ++i) used.push_back(layout_.libra_offset + i);
    used.insert(used.end(), layout_.h_masks.begin(), layout_.h_masks.end());
    Secret<Fr> values(used.size());
    for (size_t i = 0; i < used.size(); ++i) values[i] = last[used[i]];
    for (uint32_t t = 0; t < T_.nh; ++t) {
      control_.check();
      G1 point = t < layout_.groups3            ? commit_group(t)
                 : t == layout_.table_tile() ? backend_.commit(0, table, entries)
                                             : commit_cells(used, values);
      out_.send(point += backend_.commit(T_.N, &helper_blinds_[t * T_.h_blinds], T_.h_blinds));
    }
    sums_.clear();
    draw_range_challenges(layout_, [this] { return out_.transcript.challenge(); }, challenges_);
  }

  void prove_rows() {
    const ByteRows rows(layout_, cells_.data(), terms_.data(), inverses_.data(), challenges_.eta);
    const Fr* last = &helpers_[layout_.mask_tile() * T_.N];
    const Fr* table = &helpers_[layout_.table_tile() * T_.N];
    std::vector<std::unique_ptr<Instance>> instances;
    instances.push_back(std::make_unique<RowInstance>(T_, rows, challenges_.tau, Fr::zero(), last, backend_));
    Secret<Fr> counts(terms_.size());
    for (size_t v = 0; v < counts.size(); ++v) counts[v] = Fr::from_i64(cells_[layout_.columns * T_.N + v]);
    instances.push_back(std::make_unique<TableInstance>(
        challenges_.tau, terms_, Secret<Fr>(table, table + terms_.size()), std::move(counts),
        challenges_.eta.pow(layout_.groups3), Fr::zero(), last + layout_.columns + layout_.groups3));

    MainSumcheck sumcheck(T_, std::move(instances), last + layout_.libra_offset);
    V_ = sumcheck.value();
    out_.send(V_);
    for (unsigned i = 0; i < T_.k; ++i) {
      control_.check();
      const Polynomial message = sumcheck.round();
      for (size_t c = 0; c < message.size(); ++c)
        if (c != 1) out_.send(message[c]);
      challenges_.r.push_back(out_.transcript.challenge());
      sumcheck.bind(challenges_.r.back());
    }
    const Fr z = challenges_.r.back() * (Fr::one() - challenges_.r.back());
    if (z.is_zero()) throw Again();
    g_ = sumcheck.libra_value();
    const std::vector<Fr> rest = sumcheck.factors();
    const Vector weights = eq_vector(challenges_.r);
    E_.resize(layout_.columns);
    threads_.parallel(layout_.columns, 1, [&](size_t begin, size_t end, unsigned) {
      for (size_t c = begin; c < end; ++c) {
        Accumulator sum;
        for (size_t row = 0; row < T_.N; ++row) sum.add(weights[row], uint64_t(cells_[c * T_.N + row]));
        E_[c] = sum.reduce() + z * last[c];
      }
    });
    E_.insert(E_.end(), rest.begin(), rest.end());
    for (const Fr& value : E_) out_.send(value);
    challenges_.chi_x = out_.transcript.challenge();
    challenges_.chi = out_.transcript.challenges(T_.k);
  }

  Fr mask_sum() const {
    const Vector chi = eq_vector(challenges_.chi), turned = eq_vector(rotated(challenges_.chi));
    Vector sums(T_.nh);
    threads_.parallel(T_.nh, 1, [&](size_t begin, size_t end, unsigned) {
      for (size_t t = begin; t < end; ++t) {
        Fr sum = Fr::zero();
        for (size_t i = 0; i < T_.N; ++i) sum += chi[i] * helpers_[t * T_.N + i];
        sums[t] = (Fr::one() + Fr::from_u64(t) * challenges_.chi_x) * sum;
      }
    });
    Fr last = Fr::zero();
    for (size_t v = 0; v < terms_.size(); ++v) last += turned[v] * Fr::from_i64(cells_[layout_.columns * T_.N + v]);
    for (size_t i = 0; i < layout_.w_masks.size(); ++i) last += turned[layout_.w_masks[i]] * fresh_masks_[i];
    return sum(sums) + challenges_.chi_x.square() * last;
  }

  void prove_claims() {
    const Fr s_M = mask_sum();
    out_.send(s_M);
    challenges_.beta = out_.transcript.challenge();
    const Claims all =
        range_claims(layout_, range_bounds(version_.D, version_.multipliers), challenges_, V_, E_, g_, s_M);
    for (size_t t = 0; t < T_.nW; ++t) tiles_.push_back({Family::weights, t, &version_.cells[t * T_.N], nullptr, {}});
    for (size_t t = 0; t < T_.nw; ++t) tiles_.push_back({Family::fresh, t, &cells_[t * T_.N], nullptr, {}});
    for (size_t i = 0; i < layout_.w_masks.size(); ++i)
      tiles_.back().extra.push_back({layout_.w_masks[i], fresh_masks_[i]});
    for (size_t t = 0; t < T_.nh; ++t) tiles_.push_back({Family::helper, t, nullptr, &helpers_[t * T_.N], {}});
    const auto sumcheck = backend_.linear_sumcheck(tiles_, all.terms);
    for (unsigned i = 0; i < T_.k; ++i) {
      control_.check();
      const auto [c0, c2] = sumcheck->round();
      out_.send(c0);
      out_.send(c2);
      rho_.push_back(out_.transcript.challenge());
      sumcheck->fold(rho_.back());
    }
    L_ = sumcheck->values();
  }

  void open() {
    Secret<Fr> f = backend_.combine(tiles_, L_);
    f.resize(T_.N + T_.h_blinds, Fr::zero());
    for (size_t t = 0; t < tiles_.size(); ++t) {
      const size_t index = tiles_[t].index;
      if (tiles_[t].family == Family::weights) f[T_.N] += L_[t] * version_.blinds[index];
      if (tiles_[t].family == Family::fresh) f[T_.N] += L_[t] * fresh_blinds_[index];
      if (tiles_[t].family == Family::helper)
        for (size_t i = 0; i < T_.h_blinds; ++i) f[T_.N + i] += L_[t] * helper_blinds_[index * T_.h_blinds + i];
    }
    open_polynomial(backend_, threads_, f, rho_, out_, control_);
  }

  const RangeLayout& layout_;
  const Description& T_;  // the layout's tiles
  const Version& version_;
  const Secret<int32_t>& cells_;
  Backend& backend_;
  Threads& threads_;
  Random& random_;
  const Control& control_;
  ProofWriter out_;
  RangeChallenges challenges_;

  // For each column: the powers whose cell is a byte, summed by the byte.
  std::vector<Secret<G1Affine>> sums_;
  Secret<Fr> terms_, inverses_;  // alpha - v and its inverse, for each byte v
  Secret<Fr> fresh_masks_, fresh_blinds_, helpers_, helper_blinds_;
  Fr V_, g_;
  Vector E_;
  std::vector<Tile> tiles_;
  Vector rho_, L_;
};

}  // namespace

std::vector<uint8_t> prove_range(const Version& version, unsigned weight_bytes, const Srs& srs,
                                 const Secret<uint8_t>& owner_key, Threads& threads, const Control& control) {
  const RangeLayout layout(version.D, weight_bytes);
  check_range_masking(layout, threads);
  const Secret<int32_t> cells = columns_of(layout, version);
  const Digest weights = weights_digest(version.commitments.data(), version.D.nW, version.multipliers);
  const std::unique_ptr<Backend> backend = cpu_backend(layout.tiles, srs, threads);
  std::vector<uint8_t> everything = {'r', uint8_t(weight_bytes)};
  for (const Digest& d : {srs.digest, version.D.digest, weights}) everything.insert(everything.end(), d.begin(), d.end());
  for (unsigned attempt = 0; attempt < attempts; ++attempt) {
    Random random(owner_key, everything, attempt);
    try {
      std::vector<uint8_t> proof = version.commitments;
      for (uint32_t m : version.multipliers)
        for (unsigned shift : {24, 16, 8, 0}) proof.push_back(uint8_t(m >> shift));
      const std::vector<uint8_t> rest =
          RangeAttempt(layout, version, cells, srs, weights, *backend, threads, random, control).run();
      proof.insert(proof.end(), rest.begin(), rest.end());
      control.phase("verification");
      if (!verify_range(version.D, weight_bytes, srs.digest, srs.g2_s, weights, proof)) break;
      return proof;
    } catch (const Again&) {
    }
  }
  throw std::runtime_error("the prover made no proof that verifies");
}

}  // namespace zkserve
