// How a vector instruction walks its operands: repeats of 256 bytes, in blocks of 32, under a mask of lanes.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>

#include "ascendc/sync.h"

namespace sim {

template <typename T, typename... Allowed>
constexpr bool one_of = (std::is_same_v<T, Allowed> || ...);

template <typename T>
T load(const uint8_t* address, size_t index = 0) {
    T value;
    std::memcpy(&value, address + index * sizeof(T), sizeof(T));
    return value;
}
template <typename T>
void store(uint8_t* address, size_t index, T value) {
    std::memcpy(address + index * sizeof(T), &value, sizeof(T));
}

// The active lanes of every repeat. `tail` other than 0 replaces the mask of the last repeat by its first `tail` lanes.
struct Iteration {
    uint32_t lanes = 0;
    uint32_t repeats = 0;
    uint64_t mask[2] = {0, 0};
    uint32_t tail = 0;
    bool too_wide = false;  // the mask asks for more lanes than a repeat has

    bool active(uint32_t repeat, uint32_t lane) const {
        if (tail != 0 && repeat + 1 == repeats) return lane < tail;
        return mask[lane / 64] >> (lane % 64) & 1;
    }
    // Lanes [first, first + count) of a repeat as bits; count is 4, 8, 16 or 32 and divides first.
    uint32_t bits(uint32_t repeat, uint32_t first, uint32_t count) const {
        const uint32_t all = count == 32 ? ~0u : (1u << count) - 1;
        if (tail != 0 && repeat + 1 == repeats) {
            if (first >= tail) return 0;
            return first + count <= tail ? all : (1u << (tail - first)) - 1;
        }
        return uint32_t(mask[first / 64] >> (first % 64)) & all;
    }
    bool full() const {
        const uint64_t low = lanes >= 64 ? ~0ull : (1ull << lanes) - 1;
        return (mask[0] & low) == low && (lanes <= 64 || ~mask[1] == 0);
    }
    uint64_t elements() const { return repeats == 0 ? 0 : uint64_t(repeats - 1) * lanes + (tail != 0 ? tail : lanes); }
};

inline void low_bits(uint64_t (&mask)[2], uint64_t count) {
    mask[0] = count >= 64 ? ~0ull : (1ull << count) - 1;
    mask[1] = count >= 128 ? ~0ull : count > 64 ? (1ull << (count - 64)) - 1 : 0;
}

inline Iteration count_of(uint32_t lanes, uint64_t count) {
    Iteration result;
    result.lanes = lanes;
    result.repeats = uint32_t((count + lanes - 1) / lanes);
    low_bits(result.mask, lanes);
    result.tail = uint32_t(count % lanes);
    return result;
}

// The mask that SetVectorMask, SetMaskCount and SetMaskNorm left in the core's registers.
inline Iteration registers_of(uint32_t lanes, uint32_t repeats) {
    const Core& unit = core();
    if (unit.counter_mode) return count_of(lanes, unit.mask[0]);
    Iteration result;
    result.lanes = lanes;
    result.repeats = repeats;
    result.mask[0] = unit.mask[0];
    result.mask[1] = lanes > 64 ? unit.mask[1] : 0;
    return result;
}

template <bool from_arguments>
Iteration masked(uint32_t lanes, uint64_t mask, uint32_t repeats) {
    if constexpr (!from_arguments) return registers_of(lanes, repeats);
    if (core().counter_mode) return count_of(lanes, mask);
    Iteration result;
    result.lanes = lanes;
    result.repeats = repeats;
    result.too_wide = mask > lanes;
    low_bits(result.mask, std::min<uint64_t>(mask, lanes));
    return result;
}

template <bool from_arguments>
Iteration masked(uint32_t lanes, const uint64_t* mask, uint32_t repeats) {
    if constexpr (!from_arguments) return registers_of(lanes, repeats);
    Iteration result;
    result.lanes = lanes;
    result.repeats = repeats;
    result.mask[0] = mask[0];
    result.mask[1] = lanes > 64 ? mask[1] : 0;
    return result;
}

inline void check_mask(const Instruction& instruction, const Iteration& iteration, const LocalView& view) {
    instruction.require(!iteration.too_wide, Fault::Unsupported,
                        "the mask has more lanes than the " + std::to_string(iteration.lanes) + " of a repeat", &view);
}

// A vector operand: distance between blocks of a repeat and between repeats, in blocks of 32 bytes.
template <typename T>
struct Operand {
    LocalView view;
    uint32_t block_stride = 1;
    uint32_t repeat_stride = 8;

