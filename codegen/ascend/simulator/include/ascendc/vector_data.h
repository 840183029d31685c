// Filling, broadcasting, gathering, transposing: vector instructions that move values.
#pragma once

#include "ascendc/vector_reduce.h"

namespace sim {

template <typename T>
void duplicate(const Operand<T>& dst, T value, const Iteration& iteration, Site site) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Duplicate takes types of 16 and 32 bits");
    Instruction instruction("Duplicate", Pipe::V, site);
    elementwise(instruction, iteration, iteration.lanes, [value]() -> T { return value; }, dst);
}

// The element at a byte offset of `src`, checked like any other read.
template <typename T>
T element_at(Instruction& instruction, const LocalView& src, uint64_t byte_offset) {
    return load<T>(instruction.read(src, byte_offset, sizeof(T), sizeof(T)));
}

template <typename T>
void gather(const Operand<T>& dst, const LocalView& src, const Operand<uint32_t>& offsets, uint32_t base,
            const Iteration& iteration, Site site) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Gather takes types of 16 and 32 bits");
    Instruction instruction("Gather", Pipe::V, site);
    instruction.on(CoreKind::AIV);
    instruction.cost(double(iteration.elements()) / kGatherElements, iteration.elements() * sizeof(T));
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        uint32_t at[256];
        T values[256];
        gather_repeat(instruction, iteration, offsets, repeat, at);
        for (uint32_t lane = 0; lane < iteration.lanes; ++lane)
            if (iteration.active(repeat, lane)) values[lane] = element_at<T>(instruction, src, uint64_t(base) + at[lane]);
        scatter_repeat(instruction, iteration, dst, repeat, values);
    }
}

// The vendor's built-in patterns 1 to 7.
inline bool pattern_bit(uint8_t pattern, uint32_t lane) {
    switch (pattern) {
        case 1: return lane % 2 == 0;
        case 2: return lane % 2 == 1;
        case 7: return true;
        default: return pattern >= 3 && pattern <= 6 && lane % 4 == uint32_t(pattern - 3);
    }
}

// Compacts the elements whose bit is set. `bit(repeat, lane)` gives the bit.
template <typename T, typename Bit>
uint64_t gather_mask(Instruction& instruction, const LocalView& dst, const Operand<T>& src, bool counter, uint32_t count,
                     uint32_t repeats, Bit bit) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "GatherMask takes types of 16 and 32 bits");
    instruction.on(CoreKind::AIV);
    constexpr uint32_t lanes = lanes_of<T>;
    uint64_t kept = 0;
    for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
        // Counter mode: every repeat takes `count` consecutive elements, in blocks of the source's stride.
        const uint32_t size = counter ? count : lanes;
        for (uint32_t lane = 0; lane < size; ++lane) {
            if (!bit(repeat, lane)) continue;
            const uint64_t offset = src.offset(repeat, lane / src.per_block) + lane % src.per_block * sizeof(T);
            const T value = element_at<T>(instruction, src.view, offset);
            store<T>(instruction.write(dst, kept * sizeof(T), sizeof(T), sizeof(T)), 0, value);
            ++kept;
        }
        instruction.cost(double(size) / (lanes / 2), size * sizeof(T));
    }
    core().gather_mask_remaining = kept;
    return kept;
}

// One repeat of TransDataTo5HD: 16 rows of a block become 16 columns. Views are the 16 rows, `advance` bytes on.
template <typename T>
void transpose_blocks(Instruction& instruction, const LocalView* dst, const LocalView* src, uint64_t dst_advance,
                      uint64_t src_advance, bool dst_high, bool src_high) {
    constexpr uint32_t columns = sizeof(T) == 1 ? 16 : 32 / sizeof(T);
    T matrix[16][16];
    for (uint32_t row = 0; row < 16; ++row) {
        const uint8_t* from = instruction.read(src[row], src_advance + (src_high ? 16 : 0), columns * sizeof(T), sizeof(T) == 1 ? 16 : 32);
        for (uint32_t column = 0; column < columns; ++column) matrix[row][column] = load<T>(from, column);
    }
    // 32-bit rows hold 8 columns, so a column of 16 takes two destination blocks.
    const uint32_t parts = sizeof(T) == 4 ? 2 : 1, rows = 16 / parts;
    for (uint32_t column = 0; column < columns; ++column) {
        for (uint32_t part = 0; part < parts; ++part) {
            uint8_t* to = instruction.write(dst[column * parts + part], dst_advance + (dst_high ? 16 : 0), rows * sizeof(T),
                                            sizeof(T) == 1 ? 16 : 32);
            for (uint32_t row = 0; row < rows; ++row) store<T>(to, row, matrix[part * rows + row][column]);
        }
    }
}

