#include "srs.hpp"

#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>

#include "keccak.hpp"
#include "msm.hpp"
#include "pairing.hpp"
#include "random.hpp"

namespace zkserve {

namespace {

constexpr char magic[8] = {'Z', 'K', 'S', 'R', 'S', '0', '0', '1'};
constexpr size_t head_bytes = 16 + 128;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw std::invalid_argument(path + " " + why);
}

// A file that is read at given places, never past its end.
class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), file_(path, std::ios::binary) {
    if (!file_) refuse(path, "cannot be read");
    file_.seekg(0, std::ios::end);
    size_ = static_cast<uint64_t>(file_.tellg());
  }
  uint64_t size() const { return size_; }
  void read(uint64_t at, void* out, uint64_t n) {
    if (at > size_ || n > size_ - at) refuse(path_, "is truncated");
    file_.seekg(static_cast<std::streamoff>(at));
    if (!file_.read(static_cast<char*>(out), static_cast<std::streamsize>(n))) refuse(path_, "cannot be read");
  }
  uint64_t little(uint64_t at, int bytes) {
    uint8_t raw[8];
    read(at, raw, bytes);
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;) value = value << 8 | raw[i];
    return value;
  }

 private:
  std::string path_;
  std::ifstream file_;
  uint64_t size_;
};

}  // namespace

std::array<uint8_t, 32> srs_digest(const G1Affine& s1, const G2Affine& s2) {
  static const char label[] = "zkserve/native/srs/v1";
  std::array<uint8_t, 32> digest;
  uint8_t bytes[32 + 64 + 128];
  keccak256(reinterpret_cast<const uint8_t*>(label), sizeof label - 1, bytes);
  s1.to_bytes(bytes + 32);
  s2.to_bytes(bytes + 96);
  keccak256(bytes, sizeof bytes, digest.data());
  return digest;
}

Srs Srs::load(const std::string& path, size_t points) {
  Reader reader(path);
  uint8_t head[head_bytes];
  reader.read(0, head, sizeof head);
  if (std::memcmp(head, magic, sizeof magic) != 0) refuse(path, "is not an SRS file of the native engine");
  size_t held = static_cast<size_t>(head[8]) << 24 | head[9] << 16 | head[10] << 8 | head[11];
  if (head[12] > 1 || head[13] || head[14] || head[15]) refuse(path, "has a malformed head");
  if (reader.size() != head_bytes + 64 * static_cast<uint64_t>(held)) refuse(path, "is not as long as its head says");
  if (points == 0) points = held;
  if (held < points || points < 2)
    refuse(path, "holds " + std::to_string(held) + " points, needed are " + std::to_string(points));
  Srs srs;
  srs.development = head[12] == 1;
  if (!G2Affine::from_bytes(head + 16, srs.g2_s) || srs.g2_s.is_infinity())
    refuse(path, "has no point of the group where [s]_2 should be");
  srs.g1.resize(points);
  constexpr size_t batch = 4096;
  std::vector<uint8_t> bytes(64 * batch);
  for (size_t at = 0; at < points; at += batch) {
    size_t n = std::min(batch, points - at);
    reader.read(head_bytes + 64 * at, bytes.data(), 64 * n);
    for (size_t i = 0; i < n; i++)
      if (!G1Affine::from_bytes(&bytes[64 * i], srs.g1[at + i]) || srs.g1[at + i].is_infinity())
        refuse(path, "has no point of the curve at power " + std::to_string(at + i));
  }
  if (srs.g1[0] != G1Affine::generator()) refuse(path, "does not begin with the generator");
  srs.digest = srs_digest(srs.g1[1], srs.g2_s);
  return srs;
}

void Srs::check(Threads& threads) const {
  // 128 random bits a coefficient would do; the cost of whole ones does not matter here.
  Random random({}, {}, 0);
  size_t n = g1.size() - 1;
  std::vector<Fr> r(n);
  for (auto& value : r) value = random.scalar();
  G1Affine next = msm(g1.data() + 1, r.data(), n, threads).to_affine();
  G1Affine here = msm(g1.data(), r.data(), n, threads).to_affine();
  if (!pairing_is_one({{next, G2Affine::generator()}, {-here, g2_s}}))
    throw std::invalid_argument("the points of the SRS are not consecutive powers of the secret in its [s]_2");
}

void Srs::save(const std::string& path) const {
  std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  uint8_t head[head_bytes] = {};
  std::memcpy(head, magic, sizeof magic);
  for (int i = 0; i < 4; i++) head[8 + i] = static_cast<uint8_t>(g1.size() >> (24 - 8 * i));
  head[12] = development;
  g2_s.to_bytes(head + 16);
  file.write(reinterpret_cast<const char*>(head), sizeof head);
  uint8_t bytes[64];
  for (const auto& point : g1) {
    point.to_bytes(bytes);
    file.write(reinterpret_cast<const char*>(bytes), sizeof bytes);
  }
  file.close();
  if (!file || std::rename(partial.c_str(), path.c_str()) != 0) {
    std::remove(partial.c_str());
    throw std::runtime_error(path + " cannot be written");
  }
}

