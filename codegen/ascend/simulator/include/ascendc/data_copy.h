// DataCopy and DataCopyPad: between global memory and UB or L1, and within UB.
#pragma once

#include "ascendc/vector_sort.h"

namespace sim {

constexpr uint32_t kMaxBlockCount = 4095, kMaxBlockBytes = 2097151;

// Adds, or takes the maximum or minimum, as SetAtomicAdd and its relatives ask; a plain copy otherwise.
void store_global(uint8_t* to, const uint8_t* from, uint64_t bytes);

// Blocks of a copy, all in bytes: `step` from the start of one to the start of the next.
struct Blocks {
    uint64_t count, bytes, global_step, local_step;
};

void copy_in(Instruction& instruction, const LocalView& dst, const GlobalView& src, const Blocks& blocks);
void copy_out(Instruction& instruction, const GlobalView& dst, const LocalView& src, const Blocks& blocks);
// Every block is padded to 32 bytes: `left` and `right` bytes of `fill` (element-wise; nullptr: nothing to be relied on).
void copy_in_padded(Instruction& instruction, const LocalView& dst, const GlobalView& src, const Blocks& blocks, uint32_t left,
                    uint32_t right, const uint8_t* fill, uint32_t element);
void copy_local(const char* name, const LocalView& dst, const LocalView& src, const AscendC::DataCopyParams& p, Site site);
void nd_to_nz(const LocalView& dst, const GlobalView& src, const AscendC::Nd2NzParams& p, uint32_t element, Site site);

// Bytes of `count` elements, which must fill blocks of 32.
uint32_t whole_blocks(const char* name, uint64_t count, uint32_t element, Site site);
void check_element_alignment(Instruction& instruction, const GlobalView& view, uint32_t element);

inline Blocks blocks_of(const AscendC::DataCopyParams& p, bool local_is_source) {
    const uint64_t bytes = uint64_t(p.blockLen) * 32;
    const uint64_t global_gap = uint64_t(local_is_source ? p.dstStride : p.srcStride) * 32;
    const uint64_t local_gap = uint64_t(local_is_source ? p.srcStride : p.dstStride) * 32;
    return {p.blockCount, bytes, bytes + global_gap, bytes + local_gap};
}

}  // namespace sim

namespace AscendC {

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& p, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("DataCopy", sim::Pipe::MTE2, site);
    sim::check_element_alignment(instruction, src.view(), sizeof(PrimT<T>));
    sim::copy_in(instruction, dst.view(), src.view(), sim::blocks_of(p, false));
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const uint32_t calCount, sim::Site site = sim::Site::here()) {
    const uint64_t bytes = sim::whole_blocks("DataCopy", calCount, sizeof(PrimT<T>), site);
    sim::Instruction instruction("DataCopy", sim::Pipe::MTE2, site);
    sim::check_element_alignment(instruction, src.view(), sizeof(PrimT<T>));
    sim::copy_in(instruction, dst.view(), src.view(), {1, bytes, bytes, bytes});
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& p, sim::Site site = sim::Site::here()) {
    sim::nd_to_nz(dst.view(), src.view(), p, sizeof(PrimT<T>), site);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p, sim::Site site = sim::Site::here()) {
    sim::Instruction instruction("DataCopy", sim::Pipe::MTE3, site);
    sim::check_element_alignment(instruction, dst.view(), sizeof(PrimT<T>));
    sim::copy_out(instruction, dst.view(), src.view(), sim::blocks_of(p, true));
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t calCount, sim::Site site = sim::Site::here()) {
    const uint64_t bytes = sim::whole_blocks("DataCopy", calCount, sizeof(PrimT<T>), site);
    sim::Instruction instruction("DataCopy", sim::Pipe::MTE3, site);
    sim::check_element_alignment(instruction, dst.view(), sizeof(PrimT<T>));
    sim::copy_out(instruction, dst.view(), src.view(), {1, bytes, bytes, bytes});
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p, sim::Site site = sim::Site::here()) {
    sim::copy_local("DataCopy", dst.view(), src.view(), p, site);
}
template <typename T, typename U>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const DataCopyParams& p, sim::Site site = sim::Site::here()) {
    sim::copy_local("DataCopy", dst.view(), src.view(), p, site);
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t calCount, sim::Site site = sim::Site::here()) {
    const uint32_t bytes = sim::whole_blocks("DataCopy", calCount, sizeof(PrimT<T>), site);
    sim::copy_local("DataCopy", dst.view(), src.view(), DataCopyParams(1, uint16_t(bytes / 32), 0, 0), site);
}

