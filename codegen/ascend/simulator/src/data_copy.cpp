#include "ascendc/data_copy.h"

namespace sim {
namespace {

// Cycles of a copy from or to global memory: every block pays at least its own request.
double copy_cycles(const Blocks& blocks, uint32_t rate) {
    return double(blocks.count) * std::max(double(blocks.bytes) / rate, kBlockCycles);
}

template <typename T>
void combine(uint8_t* to, const uint8_t* from, uint64_t bytes, int op) {
    for (uint64_t i = 0; i < bytes / sizeof(T); ++i) {
        const T old = load<T>(to, i), added = load<T>(from, i);
        store<T>(to, i, op == 1 ? add(old, added) : op == 2 ? (added > old ? added : old) : (added < old ? added : old));
    }
}

void check_copy(Instruction& instruction, const LocalView& local, const Blocks& blocks) {
    instruction.in_space(local, {Space::UB, Space::L1}, "local tensor");
    instruction.require(blocks.count <= kMaxBlockCount, Fault::Unsupported, "more than 4095 blocks", &local);
    instruction.require(blocks.bytes <= kMaxBlockBytes, Fault::Unsupported, "blocks of more than 2097151 bytes", &local);
}

}  // namespace

void store_global(uint8_t* to, const uint8_t* from, uint64_t bytes) {
    const Core& unit = core();
    if (unit.store_kind != AccessKind::Atomic) {
        std::memcpy(to, from, bytes);
        return;
    }
    switch (AscendC::AtomicDtype(unit.atomic_type)) {
        case AscendC::AtomicDtype::ATOMIC_F32: return combine<float>(to, from, bytes, unit.atomic_op);
        case AscendC::AtomicDtype::ATOMIC_F16: return combine<half>(to, from, bytes, unit.atomic_op);
        case AscendC::AtomicDtype::ATOMIC_BF16: return combine<bfloat16_t>(to, from, bytes, unit.atomic_op);
        case AscendC::AtomicDtype::ATOMIC_S32: return combine<int32_t>(to, from, bytes, unit.atomic_op);
        case AscendC::AtomicDtype::ATOMIC_S16: return combine<int16_t>(to, from, bytes, unit.atomic_op);
        case AscendC::AtomicDtype::ATOMIC_S8: return combine<int8_t>(to, from, bytes, unit.atomic_op);
        case AscendC::AtomicDtype::ATOMIC_NONE: return;
    }
}

uint32_t whole_blocks(const char* name, uint64_t count, uint32_t element, Site site) {
    const uint64_t bytes = count * element;
    if (bytes % 32 != 0)
        fail(Fault::Misaligned, site, name, std::to_string(count) + " elements are " + std::to_string(bytes) +
                                                " bytes, not a multiple of 32: the rest is not copied; use DataCopyPad");
    return uint32_t(bytes);
}

void check_element_alignment(Instruction& instruction, const GlobalView& view, uint32_t element) {
    if (view.allocation && uint64_t(view.address - view.allocation->base) % element != 0)
        instruction.fail(Fault::Misaligned, "the global address is not a multiple of the element's " + std::to_string(element) +
                                                " bytes; tensor: " + describe(view));
}

void copy_in(Instruction& instruction, const LocalView& dst, const GlobalView& src, const Blocks& blocks) {
    check_copy(instruction, dst, blocks);
    instruction.cost(copy_cycles(blocks, platform().ddr_read_rate), blocks.count * blocks.bytes);
    for (uint64_t block = 0; block < blocks.count && blocks.bytes > 0; ++block) {
        const uint8_t* from = instruction.read(src, block * blocks.global_step, blocks.bytes);
        std::memcpy(instruction.write(dst, block * blocks.local_step, blocks.bytes, 32), from, blocks.bytes);
    }
}

void copy_out(Instruction& instruction, const GlobalView& dst, const LocalView& src, const Blocks& blocks) {
    check_copy(instruction, src, blocks);
    instruction.cost(copy_cycles(blocks, platform().ddr_write_rate), blocks.count * blocks.bytes);
    for (uint64_t block = 0; block < blocks.count && blocks.bytes > 0; ++block) {
        const uint8_t* from = instruction.read(src, block * blocks.local_step, blocks.bytes, 32);
        store_global(instruction.write(dst, block * blocks.global_step, blocks.bytes), from, blocks.bytes);
    }
}

void copy_in_padded(Instruction& instruction, const LocalView& dst, const GlobalView& src, const Blocks& blocks, uint32_t left,
                    uint32_t right, const uint8_t* fill, uint32_t element) {
    check_copy(instruction, dst, blocks);
    instruction.cost(copy_cycles(blocks, platform().ddr_read_rate), blocks.count * blocks.bytes);
    const uint64_t padded = (blocks.bytes + left + right + 31) / 32 * 32;
    // Without padding asked for, the rest of the last 32 bytes is written, but not with anything to rely on.
    const bool filled = fill != nullptr && left + right > 0;
    std::vector<uint8_t> known(padded, filled ? 1 : 0), data(padded, 0);
    for (uint64_t at = 0; filled && at + element <= padded; at += element) std::memcpy(data.data() + at, fill, element);
    std::fill(known.begin() + left, known.begin() + left + int64_t(blocks.bytes), 1);
    for (uint64_t block = 0; block < blocks.count && blocks.bytes > 0; ++block) {
        std::memcpy(data.data() + left, instruction.read(src, block * blocks.global_step, blocks.bytes), blocks.bytes);
        std::memcpy(instruction.write_any(dst, block * blocks.local_step, padded, 32, known.data()), data.data(), padded);
    }
}

void copy_local(const char* name, const LocalView& dst, const LocalView& src, const AscendC::DataCopyParams& p, Site site) {
    const bool from_l1 = src.buffer && src.buffer->space == Space::L1;
    const bool to_table = from_l1 && dst.buffer && (dst.buffer->space == Space::BT || dst.buffer->space == Space::FB);
    const bool fixpipe_table = to_table && dst.buffer->space == Space::FB;
    Instruction instruction(name, !from_l1 ? Pipe::V : fixpipe_table ? Pipe::FIX : Pipe::MTE1, site);
    if (!to_table) {
        instruction.in_space(src, {Space::UB}, "src");
        instruction.in_space(dst, {Space::UB}, "dst");
    }
    const uint64_t bytes = uint64_t(p.blockLen) * 32;
    instruction.cost(double(p.blockCount * bytes) / (to_table ? 32.0 : kVectorBytes), p.blockCount * bytes);
    for (uint64_t block = 0; block < p.blockCount && bytes > 0; ++block) {
        const uint8_t* from = instruction.read(src, block * (bytes + uint64_t(p.srcStride) * 32), bytes, 32);
        std::memmove(instruction.write(dst, block * (bytes + uint64_t(p.dstStride) * 32), bytes, 32), from, bytes);
    }
}

void nd_to_nz(const LocalView& dst, const GlobalView& src, const AscendC::Nd2NzParams& p, uint32_t element, Site site) {
    Instruction instruction("DataCopy", Pipe::MTE2, site);
    instruction.in_space(dst, {Space::L1}, "dst of a copy with Nd2NzParams");
    const uint64_t row_elements = 32 / element;
    constexpr uint16_t kMaxRows = 16384;
    instruction.require(p.ndNum <= kMaxBlockCount && p.nValue <= kMaxRows && p.dstNzC0Stride <= kMaxRows &&
                            p.dstNzNStride <= kMaxRows, Fault::Unsupported, "a field of Nd2NzParams beyond its range", &dst);
    instruction.require(p.srcDValue >= p.dValue || p.nValue <= 1, Fault::Unsupported, "srcDValue is less than dValue", &dst);
    instruction.cost(double(uint64_t(p.ndNum) * p.nValue * p.dValue * element) / platform().ddr_read_rate,
                     uint64_t(p.ndNum) * p.nValue * p.dValue * element);
    for (uint64_t matrix = 0; matrix < p.ndNum; ++matrix) {
        for (uint64_t row = 0; row < p.nValue; ++row) {
            if (p.dValue == 0) continue;
            const uint64_t at = (matrix * p.srcNdMatrixStride + row * p.srcDValue) * element;
            const uint8_t* from = instruction.read(src, at, uint64_t(p.dValue) * element);
            for (uint64_t column = 0; column < p.dValue; column += row_elements) {
                const uint64_t to = matrix * p.dstNzMatrixStride * element +
                                    ((column / row_elements) * p.dstNzC0Stride + row * p.dstNzNStride) * 32;
                const uint64_t bytes = std::min<uint64_t>(row_elements, p.dValue - column) * element;
                uint8_t block[32] = {};  // the end of the last column block is zero
                std::memcpy(block, from + column * element, bytes);
                std::memcpy(instruction.write(dst, to, 32, 32), block, 32);
            }
        }
    }
}

}  // namespace sim
