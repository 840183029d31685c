// The cube core: L1 to L0 in fractals of 512 bytes, the matrix product, and the way out of L0C.
//
// Layouts: L0A holds fractals row by row (Zz), L0B holds fractals row by row with their contents transposed (Zn), L0C holds
// them column by column (Nz). A fractal of L0A is 16 rows of 32 bytes; of L0C, 16 x 16 elements of 4 bytes.
#pragma once

#include "ascendc/data_copy.h"

namespace sim {

constexpr double kLoadABytes = 256, kLoadBBytes = 128;  // per cycle, L1 to L0A and to L0B

void load_fractals(const LocalView& dst, const LocalView& src, const AscendC::LoadData2DParams& p, uint32_t element, Site site);
void load_fractals(const LocalView& dst, const GlobalView& src, const AscendC::LoadData2DParams& p, Site site);
void load_transposed(const LocalView& dst, const LocalView& src, const AscendC::LoadData2dTransposeParams& p, uint32_t element,
                     Site site);

// A matrix operand as float or int32_t values, row by row, checked like any read.
template <typename A, typename T>
std::vector<A> left_matrix(Instruction& instruction, const LocalView& view, uint32_t m, uint32_t k) {
    constexpr uint32_t width = 32 / sizeof(T);
    const uint32_t fractals = (k + width - 1) / width;
    std::vector<A> result(size_t(m) * k);
    for (uint32_t row = 0; row < m; ++row) {
        for (uint32_t fractal = 0; fractal < fractals; ++fractal) {
            const uint32_t count = std::min(width, k - fractal * width);
            // One row of a vector: the chip reads it as 1 x K, without fractals.
            const uint64_t offset = m == 1 ? uint64_t(fractal) * 32
                                           : uint64_t(row / 16 * fractals + fractal) * 512 + row % 16 * 32;
            const uint8_t* from = instruction.read(view, offset, count * sizeof(T));
            for (uint32_t i = 0; i < count; ++i) result[size_t(row) * k + fractal * width + i] = A(load<T>(from, i));
        }
    }
    return result;
}

template <typename A, typename T>
std::vector<A> right_matrix(Instruction& instruction, const LocalView& view, uint32_t k, uint32_t n) {
    constexpr uint32_t width = 32 / sizeof(T);
    const uint32_t columns = (n + 15) / 16;
    std::vector<A> result(size_t(k) * n);
    for (uint32_t fractal = 0; fractal * width < k; ++fractal) {
        const uint32_t count = std::min(width, k - fractal * width);
        for (uint32_t column = 0; column < n; ++column) {
            const uint64_t offset = uint64_t(fractal * columns + column / 16) * 512 + column % 16 * 32;
            const uint8_t* from = instruction.read(view, offset, count * sizeof(T));
            for (uint32_t i = 0; i < count; ++i) result[size_t(fractal * width + i) * n + column] = A(load<T>(from, i));
        }
    }
    return result;
}

inline uint64_t accumulator_offset(uint32_t row, uint32_t column, uint32_t rows) {
    return (uint64_t(column / 16) * ((rows + 15) / 16 * 16) * 16 + uint64_t(row) * 16 + column % 16) * 4;
}

// Calls visit(row, first column, count) for the pieces of an accumulator that are contiguous.
template <typename Visit>
void each_accumulator_row(uint32_t m, uint32_t n, Visit visit) {
    for (uint32_t column = 0; column < n; column += 16)
        for (uint32_t row = 0; row < m; ++row) visit(row, column, std::min(16u, n - column));
}

template <typename D, typename A, typename B>
void multiply(const LocalView& dst, const LocalView& left, const LocalView& right, const LocalView* bias,
              const AscendC::MmadParams& p, Site site) {
    static_assert((std::is_same_v<A, B> && one_of<A, half, bfloat16_t, float> && std::is_same_v<D, float>) ||
                  (one_of<A, int8_t> && std::is_same_v<A, B> && std::is_same_v<D, int32_t>), "Mmad does not take these types");
    Instruction instruction("Mmad", Pipe::M, site);
    instruction.on(CoreKind::AIC);
    instruction.in_space(dst, {Space::L0C}, "dst");
    instruction.in_space(left, {Space::L0A}, "fm");
    instruction.in_space(right, {Space::L0B}, "filter");
    instruction.require(dst.address % 1024 == 0, Fault::Misaligned, "L0C address is not a multiple of 1024", &dst);
    instruction.require(left.address % 512 == 0, Fault::Misaligned, "L0A address is not a multiple of 512", &left);
    instruction.require(right.address % 512 == 0, Fault::Misaligned, "L0B address is not a multiple of 512", &right);
    instruction.require(p.m <= 4095 && p.n <= 4095 && p.k <= 4095, Fault::Unsupported, "m, n or k of more than 4095", &dst);
    if (p.m == 0 || p.n == 0 || p.k == 0) return;
    const uint32_t m = p.m, n = p.n, k = p.k;
    if ((m / 16) * (n / 16) >= 10) instruction.keep_pipe_order();
    if (p.unitFlag) core().clock[int(Pipe::M)].join(core().unit_flag_fix);

    const std::vector<D> a = left_matrix<D, A>(instruction, left, m, k), b = right_matrix<D, B>(instruction, right, k, n);
    const bool from_bias = bias != nullptr || (!p.cmatrixInitVal && !p.isBias && p.cmatrixSource);
    instruction.require(!from_bias || bias != nullptr, Fault::Unsupported, "cmatrixSource without a bias tensor", &dst);
    std::vector<D> c(size_t(m) * n, D(0));
    if (from_bias) {
        const uint8_t* from = instruction.read(*bias, 0, n * sizeof(D), 64);
        for (size_t i = 0; i < c.size(); ++i) c[i] = load<D>(from, i % n);
    } else if (!p.cmatrixInitVal || p.isBias) {
        each_accumulator_row(m, n, [&](uint32_t row, uint32_t column, uint32_t count) {
            const uint8_t* from = instruction.read(dst, accumulator_offset(row, column, m), count * sizeof(D));
            for (uint32_t i = 0; i < count; ++i) c[size_t(row) * n + column + i] = load<D>(from, i);
        });
    }
    for (uint32_t row = 0; row < m; ++row)
        for (uint32_t depth = 0; depth < k; ++depth) {
            const D factor = a[size_t(row) * k + depth];
            for (uint32_t column = 0; column < n; ++column) c[size_t(row) * n + column] += factor * b[size_t(depth) * n + column];
        }
    each_accumulator_row(m, n, [&](uint32_t row, uint32_t column, uint32_t count) {
        std::memcpy(instruction.write(dst, accumulator_offset(row, column, m), count * sizeof(D)), &c[size_t(row) * n + column],
                    count * sizeof(D));
    });
    const double per_cycle = std::is_same_v<A, float> ? 4 : 32.0 / sizeof(A);  // of the depth, in 16 x 16 x ... steps
    instruction.cost(double((m + 15) / 16) * ((n + 15) / 16) * std::ceil(k / (32.0 / sizeof(A))) * (32.0 / sizeof(A)) / per_cycle,
                     uint64_t(m) * n * k * 2);
    if (p.unitFlag) core().unit_flag_m = core().finished(Pipe::M);
}

// What Fixpipe does to an element on its way: cast or quantise, then ReLU. `scale` holds the vendor's packed parameters.
template <typename D, typename S>
D fixpipe_value(S value, QuantMode_t mode, uint64_t scale, bool relu) {
    float factor = 1.0f;
    int offset = 0;
    if (mode != NoQuant && mode != F322F16 && mode != F322BF16) {
        factor = float_of(uint32_t(scale));
        const int packed = int(scale >> 37 & 0x1FF);
        offset = packed >= 256 ? packed - 512 : packed;
    }
    double result = double(value) * double(factor);
    if (relu && result < 0) result = 0;
    if constexpr (std::is_integral_v<D> && sizeof(D) == 1) return saturate<D>(std::nearbyint(result) + offset);
    else if constexpr (std::is_integral_v<D>) return D(result);
    else return D(float(result));
}

template <typename D, typename S>
void check_fixpipe(const Instruction& instruction, QuantMode_t mode, bool has_table, const LocalView& src) {
    constexpr bool f = std::is_same_v<S, float>;
    const bool vector_mode = mode == VDEQF16 || mode == VREQ8 || mode == VQF322B8_PRE;
    const bool fits = (mode == NoQuant && std::is_same_v<D, S>) || (mode == F322F16 && f && std::is_same_v<D, half>) ||
                      (mode == F322BF16 && f && std::is_same_v<D, bfloat16_t>) ||
                      ((mode == DEQF16 || mode == VDEQF16) && !f && std::is_same_v<D, half>) ||
                      ((mode == REQ8 || mode == VREQ8) && !f && one_of<D, int8_t, uint8_t>) ||
                      ((mode == QF322B8_PRE || mode == VQF322B8_PRE) && f && one_of<D, int8_t, uint8_t>);
    instruction.require(fits, Fault::Unsupported, "quantPre does not lead from the source's type to the target's", &src);
    instruction.require(vector_mode == has_table, Fault::Unsupported,
                        vector_mode ? "this quantPre needs the workspace of scales" : "this quantPre takes no workspace", &src);
}

// Runs `put(byte offset in dst, values, count)` for every contiguous piece of the result.
template <typename D, typename S, typename Put>
void fixpipe(Instruction& instruction, const LocalView& src, const LocalView* table, const AscendC::FixpipeParamsV220& p,
             AscendC::CO2Layout layout, Put put) {
    static_assert(one_of<S, float, int32_t>, "L0C holds float or int32_t");
    instruction.on(CoreKind::AIC);
    instruction.in_space(src, {Space::L0C}, "src");
    instruction.require(layout != AscendC::CO2Layout::COLUMN_MAJOR, Fault::Unsupported, "column-major output", &src);
    check_fixpipe<D, S>(instruction, p.quantPre, table != nullptr, src);
    const bool rows = layout == AscendC::CO2Layout::ROW_MAJOR;
    instruction.require(rows || p.nSize % 16 == 0, Fault::Misaligned, "nSize is not a multiple of 16", &src);
    instruction.require(p.nSize <= 4095 && (!rows || p.mSize <= 8192), Fault::Unsupported, "nSize or mSize too large", &src);
    if (p.unitFlag) core().clock[int(Pipe::FIX)].join(core().unit_flag_m);
    const uint8_t* scales = table ? instruction.read(*table, 0, uint64_t(p.nSize) * 8, 32) : nullptr;
    const uint32_t width = sizeof(D) == 1 ? 32 : p.isChannelSplit ? 8 : 16;  // columns of an Nz block of the target
    const uint32_t matrices = rows ? p.ndNum : 1;
    for (uint32_t matrix = 0; matrix < matrices; ++matrix) {
        for (uint32_t column = 0; column < p.nSize; column += std::min(width, 16u)) {
            const uint32_t count = std::min({width, 16u, uint32_t(p.nSize) - column});
            for (uint32_t row = 0; row < p.mSize; ++row) {
                const uint64_t at = (uint64_t(matrix) * p.srcNdStride * 256 + uint64_t(column / 16) * p.srcStride * 16 +
                                     uint64_t(row) * 16 + column % 16) * sizeof(S);
                const uint8_t* from = instruction.read(src, at, count * sizeof(S));
                D values[16];
                for (uint32_t i = 0; i < count; ++i)
                    values[i] = fixpipe_value<D>(load<S>(from, i), p.quantPre,
                                                 scales ? load<uint64_t>(scales, column + i) : p.deqScalar, p.reluEn);
                const uint64_t to = rows ? (uint64_t(matrix) * p.dstNdStride + uint64_t(row) * p.dstStride + column) * sizeof(D)
                                         : uint64_t(column / width) * p.dstStride * 32 +
                                               (uint64_t(row) * width + column % width) * sizeof(D);
                put(to, reinterpret_cast<const uint8_t*>(values), uint64_t(count) * sizeof(D));
            }
        }
    }
    instruction.cost(double(matrices) * p.mSize * p.nSize / kFixpipeElements, uint64_t(matrices) * p.mSize * p.nSize * sizeof(D));
    if (p.unitFlag) core().unit_flag_fix = core().finished(Pipe::FIX);
}

template <typename D, typename S>
void fixpipe_out(const GlobalView& dst, const LocalView& src, const LocalView* table, const AscendC::FixpipeParamsV220& p,
                 AscendC::CO2Layout layout, Site site) {
    Instruction instruction("Fixpipe", Pipe::FIX, site);
    fixpipe<D, S>(instruction, src, table, p, layout, [&](uint64_t offset, const uint8_t* values, uint64_t bytes) {
        store_global(instruction.write(dst, offset, bytes), values, bytes);
    });
}

template <typename D, typename S>
void fixpipe_to_l1(const LocalView& dst, const LocalView& src, const LocalView* table, const AscendC::FixpipeParamsV220& p,
                   AscendC::CO2Layout layout, Site site) {
    Instruction instruction("Fixpipe", Pipe::FIX, site);
    instruction.in_space(dst, {Space::L1}, "dst");
    instruction.require(layout == AscendC::CO2Layout::NZ, Fault::Unsupported, "L1 takes CFG_NZ only", &dst);
    fixpipe<D, S>(instruction, src, table, p, layout, [&](uint64_t offset, const uint8_t* values, uint64_t bytes) {
        std::memcpy(instruction.write(dst, offset, bytes), values, bytes);
    });
}

}  // namespace sim

