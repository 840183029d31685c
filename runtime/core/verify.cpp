#include "verify.h"

#include "crc32.h"
#include "model.h"
#include "sha256.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <sstream>
#include <thread>
#include <vector>

namespace pangu_core {
namespace {

const char *const kWeights = "weights.safetensors", *const kPieces = "weights.crc32";

std::string text_of(const std::string &path) {
  const MappedFile file(path);
  return std::string(reinterpret_cast<const char *>(file.data()), file.size());
}

// The integer value of a top-level key; manifest.json is written by us, so this needs no JSON parser.
long manifest_version(const std::string &text, const std::string &path) {
  const std::string key = "\"format_version\"";
  const size_t at = text.find(key);
  if (at == std::string::npos) throw Error(PANGU_BAD_ARTIFACT, path + ": has no format_version; this is not an artifact of pangu-compile");
  size_t i = at + key.size();
  while (i < text.size() && (text[i] == ' ' || text[i] == ':' || text[i] == '\n')) ++i;
  return std::strtol(text.c_str() + i, nullptr, 10);
}

[[noreturn]] void differs(const std::string &path, const char *sums) {
  throw Error(PANGU_CORRUPT, path + ": does not match its checksum in " + sums + "; the artifact is corrupt, build it again");
}

void check_file(const std::string &path, const std::string &expected) {
  const MappedFile file(path);
  if (sha256_hex(file.data(), file.size()) != expected) differs(path, "SHA256SUMS");
}

// weights.crc32 is text: the bytes of a piece and of the file, then the sum of every piece in hexadecimal.
void check_pieces(const std::string &folder, int threads) {
  const std::string path = folder + "/" + kWeights;
  const MappedFile file(path);
  std::istringstream text(text_of(folder + "/" + kPieces));
  size_t piece = 0, total = 0;
  text >> piece >> total >> std::hex;
  std::vector<uint32_t> sums;
  for (uint32_t sum = 0; text >> sum;) sums.push_back(sum);
  if (piece == 0 || total != file.size() || sums.size() != (total + piece - 1) / piece) differs(path, kPieces);
  std::atomic<size_t> next{0};
  std::atomic<bool> good{true};
  const auto work = [&] {
    for (size_t i; good && (i = next++) < sums.size();)
      if (crc32(file.data() + i * piece, std::min(piece, total - i * piece)) != sums[i]) good = false;
  };
  std::vector<std::thread> others;
  try {
    while (others.size() + 1 < std::min<size_t>(static_cast<size_t>(threads), sums.size())) others.emplace_back(work);
  } catch (const std::system_error &) { // as many as the system gives
  }
  work();
  for (std::thread &other : others) other.join();
  if (!good) differs(path, kPieces);
}

} // namespace

void verify_artifact(const std::string &folder, bool checksums, int threads) {
  const std::string manifest_path = folder + "/manifest.json";
  const long version = manifest_version(text_of(manifest_path), manifest_path);
  if (version != PANGU_FORMAT_VERSION)
    throw Error(PANGU_BAD_VERSION, manifest_path + ": format version " + std::to_string(version) + ", this runtime reads " +
                                       std::to_string(PANGU_FORMAT_VERSION) + "; build the artifact again");
  if (!checksums) return;
  const std::string sums_path = folder + "/SHA256SUMS";
  std::istringstream lines(text_of(sums_path));
  std::string line, weights;
  bool manifest_listed = false, in_pieces = false;
  while (std::getline(lines, line)) {
    if (line.size() < 67 || line[64] != ' ' || line[65] != ' ' || line.find_first_not_of("0123456789abcdef") != 64)
      throw Error(PANGU_CORRUPT, sums_path + ": a line is damaged; the artifact is corrupt, build it again");
    const std::string name = line.substr(66), sum = line.substr(0, 64);
    if (name.find("..") != std::string::npos || name[0] == '/') throw Error(PANGU_CORRUPT, sums_path + ": names " + name + ", outside the artifact");
    manifest_listed |= name == "manifest.json";
    in_pieces |= name == kPieces;
    if (name == kWeights) weights = sum;
    else check_file(folder + "/" + name, sum);
  }
  if (!manifest_listed || weights.empty())
    throw Error(PANGU_CORRUPT, sums_path + ": does not list every file; the artifact is corrupt, build it again");
  if (in_pieces) check_pieces(folder, threads);
  else check_file(folder + "/" + kWeights, weights);
}

} // namespace pangu_core
