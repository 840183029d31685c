// pangu_quant.h: how a matrix of weights [O, I] lies in memory, row by row, and what its numbers mean.
//
//   PANGU_F32   float, rows of I.
//   PANGU_BF16  the upper half of a float, rows of I.
//   PANGU_BF16C bf16 in 12 bits, without loss: most weights of a row lie within 2^14 of its largest. Such weights are scaled so that
//               the row's largest exponent is 127: the others' are 114 to 127, and three bits tell the upper seven bits of one.
//               Units of 128 columns (the last padded with zeros): 128 lower bytes of bf16 (the exponent's last bit and the
//               fraction), then 64 bytes with two codes each: 8 for a negative weight, and the exponent / 2 - 56, or 0 for zero. Then a uint32 count and up to ceil(I / 128) entries {uint16 column, uint16 bf16}: the smaller ones. Rows
//               are padded to 64 bytes, and one float a row (a power of two) follows as for Q8.
//               w[o][i] is that bf16 number * scale[o]; entries are zero here.
//               In 32 columns, column c is byte p = c / 16 * 8 + c % 4 * 2 + c / 8 % 2 + c / 4 % 2 * 16; its code is in byte
//               p % 16, in the low half below 16: weights come out of their bytes in the order of the columns.
//               Four rows lie together (O is a multiple of 4): the first unit of each, then the second of each, ..; then what follows
//               the units of the first row, of the second, ..
//   PANGU_Q8    int8, rows padded with zeros to a multiple of 32; then, at the next multiple of 64 bytes, one float a
//               row. w[o][i] = q[o][i] * scale[o].
//   PANGU_Q8I   The same numbers, eight rows together (O is a multiple of 8): of each 4 columns the 4 bytes of the first row, then
//               those of the second, ..
//   PANGU_W8A8  As Q8; activations are rounded to int8 with one scale a row (pangu_prepare.h).
//   PANGU_Q4    groups of 32 columns (the last padded with zeros) of 16 bytes: byte j holds column j in its low and
//               column j + 16 in its high nibble, as q + 8; then, at the next multiple of 64 bytes, one float16 a group.
//               w[o][i] = q[o][i] * scale[o][i / 32], q in -8..7.
//
// A stacked tensor [E, O, I] is a matrix of E * O rows.
#pragma once

