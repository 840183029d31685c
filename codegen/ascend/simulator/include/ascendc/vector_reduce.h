// Reductions: of a repeat, of its blocks, of pairs, of a whole tensor.
#pragma once

#include "ascendc/vector_select.h"

namespace sim {

enum class Reduction { Sum, Max, Min };

// Neighbours first, as the chip adds; lanes that are off count as 0.
template <typename T>
T tree_sum(T* values, uint32_t count) {
    for (uint32_t width = count; width > 1; width = (width + 1) / 2) {
        for (uint32_t i = 0; i < width / 2; ++i) values[i] = add(values[2 * i], values[2 * i + 1]);
        if (width % 2) values[width / 2] = values[width - 1];
    }
    return values[0];
}

template <typename T>
struct Extreme {
    T value{};
    uint32_t index = 0;
    bool any = false;
    void offer(T candidate, uint32_t at, Reduction reduction) {
        if (any && !(reduction == Reduction::Max ? candidate > value : candidate < value)) return;
        value = candidate;
        index = at;
        any = true;
    }
};

// An index is stored in the bits of an element, not as its value.
template <typename T>
void store_index(uint8_t* address, size_t position, uint32_t index) {
    if constexpr (sizeof(T) == 2) store<uint16_t>(address, position, uint16_t(index));
    else store<uint32_t>(address, position, index);
}

constexpr uint32_t kMaxRepeats = 255;

template <typename T>
void check_reduction(Instruction& instruction, const Iteration& iteration, const LocalView& src) {
    static_assert(one_of<T, half, float>, "reductions take half and float");
    instruction.on(CoreKind::AIV);
    check_mask(instruction, iteration, src);
    instruction.cost(iteration.repeats * kReduceCycles, iteration.elements() * sizeof(T));
}

// What one instruction can do; the reductions of a whole tensor are made of several.
inline void check_repeats(const Instruction& instruction, const Iteration& iteration, const LocalView& src) {
    instruction.require(core().counter_mode || iteration.repeats <= kMaxRepeats, Fault::Unsupported, "more than 255 repeats", &src);
}

template <typename T>
void repeat_sum(const char* name, const LocalView& dst, const Operand<T>& src, uint32_t dst_stride, const Iteration& iteration,
                Site site) {
    Instruction instruction(name, Pipe::V, site);
    check_reduction<T>(instruction, iteration, src.view);
    check_repeats(instruction, iteration, src.view);
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        T values[256] = {};
        gather_repeat(instruction, iteration, src, repeat, values);
        uint8_t* to = instruction.write(dst, uint64_t(repeat) * dst_stride * sizeof(T), sizeof(T), sizeof(T));
        store<T>(to, 0, tree_sum(values, iteration.lanes));
    }
}

template <typename T>
void repeat_extreme(const char* name, const LocalView& dst, const Operand<T>& src, uint32_t dst_stride, const Iteration& iteration,
                    Reduction reduction, AscendC::ReduceOrder order, Site site) {
    using AscendC::ReduceOrder;
    Instruction instruction(name, Pipe::V, site);
    check_reduction<T>(instruction, iteration, src.view);
    check_repeats(instruction, iteration, src.view);
    const bool pair = order == ReduceOrder::ORDER_VALUE_INDEX || order == ReduceOrder::ORDER_INDEX_VALUE;
    const bool only_index = order == ReduceOrder::ORDER_ONLY_INDEX;
    const uint32_t size = pair ? 2 * sizeof(T) : only_index ? 4 : sizeof(T);
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        T values[256];
        gather_repeat(instruction, iteration, src, repeat, values);
        Extreme<T> best;
        for (uint32_t lane = 0; lane < iteration.lanes; ++lane)
            if (iteration.active(repeat, lane)) best.offer(values[lane], lane, reduction);
        uint8_t* to = instruction.write(dst, uint64_t(repeat) * dst_stride * size, size, size);
        if (only_index) store<uint32_t>(to, 0, best.index);
        else if (!pair) store<T>(to, 0, best.value);
        else {
            const bool value_first = order == ReduceOrder::ORDER_VALUE_INDEX;
            store<T>(to, value_first ? 0 : 1, best.value);
            store_index<T>(to, value_first ? 1 : 0, best.index);
        }
        core().reduce_result[0] = 0;
        std::memcpy(&core().reduce_result[0], &best.value, sizeof(T));
        core().reduce_result[1] = best.index;
    }
}

