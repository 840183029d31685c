// Element-wise arithmetic: two tensors, a tensor and a scalar, one tensor. Each call has the vendor's three forms: a mask of
// bits, a mask of leading lanes, and a count of elements.
#pragma once

#include "ascendc/vector_engine.h"

namespace sim {

// Integers wrap as on the chip; half is computed in float and rounded.
template <typename T>
T add(T a, T b) {
    if constexpr (std::is_integral_v<T>) return T(std::make_unsigned_t<T>(a) + std::make_unsigned_t<T>(b));
    else return T(float(a) + float(b));
}
template <typename T>
T subtract(T a, T b) {
    if constexpr (std::is_integral_v<T>) return T(std::make_unsigned_t<T>(a) - std::make_unsigned_t<T>(b));
    else return T(float(a) - float(b));
}
template <typename T>
T multiply(T a, T b) {
    if constexpr (std::is_integral_v<T>) return T(uint64_t(a) * uint64_t(b));
    else return T(float(a) * float(b));
}
template <typename T>
T relu(T a) { return a > T(0) ? a : T(0); }

// Rsqrt and Reciprocal are table look-ups on the chip, documented as worse than 1e-4 (float) and 1e-3 (half). Keeping this
// many bits of the mantissa makes a kernel that relies on more fail its tolerance here, and not only on the device.
constexpr int kApproximateFloatBits = 12, kApproximateHalfBits = 9;

inline float coarse(float value, int bits) {
    if (!std::isfinite(value)) return value;
    return float_of(bits_of(value) & ~((1u << (23 - bits)) - 1));
}
template <typename T>
T approximate(float value) {
    return T(coarse(value, std::is_same_v<T, float> ? kApproximateFloatBits : kApproximateHalfBits));
}

}  // namespace sim

namespace AscendC {

#define SIM_BINARY(Name, per_repeat_cycles, expression, ...)                                                                    \
    template <typename T, bool isSetMask = true>                                                                                \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask[],               \
              const uint8_t repeatTimes, const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {                     \
        detail::Name##_run(dst, src0, src1, sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), p, site);              \
    }                                                                                                                           \
    template <typename T, bool isSetMask = true>                                                                                \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask,                 \
              const uint8_t repeatTimes, const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {                     \
        detail::Name##_run(dst, src0, src1, sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), p, site);              \
    }                                                                                                                           \
    template <typename T>                                                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, const int32_t& calCount,       \
              sim::Site site = sim::Site::here()) {                                                                             \
        detail::Name##_run(dst, src0, src1, sim::count_of(sim::lanes_of<T>, uint64_t(calCount)), BinaryRepeatParams(), site);   \
    }

