// Selections with the lowest index among equals: the first maximum of a vector, and the merge of sorted lists.
#pragma once

#include "pangu_vector.h"

namespace pangu {

constexpr float kLowest = -3.4028234663852886e38f;  // below every score that is not infinite
constexpr float kFar = 16777216.0f;                 // above every index: 2^24, up to which float32 counts exactly

// Value and index of the first maximum of `groups` * 64 floats: value -> best[0], index -> best[8]. `index` are the elements'
// indices as floats (below 2^24), `work` is a vector like x, `bits` has 8 * groups bytes. At most 4096 elements.
struct FirstMaximum {
    static constexpr uint32_t kBestFloats = 3 * kLanes;

    static __aicore__ inline void find(const LocalTensor<float>& best, const LocalTensor<float>& x, const LocalTensor<float>& index,
                                       const LocalTensor<float>& work, const LocalTensor<uint8_t>& bits, uint32_t groups) {
        const LocalTensor<float> spread = best[2 * kLanes], level = best[kLanes];
        AscendC::WholeReduceMax(level, x, int32_t(kLanes), int32_t(groups), 1, 1, 8, AscendC::ReduceOrder::ORDER_ONLY_VALUE);
        barrier();
        AscendC::WholeReduceMax(best, level, int32_t(groups), 1, 1, 1, 8, AscendC::ReduceOrder::ORDER_ONLY_VALUE);
        barrier();
        AscendC::Brcb(spread, best, 1, AscendC::BrcbRepeatParams(1, 8));
        barrier();
        // Where x is the maximum its index stays, elsewhere it is put far away; then the smallest is the first.
        AscendC::Compare(bits, x, spread, AscendC::CMPMODE::EQ, uint64_t(kLanes), uint8_t(groups), BinaryRepeatParams(1, 1, 0, 8, 8, 0));
        barrier();
        AscendC::Select(work, bits, index, kFar, AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, uint64_t(kLanes), uint8_t(groups),
                        BinaryRepeatParams(1, 1, 1, 8, 8, 8));
        barrier();
        AscendC::WholeReduceMin(level, work, int32_t(kLanes), int32_t(groups), 1, 1, 8, AscendC::ReduceOrder::ORDER_ONLY_VALUE);
        barrier();
        AscendC::WholeReduceMin(best[kBlockFloats], level, int32_t(groups), 1, 1, 1, 8, AscendC::ReduceOrder::ORDER_ONLY_VALUE);
        barrier();
    }

