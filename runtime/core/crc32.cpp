#include "crc32.h"

#include <array>
#include <cstring>
#if defined(__x86_64__) && !defined(PANGU_PORTABLE)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__) && !defined(PANGU_PORTABLE)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

namespace pangu_core {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320u; // bits reversed: the lowest is the highest power
using Tables = std::array<std::array<uint32_t, 256>, 8>;

// kTables[i][b]: the remainder of byte b followed by i zero bytes.
constexpr Tables make_tables() {
  Tables t{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t r = b;
    for (int bit = 0; bit < 8; ++bit) r = (r >> 1) ^ (r & 1 ? kPolynomial : 0);
    t[0][b] = r;
  }
  for (size_t i = 1; i < t.size(); ++i)
    for (uint32_t b = 0; b < 256; ++b) t[i][b] = (t[i - 1][b] >> 8) ^ t[0][t[i - 1][b] & 255];
  return t;
}
constexpr Tables kTables = make_tables();

// The remainder `r` carried on over n bytes.
uint32_t by_tables(uint32_t r, const uint8_t *p, size_t n) {
  for (; n >= 8; n -= 8, p += 8) {
    r ^= uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
    r = kTables[7][r & 255] ^ kTables[6][r >> 8 & 255] ^ kTables[5][r >> 16 & 255] ^ kTables[4][r >> 24] ^ kTables[3][p[4]] ^
        kTables[2][p[5]] ^ kTables[1][p[6]] ^ kTables[0][p[7]];
  }
  for (; n > 0; --n, ++p) r = (r >> 8) ^ kTables[0][(r ^ *p) & 255];
  return r;
}

#if defined(__x86_64__) && !defined(PANGU_PORTABLE)

// x^power modulo the polynomial, reflected in 33 bits: what the half of a register is multiplied by to move it up. A
// product of two reflected 64-bit halves lies one bit low, which the 33rd bit makes up for.
constexpr uint64_t power_of_x(int power) {
  uint32_t r = 0x80000000u; // 1
  for (; power > 0; --power) r = (r >> 1) ^ (r & 1 ? kPolynomial : 0);
  return uint64_t{r} << 1;
}

__attribute__((target("pclmul,sse4.1"))) inline __m128i fold(__m128i x, __m128i powers, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(x, powers, 0x00), high = _mm_clmulepi64_si128(x, powers, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ" (Intel, 2009): four registers move 64 bytes
// ahead at a time, then become one, whose 16 bytes have the remainder of all bytes before them.
__attribute__((target("pclmul,sse4.1"))) uint32_t by_folding(uint32_t r, const uint8_t *p, size_t n) {
  const auto load = [](const uint8_t *from) __attribute__((target("pclmul,sse4.1"))) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
  };
  const auto powers = [](int bytes) __attribute__((target("pclmul,sse4.1"))) {
    return _mm_set_epi64x(static_cast<int64_t>(power_of_x(8 * bytes - 32)), static_cast<int64_t>(power_of_x(8 * bytes + 32)));
  };
  const __m128i by64 = powers(64), by16 = powers(16);
  __m128i x[4];
  for (int i = 0; i < 4; ++i) x[i] = load(p + 16 * i);
  x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(static_cast<int>(r)));
  for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
    _mm_prefetch(reinterpret_cast<const char *>(p + 1024), _MM_HINT_T0);
    for (int i = 0; i < 4; ++i) x[i] = fold(x[i], by64, load(p + 16 * i));
  }
  for (int i = 1; i < 4; ++i) x[0] = fold(x[0], by16, x[i]);
  uint8_t last[16];
  std::memcpy(last, &x[0], sizeof last);
  return by_tables(by_tables(0, last, sizeof last), p, n);
}

bool has_folding() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

#elif defined(__aarch64__) && defined(__linux__) && !defined(PANGU_PORTABLE)

__attribute__((target("+crc"))) uint32_t by_instructions(uint32_t r, const uint8_t *p, size_t n) {
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, sizeof word);
    r = __crc32d(r, word);
  }
  for (; n > 0; --n, ++p) r = __crc32b(r, *p);
  return r;
}

bool has_instructions() {
  constexpr unsigned long kCrc = 1ul << 7; // HWCAP_CRC32
  return (getauxval(AT_HWCAP) & kCrc) != 0;
}

#endif

} // namespace

uint32_t crc32(const uint8_t *data, size_t n) {
#if defined(__x86_64__) && !defined(PANGU_PORTABLE)
  static const bool fast = has_folding();
  if (fast && n >= 64) return ~by_folding(~0u, data, n);
#elif defined(__aarch64__) && defined(__linux__) && !defined(PANGU_PORTABLE)
  static const bool fast = has_instructions();
  if (fast) return ~by_instructions(~0u, data, n);
#endif
  return ~by_tables(~0u, data, n);
}

} // namespace pangu_core