    static constexpr uint32_t per_block = 32 / sizeof(T);
    bool contiguous(uint32_t lanes) const { return block_stride == 1 && repeat_stride * 32 == lanes * sizeof(T); }
    uint64_t offset(uint32_t repeat, uint32_t block) const {
        return (uint64_t(repeat) * repeat_stride + uint64_t(block) * block_stride) * 32;
    }
};

template <typename T>
Operand<T> operand(const AscendC::LocalTensor<T>& tensor, uint32_t lanes) {
    return {tensor.view(), 1, lanes * uint32_t(sizeof(T)) / 32};
}
template <typename T>
Operand<T> operand(const AscendC::LocalTensor<T>& tensor, uint32_t block_stride, uint32_t repeat_stride) {
    return {tensor.view(), block_stride, repeat_stride};
}

template <typename T>
uint32_t byte_mask(uint32_t lane_bits) {
    if (lane_bits == (Operand<T>::per_block == 32 ? ~0u : (1u << Operand<T>::per_block) - 1)) return ~0u;
    uint32_t result = 0;
    for (uint32_t lane = 0; lane < Operand<T>::per_block; ++lane)
        if (lane_bits >> lane & 1) result |= ((1u << sizeof(T)) - 1) << (lane * sizeof(T));
    return result;
}

// Reads the active lanes of one repeat into `values`.
template <typename T>
void gather_repeat(Instruction& instruction, const Iteration& iteration, const Operand<T>& from, uint32_t repeat, T* values) {
    for (uint32_t block = 0; block * from.per_block < iteration.lanes; ++block) {
        const uint32_t bits = iteration.bits(repeat, block * from.per_block, from.per_block);
        if (bits == 0) continue;
        const uint8_t* address = instruction.read_block(from.view, from.offset(repeat, block), byte_mask<T>(bits));
        for (uint32_t lane = 0; lane < from.per_block; ++lane)
            if (bits >> lane & 1) values[block * from.per_block + lane] = load<T>(address, lane);
    }
}

template <typename T>
void scatter_repeat(Instruction& instruction, const Iteration& iteration, const Operand<T>& to, uint32_t repeat, const T* values) {
    for (uint32_t block = 0; block * to.per_block < iteration.lanes; ++block) {
        const uint32_t bits = iteration.bits(repeat, block * to.per_block, to.per_block);
        if (bits == 0) continue;
        uint8_t* address = instruction.write_block(to.view, to.offset(repeat, block), byte_mask<T>(bits));
        for (uint32_t lane = 0; lane < to.per_block; ++lane)
            if (bits >> lane & 1) store<T>(address, lane, values[block * to.per_block + lane]);
    }
}

// A destination that lies over a source must not reach what a later repeat still reads.
inline bool clobbers(const LocalView& dst, uint32_t dst_step, const LocalView& src, uint32_t src_step, uint32_t repeats) {
    for (uint32_t repeat = 0; repeat + 1 < repeats; ++repeat) {
        const uint64_t begin = dst.address + uint64_t(repeat) * dst_step, end = begin + dst_step;
        const uint64_t later = src.address + uint64_t(repeat + 1) * src_step, last = src.address + uint64_t(repeats) * src_step;
        if (begin < last && later < end) return true;
    }
    return false;
}

// dst[lane] = function(src[lane]...) for every active lane. `per_cycle` is the throughput in elements.
template <typename D, typename... S, typename F>
void elementwise(Instruction& instruction, const Iteration& iteration, double per_cycle, F function, const Operand<D>& dst,
                 const Operand<S>&... src) {
    instruction.on(CoreKind::AIV);
    instruction.in_space(dst.view, {Space::UB}, "dst");
    check_mask(instruction, iteration, dst.view);
    (instruction.in_space(src.view, {Space::UB}, "src"), ...);
    instruction.cost(iteration.repeats * (iteration.lanes / per_cycle), iteration.elements() * sizeof(D));
    if (iteration.repeats == 0) return;
    const uint64_t elements = iteration.elements();
    bool bulk = iteration.full() && dst.contiguous(iteration.lanes) && (src.contiguous(iteration.lanes) && ...);
    if (bulk) {
        [[maybe_unused]] const auto apart = [&](const LocalView& from, uint64_t size) {
            const uint64_t dst_end = dst.view.address + elements * sizeof(D), src_end = from.address + elements * size;
            return dst_end <= from.address || src_end <= dst.view.address || (from.address == dst.view.address && size == sizeof(D));
        };
        [[maybe_unused]] const uint32_t dst_step = iteration.lanes * uint32_t(sizeof(D));
        (instruction.require(apart(src.view, sizeof(S)) ||
                                 !clobbers(dst.view, dst_step, src.view, iteration.lanes * uint32_t(sizeof(S)), iteration.repeats),
                             Fault::Unsupported, "dst overwrites what src still has to give (partial overlap)", &src.view), ...);
        bulk = (apart(src.view, sizeof(S)) && ...);
    }
    if (bulk) {
        const auto from = std::make_tuple(instruction.read(src.view, 0, elements * sizeof(S), 32)...);
        uint8_t* to = instruction.write(dst.view, 0, elements * sizeof(D), 32);
        std::apply([&](const auto*... address) {
            for (uint64_t i = 0; i < elements; ++i) store<D>(to, i, function(load<S>(address, i)...));
        }, from);
        return;
    }
    std::tuple<S[256]...> inputs;
    D results[256];
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        std::apply([&](auto&... values) {
            (gather_repeat(instruction, iteration, src, repeat, values), ...);
            for (uint32_t lane = 0; lane < iteration.lanes; ++lane)
                if (iteration.active(repeat, lane)) results[lane] = function(values[lane]...);
        }, inputs);
        scatter_repeat(instruction, iteration, dst, repeat, results);
    }
}

// Elements of T in a 256-byte repeat.
template <typename T>
constexpr uint32_t lanes_of = 256 / sizeof(T);

}  // namespace sim

namespace AscendC {

template <typename T, MaskMode mode = MaskMode::NORMAL>
void SetVectorMask(const uint64_t maskHigh, const uint64_t maskLow) {
    sim::core().mask[0] = maskLow;
    sim::core().mask[1] = maskHigh;
}
template <typename T, MaskMode mode = MaskMode::NORMAL>
void SetVectorMask(int32_t len) {
    if (mode == MaskMode::COUNTER) SetVectorMask<T, mode>(0, uint64_t(len));
    else sim::low_bits(sim::core().mask, uint64_t(len));
}
inline void ResetMask() { sim::core().mask[0] = sim::core().mask[1] = ~0ull; }
inline void SetMaskCount() { sim::core().counter_mode = true; }
inline void SetMaskNorm() { sim::core().counter_mode = false; }

}  // namespace AscendC
