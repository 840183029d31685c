// Sorting: structures of a score and an index, 8 bytes each, in descending order of score; ties keep their order.
#pragma once

#include "ascendc/vector_data.h"

namespace AscendC {

template <typename T>
struct MrgSortSrcList {
    MrgSortSrcList() {}
    MrgSortSrcList(const LocalTensor<T>& src1In, const LocalTensor<T>& src2In, const LocalTensor<T>& src3In,
                   const LocalTensor<T>& src4In)
        : src1(src1In), src2(src2In), src3(src3In), src4(src4In) {}
    LocalTensor<T> src1;
    LocalTensor<T> src2;
    LocalTensor<T> src3;
    LocalTensor<T> src4;
};

}  // namespace AscendC

namespace sim {

template <typename T>
struct Scored {
    T score;
    uint8_t bytes[8];
};

constexpr uint16_t kMaxQueue = 4095;

template <typename T>
void check_sortable() {
    static_assert(one_of<T, half, float>, "sorting takes half and float");
}

template <typename T>
void sort_32(const LocalView& dst, const LocalView& scores, const LocalView& indices, int32_t repeats, Site site) {
    check_sortable<T>();
    Instruction instruction("Sort32", Pipe::V, site);
    instruction.on(CoreKind::AIV);
    instruction.require(repeats >= 0 && repeats <= int32_t(kMaxRepeats), Fault::Unsupported, "more than 255 repeats", &dst);
    instruction.cost(32.0 * repeats / kSortElements, 32ull * uint64_t(repeats) * 8);
    for (int32_t repeat = 0; repeat < repeats; ++repeat) {
        const uint8_t* score = instruction.read(scores, uint64_t(repeat) * 32 * sizeof(T), 32 * sizeof(T), 32);
        const uint8_t* index = instruction.read(indices, uint64_t(repeat) * 128, 128, 32);
        Scored<T> items[32];
        for (uint32_t i = 0; i < 32; ++i) {
            items[i].score = load<T>(score, i);
            std::memset(items[i].bytes, 0, 8);
            std::memcpy(items[i].bytes, score + i * sizeof(T), sizeof(T));
            std::memcpy(items[i].bytes + 4, index + i * 4, 4);
        }
        std::stable_sort(items, items + 32, [](const Scored<T>& a, const Scored<T>& b) { return a.score > b.score; });
        uint8_t* to = instruction.write(dst, uint64_t(repeat) * 256, 256, 32);
        for (uint32_t i = 0; i < 32; ++i) std::memcpy(to + i * 8, items[i].bytes, 8);
    }
}

// Merges up to four sorted queues. Returns how many structures of each went into the result.
template <typename T>
std::array<uint16_t, 4> merge_once(Instruction& instruction, const LocalView& dst, uint64_t dst_offset, const LocalView* lists,
                                   const uint64_t* offsets, const uint16_t* lengths, uint16_t valid, bool suspend) {
    const uint8_t* data[4] = {};
    uint32_t total = 0;
    for (int list = 0; list < 4; ++list) {
        if (!(valid >> list & 1) || lengths[list] == 0) continue;
        data[list] = instruction.read(lists[list], offsets[list], uint64_t(lengths[list]) * 8, 8);
        total += lengths[list];
    }
    std::array<uint16_t, 4> taken{};
    std::vector<uint8_t> merged;
    merged.reserve(size_t(total) * 8);
    for (uint32_t done = 0; done < total; ++done) {
        int best = -1;
        T best_score{};
        bool exhausted = false;
        for (int list = 0; list < 4; ++list) {
            if (!data[list]) continue;
            if (taken[list] == lengths[list]) {
                exhausted = true;
                continue;
            }
            const T score = load<T>(data[list] + taken[list] * 8);
            if (best >= 0 && !(score > best_score)) continue;
            best = list;
            best_score = score;
        }
        if (exhausted && suspend) break;
        merged.insert(merged.end(), data[best] + taken[best] * 8, data[best] + (taken[best] + 1) * 8);
        ++taken[best];
    }
    if (!merged.empty()) std::memcpy(instruction.write(dst, dst_offset, merged.size(), 8), merged.data(), merged.size());
    instruction.cost(double(merged.size() / 8) / kSortElements, merged.size());
    return taken;
}

template <typename T>
std::array<uint16_t, 4> merge_sort(const char* name, const LocalView& dst, const AscendC::MrgSortSrcList<T>& list,
                                   const uint16_t* lengths, uint16_t valid, bool suspend, int32_t repeats, Site site) {
    check_sortable<T>();
    Instruction instruction(name, Pipe::V, site);
    instruction.on(CoreKind::AIV);
    instruction.require(valid == 3 || valid == 7 || valid == 15, Fault::Unsupported, "validBit is 3, 7 or 15", &dst);
    const LocalView lists[4] = {list.src1.view(), list.src2.view(), list.src3.view(), list.src4.view()};
    uint64_t length = 0;
    bool equal = valid == 15 && !suspend;
    for (int i = 0; i < 4; ++i) {
        if (valid >> i & 1) length += lengths[i];
        instruction.require(lengths[i] <= kMaxQueue, Fault::Unsupported, "a queue of more than 4095 structures", &lists[i]);
        equal = equal && lengths[i] == lengths[0];
    }
    for (int i = 1; i < 4 && equal; ++i) equal = lists[i].address == lists[0].address + uint32_t(i) * lengths[0] * 8;
    instruction.require(repeats <= 1 || equal, Fault::Unsupported,
                        "repeats need four adjacent queues of one length, and no suspension", &dst);
    for (int i = 0; i < 4; ++i) {
        if (!(valid >> i & 1)) continue;
        const uint64_t end = lists[i].address + uint64_t(lengths[i]) * 8 * uint64_t(std::max(repeats, 1));
        instruction.require(lists[i].buffer == nullptr || lists[i].buffer->space != dst.buffer->space || end <= dst.address ||
                                dst.address + length * 8 * uint64_t(repeats) <= lists[i].address,
                            Fault::Unsupported, "the result lies over a queue that is merged", &lists[i]);
    }
    std::array<uint16_t, 4> taken{};
    for (int32_t repeat = 0; repeat < repeats; ++repeat) {
        const uint64_t step = uint64_t(repeat) * length * 8;
        const uint64_t offsets[4] = {step, step, step, step};
        taken = merge_once<T>(instruction, dst, step, lists, offsets, lengths, valid, suspend);
    }
    core().merge_sorted = taken;
    return taken;
}

}  // namespace sim