namespace pangu {

constexpr int64_t kQuantGroup = 32;
constexpr int64_t kEightRows = 8; // of Q8I
constexpr int64_t kPackedUnit = 128, kPackedUnitBytes = 192, kPackedRows = 4; // of BF16C

// A view of a matrix: rows `row_stride` bytes apart (of Q8I and BF16C: eights and fours of them together), scales in the order of the rows (null for F32 and BF16).
struct Weight {
  const void *data;
  const void *scales;
  int32_t format;
  int64_t row_stride;
};

// Formats of the model's weights as a set of bits. Generated code defines it: kernels of other formats are then not compiled
// (if constexpr: not even instantiated, which saves a fifth of the time that a model takes).
#ifndef PANGU_WEIGHT_FORMATS
#define PANGU_WEIGHT_FORMATS (~0u)
#endif
template <int32_t Format> constexpr bool kHasFormat = (PANGU_WEIGHT_FORMATS >> Format & 1u) != 0;

// int8 rows with a scale each.
inline bool is_int8(int32_t format) { return format == PANGU_Q8 || format == PANGU_Q8I || format == PANGU_W8A8; }

inline int64_t weight_groups(int64_t I) { return (I + kQuantGroup - 1) / kQuantGroup; }

inline int64_t packed_units(int64_t I) { return (I + kPackedUnit - 1) / kPackedUnit; }

inline int64_t weight_row_bytes(int32_t format, int64_t I) {
  switch (format) {
  case PANGU_F32: return 4 * I;
  case PANGU_BF16: return 2 * I;
  case PANGU_BF16C: return (packed_units(I) * (kPackedUnitBytes + 4) + 4 + 63) / 64 * 64;
  case PANGU_Q8:
  case PANGU_Q8I:
  case PANGU_W8A8: return weight_groups(I) * kQuantGroup;
  default: return weight_groups(I) * (kQuantGroup / 2);
  }
}

// The whole matrix of O rows that begins at `data`.
inline Weight weight_view(const void *data, int32_t format, int64_t O, int64_t I) {
  const int64_t stride = weight_row_bytes(format, I);
  const bool scaled = is_int8(format) || format == PANGU_Q4 || format == PANGU_BF16C;
  const void *scales = scaled ? static_cast<const uint8_t *>(data) + (O * stride + 63) / 64 * 64 : nullptr;
  return {data, scales, format, stride};
}

// Rows [first, ..) of a matrix: an expert of a stacked tensor, a head of a projection. `first` is a multiple of 8 for Q8I, of 4 for BF16C.
inline Weight weight_rows(const Weight &w, int64_t first, int64_t I) {
  const int64_t scale_bytes = w.format == PANGU_Q4 ? 2 * weight_groups(I) : 4;
  const void *scales = w.scales == nullptr ? nullptr : static_cast<const uint8_t *>(w.scales) + first * scale_bytes;
  return {static_cast<const uint8_t *>(w.data) + first * w.row_stride, scales, w.format, w.row_stride};
}

inline float bf16_value(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// One of 32 weights of a BF16C row, without the row's scale.
inline uint16_t packed_bf16(const uint8_t *bytes, const uint8_t *codes, int64_t column) {
  const int64_t p = column / 16 * 8 + column % 4 * 2 + column / 8 % 2 + column / 4 % 2 * 16;
  const uint32_t code = codes[p % 16] >> (p < 16 ? 0 : 4) & 15u, pair = code & 7u;
  return static_cast<uint16_t>((code & 8u) << 12 | (pair == 0 ? 0 : (56 + pair) << 8) | bytes[p]);
}

// A row of BF16C: its units, kPackedRows * kPackedUnitBytes apart, and what follows them.
struct PackedRow {
  const uint8_t *units, *tail;

  PackedRow(const Weight &w, int64_t o, int64_t I) {
    const int64_t r = o % kPackedRows, bytes = packed_units(I) * kPackedUnitBytes;
    const uint8_t *const four = static_cast<const uint8_t *>(w.data) + (o - r) * w.row_stride;
    units = four + r * kPackedUnitBytes, tail = four + kPackedRows * bytes + r * (w.row_stride - bytes);
  }
  const uint8_t *unit(int64_t column) const { return units + column / kPackedUnit * (kPackedRows * kPackedUnitBytes); }

  // The listed weights.
  uint32_t count() const {
    uint32_t n;
    std::memcpy(&n, tail, 4);
    return n;
  }
  int64_t column(uint32_t i) const { return half(i, 0); }
  float value(uint32_t i) const { return bf16_value(half(i, 1)); }

private:
  uint16_t half(uint32_t i, int which) const {
    uint16_t h;
    std::memcpy(&h, tail + 4 + 4 * i + 2 * which, 2);
    return h;
  }
};

// float16 to float, exact.
inline float f16_value(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
  float f;
  uint32_t bits;
  if (exponent == 0) {
    f = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -f : f;
  }
  bits = sign | ((exponent == 31 ? 255u : exponent + 112u) << 23) | (fraction << 13);
  std::memcpy(&f, &bits, 4);
  return f;
}

// Row `o` as floats: an embedding, or a reference for tests.
inline void weight_row(const Weight &w, int64_t o, int64_t I, float *out) {
  const uint8_t *row = static_cast<const uint8_t *>(w.data) + o * w.row_stride;
  if (w.format == PANGU_F32) {
    std::memcpy(out, row, static_cast<size_t>(4 * I));
  } else if (w.format == PANGU_BF16) {
    for (int64_t i = 0; i < I; ++i) {
      uint16_t h;
      std::memcpy(&h, row + 2 * i, 2);
      out[i] = bf16_value(h);
    }
  } else if (w.format == PANGU_BF16C) {
    const float scale = static_cast<const float *>(w.scales)[o];
    const PackedRow packed(w, o, I);
    for (int64_t i = 0; i < I; ++i) {
      const int64_t first = i % kPackedUnit / 32 * 32;
      out[i] = bf16_value(packed_bf16(packed.unit(i) + first, packed.unit(i) + kPackedUnit + first / 2, i % 32)) * scale;
    }
    for (uint32_t i = 0; i < packed.count(); ++i) out[packed.column(i)] = packed.value(i);
  } else if (w.format == PANGU_Q8I) {
    const uint8_t *const eight = static_cast<const uint8_t *>(w.data) + o / kEightRows * kEightRows * w.row_stride + o % kEightRows * 4;
    const float scale = static_cast<const float *>(w.scales)[o];
    for (int64_t i = 0; i < I; ++i) out[i] = static_cast<float>(static_cast<int8_t>(eight[i / 4 * 32 + i % 4])) * scale;
  } else if (is_int8(w.format)) {
    const float scale = static_cast<const float *>(w.scales)[o];
    for (int64_t i = 0; i < I; ++i) out[i] = static_cast<float>(static_cast<int8_t>(row[i])) * scale;
  } else {
    const uint16_t *scales = static_cast<const uint16_t *>(w.scales) + o * weight_groups(I);
    for (int64_t i = 0; i < I; ++i) {
      const int64_t g = i / kQuantGroup, j = i % kQuantGroup;
      const int q = (row[g * 16 + j % 16] >> (j / 16 * 4)) & 15;
      out[i] = static_cast<float>(q - 8) * f16_value(scales[g]);
    }
  }
}

} // namespace pangu