template <typename T>
void transpose_rows(const LocalView* dst, const LocalView* src, const AscendC::TransDataTo5HDParams& p, Site site) {
    static_assert(sizeof(T) <= 4, "TransDataTo5HD takes types of 8, 16 and 32 bits");
    Instruction instruction("TransDataTo5HD", Pipe::V, site);
    instruction.on(CoreKind::AIV);
    instruction.cost(2.0 * p.repeatTimes, 512ull * p.repeatTimes);
    for (uint32_t repeat = 0; repeat < p.repeatTimes; ++repeat)
        transpose_blocks<T>(instruction, dst, src, uint64_t(repeat) * p.dstRepStride * 32, uint64_t(repeat) * p.srcRepStride * 32,
                            p.dstHighHalf, p.srcHighHalf);
}

// The view of UB from a host address that GetPhyAddr gave out.
LocalView view_at(uint64_t host_address, Site site);

}  // namespace sim

namespace AscendC {

template <typename T, bool isSetMask = true>
void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, uint64_t mask, const uint8_t repeatTimes,
               const uint16_t dstBlockStride, const uint8_t dstRepeatStride, sim::Site site = sim::Site::here()) {
    sim::duplicate(sim::operand(dst, dstBlockStride, dstRepeatStride), scalarValue,
                   sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), site);
}
template <typename T, bool isSetMask = true>
void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, uint64_t mask[], const uint8_t repeatTimes,
               const uint16_t dstBlockStride, const uint8_t dstRepeatStride, sim::Site site = sim::Site::here()) {
    sim::duplicate(sim::operand(dst, dstBlockStride, dstRepeatStride), scalarValue,
                   sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes), site);
}
template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, const int32_t& calCount, sim::Site site = sim::Site::here()) {
    constexpr uint32_t lanes = sim::lanes_of<T>;
    sim::duplicate(sim::operand(dst, lanes), scalarValue, sim::count_of(lanes, uint64_t(calCount)), site);
}

template <typename T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const uint8_t repeatTimes, const BrcbRepeatParams& p,
          sim::Site site = sim::Site::here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Brcb takes types of 16 and 32 bits");
    sim::Instruction instruction("Brcb", sim::Pipe::V, site);
    instruction.on(sim::CoreKind::AIV);
    instruction.cost(repeatTimes, uint64_t(repeatTimes) * 256);
    const uint32_t block_stride = p.dstBlkStride == 0 ? 1 : p.dstBlkStride;
    for (uint32_t repeat = 0; repeat < repeatTimes; ++repeat) {
        const uint8_t* from = instruction.read(src0.view(), uint64_t(repeat) * 8 * sizeof(T), 8 * sizeof(T), repeat ? 1 : 32);
        for (uint32_t block = 0; block < 8; ++block) {
            uint8_t* to = instruction.write(dst.view(), (uint64_t(repeat) * p.dstRepStride + block * block_stride) * 32, 32, 32);
            for (uint32_t i = 0; i < 32 / sizeof(T); ++i) sim::store<T>(to, i, sim::load<T>(from, block));
        }
    }
}

namespace detail {
template <typename T>
void vector_index(const sim::Operand<T>& dst, T first, const sim::Iteration& iteration, sim::Site site) {
    static_assert(sim::one_of<T, half, float, int16_t, int32_t>, "CreateVecIndex does not take this type");
    sim::Instruction instruction("CreateVecIndex", sim::Pipe::V, site);
    instruction.on(sim::CoreKind::AIV);
    instruction.cost(iteration.repeats, iteration.elements() * sizeof(T));
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        T values[256];
        for (uint32_t lane = 0; lane < iteration.lanes; ++lane)
            values[lane] = sim::add(first, T(int(repeat * iteration.lanes + lane)));
        sim::scatter_repeat(instruction, iteration, dst, repeat, values);
    }
}
}  // namespace detail

