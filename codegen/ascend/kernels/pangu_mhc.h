// Hyper-connection arithmetic on tiles: sums over columns for the projections, and Sinkhorn with tokens in the lanes.
#pragma once

#include "pangu_vector.h"

namespace pangu {

// A tile of streams: rows tokens, each kStreams rows of `width` floats, `pitch` apart.
struct Columns {
    uint32_t rows, width, pitch;
};

// sums[row, 64 lanes] += x^2, over the streams and the 64-column groups. Rows of sums are kSums repeats apart.
template <uint32_t kStreams, uint32_t kSums>
__aicore__ inline void add_squares(const LocalTensor<float>& sums, const LocalTensor<float>& x, const Columns& t) {
    for (uint32_t stream = 0; stream < kStreams; ++stream) {
        for (uint32_t column = 0; column < t.width; column += kLanes) {
            for (uint32_t row = 0; row < t.rows; ++row) {
                const LocalTensor<float> from = x[(row * kStreams + stream) * t.pitch + column];
                MulAddOp::run(sums[row * kSums * kLanes], from, from, smaller(kLanes, t.width - column), 1,
                              BinaryRepeatParams(1, 1, 1, 8, 8, 8));
            }
            barrier();
        }
    }
}

// sums[row, c, 64 lanes] += phi[c] * x: one instruction serves all rows of phi, the repeats.
template <uint32_t kStreams, uint32_t kCoefficients, uint32_t kSums>
__aicore__ inline void add_products(const LocalTensor<float>& sums, const LocalTensor<float>& phi, const LocalTensor<float>& x,
                                    const Columns& t) {
    const uint8_t step = uint8_t(kStreams * t.pitch / kBlockFloats);
    for (uint32_t stream = 0; stream < kStreams; ++stream) {
        for (uint32_t column = 0; column < t.width; column += kLanes) {
            const uint32_t at = stream * t.pitch + column;
            for (uint32_t row = 0; row < t.rows; ++row) {
                MulAddOp::run(sums[row * kSums * kLanes], phi[at], x[row * kStreams * t.pitch + at], smaller(kLanes, t.width - column),
                              kCoefficients, BinaryRepeatParams(1, 1, 1, 8, step, 0));
            }
            barrier();
        }
    }
}

// dst = x * vector, the vector being [streams, columns] and the same for all tokens, the repeats.
template <uint32_t kStreams>
__aicore__ inline void scale_streams(const LocalTensor<float>& dst, const LocalTensor<float>& x, const LocalTensor<float>& vector,
                                     const Columns& t) {
    const uint8_t step = uint8_t(kStreams * t.pitch / kBlockFloats);
    for (uint32_t stream = 0; stream < kStreams; ++stream) {
        for (uint32_t column = 0; column < t.width; column += kLanes) {
            const uint32_t at = stream * t.pitch + column;
            MulOp::run(dst[at], x[at], vector[at], smaller(kLanes, t.width - column), t.rows, BinaryRepeatParams(1, 1, 1, step, step, 0));
        }
    }
    barrier();
}

// Lanes: element e of eight tokens is a block, [e][8].

// value = 1 / (1 + exp(-value)), for `count` floats; `ones` holds as many.
__aicore__ inline void sigmoid_lanes(const LocalTensor<float>& value, const LocalTensor<float>& ones, uint32_t count) {
    AscendC::Muls(value, value, -1.0f, int32_t(count));
    barrier();
    AscendC::Exp(value, value, int32_t(count));
    barrier();
    AscendC::Adds(value, value, 1.0f, int32_t(count));
    barrier();
    AscendC::Div(value, ones, value, int32_t(count));
    barrier();
}

// The n x n matrices of eight tokens, [n][n][8]: reductions are trees over blocks, the other index and the tokens go along.
template <uint32_t kN>
struct Matrices {
    static_assert(kN <= 8, "more than 8 streams");
    static constexpr uint32_t kCount = kN * kN * kBlockFloats;
    static constexpr uint32_t kMask = kN * kBlockFloats;

    // work[i][0] = op over j of r[i][j]; rows of work are n blocks apart, too.
    template <typename Op>
    static __aicore__ inline void reduce_rows(const LocalTensor<float>& work, const LocalTensor<float>& r) {
        uint32_t left = kN;
        bool first = true;
        while (left > 1) {
            const uint32_t half = left / 2, keep = left - half;
            const LocalTensor<float> from = first ? r : work;
            if (first && keep > half)  // the one in the middle goes along unpaired
                AddOp::run(work[half * kBlockFloats], r[half * kBlockFloats], zeros(work), kBlockFloats, kN, BinaryRepeatParams(1, 1, 1, kN, kN, 0));
            Op::run(work, from, from[keep * kBlockFloats], half * kBlockFloats, kN, BinaryRepeatParams(1, 1, 1, kN, kN, kN));
            barrier();
            left = keep;
            first = false;
        }
        if (first) {
            AscendC::Adds(work, r, 0.0f, int32_t(kCount));
            barrier();
        }
    }