template <typename T>
void block_reduce(const char* name, const LocalView& dst, const Operand<T>& src, uint32_t dst_stride, const Iteration& iteration,
                  Reduction reduction, Site site) {
    Instruction instruction(name, Pipe::V, site);
    check_reduction<T>(instruction, iteration, src.view);
    check_repeats(instruction, iteration, src.view);
    constexpr uint32_t per_block = 32 / sizeof(T);
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        T values[256] = {};
        gather_repeat(instruction, iteration, src, repeat, values);
        uint8_t* to = instruction.write(dst, uint64_t(repeat) * dst_stride * 8 * sizeof(T), 8 * sizeof(T), 8 * sizeof(T));
        for (uint32_t block = 0; block < 8; ++block) {
            Extreme<T> best;
            for (uint32_t lane = block * per_block; lane < (block + 1) * per_block; ++lane)
                if (iteration.active(repeat, lane)) best.offer(values[lane], lane, reduction);
            store<T>(to, block, reduction == Reduction::Sum ? tree_sum(values + block * per_block, per_block) : best.value);
        }
    }
}

template <typename T>
void pair_sum(const LocalView& dst, const Operand<T>& src, uint32_t dst_stride, const Iteration& iteration, Site site) {
    Instruction instruction("PairReduceSum", Pipe::V, site);
    check_reduction<T>(instruction, iteration, src.view);
    check_repeats(instruction, iteration, src.view);
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        T values[256] = {};
        gather_repeat(instruction, iteration, src, repeat, values);
        uint8_t* to = instruction.write(dst, uint64_t(repeat) * dst_stride * 128, 128, 32);
        for (uint32_t i = 0; i < iteration.lanes / 2; ++i) store<T>(to, i, add(values[2 * i], values[2 * i + 1]));
    }
}

// Elements of work space that ReduceMax and ReduceMin take for `repeats` repeats, by the vendor's published rule.
inline uint64_t work_elements(uint64_t repeats, uint32_t per_block, uint32_t per_repeat, bool with_index) {
    const auto aligned = [per_block](uint64_t count) { return (count + per_block - 1) / per_block * per_block; };
    uint64_t outputs = std::max<uint64_t>(repeats, 1) * 2, total = aligned(outputs);
    while (with_index && outputs > 2) {
        outputs = (outputs + per_repeat - 1) / per_repeat * 2;
        total += aligned(outputs);
    }
    return total;
}

template <typename T>
void tensor_extreme(const char* name, const LocalView& dst, const Operand<T>& src, const LocalView& work,
                    const Iteration& iteration, Reduction reduction, bool with_index, Site site) {
    Instruction instruction(name, Pipe::V, site);
    check_reduction<T>(instruction, iteration, src.view);
    if (iteration.repeats == 0) return;
    Extreme<T> best;
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        T values[256];
        gather_repeat(instruction, iteration, src, repeat, values);
        for (uint32_t lane = 0; lane < iteration.lanes; ++lane)
            if (iteration.active(repeat, lane)) best.offer(values[lane], repeat * iteration.lanes + lane, reduction);
    }
    const uint64_t needed = work_elements(iteration.elements() / lanes_of<T>, 32 / sizeof(T), lanes_of<T>, with_index);
    instruction.leave_uninitialised(work, 0, needed * sizeof(T));
    uint8_t* to = instruction.write(dst, 0, (with_index ? 2 : 1) * sizeof(T), sizeof(T));
    store<T>(to, 0, best.value);
    if (with_index) store_index<T>(to, 1, best.index);
}

template <typename T>
void tensor_sum(const LocalView& dst, const Operand<T>& src, const LocalView* work, const Iteration& iteration, Site site) {
    Instruction instruction("ReduceSum", Pipe::V, site);
    check_reduction<T>(instruction, iteration, src.view);
    if (iteration.repeats == 0) return;
    T sum = T(0);
    std::vector<T> partial;
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        T values[256] = {};
        gather_repeat(instruction, iteration, src, repeat, values);
        const T one = tree_sum(values, iteration.lanes);
        if (work) partial.push_back(one);
        else sum = add(sum, one);
    }
    if (work) {
        const uint64_t per_block = 32 / sizeof(T);
        instruction.leave_uninitialised(*work, 0, (partial.size() + per_block - 1) / per_block * 32);
        sum = tree_sum(partial.data(), uint32_t(partial.size()));
    }
    store<T>(instruction.write(dst, 0, sizeof(T), sizeof(T)), 0, sum);
    core().reduce_result[0] = 0;
    std::memcpy(&core().reduce_result[0], &sum, sizeof(T));
}

}  // namespace sim

namespace AscendC {

// In the vendor's signatures a mask of leading lanes is an int32_t and a mask of bits a pointer; both forms are one here.
#define SIM_REDUCE_MASK(Mask) sim::masked<isSetMask>(sim::lanes_of<T>, detail::mask_argument(mask), uint32_t(repeat))
namespace detail {
inline uint64_t mask_argument(int32_t mask) { return uint64_t(mask); }
inline const uint64_t* mask_argument(const uint64_t* mask) { return mask; }
}  // namespace detail

#define SIM_BLOCK_REDUCE(Name, reduction)                                                                                       \
    template <typename T, bool isSetMask = true, typename Mask>                                                                 \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat, const Mask mask,                      \
              const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,                               \
              sim::Site site = sim::Site::here()) {                                                                             \
        sim::block_reduce(#Name, dst.view(), sim::operand(src, srcBlkStride, srcRepStride), dstRepStride, SIM_REDUCE_MASK(Mask), \
                          sim::Reduction::reduction, site);                                                                     \
    }