namespace AscendC {

template <typename T>
void Sort32(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<uint32_t>& src1, const int32_t repeatTimes,
            sim::Site site = sim::Site::here()) {
    sim::sort_32<T>(dst.view(), src0.view(), src1.view(), repeatTimes, site);
}
template <typename T>
void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& src, const MrgSort4Info& params,
             sim::Site site = sim::Site::here()) {
    sim::merge_sort("MrgSort", dst.view(), src, params.elementLengths, params.validBit, params.ifExhaustedSuspension,
                    params.repeatTimes, site);
}
template <typename T, bool isExhaustedSuspension = false>
void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& sortList, const uint16_t elementCountList[4],
             uint32_t sortedNum[4], uint16_t validBit, const int32_t repeatTimes, sim::Site site = sim::Site::here()) {
    const auto taken = sim::merge_sort("MrgSort", dst.view(), sortList, elementCountList, validBit, isExhaustedSuspension,
                                       repeatTimes, site);
    if (isExhaustedSuspension)
        for (int i = 0; i < 4; ++i) sortedNum[i] = taken[i];
}
inline void GetMrgSortResult(uint16_t& list1, uint16_t& list2, uint16_t& list3, uint16_t& list4) {
    const auto& taken = sim::core().merge_sorted;
    list1 = taken[0];
    list2 = taken[1];
    list3 = taken[2];
    list4 = taken[3];
}

// Splits sorted structures into scores and indices, 32 a repeat.
template <typename T>
void Extract(const LocalTensor<T>& dstValue, const LocalTensor<uint32_t>& dstIndex, const LocalTensor<T>& sorted,
             const int32_t repeatTimes, sim::Site site = sim::Site::here()) {
    sim::check_sortable<T>();
    sim::Instruction instruction("Extract", sim::Pipe::V, site);
    instruction.on(sim::CoreKind::AIV);
    const uint64_t count = uint64_t(repeatTimes) * 32;
    instruction.cost(double(count) / (sim::lanes_of<T> / 2) * 2, count * 8);
    if (count == 0) return;
    const uint8_t* from = instruction.read(sorted.view(), 0, count * 8, 32);
    uint8_t* values = instruction.write(dstValue.view(), 0, count * sizeof(T), 32);
    uint8_t* indices = instruction.write(dstIndex.view(), 0, count * 4, 32);
    for (uint64_t i = 0; i < count; ++i) {
        sim::store<T>(values, i, sim::load<T>(from + i * 8));
        std::memcpy(indices + i * 4, from + i * 8 + 4, 4);
    }
}
template <typename T>
void Concat(LocalTensor<T>& concatLocal, const LocalTensor<T>& src, const LocalTensor<T>&, const int32_t) {
    concatLocal = src;  // this architecture sorts scores and indices without putting them together first
}
template <typename T>
uint32_t GetSortOffset(const uint32_t elemOffset) { return elemOffset * 8 / sizeof(T); }
template <typename T>
uint32_t GetSortLen(const uint32_t elemCount) { return elemCount * 8 / sizeof(T); }

template <typename T, bool isFullSort>
void Sort(const LocalTensor<T>& dst, const LocalTensor<T>& concatLocal, const LocalTensor<uint32_t>& indexLocal,
          LocalTensor<T>& tmpLocal, const int32_t repeatTimes, sim::Site site = sim::Site::here()) {
    Sort32(dst, concatLocal, indexLocal, repeatTimes, site);
    if constexpr (isFullSort) {
        sim::core().barrier(sim::Pipe::V);
        sim::Instruction instruction("Sort", sim::Pipe::V, site);
        const uint64_t bytes = uint64_t(repeatTimes) * 256;
        instruction.leave_uninitialised(tmpLocal.view(), 0, bytes);
        const uint8_t* from = instruction.read(dst.view(), 0, bytes, 32);
        std::vector<sim::Scored<T>> items(bytes / 8);
        for (size_t i = 0; i < items.size(); ++i) {
            items[i].score = sim::load<T>(from + i * 8);
            std::memcpy(items[i].bytes, from + i * 8, 8);
        }
        std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
        uint8_t* to = instruction.write(dst.view(), 0, bytes, 32);
        for (size_t i = 0; i < items.size(); ++i) std::memcpy(to + i * 8, items[i].bytes, 8);
        double passes = 0;
        for (int32_t runs = repeatTimes; runs > 1; runs = (runs + 3) / 4) ++passes;
        instruction.cost(passes * double(items.size()) / sim::kSortElements, bytes);
    }
}

}  // namespace AscendC
