#include "prover.hpp"

#include <algorithm>
#include <stdexcept>

#include "certificate.hpp"
#include "range_prover.hpp"
#include "verifier.hpp"

namespace zkserve {
namespace {

constexpr unsigned attempts = 8;

}  // namespace

std::vector<uint8_t> pack_input(const Description& D, const int32_t* inputs) {
  std::vector<uint8_t> out;
  out.reserve(D.input_bytes);
  const Tensor& t = D.tensors[0];
  const size_t padded = size_t(D.words_per_row) * D.values_per_word;
  for (size_t row = 0; row < size_t(D.batch) * t.channels * t.height; ++row)
    for (size_t x = 0; x < padded; ++x) {
      const int32_t value = x < t.width ? inputs[row * t.width + x] : 0;
      for (unsigned a = D.AX; a-- > 0;) out.push_back(uint8_t(value >> 8 * a));
    }
  return out;
}

std::vector<uint8_t> commit_weights(const Description& D, Backend& backend, const int32_t* cells,
                                    const Secret<Fr>& blinds) {
  std::vector<uint8_t> out(64 * D.nW);
  for (size_t t = 0; t < D.nW; ++t) {
    G1 point = backend.commit_small(0, cells + t * D.N, D.N);
    point += backend.commit(D.N, &blinds[t], 1);
    G1Affine(point.to_affine()).to_bytes(&out[64 * t]);
  }
  return out;
}

Prover::Prover(const Srs& srs, Description description, Mode mode, const int32_t* cells, size_t count,
               Secret<Fr> blinds, std::vector<uint32_t> multipliers, unsigned threads)
    : srs_(srs), mode_(mode), version_{std::move(description), {}, std::move(blinds), std::move(multipliers), {}},
      threads_(threads), backend_(cpu_backend(version_.D, srs, threads_)) {
  const Description& D = version_.D;
  if (mode == Mode::hidden_input && clog(D.AX) + clog(D.tensors[0].channels) + D.tensors[0].block_bits > D.k)
    throw Refused("the input does not fit the tile of hidden ones");
  if (D.nr == 0) throw Refused("a network of one row is too small for this prover");
  if (count != size_t(D.nW) << D.k) throw Refused("there are not as many weight cells as the description has");
  if (version_.blinds.size() != D.nW) throw Refused("there are not as many blinds as tiles of weights");
  if (srs.g1.size() < D.N + (size_t(1) << D.k / 2)) throw Refused("the SRS is too short for the description");
  check_certificate(D, &version_.multipliers, threads_);
  version_.cells.assign(cells, cells + count);
  commitments_ = std::make_unique<Commitments>(D, *backend_);
  network_ = std::make_unique<Network>(D, version_.cells.data(), version_.multipliers);
  version_.commitments = commit_weights(D, *backend_, version_.cells.data(), version_.blinds);
}

Digest Prover::weights() const {
  return weights_digest(version_.commitments.data(), version_.D.nW, version_.multipliers);
}

std::vector<int64_t> Prover::predict(const int32_t* inputs, size_t count) {
  std::lock_guard<std::mutex> lock(busy_);
  return network_->run(inputs, count, threads_).outputs;
}

Secret<int32_t> Prover::input_tile(const int32_t* inputs, size_t count) const {
  const Description& D = version_.D;
  const Tensor& t = D.tensors[0];
  if (count != size_t(D.batch) * t.channels * t.height * t.width)
    throw std::invalid_argument("the input has another number of values than the description");
  const unsigned channel_bits = clog(t.channels), bits = channel_bits + t.block_bits;
  Secret<int32_t> tile(D.N, 0);
  const unsigned width_bits = t.rest_bits[2], height_bits = t.rest_bits[1];
  for (size_t n = 0; n < D.batch; ++n)
    for (size_t c = 0; c < t.channels; ++c)
      for (size_t y = 0; y < t.height; ++y)
        for (size_t x = 0; x < t.width; ++x, ++inputs)
          for (unsigned a = 0; a < D.AX; ++a)
            tile[(size_t(a) << bits) + (c << t.block_bits) + (n << (height_bits + width_bits)) + (y << width_bits) +
                 x] = *inputs >> 8 * a & 255;
  return tile;
}

G1Affine Prover::commit_input(const int32_t* inputs, size_t count, const Fr& blind) {
  std::lock_guard<std::mutex> lock(busy_);
  const Secret<int32_t> tile = input_tile(inputs, count);
  G1 point = backend_->commit_small(0, tile.data(), tile.size());
  point += backend_->commit(version_.D.N, &blind, 1);
  return point.to_affine();
}

std::vector<uint8_t> Prover::prefix(const Statement& statement, const uint8_t* input_commitment) const {
  std::vector<uint8_t> out(statement.context.begin(), statement.context.end());
  out.insert(out.end(), version_.commitments.begin(), version_.commitments.end());
  if (mode_ == Mode::hidden_input) out.insert(out.end(), input_commitment, input_commitment + 64);
  for (uint32_t m : version_.multipliers)
    for (unsigned shift : {24, 16, 8, 0}) out.push_back(uint8_t(m >> shift));
  return out;
}

Proof Prover::prove(const Digest& context, const int32_t* inputs, size_t count, const std::optional<Fr>& input_blind,
                    const Secret<uint8_t>& owner_key, const Control& control) {
  if (input_blind.has_value() != (mode_ == Mode::hidden_input))
    throw std::invalid_argument("a blind of the input belongs to hidden inputs, and to no others");
  uint8_t input_commitment[64] = {};
  Fr blind = Fr::zero();
  const Wiping blind_wiped(blind);
  if (input_blind) {
    blind = *input_blind;
    commit_input(inputs, count, blind).to_bytes(input_commitment);
  }
  std::lock_guard<std::mutex> lock(busy_);
  const Description& D = version_.D;

  control.phase("inference");
  const Witness witness = network_->run(inputs, count, threads_);
  Secret<int32_t> tile;
  if (input_blind) tile = input_tile(inputs, count);

  Statement statement{context, mode_, srs_.digest, weights(), {}, witness.outputs, version_.multipliers};
  if (input_blind) {
    const Digest digest = hidden_input_digest(input_commitment);
    statement.input.assign(digest.begin(), digest.end());
  } else {
    statement.input = pack_input(D, inputs);
  }
  const Claim claim{mode_, statement.weights, statement.input, statement.outputs};

  // What the generator of randomness is bound to.
  std::vector<uint8_t> everything(context.begin(), context.end());
  everything.push_back(uint8_t(mode_));
  for (const Digest& d : {statement.srs, D.digest, statement.weights, outputs_digest(statement.outputs)})
    everything.insert(everything.end(), d.begin(), d.end());
  everything.insert(everything.end(), statement.input.begin(), statement.input.end());

  for (unsigned attempt = 0; attempt < attempts; ++attempt) {
    Random random(owner_key, everything, attempt);
    try {
      std::vector<uint8_t> bytes = prefix(statement, input_commitment);
      const std::vector<uint8_t> rest =
          Attempt(version_, *commitments_, *backend_, threads_, statement, witness, tile, blind, random, control).run();
      bytes.insert(bytes.end(), rest.begin(), rest.end());
      control.phase("verification");
      if (!verify(D, srs_.digest, srs_.g2_s, &context, claim, bytes.data(), bytes.size())) break;
      return {std::move(statement.input), std::move(statement.outputs), std::move(bytes)};
    } catch (const Again&) {
    }
  }
  // One message, whatever went wrong: a rejected proof's details could give away weights.
  throw std::runtime_error("the prover made no proof that verifies");
}

std::vector<uint8_t> Prover::prove_range(unsigned weight_bytes, const Secret<uint8_t>& owner_key,
                                         const Control& control) {
  std::lock_guard<std::mutex> lock(busy_);
  return zkserve::prove_range(version_, weight_bytes, srs_, owner_key, threads_, control);
}

}  // namespace zkserve