#define SIM_BINARY_RUN(Name, cycles, expression, ...)                                                                           \
    template <typename T>                                                                                                       \
    void Name##_run(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,                          \
                    const sim::Iteration& iteration, const BinaryRepeatParams& p, sim::Site site) {                             \
        static_assert(sim::one_of<T, __VA_ARGS__>, #Name " does not take this type");                                           \
        sim::Instruction instruction(#Name, sim::Pipe::V, site);                                                                \
        sim::elementwise(instruction, iteration, sim::lanes_of<T> / double(cycles), [](T a, T b) -> T { return expression; },   \
                         sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src0, p.src0BlkStride, p.src0RepStride), \
                         sim::operand(src1, p.src1BlkStride, p.src1RepStride));                                                 \
    }

// Calls that also read their destination.
#define SIM_ACCUMULATE_RUN(Name, cycles, expression, ...)                                                                       \
    template <typename T>                                                                                                       \
    void Name##_run(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,                          \
                    const sim::Iteration& iteration, const BinaryRepeatParams& p, sim::Site site) {                             \
        static_assert(sim::one_of<T, __VA_ARGS__>, #Name " does not take this type");                                           \
        sim::Instruction instruction(#Name, sim::Pipe::V, site);                                                                \
        const auto to = sim::operand(dst, p.dstBlkStride, p.dstRepStride);                                                      \
        sim::elementwise(instruction, iteration, sim::lanes_of<T> / double(cycles), [](T d, T a, T b) -> T { return expression; }, \
                         to, to, sim::operand(src0, p.src0BlkStride, p.src0RepStride),                                          \
                         sim::operand(src1, p.src1BlkStride, p.src1RepStride));                                                 \
    }

// Name, cycles of a repeat, result, types.
#define SIM_BINARIES(X)                                                                   \
    X(Add, 1, sim::add(a, b), half, float, int16_t, int32_t)                              \
    X(Sub, 1, sim::subtract(a, b), half, float, int16_t, int32_t)                         \
    X(Mul, 1, sim::multiply(a, b), half, float, int16_t, int32_t)                         \
    X(Div, sim::lanes_of<T> / sim::kSlowElements, T(float(a) / float(b)), half, float)    \
    X(Max, 1, a > b ? a : b, half, float, int16_t, int32_t)                               \
    X(Min, 1, a < b ? a : b, half, float, int16_t, int32_t)                               \
    X(And, 1, T(a & b), int16_t, uint16_t)                                                \
    X(Or, 1, T(a | b), int16_t, uint16_t)                                                 \
    X(AddRelu, 1, sim::relu(sim::add(a, b)), half, float, int16_t)                        \
    X(SubRelu, 1, sim::relu(sim::subtract(a, b)), half, float, int16_t)

#define SIM_ACCUMULATES(X)                                                                \
    X(FusedMulAdd, 1, T(std::fma(float(a), float(d), float(b))), half, float)             \
    X(FusedMulAddRelu, 1, sim::relu(T(std::fma(float(a), float(d), float(b)))), half, float)

namespace detail {
SIM_BINARIES(SIM_BINARY_RUN)
SIM_ACCUMULATES(SIM_ACCUMULATE_RUN)
}  // namespace detail
SIM_BINARIES(SIM_BINARY)
SIM_ACCUMULATES(SIM_BINARY)

#define SIM_SCALAR_RUN(Name, expression, ...)                                                                                   \
    template <typename T>                                                                                                       \
    void Name##_run(const LocalTensor<T>& dst, const LocalTensor<T>& src, T b, const sim::Iteration& iteration,                 \
                    const UnaryRepeatParams& p, sim::Site site) {                                                               \
        static_assert(sim::one_of<T, __VA_ARGS__>, #Name " does not take this type");                                           \
        sim::Instruction instruction(#Name, sim::Pipe::V, site);                                                                \
        sim::elementwise(instruction, iteration, sim::lanes_of<T>, [b](T a) -> T { return expression; },                        \
                         sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src, p.srcBlkStride, p.srcRepStride)); \
    }

#define SIM_SCALAR(Name, expression, ...)                                                                                       \
    template <typename T, bool isSetMask = true>                                                                                \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, uint64_t mask[],                      \
              const uint8_t repeatTimes, const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {                      \
        detail::Name##_run(dst, src, scalarValue, sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), p, site);        \
    }                                                                                                                           \
    template <typename T, bool isSetMask = true>                                                                                \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, uint64_t mask,                        \
              const uint8_t repeatTimes, const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {                      \
        detail::Name##_run(dst, src, scalarValue, sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), p, site);        \
    }                                                                                                                           \
    template <typename T, bool isSetMask = true>                                                                                \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, const int32_t& calCount,              \
              sim::Site site = sim::Site::here()) {                                                                             \
        const sim::Iteration iteration = isSetMask ? sim::count_of(sim::lanes_of<T>, uint64_t(calCount))                        \
                                                   : sim::registers_of(sim::lanes_of<T>, 1);                                    \
        detail::Name##_run(dst, src, scalarValue, iteration, UnaryRepeatParams(), site);                                        \
    }

#define SIM_SCALARS(X)                                                                             \
    X(Adds, sim::add(a, b), half, float, int16_t, int32_t)                                         \
    X(Muls, sim::multiply(a, b), half, float, int16_t, int32_t)                                    \
    X(Maxs, a > b ? a : b, half, float, int16_t, int32_t)                                          \
    X(Mins, a < b ? a : b, half, float, int16_t, int32_t)                                          \
    X(LeakyRelu, a >= T(0) ? a : sim::multiply(a, b), half, float)                                 \
    X(ShiftLeft, T(std::make_unsigned_t<T>(a) << b), int16_t, uint16_t, int32_t, uint32_t)         \
    X(ShiftRight, T(a >> b), int16_t, uint16_t, int32_t, uint32_t)

namespace detail {
SIM_SCALARS(SIM_SCALAR_RUN)
}  // namespace detail
SIM_SCALARS(SIM_SCALAR)

#define SIM_UNARY_RUN(Name, cycles, expression, ...)                                                                            \
    template <typename T>                                                                                                       \
    void Name##_run(const LocalTensor<T>& dst, const LocalTensor<T>& src, const sim::Iteration& iteration,                      \
                    const UnaryRepeatParams& p, sim::Site site) {                                                               \
        static_assert(sim::one_of<T, __VA_ARGS__>, #Name " does not take this type");                                           \
        sim::Instruction instruction(#Name, sim::Pipe::V, site);                                                                \
        sim::elementwise(instruction, iteration, sim::lanes_of<T> / double(cycles), [](T a) -> T { return expression; },        \
                         sim::operand(dst, p.dstBlkStride, p.dstRepStride), sim::operand(src, p.srcBlkStride, p.srcRepStride)); \
    }

#define SIM_UNARY(Name, cycles, expression, ...)                                                                                \
    template <typename T, bool isSetMask = true>                                                                                \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask[], const uint8_t repeatTimes,                 \
              const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {                                                 \
        detail::Name##_run(dst, src, sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), p, site);                     \
    }                                                                                                                           \
    template <typename T, bool isSetMask = true>                                                                                \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask, const uint8_t repeatTimes,                   \
              const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {                                                 \
        detail::Name##_run(dst, src, sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), p, site);                     \
    }                                                                                                                           \
    template <typename T>                                                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& calCount,                                    \
              sim::Site site = sim::Site::here()) {                                                                             \
        detail::Name##_run(dst, src, sim::count_of(sim::lanes_of<T>, uint64_t(calCount)), UnaryRepeatParams(), site);           \
    }

#define SIM_UNARIES(X)                                                                                  \
    X(Exp, sim::lanes_of<T> / sim::kSlowElements, T(std::exp(float(a))), half, float)                   \
    X(Ln, sim::lanes_of<T> / sim::kSlowElements, T(std::log(float(a))), half, float)                    \
    X(Sqrt, sim::lanes_of<T> / sim::kSlowElements, T(std::sqrt(float(a))), half, float)                 \
    X(Rsqrt, 1, sim::approximate<T>(1.0f / std::sqrt(float(a))), half, float)                           \
    X(Reciprocal, 1, sim::approximate<T>(1.0f / float(a)), half, float)                                 \
    X(Abs, 1, T(std::fabs(float(a))), half, float)                                                      \
    X(Relu, 1, sim::relu(a), half, float, int32_t)                                                      \
    X(Not, 1, T(~a), int16_t, uint16_t)

namespace detail {
SIM_UNARIES(SIM_UNARY_RUN)
}  // namespace detail
SIM_UNARIES(SIM_UNARY)

#undef SIM_BINARY
#undef SIM_BINARY_RUN
#undef SIM_ACCUMULATE_RUN
#undef SIM_BINARIES
#undef SIM_ACCUMULATES
#undef SIM_SCALAR_RUN
#undef SIM_SCALAR
#undef SIM_SCALARS
#undef SIM_UNARY_RUN
#undef SIM_UNARY
#undef SIM_UNARIES

}  // namespace AscendC