template <typename T>
void CreateVecIndex(LocalTensor<T>& dst, const T& firstValue, uint64_t mask, uint8_t repeatTimes, uint16_t dstBlkStride,
                    uint8_t dstRepStride, sim::Site site = sim::Site::here()) {
    detail::vector_index(sim::operand(dst, dstBlkStride, dstRepStride), firstValue,
                         sim::masked<true>(sim::lanes_of<T>, mask, repeatTimes), site);
}
template <typename T>
void CreateVecIndex(LocalTensor<T> dst, const T& firstValue, uint32_t calCount, sim::Site site = sim::Site::here()) {
    constexpr uint32_t lanes = sim::lanes_of<T>;
    detail::vector_index(sim::operand(dst, lanes), firstValue, sim::count_of(lanes, calCount), site);
}
template <typename T>
void ArithProgression(const LocalTensor<T>& dst, const T firstValue, const T diffValue, const int32_t count,
                      sim::Site site = sim::Site::here()) {
    static_assert(sim::one_of<T, half, float, int16_t, int32_t>, "ArithProgression does not take this type");
    sim::Instruction instruction("ArithProgression", sim::Pipe::V, site);
    instruction.on(sim::CoreKind::AIV);
    instruction.cost(2.0 * count / sim::lanes_of<T>, uint64_t(count) * sizeof(T));
    uint8_t* to = instruction.write(dst.view(), 0, uint64_t(count) * sizeof(T), 32);
    for (int32_t i = 0; i < count; ++i) sim::store<T>(to, size_t(i), sim::add(firstValue, sim::multiply(diffValue, T(i))));
}

template <typename T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
            const uint32_t srcBaseAddr, const uint32_t count, sim::Site site = sim::Site::here()) {
    constexpr uint32_t lanes = sim::lanes_of<T>;
    sim::gather(sim::operand(dst, lanes), src.view(), sim::operand(srcOffset, lanes), srcBaseAddr, sim::count_of(lanes, count), site);
}
template <typename T, typename Mask>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
            const uint32_t srcBaseAddr, Mask mask, const uint8_t repeatTimes, const uint16_t dstRepStride,
            sim::Site site = sim::Site::here()) {
    constexpr uint32_t lanes = sim::lanes_of<T>;
    sim::gather(sim::operand(dst, 1, dstRepStride), src.view(), sim::operand(srcOffset, lanes), srcBaseAddr,
                sim::masked<true>(lanes, mask, repeatTimes), site);
}
template <typename T>
void Gatherb(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<uint32_t>& offset,
             const uint8_t repeatTimes, const GatherRepeatParams& p, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Gatherb", sim::Pipe::V, site);
    instruction.on(sim::CoreKind::AIV);
    instruction.cost(repeatTimes * 3.0, uint64_t(repeatTimes) * 256);
    const uint32_t block_stride = p.dstBlkStride == 0 ? 1 : p.dstBlkStride;
    for (uint32_t repeat = 0; repeat < repeatTimes; ++repeat) {
        const uint8_t* offsets = instruction.read(offset.view(), uint64_t(repeat) * 32, 32, 32);
        for (uint32_t block = 0; block < 8; ++block) {
            const uint8_t* from = instruction.read(src0.view(), sim::load<uint32_t>(offsets, block), 32, 32);
            std::memcpy(instruction.write(dst.view(), (uint64_t(repeat) * p.dstRepStride + block * block_stride) * 32, 32, 32), from, 32);
        }
    }
}