SIM_BLOCK_REDUCE(BlockReduceSum, Sum)
SIM_BLOCK_REDUCE(BlockReduceMax, Max)
SIM_BLOCK_REDUCE(BlockReduceMin, Min)

template <typename T, bool isSetMask = true, typename Mask>
void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat, const Mask mask,
                   const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,
                   sim::Site site = sim::Site::here()) {
    sim::pair_sum(dst.view(), sim::operand(src, srcBlkStride, srcRepStride), dstRepStride, SIM_REDUCE_MASK(Mask), site);
}
template <typename T, bool isSetMask = true>
void RepeatReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeat, const int32_t elemsInOneRepeat,
                     const int32_t, const int32_t srcBlkStride, const int32_t dstRepStride, const int32_t srcRepStride,
                     sim::Site site = sim::Site::here()) {
    const int32_t mask = elemsInOneRepeat;
    sim::repeat_sum("RepeatReduceSum", dst.view(), sim::operand(src, srcBlkStride, srcRepStride), dstRepStride,
                    SIM_REDUCE_MASK(int32_t), site);
}
template <typename T, bool isSetMask = true, typename Mask>
void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask mask, const int32_t repeat,
                    const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,
                    sim::Site site = sim::Site::here()) {
    sim::repeat_sum("WholeReduceSum", dst.view(), sim::operand(src, srcBlkStride, srcRepStride), dstRepStride,
                    SIM_REDUCE_MASK(Mask), site);
}

#define SIM_EXTREME(Name, Whole, reduction)                                                                                     \
    template <typename T, bool isSetMask = true, typename Mask>                                                                 \
    void Whole(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask mask, const int32_t repeat,                     \
               const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,                              \
               ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX, sim::Site site = sim::Site::here()) {                        \
        sim::repeat_extreme(#Whole, dst.view(), sim::operand(src, srcBlkStride, srcRepStride), dstRepStride,                    \
                            SIM_REDUCE_MASK(Mask), sim::Reduction::reduction, order, site);                                     \
    }                                                                                                                           \
    template <typename T, typename Mask>                                                                                        \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, const Mask mask,                \
              const int32_t repeat, const int32_t srcRepStride, bool calIndex = 0, sim::Site site = sim::Site::here()) {        \
        constexpr bool isSetMask = true;                                                                                        \
        sim::tensor_extreme(#Name, dst.view(), sim::operand(src, 1, srcRepStride), work.view(), SIM_REDUCE_MASK(Mask),          \
                            sim::Reduction::reduction, calIndex, site);                                                         \
    }                                                                                                                           \
    template <typename T>                                                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, const int32_t count,            \
              bool calIndex = 0, sim::Site site = sim::Site::here()) {                                                          \
        sim::tensor_extreme(#Name, dst.view(), sim::operand(src, sim::lanes_of<T>), work.view(),                                \
                            sim::count_of(sim::lanes_of<T>, uint64_t(count)), sim::Reduction::reduction, calIndex, site);       \
    }
SIM_EXTREME(ReduceMax, WholeReduceMax, Max)
SIM_EXTREME(ReduceMin, WholeReduceMin, Min)

template <typename T, typename Mask>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work, const Mask mask,
               const int32_t repeat, const int32_t srcRepStride, sim::Site site = sim::Site::here()) {
    constexpr bool isSetMask = true;
    sim::tensor_sum(dst.view(), sim::operand(src, 1, srcRepStride), &work.view(), SIM_REDUCE_MASK(Mask), site);
}
template <typename T, bool isSetMask = true>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>&, const int32_t count,
               sim::Site site = sim::Site::here()) {
    sim::tensor_sum(dst.view(), sim::operand(src, sim::lanes_of<T>), nullptr, sim::count_of(sim::lanes_of<T>, uint64_t(count)), site);
}

// The last reduction's result, from its register.
template <typename T>
void GetReduceMaxMinCount(T& maxMinValue, T& maxMinIndex) {
    std::memcpy(&maxMinValue, &sim::core().reduce_result[0], sizeof(T));
    std::memcpy(&maxMinIndex, &sim::core().reduce_result[1], sizeof(T));
}
template <typename T>
void GetReduceMaxMinCount(T& maxMinValue) { std::memcpy(&maxMinValue, &sim::core().reduce_result[0], sizeof(T)); }
template <typename T>
T GetAccVal() {
    T value;
    std::memcpy(&value, &sim::core().reduce_result[0], sizeof(T));
    return value;
}

#undef SIM_BLOCK_REDUCE
#undef SIM_EXTREME
#undef SIM_REDUCE_MASK

}  // namespace AscendC