namespace AscendC {

template <typename T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& p, sim::Site site = sim::Site::here()) {
    sim::load_fractals(dst.view(), src.view(), p, sizeof(PrimT<T>), site);
}
template <typename T>
void LoadData(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const LoadData2DParams& p, sim::Site site = sim::Site::here()) {
    sim::load_fractals(dst.view(), src.view(), p, site);
}
template <typename T>
void LoadDataWithTranspose(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2dTransposeParams& p,
                           sim::Site site = sim::Site::here()) {
    sim::load_transposed(dst.view(), src.view(), p, sizeof(PrimT<T>), site);
}

template <typename DstT, typename Src0T, typename Src1T>
void Mmad(const LocalTensor<DstT>& dst, const LocalTensor<Src0T>& fm, const LocalTensor<Src1T>& filter, const MmadParams& p,
          sim::Site site = sim::Site::here()) {
    sim::multiply<DstT, Src0T, Src1T>(dst.view(), fm.view(), filter.view(), nullptr, p, site);
}
template <typename DstT, typename Src0T, typename Src1T, typename BiasT>
void Mmad(const LocalTensor<DstT>& dst, const LocalTensor<Src0T>& fm, const LocalTensor<Src1T>& filter,
          const LocalTensor<BiasT>& bias, const MmadParams& p, sim::Site site = sim::Site::here()) {
    sim::multiply<DstT, Src0T, Src1T>(dst.view(), fm.view(), filter.view(), &bias.view(), p, site);
}