Srs Srs::generate(size_t points, Threads& threads) {
  if (points < 2) throw std::invalid_argument("an SRS has at least two points");
  Random random({}, {}, 0);
  Fr secret = random.nonzero();
  // Tables of the multiples d * 2^(8 w) * G make each power 32 additions.
  std::vector<G1Affine> table(32 * 256);
  G1 base = G1Affine::generator();
  for (int w = 0; w < 32; w++) {
    G1 row[256];
    for (int d = 1; d < 256; d++) row[d] = row[d - 1] + base;
    batch_normalise(row, 256, &table[256 * w]);
    base = row[255] + base;
  }
  Srs srs;
  srs.development = true;
  srs.g1.resize(points);
  threads.parallel(points, 1024, [&](size_t begin, size_t end, unsigned) {
    Fr power = secret.pow(begin);
    std::vector<G1> powers(end - begin);
    for (size_t i = begin; i < end; i++, power *= secret) {
      uint8_t bytes[32];
      power.to_bytes(bytes);
      for (int w = 0; w < 32; w++) powers[i - begin] += table[256 * w + bytes[31 - w]];
    }
    batch_normalise(powers.data(), powers.size(), &srs.g1[begin]);
  });
  srs.g2_s = G2::multiply(G2Affine::generator(), secret).to_affine();
  wipe(&secret, sizeof secret);
  srs.digest = srs_digest(srs.g1[1], srs.g2_s);
  return srs;
}

Srs Srs::import_ptau(const std::string& path, size_t points, Threads& threads) {
  if (points < 2) throw std::invalid_argument("an SRS has at least two points");
  Reader reader(path);
  uint8_t kind[4];
  reader.read(0, kind, sizeof kind);
  if (std::memcmp(kind, "ptau", 4) != 0) refuse(path, "is not a powers-of-tau file");
  if (reader.little(4, 4) != 1) refuse(path, "has an unknown version of the powers-of-tau format");
  uint64_t sections = reader.little(8, 4), at = 12;
  struct Section {
    uint64_t at = 0, size = 0;
  } header, tau_g1, tau_g2;
  for (uint64_t i = 0; i < sections; i++) {
    uint64_t type = reader.little(at, 4), size = reader.little(at + 4, 8);
    at += 12;
    if (at > reader.size() || size > reader.size() - at) refuse(path, "is truncated");
    Section* section = type == 1 ? &header : type == 2 ? &tau_g1 : type == 3 ? &tau_g2 : nullptr;
    if (section) {
      if (section->at) refuse(path, "has a section twice");
      *section = {at, size};
    }
    at += size;
  }
  if (!header.at || !tau_g1.at || !tau_g2.at) refuse(path, "lacks the powers of tau");
  uint8_t prime[32] = {};
  uint8_t expected[32];
  std::memcpy(expected, BaseModulus::limbs, 32);
  if (header.size < 44 || reader.little(header.at, 4) != 32) refuse(path, "is not for BN254");
  reader.read(header.at + 4, prime, 32);
  if (std::memcmp(prime, expected, 32) != 0) refuse(path, "is not for BN254");
  uint64_t power = reader.little(header.at + 36, 4);
  if (power > 28 || tau_g1.size != 64 * ((uint64_t{2} << power) - 1) || tau_g2.size != 128 * (uint64_t{1} << power))
    refuse(path, "has sections of the wrong length");
  if (tau_g1.size / 64 < points || tau_g2.size < 256)
    refuse(path, "holds " + std::to_string(tau_g1.size / 64) + " points, needed are " + std::to_string(points));

  // Coordinates lie there as limbs in Montgomery form with R = 2^256, as they do here.
  auto coordinate = [&](const uint8_t* bytes, Fq& out) {
    for (int i = 0; i < 4; i++) {
      out.v[i] = 0;
      for (int j = 8; j-- > 0;) out.v[i] = out.v[i] << 8 | bytes[8 * i + j];
    }
    return Fq::below_modulus(out.v);
  };
  Srs srs;
  srs.development = false;
  srs.g1.resize(points);
  constexpr size_t batch = 4096;
  std::vector<uint8_t> bytes(64 * batch);
  for (size_t begin = 0; begin < points; begin += batch) {
    size_t n = std::min(batch, points - begin);
    reader.read(tau_g1.at + 64 * begin, bytes.data(), 64 * n);
    for (size_t i = 0; i < n; i++) {
      G1Affine& point = srs.g1[begin + i];
      if (!coordinate(&bytes[64 * i], point.x) || !coordinate(&bytes[64 * i + 32], point.y) || !point.is_on_curve() ||
          point.is_infinity())
        refuse(path, "has no point of the curve at power " + std::to_string(begin + i));
    }
  }
  reader.read(tau_g2.at, bytes.data(), 256);
  G2Affine g2[2];
  for (int i = 0; i < 2; i++) {
    const uint8_t* from = &bytes[128 * i];
    if (!coordinate(from, g2[i].x.real) || !coordinate(from + 32, g2[i].x.imaginary) ||
        !coordinate(from + 64, g2[i].y.real) || !coordinate(from + 96, g2[i].y.imaginary) || !g2[i].is_on_curve() ||
        !g2[i].is_in_subgroup() || g2[i].is_infinity())
      refuse(path, "has no point of the second group at power " + std::to_string(i));
  }
  if (srs.g1[0] != G1Affine::generator() || g2[0] != G2Affine::generator())
    refuse(path, "does not begin with the generators");
  srs.g2_s = g2[1];
  srs.digest = srs_digest(srs.g1[1], srs.g2_s);
  srs.check(threads);
  return srs;
}

}  // namespace zkserve
