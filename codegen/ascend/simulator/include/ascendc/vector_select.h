// Comparisons, whose results are bits, and selection by bits.
#pragma once

#include "ascendc/vector_convert.h"

namespace sim {

template <typename T>
bool compare(T a, T b, AscendC::CMPMODE mode) {
    switch (mode) {
        case AscendC::CMPMODE::LT: return a < b;
        case AscendC::CMPMODE::GT: return a > b;
        case AscendC::CMPMODE::EQ: return a == b;
        case AscendC::CMPMODE::LE: return a <= b;
        case AscendC::CMPMODE::GE: return a >= b;
        case AscendC::CMPMODE::NE: return a != b;
    }
    return false;
}

// One bit per lane, repeat after repeat without gaps. `second` is a tensor operand or a scalar.
template <typename T, typename Second>
void compare_bits(Instruction& instruction, const LocalView* dst, const Operand<T>& src0, const Second& second,
                  AscendC::CMPMODE mode, const Iteration& iteration) {
    static_assert(one_of<T, half, float, int32_t>, "Compare does not take this type");
    constexpr bool scalar = std::is_same_v<Second, T>;
    instruction.on(CoreKind::AIV);
    check_mask(instruction, iteration, src0.view);
    instruction.require(!std::is_same_v<T, int32_t> || mode == AscendC::CMPMODE::EQ, Fault::Unsupported,
                        "int32_t is compared for EQ only", &src0.view);
    instruction.cost(iteration.repeats, iteration.elements() * sizeof(T));
    const uint32_t bytes = iteration.lanes / 8;
    T a[128], b[128];
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        gather_repeat(instruction, iteration, src0, repeat, a);
        if constexpr (!scalar) gather_repeat(instruction, iteration, second, repeat, b);
        uint8_t bits[16] = {};
        for (uint32_t lane = 0; lane < iteration.lanes; ++lane) {
            if (!iteration.active(repeat, lane)) continue;
            bool result;
            if constexpr (scalar) result = compare(a[lane], second, mode);
            else result = compare(a[lane], b[lane], mode);
            if (result) bits[lane / 8] |= uint8_t(1u << (lane % 8));
        }
        if (dst) std::memcpy(instruction.write(*dst, uint64_t(repeat) * bytes, bytes, repeat == 0 ? 32 : 1), bits, bytes);
        else std::memcpy(core().compare_mask, bits, bytes);
    }
}

template <typename T>
Iteration whole_repeats(const Instruction& instruction, uint32_t count, const LocalView& view) {
    instruction.require(count % lanes_of<T> == 0, Fault::Misaligned,
                        "comparing " + std::to_string(count) + " elements: a count must fill repeats of 256 bytes; the rest is " +
                            "not compared", &view);
    return count_of(lanes_of<T>, count);
}

// dst = bit ? src0 : other; the bits of `mask` are used up, or the first ones used for every repeat.
template <typename T, typename Other>
void select_bits(Instruction& instruction, const Operand<T>& dst, const uint8_t* mask, bool same_bits, const Operand<T>& src0,
                 const Other& other, const Iteration& iteration) {
    static_assert(one_of<T, half, float>, "Select does not take this type");
    constexpr bool scalar = std::is_same_v<Other, T>;
    instruction.on(CoreKind::AIV);
    check_mask(instruction, iteration, dst.view);
    instruction.cost(iteration.repeats, iteration.elements() * sizeof(T));
    T a[128], b[128], results[128];
    for (uint32_t repeat = 0; repeat < iteration.repeats; ++repeat) {
        gather_repeat(instruction, iteration, src0, repeat, a);
        if constexpr (!scalar) gather_repeat(instruction, iteration, other, repeat, b);
        const uint32_t first = same_bits ? 0 : repeat * iteration.lanes;
        for (uint32_t lane = 0; lane < iteration.lanes; ++lane) {
            if (!iteration.active(repeat, lane)) continue;
            const bool bit = mask[(first + lane) / 8] >> ((first + lane) % 8) & 1;
            if constexpr (scalar) results[lane] = bit ? a[lane] : other;
            else results[lane] = bit ? a[lane] : b[lane];
        }
        scatter_repeat(instruction, iteration, dst, repeat, results);
    }
}

inline const uint8_t* read_bits(Instruction& instruction, const LocalView& view, const Iteration& iteration, bool same_bits) {
    const uint64_t bits = same_bits ? std::min<uint64_t>(iteration.lanes, iteration.elements()) : iteration.elements();
    return instruction.read(view, 0, (bits + 7) / 8, 32);
}

}  // namespace sim

namespace AscendC {

template <typename T, typename U, bool isSetMask = true, typename Mask>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode, Mask mask,
             uint8_t repeatTimes, const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Compare", sim::Pipe::V, site);
    sim::compare_bits(instruction, &dst.view(), sim::operand(src0, p.src0BlkStride, p.src0RepStride),
                      sim::operand(src1, p.src1BlkStride, p.src1RepStride), cmpMode,
                      sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes));
}
template <typename T, typename U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode,
             uint32_t calCount, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Compare", sim::Pipe::V, site);
    constexpr uint32_t lanes = sim::lanes_of<T>;
    sim::compare_bits(instruction, &dst.view(), sim::operand(src0, lanes), sim::operand(src1, lanes), cmpMode,
                      sim::whole_repeats<T>(instruction, calCount, src0.view()));
}
// The result goes to the register that Select reads in mode VSEL_CMPMASK_SPR without a mask tensor.
template <typename T, bool isSetMask = true, typename Mask>
void Compare(const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode, Mask mask, const BinaryRepeatParams& p,
             sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Compare", sim::Pipe::V, site);
    sim::compare_bits(instruction, nullptr, sim::operand(src0, p.src0BlkStride, p.src0RepStride),
                      sim::operand(src1, p.src1BlkStride, p.src1RepStride), cmpMode,
                      sim::masked<isSetMask>(sim::lanes_of<T>, mask, 1));
}

