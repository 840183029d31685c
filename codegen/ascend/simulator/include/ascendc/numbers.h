// half and bfloat16_t, with the arithmetic of the chip: computed in float, rounded to nearest even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace sim {

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// How a value between two representable ones is rounded; the vendor's RoundMode has the same meanings.
enum class Rounding { NearestEven, Floor, Ceil, NearestAway, Truncate, Odd };

// Drops the low `drop` bits of a magnitude.
inline uint64_t round_bits(uint64_t magnitude, int drop, bool negative, Rounding rounding) {
    if (drop <= 0) return magnitude << -drop;
    if (drop > 62) drop = 62;
    const uint64_t kept = magnitude >> drop, rest = magnitude & ((uint64_t(1) << drop) - 1), half = uint64_t(1) << (drop - 1);
    if (rest == 0) return kept;
    switch (rounding) {
        case Rounding::NearestEven: return kept + (rest > half || (rest == half && (kept & 1)));
        case Rounding::NearestAway: return kept + (rest >= half);
        case Rounding::Floor: return kept + (negative ? 1 : 0);
        case Rounding::Ceil: return kept + (negative ? 0 : 1);
        case Rounding::Odd: return kept | 1;
        case Rounding::Truncate: return kept;
    }
    return kept;
}

inline uint16_t half_bits(float value, Rounding rounding = Rounding::NearestEven) {
    const uint32_t bits = bits_of(value);
    const bool negative = bits >> 31;
    const uint16_t sign = uint16_t(negative << 15);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return sign | 0x7E00;
    if (magnitude == 0x7F800000) return sign | 0x7C00;
    const int exponent = int(magnitude >> 23) - 127;
    if (magnitude < 0x00800000) return sign;  // a float subnormal is far below half's range
    const uint64_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
    uint64_t result;
    if (exponent < -14) result = round_bits(mantissa, 13 + (-14 - exponent), negative, rounding);
    else result = (uint64_t(exponent + 14) << 10) + round_bits(mantissa, 13, negative, rounding);
    if (result >= 0x7C00) result = rounding == Rounding::Truncate ? 0x7BFF : 0x7C00;
    return sign | uint16_t(result);
}

inline float half_value(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 0x1F, mantissa = bits & 0x3FF;
    if (exponent == 0x1F) return float_of(sign | 0x7F800000 | (mantissa << 13));
    if (exponent != 0) return float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
    const float magnitude = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -magnitude : magnitude;
}

inline uint16_t bfloat16_bits(float value, Rounding rounding = Rounding::NearestEven) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return uint16_t((bits >> 16) | 0x40);
    const bool negative = bits >> 31;
    return uint16_t((negative << 15) | uint16_t(round_bits(bits & 0x7FFFFFFF, 16, negative, rounding)));
}

}  // namespace sim

struct half {
    uint16_t bits;
    half() = default;
    half(float value) : bits(sim::half_bits(value)) {}
    half(double value) : half(float(value)) {}
    half(int value) : half(float(value)) {}
    half(unsigned value) : half(float(value)) {}
    half(long value) : half(float(value)) {}
    operator float() const { return sim::half_value(bits); }
    half& operator+=(half other) { return *this = half(float(*this) + float(other)); }
    half& operator-=(half other) { return *this = half(float(*this) - float(other)); }
    half& operator*=(half other) { return *this = half(float(*this) * float(other)); }
    half& operator/=(half other) { return *this = half(float(*this) / float(other)); }
};

struct bfloat16_t {
    uint16_t bits;
    bfloat16_t() = default;
    bfloat16_t(float value) : bits(sim::bfloat16_bits(value)) {}
    bfloat16_t(double value) : bfloat16_t(float(value)) {}
    bfloat16_t(int value) : bfloat16_t(float(value)) {}
    operator float() const { return sim::float_of(uint32_t(bits) << 16); }
};

namespace AscendC {

inline float ToFloat(const bfloat16_t& value) { return float(value); }
inline bfloat16_t ToBfloat16(const float& value) { return bfloat16_t(value); }

}  // namespace AscendC
