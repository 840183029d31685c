#include "ascendc/cube.h"

namespace sim {
namespace {

constexpr uint32_t kFractal = 512;

// Fractals that nothing filled completely (rows beyond the matrix) may travel; Mmad checks what it multiplies.
struct Carried {
    uint8_t data[4 * kFractal];
    uint8_t known[4 * kFractal];
};

void take(Instruction& instruction, const LocalView& src, uint64_t offset, uint32_t bytes, uint32_t align, Carried& carried) {
    std::memcpy(carried.data, instruction.read_any(src, offset, bytes, align, carried.known), bytes);
}

void put(Instruction& instruction, const LocalView& dst, uint64_t offset, uint32_t bytes, const uint8_t* data, const uint8_t* known) {
    std::memcpy(instruction.write_any(dst, offset, bytes, kFractal, known), data, bytes);
}

// Transposes `side` x `side` elements.
void transpose(const uint8_t* from, uint8_t* to, uint32_t side, uint32_t element) {
    for (uint32_t row = 0; row < side; ++row)
        for (uint32_t column = 0; column < side; ++column)
            std::memcpy(to + (column * side + row) * element, from + (row * side + column) * element, element);
}

double load_rate(const LocalView& dst) { return dst.buffer->space == Space::L0A ? kLoadABytes : kLoadBBytes; }

}  // namespace

void load_fractals(const LocalView& dst, const LocalView& src, const AscendC::LoadData2DParams& p, uint32_t element, Site site) {
    Instruction instruction("LoadData", Pipe::MTE1, site);
    instruction.on(CoreKind::AIC);
    instruction.in_space(src, {Space::L1}, "src");
    instruction.in_space(dst, {Space::L0A, Space::L0B}, "dst");
    instruction.require(!p.ifTranspose || element == 2, Fault::Unsupported, "ifTranspose takes types of 16 bits only", &src);
    instruction.cost(double(p.repeatTimes) * kFractal / load_rate(dst), uint64_t(p.repeatTimes) * kFractal);
    for (uint32_t repeat = 0; repeat < p.repeatTimes; ++repeat) {
        Carried carried, turned;
        take(instruction, src, (uint64_t(p.startIndex) + uint64_t(repeat) * p.srcStride) * kFractal, kFractal, 32, carried);
        if (p.ifTranspose) {
            transpose(carried.data, turned.data, 16, 2);
            transpose(carried.known, turned.known, 16, 2);
        }
        const Carried& result = p.ifTranspose ? turned : carried;
        put(instruction, dst, uint64_t(repeat) * (p.dstGap + 1u) * kFractal, kFractal, result.data, result.known);
    }
}

void load_fractals(const LocalView& dst, const GlobalView& src, const AscendC::LoadData2DParams& p, Site site) {
    Instruction instruction("LoadData", Pipe::MTE2, site);
    instruction.on(CoreKind::AIC);
    instruction.in_space(dst, {Space::L0A, Space::L0B, Space::L1}, "dst");
    instruction.require(!p.ifTranspose, Fault::Unsupported, "no transposition on the way from global memory", &dst);
    instruction.cost(double(p.repeatTimes) * kFractal / platform().ddr_read_rate, uint64_t(p.repeatTimes) * kFractal);
    for (uint32_t repeat = 0; repeat < p.repeatTimes; ++repeat) {
        const uint8_t* from = instruction.read(src, (uint64_t(p.startIndex) + uint64_t(repeat) * p.srcStride) * kFractal, kFractal);
        const uint32_t align = dst.buffer->space == Space::L1 ? 32 : kFractal;
        std::memcpy(instruction.write(dst, uint64_t(repeat) * (p.dstGap + 1u) * kFractal, kFractal, align), from, kFractal);
    }
}

void load_transposed(const LocalView& dst, const LocalView& src, const AscendC::LoadData2dTransposeParams& p, uint32_t element,
                     Site site) {
    Instruction instruction("LoadDataWithTranspose", Pipe::MTE1, site);
    instruction.on(CoreKind::AIC);
    instruction.in_space(src, {Space::L1}, "src");
    instruction.in_space(dst, {Space::L0A, Space::L0B}, "dst");
    // A square of whole fractals: one of 16 x 16, two of 16 x 32 bytes, or two of 16 x 8 words side by side.
    const uint32_t side = element == 1 ? 32 : 16, square = side * side * element, parts = square / kFractal;
    instruction.cost(double(p.repeatTimes) * square / load_rate(dst), uint64_t(p.repeatTimes) * square);
    for (uint32_t repeat = 0; repeat < p.repeatTimes; ++repeat) {
        Carried carried, joined, turned;
        take(instruction, src, (uint64_t(p.startIndex) + uint64_t(repeat) * p.srcStride) * square, square, 32, carried);
        const auto turn = [&](const uint8_t* from, uint8_t* whole, uint8_t* to) {
            if (element == 4) {
                // Two fractals of 16 x 8 become the left and right half of a square, and back again after the turn.
                for (uint32_t row = 0; row < 16; ++row)
                    for (uint32_t part = 0; part < 2; ++part)
                        std::memcpy(whole + (row * 2 + part) * 32, from + (part * 16 + row) * 32, 32);
                uint8_t square_turned[4 * kFractal];
                transpose(whole, square_turned, side, element);
                for (uint32_t row = 0; row < 16; ++row)
                    for (uint32_t part = 0; part < 2; ++part)
                        std::memcpy(to + (part * 16 + row) * 32, square_turned + (row * 2 + part) * 32, 32);
            } else {
                transpose(from, to, side, element);
            }
        };
        turn(carried.data, joined.data, turned.data);
        turn(carried.known, joined.known, turned.known);
        const uint64_t start = uint64_t(repeat) * (p.dstGap + 1u) * kFractal;
        for (uint32_t part = 0; part < parts; ++part)
            put(instruction, dst, start + uint64_t(part) * (p.dstFracGap + 1u) * kFractal, kFractal, turned.data + part * kFractal,
                turned.known + part * kFractal);
    }
}

}  // namespace sim
