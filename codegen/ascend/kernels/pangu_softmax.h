// Softmax of rows of scores in global memory, with what a row does not see masked out, to bf16 or split weights.
#pragma once

#include "pangu_vector.h"

namespace pangu {

// x[begin .. end) = value; x starts a 256-byte step. The ends need no alignment: bits choose the elements there.
__aicore__ inline void fill_range(const LocalTensor<float>& x, uint32_t begin, uint32_t end, float value) {
    if (begin >= end) return;
    const uint32_t first = begin / kLanes * kLanes;
    if (begin != first) {
        const uint32_t until = smaller(end - first, kLanes);
        const uint64_t below = until == kLanes ? ~uint64_t(0) : (uint64_t(1) << until) - 1;
        uint64_t mask[2] = {below & ~((uint64_t(1) << (begin - first)) - 1), 0};
        AscendC::Duplicate(x[first], value, mask, 1, 1, 8);
        begin = first + kLanes;
    }
    if (begin < end) AscendC::Duplicate(x[begin], value, int32_t(end - begin));
}

// dst[row] = reduce(src[row, 0 .. cols)), cols at most 4096; `work` holds rows * 64 floats.
template <typename Reduce>
__aicore__ inline void reduce_wide(const LocalTensor<float>& dst, const LocalTensor<float>& src, const LocalTensor<float>& work,
                                   uint32_t rows, uint32_t cols, uint32_t pitch) {
    const uint32_t full = cols / kLanes, tail = cols % kLanes;
    for (uint32_t row = 0; row < rows; ++row) {
        if (full > 0) Reduce::run(work[row * kLanes], src[row * pitch], kLanes, full, 1, 8);
        if (tail > 0) Reduce::run(work[row * kLanes + full], src[row * pitch + full * kLanes], tail, 1, 1, 8);
    }
    barrier();
    Reduce::run(dst, work, full + (tail != 0), rows, 1, 8);
    barrier();
}

// kRows rows at once, kChunk (a multiple of 64, at most 4096) columns at a time. One chunk is read once; longer rows are read
// twice, for their maximum and sum and then for the weights. kHalves: 1 for bf16 weights, 2 for split ones.
template <uint32_t kRows, uint32_t kChunk, uint32_t kHalves>
class Softmax {
public:
    static constexpr uint32_t kPadded = (kRows + kBlockFloats - 1) / kBlockFloats * kBlockFloats;
    static constexpr uint32_t kScalarFloats = 5 * kPadded + kPadded * kBlockFloats;

    __aicore__ inline void init(TPipe& pipe) {
        pipe.InitBuffer(inQueue_, 2, kRows * kChunk * sizeof(float));
        pipe.InitBuffer(outQueue_, 2, kRows * kChunk * kHalves * sizeof(bfloat16_t));
        if constexpr (kHalves == 2) pipe.InitBuffer(restBuffer_, kRows * kChunk * sizeof(float));
        pipe.InitBuffer(wideBuffer_, kRows * kChunk * sizeof(float));
        pipe.InitBuffer(workBuffer_, kRows * kLanes * sizeof(float));
        pipe.InitBuffer(scalarBuffer_, kScalarFloats * sizeof(float));
        AscendC::Duplicate(scalar(0), 1.0f, int32_t(kScalarFloats));
        barrier();
    }

