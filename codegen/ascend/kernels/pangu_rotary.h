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

    // bf16 or float32 rows to float32 rows and back, kPitch apart both.
    static __aicore__ inline void widen(const LocalTensor<float>& dst, const LocalTensor<bfloat16_t>& src, uint32_t rows) {
        AscendC::Cast(dst, src, RoundMode::CAST_NONE, uint64_t(kHalf), uint8_t(rows),
                      AscendC::UnaryRepeatParams(1, 1, kStep, kPitch / 16));
    }
    static __aicore__ inline void widen(const LocalTensor<float>& dst, const LocalTensor<float>& src, uint32_t rows) {
        AscendC::Adds(dst, src, 0.0f, uint64_t(kHalf), uint8_t(rows), AscendC::UnaryRepeatParams(1, 1, kStep, kStep));
    }
    static __aicore__ inline void narrow(const LocalTensor<bfloat16_t>& dst, const LocalTensor<float>& src, uint32_t rows) {
        AscendC::Cast(dst, src, RoundMode::CAST_RINT, uint64_t(kHalf), uint8_t(rows),
                      AscendC::UnaryRepeatParams(1, 1, kPitch / 16, kStep));
    }

    // Both halves of `rows` rows to bf16 rows of global memory. Slots of `queue` hold 4 * rows * kPitch bytes.
    template <typename Queue>
    static __aicore__ inline void store(Queue& queue, const GlobalTensor<bfloat16_t>& dst, const LocalTensor<float>& first,
                                        const LocalTensor<float>& second, uint32_t rows, uint32_t gmPitch) {
        LocalTensor<bfloat16_t> turned = queue.template AllocTensor<bfloat16_t>();
        narrow(turned, first, rows);
        narrow(turned[rows * kPitch], second, rows);
        barrier();
        queue.EnQue(turned);
        turned = queue.template DeQue<bfloat16_t>();
        store_rows(dst, turned, rows, kHalf, gmPitch, kPitch);
        store_rows(dst[kHalf], turned[rows * kPitch], rows, kHalf, gmPitch, kPitch);
        queue.FreeTensor(turned);
    }
    // To split rows, whose low parts lie lowAt behind the high ones. Slots hold twice as much, `back` is like one half.
    template <typename Queue>
    static __aicore__ inline void store_split(Queue& queue, const GlobalTensor<bfloat16_t>& dst, const LocalTensor<float>& first,
                                              const LocalTensor<float>& second, const LocalTensor<float>& back, uint32_t rows,
                                              uint32_t gmPitch, uint32_t lowAt) {
        const uint32_t part = rows * kPitch;
        LocalTensor<bfloat16_t> turned = queue.template AllocTensor<bfloat16_t>();
        split(turned, turned[2 * part], first, back, rows);
        split(turned[part], turned[3 * part], second, back, rows);
        queue.EnQue(turned);
        turned = queue.template DeQue<bfloat16_t>();
        for (uint32_t i = 0; i < 4; ++i)
            store_rows(dst[i % 2 * kHalf + i / 2 * lowAt], turned[i * part], rows, kHalf, gmPitch, kPitch);
        queue.FreeTensor(turned);
    }

private:
    // split_values of the kHalf columns of every row.
    static __aicore__ inline void split(const LocalTensor<bfloat16_t>& high, const LocalTensor<bfloat16_t>& low, const LocalTensor<float>& x,
                                        const LocalTensor<float>& back, uint32_t rows) {
        narrow(high, x, rows);
        barrier();
        widen(back, high, rows);
        barrier();
        SubOp::run(back, x, back, kHalf, rows, BinaryRepeatParams(1, 1, 1, kStep, kStep, kStep));
        barrier();
        narrow(low, back, rows);
        barrier();
    }
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
