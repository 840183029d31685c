// check.cpp: the matrix kernels against float64 products of the dequantised weights, and their bit-for-bit promises.
//
// A program of its own, so that it runs under the address sanitizer and under an emulator. Every buffer has its exact
// size on the heap. Prints one line for each failure; exit status 1 if there was one.
#include "pangu_parallel.h"
#include "pangu_quant.h"
#include "pangu_linear.h"
#include "pool.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

namespace {

uint64_t seed = 1;
uint32_t random_bits() { return static_cast<uint32_t>((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33); }
float random_float() { return static_cast<float>(random_bits()) / 1073741824.0f - 1.0f; }

int failures = 0;
void fail(const char *what, const char *format, int64_t T, int64_t O, int64_t I) {
  std::printf("%s: %s T=%d O=%d I=%d\n", what, format, static_cast<int>(T), static_cast<int>(O), static_cast<int>(I));
  ++failures;
}

struct Format {
  int32_t code;
  const char *name;
};
const Format kFormats[] = {{PANGU_F32, "f32"}, {PANGU_BF16, "bf16"}, {PANGU_Q8, "q8"}, {PANGU_Q4, "q4"}, {PANGU_W8A8, "w8a8"},
                           {PANGU_BF16C, "bf16c"}, {PANGU_Q8I, "q8i"}};

// So many rows of `O` or a few more that the format can hold them.
int64_t whole_rows(int32_t format, int64_t O) {
  const int64_t together = format == PANGU_Q8I ? pangu::kEightRows : format == PANGU_BF16C ? pangu::kPackedRows : 1;
  return (O + together - 1) / together * together;
}

struct Matrix {
  std::vector<uint8_t> bytes;
  std::vector<float> values; // [O, I], dequantised
  pangu::Weight w;

  Matrix(int32_t format, int64_t O, int64_t I) {
    const int64_t stride = pangu::weight_row_bytes(format, I), groups = pangu::weight_groups(I);
    const int64_t data = O * stride, at = (data + 63) / 64 * 64;
    const int64_t scales = format == PANGU_Q4 ? 2 * O * groups : 4 * O;
    const bool scaled = pangu::is_int8(format) || format == PANGU_Q4 || format == PANGU_BF16C;
    bytes.resize(static_cast<size_t>(scaled ? at + scales : data));
    if (format == PANGU_F32)
      for (int64_t i = 0; i < O * I; ++i) put(4 * i, random_float());
    if (format == PANGU_BF16)
      for (int64_t i = 0; i < O * I; ++i) put(2 * i, static_cast<uint16_t>((random_bits() & 0x80ff) | 0x3e00));
    if (pangu::is_int8(format))
      for (int64_t o = 0; o < O; ++o) {
        for (int64_t i = 0; i < I; ++i) bytes[static_cast<size_t>(int8_at(format, stride, o, i))] = static_cast<uint8_t>(random_bits() % 255 - 127);
        put(at + 4 * o, random_float() / 127);
      }
    if (format == PANGU_Q4) {
      for (int64_t i = 0; i < data; ++i) bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(random_bits());
      for (int64_t g = 0; g < O * groups; ++g) put(at + 2 * g, static_cast<uint16_t>((random_bits() & 0x83ff) | 0x2c00));
    }
    w = pangu::weight_view(bytes.data(), format, O, I);
    if (format == PANGU_BF16C)
      for (int64_t o = 0; o < O; ++o) put_packed_row(o, I), put(at + 4 * o, std::ldexp(1.0f, static_cast<int>(random_bits() % 9) - 4));
    values.resize(static_cast<size_t>(O * I));
    for (int64_t o = 0; o < O; ++o) pangu::weight_row(w, o, I, values.data() + o * I);
  }
  static int64_t int8_at(int32_t format, int64_t stride, int64_t o, int64_t i) {
    return format == PANGU_Q8I ? o / 8 * 8 * stride + i / 4 * 32 + o % 8 * 4 + i % 4 : o * stride + i;
  }
  // Random weights, and up to as many listed ones as fit; what they replace is zero, and so is what lies behind the last column.
  void put_packed_row(int64_t o, int64_t I) {
    const pangu::PackedRow row(w, o, I);
    for (int64_t i = 0; i < I; ++i) put_packed(row, i, random_bits());
    const int64_t tail = row.tail - bytes.data();
    uint32_t count = 0;
    for (int64_t i = random_bits() % 100; i < I && count < pangu::packed_units(I); i += 1 + random_bits() % 200, ++count) {
      put_packed(row, i, 0);
      put(tail + 4 + 4 * count, static_cast<uint16_t>(i));
      put(tail + 6 + 4 * count, static_cast<uint16_t>((random_bits() & 0x80ff) | 0x3500));
    }
    put(tail, count);
  }
  void put_packed(const pangu::PackedRow &row, int64_t column, uint32_t bits) { // the lower byte, and 4 bits of code: 0 and 8 are zero
    const int64_t c = column % 32, p = c / 16 * 8 + c % 4 * 2 + c / 8 % 2 + c / 4 % 2 * 16, first = column % 128 / 32 * 32;
    const int64_t unit = row.unit(column) - bytes.data();
    const uint32_t code = bits >> 8 & 15u;
    bytes[static_cast<size_t>(unit + first + p)] = static_cast<uint8_t>(code % 8 == 0 ? 0 : bits);
    uint8_t &codes = bytes[static_cast<size_t>(unit + 128 + first / 2 + p % 16)];
    codes = static_cast<uint8_t>(p < 16 ? (codes & 0xf0u) | code : (codes & 0x0fu) | code << 4);
  }
  template <class V> void put(int64_t at, V value) { std::memcpy(bytes.data() + at, &value, sizeof value); }
};

std::vector<float> random_floats(int64_t n) {
  std::vector<float> v(static_cast<size_t>(n));
  for (float &x : v) x = random_float() * (random_bits() % 50 == 0 ? 20.0f : 1.0f);
  return v;
}

// The largest |x| of each `n` columns.
std::vector<double> peaks(int64_t I, const float *x, int64_t n) {
  std::vector<double> p(static_cast<size_t>((I + n - 1) / n), 0.0);
  for (int64_t i = 0; i < I; ++i) p[static_cast<size_t>(i / n)] = std::max(p[static_cast<size_t>(i / n)], std::fabs(double(x[i])));
  return p;
}

// Where weights are integers, x rounds to 16 bits of the largest of 512 (q8), or to 8 bits of the largest of 32 (q4) or of the row
// (w8a8): by half a step at most. Sums are in float32.
void check_values(const Format &f, const Matrix &m, int64_t T, int64_t O, int64_t I, const float *x, const float *y, int64_t stride) {
  const bool integers = pangu::is_int8(f.code) || f.code == PANGU_Q4;
  const int64_t shared = f.code == PANGU_Q4 ? 32 : f.code == PANGU_W8A8 ? I : 512;
  const double steps = f.code == PANGU_Q8 || f.code == PANGU_Q8I ? 2 * 32639 : 2 * 127;
  for (int64_t t = 0; t < T; ++t) {
    const std::vector<double> peak = peaks(I, x + t * I, shared);
    for (int64_t o = 0; o < O; ++o) {
      double sum = 0, total = 1e-30, rounding = 0, bias = 0;
      for (int64_t i = 0; i < I; ++i) {
        const double w = double(m.values[static_cast<size_t>(o * I + i)]), v = double(x[t * I + i]);
        sum += w * v, total += std::fabs(w * v);
        rounding += std::fabs(w) * peak[static_cast<size_t>(i / shared)] / steps, bias += peak[static_cast<size_t>(i / shared)];
      }
      // q4 adds 8 to its integers and takes 8 * sum(x) off again
      const double allowed = 1e-6 * total + (integers ? rounding : 0) + (f.code == PANGU_Q4 ? 2e-7 * bias : 0);
      if (!(std::fabs(sum - double(y[t * stride + o])) <= allowed)) {
        std::printf("element %d %d: %.9g, expected %.9g, allowed %.3g\n", int(t), int(o), double(y[t * stride + o]), sum, allowed);
        return fail("values", f.name, T, O, I);
      }
    }
  }
}

std::vector<float> whole(pangu_pool *pool, const Matrix &m, int64_t T, int64_t O, int64_t I, const float *x) {
  std::vector<float> y(static_cast<size_t>(T * O), -77.0f);
  pangu::linear(pool, T, O, I, x, I, m.w, y.data(), O);
  return y;
}

void check_splits(const Format &f, const Matrix &m, int64_t T, int64_t O, int64_t I, const float *x, const std::vector<float> &y) {
  for (int64_t t = 0; t < T; ++t) // one token at a time
    if (std::memcmp(whole(nullptr, m, 1, O, I, x + t * I).data(), &y[static_cast<size_t>(t * O)], static_cast<size_t>(O) * 4) != 0)
      return fail("depends on T", f.name, T, O, I);
  for (int threads : {2, 5}) {
    pangu_pool pool(threads);
    if (whole(&pool, m, T, O, I, x) != y) return fail("depends on threads", f.name, T, O, I);
  }
  std::vector<uint8_t> scratch(static_cast<size_t>(pangu::rows_bytes(f.code, T, I)) + 64);
  void *const aligned = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
  const pangu::Rows rows = pangu::prepare_rows(nullptr, f.code, T, I, x, I, aligned);
  const int64_t stride = O + 3;
  std::vector<float> z(static_cast<size_t>(T * stride), -77.0f);
  for (int64_t o = 0, step = 1; o < O; o += step, step = step % 7 + 1)
    pangu::linear_rows(T, o, std::min(o + step, O), I, rows, m.w, z.data(), stride);
  for (int64_t t = 0; t < T; ++t)
    if (std::memcmp(&z[static_cast<size_t>(t * stride)], &y[static_cast<size_t>(t * O)], static_cast<size_t>(O) * 4) != 0 ||
        z[static_cast<size_t>(t * stride + O)] != -77.0f)
      return fail("depends on the split", f.name, T, O, I);
  std::vector<int64_t> pick, out;
  for (int64_t t = T - 1; t >= 0; t -= 2) pick.push_back(t), out.push_back(T - 1 - t);
  std::vector<float> picked(static_cast<size_t>(T * O), -77.0f);
  pangu::linear_picked(static_cast<int64_t>(pick.size()), pick.data(), out.data(), 0, O, I, rows, m.w, picked.data(), O);
  for (size_t i = 0; i < pick.size(); ++i)
    if (std::memcmp(&picked[static_cast<size_t>(out[i] * O)], &y[static_cast<size_t>(pick[i] * O)], static_cast<size_t>(O) * 4) != 0)
      return fail("picked tokens differ", f.name, T, O, I);
}

void check_transposed(const Format &f, const Matrix &m, int64_t T, int64_t O, int64_t I) {
  const int64_t begin = O / 3, end = O, n = end - begin;
  const std::vector<float> x = random_floats(T * n);
  std::vector<float> y(static_cast<size_t>(T * I), -77.0f), one(static_cast<size_t>(I));
  pangu::linear_transposed(T, begin, end, I, x.data(), n, m.w, y.data(), I);
  for (int64_t t = 0; t < T; ++t) {
    pangu::linear_transposed(1, begin, end, I, x.data() + t * n, n, m.w, one.data(), I);
    if (std::memcmp(one.data(), &y[static_cast<size_t>(t * I)], static_cast<size_t>(I) * 4) != 0) return fail("transposed depends on T", f.name, T, O, I);
    for (int64_t i = 0; i < I; ++i) {
      double sum = 0, total = 1e-30;
      for (int64_t o = begin; o < end; ++o) {
        const double product = double(m.values[static_cast<size_t>(o * I + i)]) * double(x[static_cast<size_t>(t * n + o - begin)]);
        sum += product, total += std::fabs(product);
      }
      if (!(std::fabs(sum - double(y[static_cast<size_t>(t * I + i)])) <= 2e-6 * total)) return fail("transposed values", f.name, T, O, I);
    }
  }
}

// NaN and infinity in x must show in every element of that token, and in no other token.
void check_nan(const Format &f) {
  const int64_t T = 3, O = whole_rows(f.code, 5), I = 70;
  const Matrix m(f.code, O, I);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = random_floats(T * I);
    x[static_cast<size_t>(I + 66)] = bad;
    const std::vector<float> y = whole(nullptr, m, T, O, I, x.data());
    for (int64_t t = 0; t < T; ++t)
      for (int64_t o = 0; o < O; ++o)
        if (std::isfinite(y[static_cast<size_t>(t * O + o)]) == (t == 1) && m.values[static_cast<size_t>(o * I + 66)] != 0) return fail("NaN", f.name, T, O, I);
  }
  std::vector<float> zero(static_cast<size_t>(T * I), 0.0f);
  for (float v : whole(nullptr, m, T, O, I, zero.data()))
    if (v != 0) return fail("zeros", f.name, T, O, I);
}

// w8a8: the integers of x are its numbers over max|x| / 127, rounded to nearest even, and their sums with the weights' are exact, so
// that an element is that sum times two scales: two roundings of the product, and one of the sum.
void check_w8a8(int64_t O, int64_t I) {
  const Matrix m(PANGU_W8A8, O, I);
  std::vector<float> x = random_floats(I);
  for (int64_t i = 0; i + 1 < I; i += 3) x[static_cast<size_t>(i)] = float(i % 8) + 0.5f; // ties, with a scale of 1
  for (float &v : x) v = std::min(v, 90.0f);
  x[static_cast<size_t>(I - 1)] = -127.0f;
  const std::vector<float> y = whole(nullptr, m, 1, O, I, x.data());
  for (int64_t o = 0; o < O; ++o) {
    int64_t sum = 0;
    for (int64_t i = 0; i < I; ++i)
      sum += int64_t(static_cast<int8_t>(m.bytes[static_cast<size_t>(o * m.w.row_stride + i)])) * int64_t(std::nearbyint(x[static_cast<size_t>(i)]));
    const double want = double(sum) * double(static_cast<const float *>(m.w.scales)[o]);
    if (!(std::fabs(double(y[static_cast<size_t>(o)]) - want) <= 3e-7 * std::fabs(want))) return fail("integers of x", "w8a8", 1, O, I);
  }
}

// The largest integers that can occur: no sum may overflow.
void check_extremes() {
  const int64_t I = 1536, O = 4;
  Matrix m(PANGU_Q8, O, I);
  for (int64_t i = 0; i < O * I; ++i) m.bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(i / I % 2 == 0 ? 127 : -127);
  for (int64_t o = 0; o < O; ++o) pangu::weight_row(m.w, o, I, m.values.data() + o * I);
  const std::vector<float> x(static_cast<size_t>(I), 3.25f);
  check_values(kFormats[2], m, 1, O, I, x.data(), whole(nullptr, m, 1, O, I, x.data()).data(), O);
  Matrix eights(PANGU_Q8I, 8, I);
  for (int64_t i = 0; i < 8 * I; ++i) eights.bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(i / 4 % 2 == 0 ? 127 : -127); // odd rows
  for (int64_t o = 0; o < 8; ++o) pangu::weight_row(eights.w, o, I, eights.values.data() + o * I);
  check_values(kFormats[6], eights, 1, 8, I, x.data(), whole(nullptr, eights, 1, 8, I, x.data()).data(), 8);
  Matrix fours(PANGU_Q4, O, I); // rows of 15s, as stored, and rows of 0s
  for (int64_t i = 0; i < O * I / 2; ++i) fours.bytes[static_cast<size_t>(i)] = i / (I / 2) % 2 == 0 ? 0xff : 0;
  for (int64_t o = 0; o < O; ++o) pangu::weight_row(fours.w, o, I, fours.values.data() + o * I);
  std::vector<float> both = x;
  for (size_t i = 0; i < both.size(); i += 3) both[i] = -3.25f;
  Matrix wide(PANGU_W8A8, 2, 140000); // a sum that is as large as int32 has it, and the next one
  for (int64_t i = 0; i < 2 * 140000; ++i) wide.bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(i < 140000 ? 127 : -127);
  for (int64_t o = 0; o < 2; ++o) pangu::weight_row(wide.w, o, 140000, wide.values.data() + o * 140000);
  const std::vector<float> many(140000, 3.25f);
  check_values(kFormats[4], wide, 1, 2, 140000, many.data(), whole(nullptr, wide, 1, 2, 140000, many.data()).data(), 2);
  for (const std::vector<float> &v : {x, both}) check_values(kFormats[3], fours, 1, O, I, v.data(), whole(nullptr, fours, 1, O, I, v.data()).data(), O);
}

} // namespace

int main(int argc, char **) {
  const bool quick = argc > 1; // under an emulator
  const int64_t shapes[][2] = {{1, 1}, {3, 7}, {17, 31}, {33, 33}, {40, 64}, {37, 513}, {50, 1024}, {19, 1057}, {6, 2560}};
  for (const Format &f : kFormats) {
    for (const auto &shape : shapes)
      for (int64_t T : {1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 65}) {
        const int64_t O = whole_rows(f.code, shape[0]), I = shape[1];
        if ((quick && T > 9) || (T > 9 && O * I > 40000)) continue;
        const Matrix m(f.code, O, I);
        const std::vector<float> x = random_floats(T * I), y = whole(nullptr, m, T, O, I, x.data());
        check_values(f, m, T, O, I, x.data(), y.data(), O);
        check_splits(f, m, T, O, I, x.data(), y);
        if (f.code != PANGU_BF16C && f.code != PANGU_Q8I) check_transposed(f, m, T, O, I);
      }
    check_nan(f);
  }
  check_extremes();
  for (int64_t I : {1, 40, 513, 2560}) check_w8a8(19, I);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
