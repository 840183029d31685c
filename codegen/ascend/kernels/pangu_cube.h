// Shared by the generated cube kernels: bf16 matrices from global memory to L1 and L0, and their products.
//
// A matrix in L1 lies in column blocks of 16 (32 bytes): [columns / 16][pitch][16], its rows being rounded up to a pitch of
// whole fractals. Rows that only fill up a fractal hold nothing; products name their exact sizes and so never use them.
#pragma once

#include "kernel_operator.h"

namespace pangu {

constexpr uint32_t kFractal = 256;  // elements: 16 x 16
constexpr uint32_t kSide = 16;

constexpr __aicore__ inline uint32_t whole(uint32_t value) { return (value + kSide - 1) / kSide * kSide; }
constexpr __aicore__ inline uint32_t fractals(uint32_t value) { return (value + kSide - 1) / kSide; }

// Rows at .. at + rows of an L1 matrix from rows of global memory that are `gmPitch` elements apart. The copy has 16 bits for
// that distance: rows that are farther apart (weights of a very long context) come one by one.
__aicore__ inline void load_nz(const AscendC::LocalTensor<bfloat16_t>& dst, const AscendC::GlobalTensor<bfloat16_t>& src, uint32_t at,
                               uint32_t rows, uint32_t cols, uint32_t gmPitch, uint32_t pitch) {
    if (rows > 1 && gmPitch > 0xFFFF) {
        for (uint32_t i = 0; i < rows; ++i) load_nz(dst, src[uint64_t(i) * gmPitch], at + i, 1, cols, cols, pitch);
        return;
    }
    AscendC::Nd2NzParams p;
    p.ndNum = 1;
    p.nValue = uint16_t(rows);
    p.dValue = uint16_t(cols);
    p.srcNdMatrixStride = 0;
    p.srcDValue = uint16_t(rows > 1 ? gmPitch : cols);
    p.dstNzC0Stride = uint16_t(pitch);
    p.dstNzNStride = 1;
    p.dstNzMatrixStride = 0;
    AscendC::DataCopy(dst[at * kSide], src, p);
}

// A left operand for `rows` rows. A single row would switch the product to another layout, so it is there twice.
__aicore__ inline uint32_t left_rows(uint32_t rows) { return rows == 1 ? 2 : rows; }
__aicore__ inline void load_left_nz(const AscendC::LocalTensor<bfloat16_t>& dst, const AscendC::GlobalTensor<bfloat16_t>& src,
                                    uint32_t rows, uint32_t cols, uint32_t gmPitch) {
    const uint32_t pitch = whole(rows);
    load_nz(dst, src, 0, rows, cols, gmPitch, pitch);
    if (rows == 1) load_nz(dst, src, 1, rows, cols, gmPitch, pitch);
}

// Rows whose `kHalves` halves of `width` columns lie side by side in global memory (2: split rows, high parts and then low parts):
// the first `cols` columns of each half, the matrix of low parts behind that of high parts, whole(cols) columns on.
template <uint32_t kHalves>
__aicore__ inline void load_halves_nz(const AscendC::LocalTensor<bfloat16_t>& dst, const AscendC::GlobalTensor<bfloat16_t>& src,
                                      uint32_t at, uint32_t rows, uint32_t cols, uint32_t width, uint32_t gmPitch, uint32_t pitch) {
    if (cols == width && width % kSide == 0) {
        load_nz(dst, src, at, rows, kHalves * cols, gmPitch, pitch);
        return;
    }
    for (uint32_t half = 0; half < kHalves; ++half)
        load_nz(dst[half * pitch * whole(cols)], src[half * width], at, rows, cols, gmPitch, pitch);
}
template <uint32_t kHalves>
__aicore__ inline void load_left_halves_nz(const AscendC::LocalTensor<bfloat16_t>& dst, const AscendC::GlobalTensor<bfloat16_t>& src,
                                           uint32_t rows, uint32_t cols, uint32_t width, uint32_t gmPitch) {
    const uint32_t pitch = whole(rows);
    load_halves_nz<kHalves>(dst, src, 0, rows, cols, width, gmPitch, pitch);
    if (rows == 1) load_halves_nz<kHalves>(dst, src, 1, rows, cols, width, gmPitch, pitch);
}

// Columns from .. from + depth of an L1 matrix of m rows into L0A: fractals row by row.
__aicore__ inline void load_left(const AscendC::LocalTensor<bfloat16_t>& dst, const AscendC::LocalTensor<bfloat16_t>& src, uint32_t m,
                                 uint32_t from, uint32_t depth) {
    const uint32_t down = fractals(m), across = fractals(depth);
    for (uint32_t i = 0; i < down; ++i) {
        AscendC::LoadData2DParams p;
        p.startIndex = uint16_t(from / kSide * down + i);
        p.repeatTimes = uint8_t(across);
        p.srcStride = uint16_t(down);
        AscendC::LoadData(dst[i * across * kFractal], src, p);
    }
}

// The transpose of columns from .. from + depth of an L1 matrix of n rows into L0B: the right operand of x * rows^T.
__aicore__ inline void load_right_transposed(const AscendC::LocalTensor<bfloat16_t>& dst, const AscendC::LocalTensor<bfloat16_t>& src,
                                             uint32_t n, uint32_t from, uint32_t depth) {
    AscendC::LoadData2DParams p;
    p.startIndex = uint16_t(from / kSide * fractals(n));
    p.repeatTimes = uint8_t(fractals(depth) * fractals(n));
    p.srcStride = 1;
    AscendC::LoadData(dst, src, p);
}

// Rows at .. at + depth, and of these columns from .. from + n, of an L1 matrix of `rows` rows into L0B: the right operand of x * rows.
__aicore__ inline void load_right(const AscendC::LocalTensor<bfloat16_t>& dst, const AscendC::LocalTensor<bfloat16_t>& src,
                                  uint32_t rows, uint32_t at, uint32_t depth, uint32_t from, uint32_t n) {
    const uint32_t down = fractals(rows), across = fractals(n);
    for (uint32_t i = 0; i < fractals(depth); ++i) {
        AscendC::LoadData2DParams p;
        p.startIndex = uint16_t(from / kSide * down + at / kSide + i);
        p.repeatTimes = uint8_t(across);
        p.srcStride = uint16_t(down);
        p.ifTranspose = true;
        AscendC::LoadData(dst[i * across * kFractal], src, p);
    }
}

// c (+)= a * b with exact sizes. Small products must be kept apart by a barrier; the large ones the unit orders itself.
__aicore__ inline void multiply(const AscendC::LocalTensor<float>& c, const AscendC::LocalTensor<bfloat16_t>& a,
                                const AscendC::LocalTensor<bfloat16_t>& b, uint32_t m, uint32_t n, uint32_t depth, bool first) {
    AscendC::MmadParams p;
    p.m = uint16_t(m);
    p.n = uint16_t(n);
    p.k = uint16_t(depth);
    p.cmatrixInitVal = first;
    AscendC::Mmad(c, a, b, p);
    if (m / kSide * (n / kSide) < 10) AscendC::PipeBarrier<PIPE_M>();
}

// sum = x * y^T for matrices of m and n rows and `width` columns in L1, kStep columns at a time. Of split operands the products
// low * high, high * high and high * low: low * low is at most 2^-18 of a term, and left out.
template <uint32_t kHalves, uint32_t kStep, typename LeftQueue, typename RightQueue>
__aicore__ inline void multiply_rows(const AscendC::LocalTensor<float>& sum, const AscendC::LocalTensor<bfloat16_t>& x,
                                     const AscendC::LocalTensor<bfloat16_t>& y, LeftQueue& leftQueue, RightQueue& rightQueue, uint32_t m,
                                     uint32_t n, uint32_t width) {
    const uint32_t lowX = whole(m) * whole(width), lowY = whole(n) * whole(width);
    for (uint32_t column = 0; column < width; column += kStep) {
        const uint32_t depth = kStep < width - column ? kStep : width - column;
        AscendC::LocalTensor<bfloat16_t> right = rightQueue.template AllocTensor<bfloat16_t>();
        load_right_transposed(right, y, n, column, depth);
        rightQueue.EnQue(right);
        right = rightQueue.template DeQue<bfloat16_t>();
        if constexpr (kHalves == 2) {
            AscendC::LocalTensor<bfloat16_t> low = leftQueue.template AllocTensor<bfloat16_t>();
            load_left(low, x[lowX], m, column, depth);
            leftQueue.EnQue(low);
            low = leftQueue.template DeQue<bfloat16_t>();
            multiply(sum, low, right, m, n, depth, column == 0);
            leftQueue.FreeTensor(low);
        }
        AscendC::LocalTensor<bfloat16_t> left = leftQueue.template AllocTensor<bfloat16_t>();
        load_left(left, x, m, column, depth);
        leftQueue.EnQue(left);
        left = leftQueue.template DeQue<bfloat16_t>();
        multiply(sum, left, right, m, n, depth, kHalves == 1 && column == 0);
        rightQueue.FreeTensor(right);
        if constexpr (kHalves == 2) {
            AscendC::LocalTensor<bfloat16_t> low = rightQueue.template AllocTensor<bfloat16_t>();
            load_right_transposed(low, y[lowY], n, column, depth);
            rightQueue.EnQue(low);
            low = rightQueue.template DeQue<bfloat16_t>();
            multiply(sum, left, low, m, n, depth, false);
            rightQueue.FreeTensor(low);
        }
        leftQueue.FreeTensor(left);
    }
}

// rows x cols of an accumulator that was computed with m rows, to rows of global memory `gmPitch` elements apart.
template <typename T>
__aicore__ inline void store_accumulator(const AscendC::GlobalTensor<T>& dst, const AscendC::LocalTensor<float>& c, uint32_t m,
                                         uint32_t rows, uint32_t cols, uint32_t gmPitch, bool relu = false) {
    AscendC::FixpipeParamsV220 p;
    p.nSize = uint16_t(cols);
    p.mSize = uint16_t(rows);
    p.srcStride = uint16_t(whole(m));
    p.dstStride = gmPitch;
    p.reluEn = relu;
    if constexpr (sizeof(T) == 2) p.quantPre = QuantMode_t::F322BF16;
    AscendC::Fixpipe<T, float, AscendC::CFG_ROW_MAJOR>(dst, c, p);
}

}  // namespace pangu
