// Cast with the chip's rounding modes, and the calls whose operands differ in type.
#pragma once

#include "ascendc/vector_arithmetic.h"

namespace sim {

inline Rounding rounding_of(AscendC::RoundMode mode) {
    switch (mode) {
        case AscendC::RoundMode::CAST_FLOOR: return Rounding::Floor;
        case AscendC::RoundMode::CAST_CEIL: return Rounding::Ceil;
        case AscendC::RoundMode::CAST_ROUND: return Rounding::NearestAway;
        case AscendC::RoundMode::CAST_TRUNC: return Rounding::Truncate;
        case AscendC::RoundMode::CAST_ODD: return Rounding::Odd;
        default: return Rounding::NearestEven;
    }
}

inline double round_integral(double value, AscendC::RoundMode mode) {
    switch (mode) {
        case AscendC::RoundMode::CAST_FLOOR: return std::floor(value);
        case AscendC::RoundMode::CAST_CEIL: return std::ceil(value);
        case AscendC::RoundMode::CAST_ROUND: return std::round(value);
        case AscendC::RoundMode::CAST_TRUNC: return std::trunc(value);
        default: return std::nearbyint(value);
    }
}

template <typename D>
D saturate(double value) {
    if (std::isnan(value)) return D(0);
    if (value <= double(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
    if (value >= double(std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
    return D(value);
}

inline float round_float(double value, AscendC::RoundMode mode) {
    const float nearest = float(value);
    if (double(nearest) == value) return nearest;
    const float below = double(nearest) < value ? nearest : std::nextafter(nearest, -INFINITY);
    const float above = std::nextafter(below, INFINITY);
    switch (mode) {
        case AscendC::RoundMode::CAST_FLOOR: return below;
        case AscendC::RoundMode::CAST_CEIL: return above;
        case AscendC::RoundMode::CAST_TRUNC: return value > 0 ? below : above;
        default: return nearest;
    }
}

template <typename D, typename S>
D convert(S value, AscendC::RoundMode mode) {
    if constexpr (std::is_same_v<D, half>) {
        half result;
        result.bits = half_bits(float(value), rounding_of(mode));
        return result;
    } else if constexpr (std::is_same_v<D, bfloat16_t>) {
        bfloat16_t result;
        result.bits = bfloat16_bits(float(value), rounding_of(mode));
        return result;
    } else if constexpr (std::is_same_v<D, float>) {
        if constexpr (std::is_same_v<S, float>) return float(round_integral(value, mode));
        else if constexpr (std::is_integral_v<S>) return round_float(double(value), mode);
        else return float(value);
    } else if constexpr (std::is_integral_v<S>) {
        return D(std::clamp<int64_t>(value, std::numeric_limits<D>::min(), std::numeric_limits<D>::max()));
    } else {
        return saturate<D>(round_integral(double(float(value)), mode));
    }
}

// Which conversions the vector unit has, and whether CAST_NONE and the rounding modes go with them.
struct CastSupport {
    bool none, rounding;
};
template <typename D, typename S>
constexpr CastSupport cast_support() {
    if (std::is_same_v<S, float>) {
        if (std::is_same_v<D, half>) return {true, true};
        if (one_of<D, float, bfloat16_t, int16_t, int32_t, int64_t>) return {false, true};
    }
    if (std::is_same_v<S, half>) {
        if (std::is_same_v<D, float>) return {true, false};
        if (one_of<D, int32_t, int16_t>) return {false, true};
        if (one_of<D, int8_t, uint8_t>) return {true, true};
    }
    if (std::is_same_v<S, bfloat16_t>) {
        if (std::is_same_v<D, float>) return {true, false};
        if (std::is_same_v<D, int32_t>) return {false, true};
    }
    if (std::is_same_v<S, int16_t>) {
        if (std::is_same_v<D, half>) return {true, true};
        if (std::is_same_v<D, float>) return {true, false};
    }
    if (std::is_same_v<S, int32_t>) {
        if (std::is_same_v<D, float>) return {true, true};
        if (one_of<D, int16_t, int64_t, half>) return {true, false};
    }
    if (std::is_same_v<S, int64_t>) {
        if (std::is_same_v<D, float>) return {false, true};
        if (std::is_same_v<D, int32_t>) return {true, false};
    }
    if (one_of<S, int8_t, uint8_t> && std::is_same_v<D, half>) return {true, false};
    return {false, false};
}

template <typename D, typename S>
constexpr uint32_t cast_lanes = 256 / (sizeof(D) > sizeof(S) ? sizeof(D) : sizeof(S));

template <typename D, typename S>
void cast(const Operand<D>& dst, const Operand<S>& src, AscendC::RoundMode mode, const Iteration& iteration, Site site) {
    constexpr CastSupport support = cast_support<D, S>();
    static_assert(support.none || support.rounding, "Cast does not convert between these types");
    Instruction instruction("Cast", Pipe::V, site);
    const bool none = mode == AscendC::RoundMode::CAST_NONE;
    instruction.require(none ? support.none : support.rounding, Fault::Unsupported,
                        none ? "these types need a rounding mode" : "these types take CAST_NONE only", &src.view);
    const double scale = std::is_same_v<S, int32_t> && std::is_same_v<D, half> ? core().deq_scale : 1.0;
    elementwise(instruction, iteration, iteration.lanes, [mode, scale](S value) -> D {
        if constexpr (std::is_same_v<S, int32_t> && std::is_same_v<D, half>) return half(float(value * scale));
        else return convert<D>(value, mode);
    }, dst, src);
}

}  // namespace sim

namespace AscendC {

template <typename T1, typename T2, bool isSetMask = true>
void Cast(const LocalTensor<T1>& dst, const LocalTensor<T2>& src, const RoundMode& round_mode, const uint64_t mask[],
          const uint8_t repeatTimes, const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    sim::cast(sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src, p.srcBlkStride, p.srcRepStride), round_mode,
              sim::masked<isSetMask>(sim::cast_lanes<T1, T2>, mask, repeatTimes), site);
}
template <typename T1, typename T2, bool isSetMask = true>
void Cast(const LocalTensor<T1>& dst, const LocalTensor<T2>& src, const RoundMode& round_mode, const uint64_t mask,
          const uint8_t repeatTimes, const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    sim::cast(sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src, p.srcBlkStride, p.srcRepStride), round_mode,
              sim::masked<isSetMask>(sim::cast_lanes<T1, T2>, mask, repeatTimes), site);
}
template <typename T1, typename T2>
void Cast(const LocalTensor<T1>& dst, const LocalTensor<T2>& src, const RoundMode& round_mode, const uint32_t calCount,
          sim::Site site = sim::Site::here()) {
    constexpr uint32_t lanes = sim::cast_lanes<T1, T2>;
    sim::cast(sim::operand(dst, lanes), sim::operand(src, lanes), round_mode, sim::count_of(lanes, calCount), site);
}

inline void SetDeqScale(half scale) { sim::core().deq_scale = float(scale); }
inline void SetDeqScale(float scale, int16_t, bool) { sim::core().deq_scale = scale; }

// dst += src * scalar, dst += src0 * src1 (dst may be float while the sources are half), and two results narrowed at once.
#define SIM_MIXED(Name, Condition, accumulates, expression)                                                                     \
    namespace detail {                                                                                                          \
    template <typename T, typename U>                                                                                           \
    void Name##_run(const sim::Operand<T>& dst, const sim::Operand<U>& src0, const sim::Operand<U>& src1,                       \
                    const sim::Iteration& iteration, sim::Site site) {                                                          \
        static_assert(Condition, #Name " does not take these types");                                                           \
        sim::Instruction instruction(#Name, sim::Pipe::V, site);                                                                \
        if constexpr (accumulates)                                                                                              \
            sim::elementwise(instruction, iteration, iteration.lanes / 2.0,                                                     \
                             [](T d, U a, U b) -> T { (void)d; return expression; }, dst, dst, src0, src1);                     \
        else                                                                                                                    \
            sim::elementwise(instruction, iteration, iteration.lanes,                                                           \
                             [](U a, U b) -> T { T d{}; (void)d; return expression; }, dst, src0, src1);                        \
    }                                                                                                                           \
    }                                                                                                                           \
    template <typename T, typename U, bool isSetMask = true>                                                                    \
    void Name(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, const uint64_t mask[],         \
              const uint8_t repeatTimes, const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {                     \
        detail::Name##_run(sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src0, p.src0BlkStride, p.src0RepStride), \
                           sim::operand(src1, p.src1BlkStride, p.src1RepStride),                                                \
                           sim::masked<isSetMask>(sim::cast_lanes<T, U>, mask, repeatTimes), site);                             \
    }                                                                                                                           \
    template <typename T, typename U, bool isSetMask = true>                                                                    \
    void Name(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, uint64_t mask,                 \
              const uint8_t repeatTimes, const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {                     \
        detail::Name##_run(sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src0, p.src0BlkStride, p.src0RepStride), \
                           sim::operand(src1, p.src1BlkStride, p.src1RepStride),                                                \
                           sim::masked<isSetMask>(sim::cast_lanes<T, U>, mask, repeatTimes), site);                             \
    }                                                                                                                           \
    template <typename T, typename U>                                                                                           \
    void Name(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, const int32_t& calCount,       \
              sim::Site site = sim::Site::here()) {                                                                             \
        constexpr uint32_t lanes = sim::cast_lanes<T, U>;                                                                       \
        detail::Name##_run(sim::operand(dst, lanes), sim::operand(src0, lanes), sim::operand(src1, lanes),                      \
                           sim::count_of(lanes, uint64_t(calCount)), site);                                                     \
    }

SIM_MIXED(MulAddDst, (sim::one_of<T, half, float> && (std::is_same_v<U, half> || std::is_same_v<T, U>)), true,
          T(std::fma(float(a), float(b), float(d))))
SIM_MIXED(MulCast, (sim::one_of<T, int8_t, uint8_t> && std::is_same_v<U, half>), false,
          sim::convert<T>(sim::multiply(a, b), RoundMode::CAST_NONE))
SIM_MIXED(AddReluCast, ((std::is_same_v<T, half> && std::is_same_v<U, float>) ||
                        (std::is_same_v<T, int8_t> && sim::one_of<U, half, int16_t>)), false,
          sim::convert<T>(sim::relu(sim::add(a, b)), RoundMode::CAST_NONE))
SIM_MIXED(SubReluCast, ((std::is_same_v<T, half> && std::is_same_v<U, float>) ||
                        (std::is_same_v<T, int8_t> && sim::one_of<U, half, int16_t>)), false,
          sim::convert<T>(sim::relu(sim::subtract(a, b)), RoundMode::CAST_NONE))
#undef SIM_MIXED

namespace detail {
template <typename T, typename U>
void axpy(const sim::Operand<T>& dst, const sim::Operand<U>& src, U scalar, const sim::Iteration& iteration, sim::Site site) {
    static_assert(sim::one_of<T, half, float> && (std::is_same_v<U, half> || std::is_same_v<T, U>), "Axpy does not take these types");
    sim::Instruction instruction("Axpy", sim::Pipe::V, site);
    sim::elementwise(instruction, iteration, iteration.lanes,
                     [scalar](T d, U a) -> T { return T(std::fma(float(a), float(scalar), float(d))); }, dst, dst, src);
}
}  // namespace detail

template <typename T, typename U, bool isSetMask = true>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalarValue, uint64_t mask, const uint8_t repeatTimes,
          const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    detail::axpy(sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src, p.srcBlkStride, p.srcRepStride), scalarValue,
                 sim::masked<isSetMask>(sim::cast_lanes<T, U>, mask, repeatTimes), site);
}
template <typename T, typename U, bool isSetMask = true>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalarValue, uint64_t mask[], const uint8_t repeatTimes,
          const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    detail::axpy(sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src, p.srcBlkStride, p.srcRepStride), scalarValue,
                 sim::masked<isSetMask>(sim::cast_lanes<T, U>, mask, repeatTimes), site);
}
template <typename T, typename U>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalarValue, const int32_t& calCount,
          sim::Site site = sim::Site::here()) {
    constexpr uint32_t lanes = sim::cast_lanes<T, U>;
    detail::axpy(sim::operand(dst, lanes), sim::operand(src, lanes), scalarValue, sim::count_of(lanes, uint64_t(calCount)), site);
}

// The scalar unit's own instructions.
template <int countValue>
int64_t ScalarGetCountOfValue(uint64_t valueIn) {
    static_assert(countValue == 0 || countValue == 1, "counts zeros or ones");
    return __builtin_popcountll(countValue == 1 ? valueIn : ~valueIn);
}
inline int64_t ScalarCountLeadingZero(uint64_t valueIn) { return valueIn == 0 ? 64 : __builtin_clzll(valueIn); }
template <int countValue>
int64_t ScalarGetSFFValue(uint64_t valueIn) {
    const uint64_t bits = countValue == 1 ? valueIn : ~valueIn;
    return bits == 0 ? -1 : __builtin_ctzll(bits);
}
template <typename srcT, typename dstT, RoundMode roundMode>
dstT ScalarCast(srcT valueIn) {
    static_assert(std::is_same_v<srcT, float> && sim::one_of<dstT, half, int32_t>, "ScalarCast takes float to half or int32_t");
    return sim::convert<dstT>(valueIn, roundMode);
}

}  // namespace AscendC