    // work[0][j] = sum over i of r[i][j].
    static __aicore__ inline void sum_columns(const LocalTensor<float>& work, const LocalTensor<float>& r) {
        uint32_t left = kN;
        bool first = true;
        while (left > 1) {
            const uint32_t half = left / 2, keep = left - half;
            const LocalTensor<float> from = first ? r : work;
            if (first && keep > half) AscendC::Adds(work[half * kMask], r[half * kMask], 0.0f, int32_t(kMask));
            AscendC::Add(work, from, from[keep * kMask], int32_t(half * kMask));
            barrier();
            left = keep;
            first = false;
        }
        if (first) {
            AscendC::Adds(work, r, 0.0f, int32_t(kMask));
            barrier();
        }
    }

    // Blocks of zeros behind the matrix of work.
    static __aicore__ inline LocalTensor<float> zeros(const LocalTensor<float>& work) { return work[kCount]; }
    static constexpr uint32_t kWorkFloats = kCount + kBlockFloats;

    static __aicore__ inline void divide_rows(const LocalTensor<float>& r, const LocalTensor<float>& work, float eps) {
        reduce_rows<AddOp>(work, r);
        AscendC::Adds(work, work, eps, uint64_t(kBlockFloats), uint8_t(kN), AscendC::UnaryRepeatParams(1, 1, kN, kN));
        barrier();
        AscendC::Div(r, r, work, uint64_t(kMask), uint8_t(kN), BinaryRepeatParams(1, 1, 0, kN, kN, kN));
        barrier();
    }
    static __aicore__ inline void divide_columns(const LocalTensor<float>& r, const LocalTensor<float>& work, float eps) {
        sum_columns(work, r);
        AscendC::Adds(work, work, eps, int32_t(kMask));
        barrier();
        AscendC::Div(r, r, work, uint64_t(kMask), uint8_t(kN), BinaryRepeatParams(1, 1, 1, kN, kN, 0));
        barrier();
    }

    struct MaxOp {
        static __aicore__ inline void run(const LocalTensor<float>& dst, const LocalTensor<float>& a, const LocalTensor<float>& b,
                                          uint32_t mask, uint32_t repeats, const BinaryRepeatParams& p) {
            AscendC::Max(dst, a, b, uint64_t(mask), uint8_t(repeats), p);
        }
    };

    // Softmax over rows plus eps, then columns first, then rows and columns in turn; `iterations` counts the column steps.
    static __aicore__ inline void sinkhorn(const LocalTensor<float>& r, const LocalTensor<float>& work, uint32_t iterations, float eps) {
        reduce_rows<MaxOp>(work, r);
        AscendC::Sub(r, r, work, uint64_t(kMask), uint8_t(kN), BinaryRepeatParams(1, 1, 0, kN, kN, kN));
        barrier();
        AscendC::Exp(r, r, int32_t(kCount));
        barrier();
        divide_rows(r, work, 0.0f);
        AscendC::Adds(r, r, eps, int32_t(kCount));
        barrier();
        divide_columns(r, work, eps);
        for (uint32_t i = 1; i < iterations; ++i) {
            divide_rows(r, work, eps);
            divide_columns(r, work, eps);
        }
    }
};

// offset[i] = 4 * ((i % minor) * minorStride + (i / minor) * majorStride): byte offsets of a transposing Gather. `wide` holds
// as many floats.
__aicore__ inline void transpose_offsets(const LocalTensor<int32_t>& offset, const LocalTensor<float>& wide, uint32_t count,
                                         uint32_t minor, uint32_t minorStride, uint32_t majorStride) {
    LocalTensor<float> index = wide;
    AscendC::CreateVecIndex(index, 0.0f, count);
    barrier();
    AscendC::Adds(wide, wide, 0.5f, int32_t(count));  // so that the quotient is never just below a whole number
    barrier();
    AscendC::Muls(wide, wide, 1.0f / float(minor), int32_t(count));
    barrier();
    AscendC::Cast(wide, wide, RoundMode::CAST_FLOOR, count);
    barrier();
    AscendC::Cast(offset, wide, RoundMode::CAST_RINT, count);
    barrier();
    // (i - minor * q) * minorStride + q * majorStride
    const LocalTensor<int32_t> count_up = wide.ReinterpretCast<int32_t>();
    LocalTensor<int32_t> target = count_up;
    AscendC::CreateVecIndex(target, int32_t(0), count);
    AscendC::Muls(offset, offset, int32_t(majorStride) - int32_t(minor * minorStride), int32_t(count));
    barrier();
    AscendC::Muls(count_up, count_up, int32_t(minorStride), int32_t(count));
    barrier();
    AscendC::Add(offset, offset, count_up, int32_t(count));
    barrier();
    AscendC::Muls(offset, offset, int32_t(sizeof(float)), int32_t(count));
    barrier();
}

}  // namespace pangu
