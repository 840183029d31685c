// Half rotation of channels: first * cos - second * sin, second * cos + first * sin. The halves are tiles of their own, so
// that nothing depends on where in a row they lie.
#pragma once

#include "pangu_vector.h"

namespace pangu {

// Rows of kHalf float32 values, kPitch apart; kHalf <= 64, so one repeat is one row.
template <uint32_t kHalf>
struct Rotary {
    static_assert(kHalf <= kLanes, "rotary of more than 128 channels");
    static constexpr uint32_t kPitch = (kHalf + 15) / 16 * 16;
    static constexpr uint8_t kStep = kPitch / kBlockFloats;

    // outFirst, outSecond of `heads` rows for each of `tokens` rows of the table. `work` is like one half.
    static __aicore__ inline void rotate(const LocalTensor<float>& outFirst, const LocalTensor<float>& outSecond,
                                         const LocalTensor<float>& first, const LocalTensor<float>& second,
                                         const LocalTensor<float>& cosine, const LocalTensor<float>& sine,
                                         const LocalTensor<float>& work, uint32_t tokens, uint32_t heads) {
        turn<MulOp>(outFirst, first, cosine, tokens, heads);
        turn<MulOp>(work, second, sine, tokens, heads);
        turn<MulOp>(outSecond, second, cosine, tokens, heads);
        barrier();
        const BinaryRepeatParams plain(1, 1, 1, kStep, kStep, kStep);
        SubOp::run(outFirst, outFirst, work, kHalf, tokens * heads, plain);
        turn<MulAddOp>(outSecond, first, sine, tokens, heads);
        barrier();
    }

    // bf16 rows to float32 rows and back, kPitch apart both.
    static __aicore__ inline void widen(const LocalTensor<float>& dst, const LocalTensor<bfloat16_t>& src, uint32_t rows) {
        AscendC::Cast(dst, src, RoundMode::CAST_NONE, uint64_t(kHalf), uint8_t(rows),
                      AscendC::UnaryRepeatParams(1, 1, kStep, kPitch / 16));
    }
    static __aicore__ inline void narrow(const LocalTensor<bfloat16_t>& dst, const LocalTensor<float>& src, uint32_t rows) {
        AscendC::Cast(dst, src, RoundMode::CAST_RINT, uint64_t(kHalf), uint8_t(rows),
                      AscendC::UnaryRepeatParams(1, 1, kPitch / 16, kStep));
    }

private:
    template <typename Op>
    static __aicore__ inline void turn(const LocalTensor<float>& dst, const LocalTensor<float>& src, const LocalTensor<float>& table,
                                       uint32_t tokens, uint32_t heads) {
        if (heads == 1) {
            Op::run(dst, src, table, kHalf, tokens, BinaryRepeatParams(1, 1, 1, kStep, kStep, kStep));
            return;
        }
        for (uint32_t token = 0; token < tokens; ++token) {
            const uint32_t at = token * heads * kPitch;
            Op::run(dst[at], src[at], table[token * kPitch], kHalf, heads, BinaryRepeatParams(1, 1, 1, kStep, kStep, 0));
        }
    }
};

}  // namespace pangu