template <typename DstT, typename SrcT, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<DstT>& dst, const LocalTensor<SrcT>& src, const FixpipeParamsV220& p,
             sim::Site site = sim::Site::here()) {
    sim::fixpipe_out<DstT, SrcT>(dst.view(), src.view(), nullptr, p, config.format, site);
}
template <typename DstT, typename SrcT, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<DstT>& dst, const LocalTensor<SrcT>& src, const LocalTensor<uint64_t>& cbufWorkspace,
             const FixpipeParamsV220& p, sim::Site site = sim::Site::here()) {
    sim::fixpipe_out<DstT, SrcT>(dst.view(), src.view(), &cbufWorkspace.view(), p, config.format, site);
}
template <typename DstT, typename SrcT, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const LocalTensor<DstT>& dst, const LocalTensor<SrcT>& src, const FixpipeParamsV220& p,
             sim::Site site = sim::Site::here()) {
    sim::fixpipe_to_l1<DstT, SrcT>(dst.view(), src.view(), nullptr, p, config.format, site);
}

// What SetFixpipeNz2ndFlag and SetFixpipePreQuantFlag leave for the next copies out of L0C.
inline void SetFixpipeNz2ndFlag(uint16_t ndNum, uint16_t srcNdStride, uint16_t dstNdStride) {
    sim::core().fixpipe_matrices = {ndNum, srcNdStride, dstNdStride};
}
inline void SetFixpipePreQuantFlag(uint64_t config) { sim::core().fixpipe_scale = config; }