template <typename T, typename U, GatherMaskMode mode = defaultGatherMaskMode>
void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<U>& src1Pattern, const bool reduceMode,
                const uint32_t mask, const GatherMaskParams& p, uint64_t& rsvdCnt, sim::Site site = sim::Site::here()) {
    static_assert(sizeof(U) == sizeof(T), "the pattern's type has the width of the data's");
    sim::Instruction instruction("GatherMask", sim::Pipe::V, site);
    rsvdCnt = sim::gather_mask(instruction, dst.view(), sim::operand(src0, p.src0BlockStride, p.src0RepeatStride), reduceMode, mask,
                               p.repeatTimes, [&](uint32_t repeat, uint32_t lane) {
        const uint64_t at = uint64_t(repeat) * p.src1RepeatStride * 32 + lane / 8;
        return *instruction.read(src1Pattern.view(), at, 1) >> (lane % 8) & 1;
    });
}
template <typename T, GatherMaskMode mode = defaultGatherMaskMode>
void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const uint8_t src1Pattern, const bool reduceMode,
                const uint32_t mask, const GatherMaskParams& p, uint64_t& rsvdCnt, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("GatherMask", sim::Pipe::V, site);
    instruction.require(src1Pattern >= 1 && src1Pattern <= 7, sim::Fault::Unsupported, "patterns are 1 to 7", &src0.view());
    rsvdCnt = sim::gather_mask(instruction, dst.view(), sim::operand(src0, p.src0BlockStride, p.src0RepeatStride), reduceMode, mask,
                               p.repeatTimes, [&](uint32_t, uint32_t lane) { return sim::pattern_bit(src1Pattern, lane); });
}
inline int64_t GetGatherMaskRemainCount() { return int64_t(sim::core().gather_mask_remaining); }

template <typename T>
void Transpose(const LocalTensor<T>& dst, const LocalTensor<T>& src, sim::Site site = sim::Site::here()) {
    static_assert(sizeof(T) == 2, "Transpose takes 16 x 16 elements of 16 bits");
    sim::Instruction instruction("Transpose", sim::Pipe::V, site);
    instruction.on(sim::CoreKind::AIV);
    instruction.cost(2, 512);
    const uint8_t* from = instruction.read(src.view(), 0, 512, 32);
    T matrix[256];
    std::memcpy(matrix, from, 512);
    uint8_t* to = instruction.write(dst.view(), 0, 512, 32);
    for (uint32_t row = 0; row < 16; ++row)
        for (uint32_t column = 0; column < 16; ++column) sim::store<T>(to, column * 16 + row, matrix[row * 16 + column]);
}
template <typename T>
void TransDataTo5HD(const LocalTensor<T> (&dst)[NCHW_CONV_ADDR_LIST_SIZE], const LocalTensor<T> (&src)[NCHW_CONV_ADDR_LIST_SIZE],
                    const TransDataTo5HDParams& p, sim::Site site = sim::Site::here()) {
    sim::LocalView to[16], from[16];
    for (int i = 0; i < 16; ++i) {
        to[i] = dst[i].view();
        from[i] = src[i].view();
    }
    sim::transpose_rows<T>(to, from, p, site);
}
template <typename T>
void TransDataTo5HD(uint64_t dst[NCHW_CONV_ADDR_LIST_SIZE], uint64_t src[NCHW_CONV_ADDR_LIST_SIZE], const TransDataTo5HDParams& p,
                    sim::Site site = sim::Site::here()) {
    sim::LocalView to[16], from[16];
    for (int i = 0; i < 16; ++i) {
        to[i] = sim::view_at(dst[i], site);
        from[i] = sim::view_at(src[i], site);
    }
    sim::transpose_rows<T>(to, from, p, site);
}

template <typename T, bool isSetMask = true, typename Mask>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const Mask mask, const uint8_t repeatTimes,
          const CopyRepeatParams& p, sim::Site site = sim::Site::here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Copy takes types of 16 and 32 bits");
    sim::Instruction instruction("Copy", sim::Pipe::V, site);
    const sim::Iteration iteration = sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes);
    sim::elementwise(instruction, iteration, iteration.lanes, [](T a) -> T { return a; },
                     sim::operand(dst, p.dstStride, p.dstRepeatSize), sim::operand(src, p.srcStride, p.srcRepeatSize));
}

}  // namespace AscendC