template <typename T, typename U, bool isSetMask = true, typename Mask>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1Scalar, CMPMODE cmpMode, Mask mask,
                   uint8_t repeatTimes, const UnaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("CompareScalar", sim::Pipe::V, site);
    sim::compare_bits(instruction, &dst.view(), sim::operand(src0, p.srcBlkStride, p.srcRepStride), src1Scalar, cmpMode,
                      sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes));
}
template <typename T, typename U>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1Scalar, CMPMODE cmpMode,
                   uint32_t calCount, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("CompareScalar", sim::Pipe::V, site);
    sim::compare_bits(instruction, &dst.view(), sim::operand(src0, sim::lanes_of<T>), src1Scalar, cmpMode,
                      sim::whole_repeats<T>(instruction, calCount, src0.view()));
}

template <typename T>
void GetCmpMask(const LocalTensor<T>& dst, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("GetCmpMask", sim::Pipe::V, site);
    std::memcpy(instruction.write(dst.view(), 0, 16, 32), sim::core().compare_mask, 16);
}
template <typename T>
void SetCmpMask(const LocalTensor<T>& src, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("SetCmpMask", sim::Pipe::V, site);
    std::memcpy(sim::core().compare_mask, instruction.read(src.view(), 0, 16, 32), 16);
}

template <typename T, typename U, bool isSetMask = true, typename Mask>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
            SELMODE selMode, Mask mask, uint8_t repeatTimes, const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Select", sim::Pipe::V, site);
    const sim::Iteration iteration = sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes);
    const bool same = selMode == SELMODE::VSEL_CMPMASK_SPR;
    sim::select_bits(instruction, sim::operand(dst, p.dstBlkStride, p.dstRepStride),
                     sim::read_bits(instruction, selMask.view(), iteration, same), same,
                     sim::operand(src0, p.src0BlkStride, p.src0RepStride), sim::operand(src1, p.src1BlkStride, p.src1RepStride),
                     iteration);
}
template <typename T, typename U, bool isSetMask = true, typename Mask>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, T src1Local, SELMODE selMode,
            Mask mask, uint8_t repeatTimes, const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Select", sim::Pipe::V, site);
    const sim::Iteration iteration = sim::masked<isSetMask>(sim::lanes_of<T>, mask, repeatTimes);
    instruction.require(selMode == SELMODE::VSEL_TENSOR_SCALAR_MODE, sim::Fault::Unsupported, "a scalar needs VSEL_TENSOR_SCALAR_MODE");
    sim::select_bits(instruction, sim::operand(dst, p.dstBlkStride, p.dstRepStride),
                     sim::read_bits(instruction, selMask.view(), iteration, false), false,
                     sim::operand(src0, p.src0BlkStride, p.src0RepStride), src1Local, iteration);
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, const LocalTensor<T>& src1,
            SELMODE selMode, uint32_t calCount, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Select", sim::Pipe::V, site);
    constexpr uint32_t lanes = sim::lanes_of<T>;
    const sim::Iteration iteration = sim::count_of(lanes, calCount);
    const bool same = selMode == SELMODE::VSEL_CMPMASK_SPR;
    sim::select_bits(instruction, sim::operand(dst, lanes), sim::read_bits(instruction, selMask.view(), iteration, same), same,
                     sim::operand(src0, lanes), sim::operand(src1, lanes), iteration);
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0, T src1Local, SELMODE selMode,
            uint32_t calCount, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("Select", sim::Pipe::V, site);
    constexpr uint32_t lanes = sim::lanes_of<T>;
    const sim::Iteration iteration = sim::count_of(lanes, calCount);
    instruction.require(selMode == SELMODE::VSEL_TENSOR_SCALAR_MODE, sim::Fault::Unsupported, "a scalar needs VSEL_TENSOR_SCALAR_MODE");
    sim::select_bits(instruction, sim::operand(dst, lanes), sim::read_bits(instruction, selMask.view(), iteration, false), false,
                     sim::operand(src0, lanes), src1Local, iteration);
}
// By the register that the destination-less Compare or SetCmpMask filled.
template <typename T, SELMODE selMode>
void Select(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint8_t repeatTimes,
            const BinaryRepeatParams& p, sim::Site site = sim::Site::here()) {
    static_assert(selMode == SELMODE::VSEL_CMPMASK_SPR, "only the register mode has no mask tensor");
    sim::Instruction instruction("Select", sim::Pipe::V, site);
    sim::select_bits(instruction, sim::operand(dst, p.dstBlkStride, p.dstRepStride),
                     reinterpret_cast<const uint8_t*>(sim::core().compare_mask), true,
                     sim::operand(src0, p.src0BlkStride, p.src0RepStride), sim::operand(src1, p.src1BlkStride, p.src1RepStride),
                     sim::registers_of(sim::lanes_of<T>, repeatTimes));
}

}  // namespace AscendC