template <typename T, typename U>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<U>& src, const DataCopyCO12DstParams& p,
              sim::Site site = sim::Site::here()) {
    const sim::Core& unit = sim::core();
    FixpipeParamsV220 fixpipe(p.nSize, p.mSize, p.srcStride, p.dstStride, p.reluPre != 0, p.quantPre, int64_t(unit.fixpipe_scale),
                              unit.fixpipe_matrices[0], unit.fixpipe_matrices[1], unit.fixpipe_matrices[2], p.unitFlag,
                              p.channelSplit);
    sim::fixpipe_out<T, U>(dst.view(), src.view(), nullptr, fixpipe, p.nz2ndEn ? CO2Layout::ROW_MAJOR : CO2Layout::NZ, site);
}

// Fills blocks of 32 bytes of L1, or of 512 bytes of L0A or L0B, with a value.
template <typename T>
void InitConstValue(const LocalTensor<T>& dst, const InitConstValueParams<PrimT<T>>& p, sim::Site site = sim::Site::here()) {
    const bool l1 = dst.view().buffer && dst.view().buffer->space == sim::Space::L1;
    sim::Instruction instruction("InitConstValue", l1 ? sim::Pipe::MTE2 : sim::Pipe::MTE1, site);
    instruction.in_space(dst.view(), {sim::Space::L1, sim::Space::L0A, sim::Space::L0B}, "dst");
    const uint64_t block = l1 ? 32 : 512, bytes = p.blockNum * block;
    instruction.cost(double(p.repeatTimes) * double(bytes) / sim::kLoadABytes, p.repeatTimes * bytes);
    for (uint64_t repeat = 0; repeat < p.repeatTimes && bytes > 0; ++repeat) {
        uint8_t* to = instruction.write(dst.view(), repeat * (bytes + p.dstGap * block), bytes, uint32_t(block));
        for (uint64_t i = 0; i < bytes / sizeof(PrimT<T>); ++i) sim::store(to, i, p.initValue);
    }
}

inline void SetHF32Mode(bool) {}
inline void SetHF32TransMode(bool) {}
inline void SetMMLayoutTransform(bool) {}

}  // namespace AscendC