    // What find() reads must hold something.
    static __aicore__ inline void init(const LocalTensor<float>& best) {
        AscendC::Duplicate(best, 0.0f, int32_t(kBestFloats));
        barrier();
    }
};

// (score, index) pairs, as Sort32 makes them: two floats, the second one the bits of a uint32_t.
constexpr uint32_t kPair = 2;

// Merges `count` (2 to 4) sorted lists of pairs into one; among equals those of the earlier list come first. Lists start
// `stride` pairs apart, the first `length` pairs of each count, the last list has `last` of them.
__aicore__ inline void merge_lists(const LocalTensor<float>& dst, const LocalTensor<float>& src, uint32_t count, uint32_t stride,
                                   uint32_t length, uint32_t last) {
    AscendC::MrgSort4Info info;
    info.elementLengths[0] = uint16_t(length);
    info.elementLengths[1] = uint16_t(count == 2 ? last : length);
    info.elementLengths[2] = uint16_t(count == 3 ? last : count == 4 ? length : 0);
    info.elementLengths[3] = uint16_t(count == 4 ? last : 0);
    info.ifExhaustedSuspension = false;
    info.validBit = uint16_t((1u << count) - 1);
    info.repeatTimes = 1;
    AscendC::MrgSortSrcList<float> lists;
    lists.src1 = src;
    lists.src2 = src[kPair * stride];
    lists.src3 = count > 2 ? src[kPair * 2 * stride] : src;
    lists.src4 = count > 3 ? src[kPair * 3 * stride] : src;
    AscendC::MrgSort(dst, lists, info);
}

// The first `keep` pairs of `lists` sorted lists, each `keep` pairs of a region of `stride` pairs. Where the result lies is
// returned: false in `a`, which holds the lists, true in `b`, which has room for ceil(lists / 4) * 4 * keep pairs. `keep` is a
// multiple of 4 and at most `stride`.
template <uint32_t kLists, uint32_t kStride, uint32_t kKeep>
__aicore__ inline bool merge_tree(const LocalTensor<float>& a, const LocalTensor<float>& b) {
    if constexpr (kLists == 1) {
        return false;
    } else {
        constexpr uint32_t next = (kLists + 3) / 4, last = kLists - (next - 1) * 4;
        for (uint32_t i = 0; i + 1 < next; ++i)
            merge_lists(b[kPair * i * 4 * kKeep], a[kPair * i * 4 * kStride], 4, kStride, kKeep, kKeep);
        const LocalTensor<float> rest = b[kPair * (next - 1) * 4 * kKeep], from = a[kPair * (next - 1) * 4 * kStride];
        if constexpr (last == 1) {
            AscendC::DataCopy(rest, from, kPair * kKeep);
        } else {
            merge_lists(rest, from, last, kStride, kKeep, kKeep);
        }
        barrier();
        return !merge_tree<next, 4 * kKeep, kKeep>(b, a);
    }
}

// Sorts kLists sorted lists of kLength pairs, which follow one another, completely. The result is in `a` (false) or `b` (true);
// kLists is a power of 4 or twice one. One instruction merges all groups of four of a level, its repeats.
template <uint32_t kLists, uint32_t kLength>
__aicore__ inline bool sort_lists(const LocalTensor<float>& a, const LocalTensor<float>& b) {
    if constexpr (kLists == 1) {
        return false;
    } else if constexpr (kLists == 2) {
        merge_lists(b, a, 2, kLength, kLength, kLength);
        barrier();
        return true;
    } else {
        static_assert(kLists % 4 == 0, "not a power of 4, nor twice one");
        AscendC::MrgSort4Info info;
        for (uint32_t i = 0; i < 4; ++i) info.elementLengths[i] = uint16_t(kLength);
        info.ifExhaustedSuspension = false;
        info.validBit = 15;
        info.repeatTimes = uint16_t(kLists / 4);
        AscendC::MrgSortSrcList<float> lists;
        lists.src1 = a;
        lists.src2 = a[kPair * kLength];
        lists.src3 = a[kPair * 2 * kLength];
        lists.src4 = a[kPair * 3 * kLength];
        AscendC::MrgSort(b, lists, info);
        barrier();
        return !sort_lists<kLists / 4, 4 * kLength>(b, a);
    }
}

// Takes the indices out of pairs: rows of `kKeep` pairs, `pitch` pairs apart, become rows of kKeep indices without gaps.
__aicore__ inline void pair_indices(const LocalTensor<uint32_t>& dst, const LocalTensor<float>& pairs, uint32_t rows, uint32_t keep,
                                    uint32_t pitch) {
    uint64_t taken = 0;
    const AscendC::GatherMaskParams params(1, uint16_t(rows), uint16_t(kPair * pitch / kBlockFloats), 0);
    AscendC::GatherMask(dst, pairs.ReinterpretCast<uint32_t>(), uint8_t(2), true, kPair * keep, params, taken);
    barrier();
}
__aicore__ inline void pair_scores(const LocalTensor<float>& dst, const LocalTensor<float>& pairs, uint32_t rows, uint32_t keep,
                                   uint32_t pitch) {
    uint64_t taken = 0;
    const AscendC::GatherMaskParams params(1, uint16_t(rows), uint16_t(kPair * pitch / kBlockFloats), 0);
    AscendC::GatherMask(dst, pairs, uint8_t(1), true, kPair * keep, params, taken);
    barrier();
}

}  // namespace pangu