namespace detail {
template <typename T>
void copy_pad_in(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint64_t count, uint64_t bytes, uint64_t src_gap,
                 uint64_t dst_gap, bool is_pad, uint32_t left, uint32_t right, T value, sim::Site site) {
    constexpr uint32_t element = sizeof(PrimT<T>);
    sim::Instruction instruction("DataCopyPad", sim::Pipe::MTE2, site);
    instruction.require(bytes % element == 0, sim::Fault::Misaligned, "blockLen is not a multiple of the element", &dst.view());
    instruction.require(left * element <= 32 && right * element <= 32, sim::Fault::Unsupported, "padding of more than 32 bytes",
                        &dst.view());
    const uint64_t padded = (bytes + (left + right) * element + 31) / 32 * 32;
    const uint8_t* fill = is_pad ? reinterpret_cast<const uint8_t*>(&value) : nullptr;
    if (!is_pad && sim::core().pad_value_set) fill = reinterpret_cast<const uint8_t*>(&sim::core().pad_value);
    sim::copy_in_padded(instruction, dst.view(), src.view(), {count, bytes, bytes + src_gap, padded + dst_gap * 32}, left * element,
                        right * element, fill, element);
}
template <typename T>
void copy_pad_out(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint64_t count, uint64_t bytes, uint64_t src_gap,
                  uint64_t dst_gap, sim::Site site) {
    sim::Instruction instruction("DataCopyPad", sim::Pipe::MTE3, site);
    instruction.require(bytes % sizeof(PrimT<T>) == 0, sim::Fault::Misaligned, "blockLen is not a multiple of the element",
                        &src.view());
    sim::copy_out(instruction, dst.view(), src.view(), {count, bytes, bytes + dst_gap, (bytes + 31) / 32 * 32 + src_gap * 32});
}
}  // namespace detail

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& p,
                 const DataCopyPadExtParams<T>& pad, sim::Site site = sim::Site::here()) {
    detail::copy_pad_in(dst, src, p.blockCount, p.blockLen, p.srcStride, p.dstStride, pad.isPad, pad.leftPadding, pad.rightPadding,
                        pad.paddingValue, site);
}
template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& p, const DataCopyPadParams& pad,
                 sim::Site site = sim::Site::here()) {
    T value;
    std::memcpy(&value, &pad.paddingValue, sizeof(T));
    detail::copy_pad_in(dst, src, p.blockCount, p.blockLen, p.srcStride, p.dstStride, pad.isPad, pad.leftPadding, pad.rightPadding,
                        value, site);
}
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& p,
                 sim::Site site = sim::Site::here()) {
    detail::copy_pad_out(dst, src, p.blockCount, p.blockLen, p.srcStride, p.dstStride, site);
}
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& p,
                 sim::Site site = sim::Site::here()) {
    detail::copy_pad_out(dst, src, p.blockCount, p.blockLen, p.srcStride, p.dstStride, site);
}

template <typename T, TPosition pos = TPosition::MAX>
void SetPadValue(T paddingValue) {
    sim::core().pad_value = 0;
    std::memcpy(&sim::core().pad_value, &paddingValue, sizeof(T));
    sim::core().pad_value_set = true;
}

// Fills `size` elements of global memory.
template <typename T>
void InitOutput(GlobalTensor<T> gm, uint32_t size, T value = 0, sim::Site site = sim::Site::here()) {
    sim::core().barrier_all();
    {
        sim::Instruction instruction("InitOutput", sim::Pipe::MTE3, site);
        instruction.on(sim::CoreKind::AIV);
        uint8_t* to = instruction.write(gm.view(), 0, uint64_t(size) * sizeof(T));
        for (uint32_t i = 0; i < size; ++i) sim::store<T>(to, i, value);
        instruction.cost(double(size) * sizeof(T) / sim::platform().ddr_write_rate, uint64_t(size) * sizeof(T));
    }
    sim::core().barrier_all();
}

}  // namespace AscendC