    // weights[row, c] = softmax over c of scale * scores[row, c]. Row i sees the first `always` columns and those of mask(i),
    // which come after them. Columns from `total` on, up to a whole block of 16, are written nowhere. Rows of
    // scores are gmPitch apart, rows of weights as many for each half.
    template <typename Mask>
    __aicore__ inline void run(const GlobalTensor<bfloat16_t>& weights, const GlobalTensor<float>& scores, uint32_t rows, uint32_t total,
                               uint32_t gmPitch, uint32_t always, float scale, const Mask& mask) {
        const LocalTensor<float> maximum = scalar(kMaximum), sum = scalar(kSum), fresh = scalar(kFresh), wide = wideBuffer_.Get<float>();
        AscendC::Duplicate(maximum, kFloor, int32_t(kPadded));
        AscendC::Duplicate(sum, 0.0f, int32_t(kPadded));
        barrier();
        for (uint32_t from = 0; from < total; from += kChunk) {
            const uint32_t cols = smaller(kChunk, total - from), pitch = align_up(cols, kLanes);
            load(scores, rows, from, cols, gmPitch, always, scale, mask);
            reduce_wide<MaxOf>(fresh, wide, workBuffer_.Get<float>(), rows, cols, pitch);
            AscendC::Max(fresh, fresh, maximum, int32_t(kPadded));
            barrier();
            // What was summed up so far counts exp(old - new) as much.
            AscendC::Sub(maximum, maximum, fresh, int32_t(kPadded));
            barrier();
            AscendC::Exp(maximum, maximum, int32_t(kPadded));
            barrier();
            AscendC::Mul(sum, sum, maximum, int32_t(kPadded));
            AscendC::Adds(scalar(kStep), fresh, 0.0f, int32_t(kPadded));
            barrier();
            AscendC::Adds(maximum, scalar(kStep), 0.0f, int32_t(kPadded));
            barrier();
            exponentials(rows, cols, pitch);
            reduce_wide<SumOf>(fresh, wide, workBuffer_.Get<float>(), rows, cols, pitch);
            AscendC::Add(sum, sum, fresh, int32_t(kPadded));
            barrier();
        }
        AscendC::Adds(scalar(kStep), sum, 0.0f, int32_t(kPadded));
        barrier();
        AscendC::Div(sum, scalar(kOnes), sum, int32_t(kPadded));
        barrier();
        for (uint32_t from = 0; from < total; from += kChunk) {
            const uint32_t cols = smaller(kChunk, total - from), pitch = align_up(cols, kLanes);
            if (total > kChunk) {
                load(scores, rows, from, cols, gmPitch, always, scale, mask);
                exponentials(rows, cols, pitch);
            }
            spread_values(scalar(kSpread), sum, kPadded);
            per_row<MulOp>(wide, wide, scalar(kSpread), rows, cols, pitch);
            LocalTensor<bfloat16_t> out = outQueue_.AllocTensor<bfloat16_t>();
            if constexpr (kHalves == 2) {
                split_values(out, out[rows * pitch], wide, restBuffer_.Get<float>(), rows * pitch);
            } else {
                AscendC::Cast(out, wide, RoundMode::CAST_RINT, rows * pitch);
                barrier();
            }
            outQueue_.EnQue(out);
            out = outQueue_.DeQue<bfloat16_t>();
            for (uint32_t half = 0; half < kHalves; ++half)
                store_rows(weights[half * gmPitch + from], out[half * rows * pitch], rows, cols, kHalves * gmPitch, pitch);
            outQueue_.FreeTensor(out);
        }
    }

    // Of the rows of the last run: maxima, then sums of exponentials, as kPadded blocks of eight equal floats each.
    __aicore__ inline void statistics(const LocalTensor<float>& blocks) {
        spread_values(blocks, scalar(kMaximum), kPadded);
        spread_values(blocks[kPadded * kBlockFloats], scalar(kStep), kPadded);
    }

private:
    static constexpr float kFloor = -1e30f;  // below every score, and far enough from the smallest float to subtract from
    static constexpr uint32_t kOnes = 0, kMaximum = kPadded, kSum = 2 * kPadded, kFresh = 3 * kPadded, kStep = 4 * kPadded, kSpread = 5 * kPadded;

    __aicore__ inline LocalTensor<float> scalar(uint32_t at) { return scalarBuffer_.Get<float>()[at]; }

    template <typename Mask>
    __aicore__ inline void load(const GlobalTensor<float>& scores, uint32_t rows, uint32_t from, uint32_t cols, uint32_t gmPitch,
                                uint32_t always, float scale, const Mask& mask) {
        const LocalTensor<float> wide = wideBuffer_.Get<float>();
        const uint32_t pitch = align_up(cols, kLanes);
        LocalTensor<float> in = inQueue_.AllocTensor<float>();
        load_rows(in, scores[from], rows, cols, gmPitch, pitch);
        inQueue_.EnQue(in);
        in = inQueue_.DeQue<float>();
        for (uint32_t row = 0; row < rows; ++row) AscendC::Muls(wide[row * pitch], in[row * pitch], scale, int32_t(cols));
        barrier();
        inQueue_.FreeTensor(in);
        for (uint32_t row = 0; row < rows; ++row) {
            const Span seen = mask(row);
            hide(wide[row * pitch], from, cols, always, seen.begin);
            hide(wide[row * pitch], from, cols, seen.end > always ? seen.end : always, from + pitch);
            if (pitch > cols) fill_range(wide[row * pitch], cols, pitch, kFloor);
        }
        barrier();
    }

    // Columns begin .. end of the whole row are not seen; the chunk holds from .. from + cols.
    static __aicore__ inline void hide(const LocalTensor<float>& row, uint32_t from, uint32_t cols, uint32_t begin, uint32_t end) {
        const uint32_t first = begin > from ? begin - from : 0, last = end > from ? smaller(end - from, cols) : 0;
        fill_range(row, first, last, kFloor);
    }

    // wide = exp(wide - maximum) for the rows' maxima.
    __aicore__ inline void exponentials(uint32_t rows, uint32_t cols, uint32_t pitch) {
        const LocalTensor<float> wide = wideBuffer_.Get<float>(), spread = scalar(kSpread);
        spread_values(spread, scalar(kMaximum), kPadded);
        per_row<SubOp>(wide, wide, spread, rows, cols, pitch);
        AscendC::Exp(wide, wide, int32_t(rows * pitch));
        barrier();
    }

    TQue<TPosition::VECIN, 2> inQueue_;
    TQue<TPosition::VECOUT, 2> outQueue_;
    TBuf<TPosition::VECCALC> wideBuffer_, workBuffer_, scalarBuffer_, restBuffer_;
};

}  // namespace pangu
