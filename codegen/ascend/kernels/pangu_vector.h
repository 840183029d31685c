// Shared by the generated vector kernels: copies of rows, per-row reductions and broadcasts on full repeats.
//
// A tile is `rows` rows of kCols elements, kPitch apart in UB (kPitch: kCols rounded up to 16, so that a row of bf16 starts
// a 32-byte block). Nothing here touches single elements; the loops run over rows, or over 64-column groups of all rows,
// whichever needs fewer instructions. Every helper ends with the barrier that its successor on the vector unit needs.
#pragma once

#include "kernel_operator.h"

namespace pangu {

using AscendC::BinaryRepeatParams;
using AscendC::GlobalTensor;
using AscendC::HardEvent;
using AscendC::LocalTensor;
using AscendC::RoundMode;
using AscendC::TBuf;
using AscendC::TPipe;
using AscendC::TPosition;
using AscendC::TQue;

constexpr uint32_t kBlockBytes = 32;
constexpr uint32_t kLanes = 64;  // float32 elements of one repeat
constexpr uint32_t kBlockFloats = 8;
constexpr uint32_t kMaxRepeats = 255;

constexpr __aicore__ inline uint32_t align_up(uint32_t value, uint32_t to) { return (value + to - 1) / to * to; }
constexpr __aicore__ inline uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
constexpr __aicore__ inline uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Contiguous share `part` of `parts` of `items`: sizes differ by at most one.
struct Span {
    uint32_t begin;
    uint32_t end;
};
__aicore__ inline Span share(uint32_t items, uint32_t part, uint32_t parts) {
    return {uint32_t(uint64_t(items) * part / parts), uint32_t(uint64_t(items) * (part + 1) / parts)};
}

__aicore__ inline void barrier() { AscendC::PipeBarrier<PIPE_V>(); }

// Waits for `event` outside of a queue, with an id of the pipe's own pool.
template <HardEvent event>
__aicore__ inline void fence(TPipe& pipe) {
    const auto id = static_cast<event_t>(pipe.FetchEventID(event));
    AscendC::SetFlag<event>(id);
    AscendC::WaitFlag<event>(id);
}

// Copies `rows` rows of `cols` elements, `gmPitch` apart in global memory and `ubPitch` (whole blocks) apart in UB. Rows
// that do not fill their last block are filled up with zeros.
template <typename T>
__aicore__ inline void load_rows(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t rows, uint32_t cols,
                                 uint32_t gmPitch, uint32_t ubPitch) {
    constexpr uint32_t per = kBlockBytes / sizeof(T);
    const uint32_t whole = align_up(cols, per);
    if (whole == cols && gmPitch == cols && ubPitch == cols) {
        AscendC::DataCopy(dst, src, rows * cols);
        return;
    }
    const AscendC::DataCopyExtParams copy(uint16_t(rows), cols * sizeof(T), (gmPitch - cols) * sizeof(T), (ubPitch - whole) / per, 0);
    AscendC::DataCopyPadExtParams<T> pad;
    pad.isPad = whole != cols;
    pad.rightPadding = uint8_t(whole - cols);
    AscendC::DataCopyPad(dst, src, copy, pad);
}

template <typename T>
__aicore__ inline void store_rows(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t rows, uint32_t cols,
                                  uint32_t gmPitch, uint32_t ubPitch) {
    constexpr uint32_t per = kBlockBytes / sizeof(T);
    const uint32_t whole = align_up(cols, per);
    if (whole == cols && gmPitch == cols && ubPitch == cols) {
        AscendC::DataCopy(dst, src, rows * cols);
        return;
    }
    const AscendC::DataCopyExtParams copy(uint16_t(rows), cols * sizeof(T), (ubPitch - whole) / per, (gmPitch - cols) * sizeof(T), 0);
    AscendC::DataCopyPad(dst, src, copy);
}

// Rows of a tile as float32; gaps behind them that nothing loaded are left alone. The caller puts the barrier.
__aicore__ inline void widen_rows(const LocalTensor<float>& dst, const LocalTensor<bfloat16_t>& src, uint32_t rows, uint32_t, uint32_t pitch) {
    AscendC::Cast(dst, src, RoundMode::CAST_NONE, rows * pitch);
}
__aicore__ inline void widen_rows(const LocalTensor<float>& dst, const LocalTensor<float>& src, uint32_t rows, uint32_t cols, uint32_t pitch) {
    if (pitch - cols < kBlockFloats) {
        AscendC::Adds(dst, src, 0.0f, int32_t(rows * pitch));
    } else {
        for (uint32_t row = 0; row < rows; ++row) AscendC::Adds(dst[row * pitch], src[row * pitch], 0.0f, int32_t(cols));
    }
}
// And back: bf16 is rounded to nearest even.
__aicore__ inline void narrow(const LocalTensor<bfloat16_t>& dst, const LocalTensor<float>& src, uint32_t count) {
    AscendC::Cast(dst, src, RoundMode::CAST_RINT, count);
}
__aicore__ inline void narrow(const LocalTensor<float>& dst, const LocalTensor<float>& src, uint32_t count) {
    AscendC::Adds(dst, src, 0.0f, int32_t(count));
}

// high + low = x to 16 bits: x rounded to bf16, and what that leaves, rounded too. `back` holds `count` floats.
__aicore__ inline void split_values(const LocalTensor<bfloat16_t>& high, const LocalTensor<bfloat16_t>& low, const LocalTensor<float>& x,
                                    const LocalTensor<float>& back, uint32_t count) {
    AscendC::Cast(high, x, RoundMode::CAST_RINT, count);
    barrier();
    AscendC::Cast(back, high, RoundMode::CAST_NONE, count);
    barrier();
    AscendC::Sub(back, x, back, int32_t(count));
    barrier();
    AscendC::Cast(low, back, RoundMode::CAST_RINT, count);
    barrier();
}

// A tile of float32 rows, ubPitch (a multiple of 16) apart, to split rows of global memory: the high parts of a row at dst +
// row * gmPitch, its low parts lowAt behind them. Slots of `queue` hold rows * ubPitch * 4 bytes, `back` as many as x.
template <typename Queue>
__aicore__ inline void store_split(Queue& queue, const GlobalTensor<bfloat16_t>& dst, const LocalTensor<float>& x,
                                   const LocalTensor<float>& back, uint32_t rows, uint32_t cols, uint32_t gmPitch, uint32_t lowAt,
                                   uint32_t ubPitch) {
    const uint32_t count = rows * ubPitch;
    LocalTensor<bfloat16_t> parts = queue.template AllocTensor<bfloat16_t>();
    split_values(parts, parts[count], x, back, count);
    queue.EnQue(parts);
    parts = queue.template DeQue<bfloat16_t>();
    store_rows(dst, parts, rows, cols, gmPitch, ubPitch);
    store_rows(dst[lowAt], parts[count], rows, cols, gmPitch, ubPitch);
    queue.FreeTensor(parts);
}

// A vector of parameters that stays in UB for the whole kernel. The caller frees it at the end.
template <typename T>
__aicore__ inline LocalTensor<T> load_parameter(TQue<TPosition::VECIN, 1>& queue, GM_ADDR address, uint32_t count) {
    GlobalTensor<T> source;
    source.SetGlobalBuffer((__gm__ T*)address, count);
    LocalTensor<T> local = queue.AllocTensor<T>();
    load_rows(local, source, 1, count, count, align_up(count, kBlockBytes / sizeof(T)));
    queue.EnQue(local);
    return queue.DeQue<T>();
}

// Sum (or maximum) over each row: dst[row] = reduce(src[row, 0 .. kCols)). `work` holds work_floats<kCols>(rows) floats.
template <uint32_t kCols>
constexpr __aicore__ inline uint32_t work_floats(uint32_t rows) {
    constexpr uint32_t groups = (kCols + kLanes - 1) / kLanes;
    return groups == 1 ? kBlockFloats : rows * (align_up(groups, kBlockFloats) + kBlockFloats);
}

struct SumOf {
    static __aicore__ inline void run(const LocalTensor<float>& dst, const LocalTensor<float>& src, uint32_t mask, uint32_t repeats,
                                      uint32_t dstStride, uint32_t srcStride) {
        AscendC::WholeReduceSum(dst, src, int32_t(mask), int32_t(repeats), int32_t(dstStride), 1, int32_t(srcStride));
    }
};
struct MaxOf {
    static __aicore__ inline void run(const LocalTensor<float>& dst, const LocalTensor<float>& src, uint32_t mask, uint32_t repeats,
                                      uint32_t dstStride, uint32_t srcStride) {
        AscendC::WholeReduceMax(dst, src, int32_t(mask), int32_t(repeats), int32_t(dstStride), 1, int32_t(srcStride),
                                AscendC::ReduceOrder::ORDER_ONLY_VALUE);
    }
};

template <typename Reduce, uint32_t kCols, uint32_t kPitch>
__aicore__ inline void reduce_rows(const LocalTensor<float>& dst, const LocalTensor<float>& src, const LocalTensor<float>& work,
                                   uint32_t rows) {
    constexpr uint32_t full = kCols / kLanes, tail = kCols % kLanes, groups = full + (tail != 0);
    constexpr uint32_t pitch = (groups + kBlockFloats - 1) / kBlockFloats * kBlockFloats;
    constexpr uint32_t outer = (groups + kLanes - 1) / kLanes;
    static_assert(outer <= kBlockFloats, "rows of more than 32768 columns");
    static_assert(full <= kMaxRepeats, "rows of more than 16320 columns");
    if constexpr (groups == 1) {
        Reduce::run(dst, src, kCols, rows, 1, kPitch / kBlockFloats);
    } else {
        for (uint32_t row = 0; row < rows; ++row) {
            if constexpr (full > 0) Reduce::run(work[row * pitch], src[row * kPitch], kLanes, full, 1, 8);
            if constexpr (tail > 0) Reduce::run(work[row * pitch + full], src[row * kPitch + full * kLanes], tail, 1, 1, 8);
        }
        barrier();
        if constexpr (outer == 1) {
            Reduce::run(dst, work, groups, rows, 1, pitch / kBlockFloats);
        } else {
            const LocalTensor<float> second = work[rows * pitch];
            for (uint32_t part = 0; part < outer; ++part) {
                Reduce::run(second[part], work[part * kLanes], smaller(kLanes, groups - part * kLanes), rows, kBlockFloats,
                            pitch / kBlockFloats);
            }
            barrier();
            Reduce::run(dst, second, outer, rows, 1, 1);
        }
    }
    barrier();
}

struct MulOp {
    static __aicore__ inline void run(const LocalTensor<float>& dst, const LocalTensor<float>& a, const LocalTensor<float>& b,
                                      uint32_t mask, uint32_t repeats, const BinaryRepeatParams& p) {
        AscendC::Mul(dst, a, b, uint64_t(mask), uint8_t(repeats), p);
    }
};
struct MulAddOp {  // dst += a * b
    static __aicore__ inline void run(const LocalTensor<float>& dst, const LocalTensor<float>& a, const LocalTensor<float>& b,
                                      uint32_t mask, uint32_t repeats, const BinaryRepeatParams& p) {
        AscendC::MulAddDst(dst, a, b, uint64_t(mask), uint8_t(repeats), p);
    }
};
struct SubOp {
    static __aicore__ inline void run(const LocalTensor<float>& dst, const LocalTensor<float>& a, const LocalTensor<float>& b,
                                      uint32_t mask, uint32_t repeats, const BinaryRepeatParams& p) {
        AscendC::Sub(dst, a, b, uint64_t(mask), uint8_t(repeats), p);
    }
};
struct AddOp {
    static __aicore__ inline void run(const LocalTensor<float>& dst, const LocalTensor<float>& a, const LocalTensor<float>& b,
                                      uint32_t mask, uint32_t repeats, const BinaryRepeatParams& p) {
        AscendC::Add(dst, a, b, uint64_t(mask), uint8_t(repeats), p);
    }
};

// dst[row, c] = op(src[row, c], factor[row]). `spread` holds the factors of the rows as blocks of eight equal floats, as
// Brcb makes them. At most 16320 columns.
template <typename Op>
__aicore__ inline void per_row(const LocalTensor<float>& dst, const LocalTensor<float>& src, const LocalTensor<float>& spread,
                               uint32_t rows, uint32_t cols, uint32_t pitch) {
    const uint32_t full = cols / kLanes, tail = cols % kLanes, groups = full + (tail != 0);
    const uint32_t step = pitch / kBlockFloats;
    if (step <= kMaxRepeats && groups <= rows) {
        for (uint32_t g = 0; g < groups; ++g) {
            const uint32_t mask = g < full ? kLanes : tail;
            Op::run(dst[g * kLanes], src[g * kLanes], spread, mask, rows, BinaryRepeatParams(1, 1, 0, step, step, 1));
        }
    } else {
        for (uint32_t row = 0; row < rows; ++row) {
            const uint32_t at = row * pitch, last = at + full * kLanes;
            const LocalTensor<float> factor = spread[row * kBlockFloats];
            if (full > 0) Op::run(dst[at], src[at], factor, kLanes, full, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
            if (tail > 0) Op::run(dst[last], src[last], factor, tail, 1, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
        }
    }
    barrier();
}

// dst[row, c] = op(src[row, c], vector[c]). At most 16320 columns.
template <typename Op>
__aicore__ inline void per_column(const LocalTensor<float>& dst, const LocalTensor<float>& src, const LocalTensor<float>& vector,
                                  uint32_t rows, uint32_t cols, uint32_t pitch) {
    const uint32_t full = cols / kLanes, tail = cols % kLanes, groups = full + (tail != 0);
    const uint32_t step = pitch / kBlockFloats;
    if (step <= kMaxRepeats && groups <= rows) {
        for (uint32_t g = 0; g < groups; ++g) {
            const uint32_t mask = g < full ? kLanes : tail, at = g * kLanes;
            Op::run(dst[at], src[at], vector[at], mask, rows, BinaryRepeatParams(1, 1, 1, step, step, 0));
        }
    } else {
        for (uint32_t row = 0; row < rows; ++row) {
            const uint32_t at = row * pitch, last = at + full * kLanes;
            if (full > 0) Op::run(dst[at], src[at], vector, kLanes, full, BinaryRepeatParams(1, 1, 1, 8, 8, 8));
            if (tail > 0) Op::run(dst[last], src[last], vector[full * kLanes], tail, 1, BinaryRepeatParams(1, 1, 1, 8, 8, 8));
        }
    }
    barrier();
}

// Blocks of eight equal floats, one per value: spread[8 * i + j] = value[i]. Reads whole blocks of `value`.
__aicore__ inline void spread_values(const LocalTensor<float>& spread, const LocalTensor<float>& value, uint32_t count) {
    AscendC::Brcb(spread, value, uint8_t(ceil_div(count, kBlockFloats)), AscendC::BrcbRepeatParams(1, 8));
    barrier();
}

// value[i] = 1 / sqrt(value[i] / columns + eps), with the divisions and the root of the vector unit, not their estimates.
__aicore__ inline void inverse_root_mean(const LocalTensor<float>& value, const LocalTensor<float>& ones, float columns, float eps,
                                         uint32_t count) {
    AscendC::Muls(value, value, 1.0f / columns, int32_t(count));
    barrier();
    AscendC::Adds(value, value, eps, int32_t(count));
    barrier();
    AscendC::Sqrt(value, value, int32_t(count));
    barrier();
    AscendC::Div(value, ones, value, int32_t(count));
    barrier();
}

// One factor per row: sums, their inverse roots, and the blocks that per_row reads. Made once per kernel for kRows rows.
template <uint32_t kRows>
struct RowFactors {
    static constexpr uint32_t kPadded = (kRows + kBlockFloats - 1) / kBlockFloats * kBlockFloats;
    static constexpr uint32_t kBytes = (2 * kPadded + kPadded * kBlockFloats) * sizeof(float);
    LocalTensor<float> value, ones, spread;

    __aicore__ inline void init(const LocalTensor<float>& memory) {
        value = memory;
        ones = memory[kPadded];
        spread = memory[2 * kPadded];
        AscendC::Duplicate(value, 1.0f, int32_t(2 * kPadded));
        barrier();
    }
    // spread = blocks of 1 / sqrt(value / columns + eps).
    __aicore__ inline void inverse_root(float columns, float eps) {
        inverse_root_mean(value, ones, columns, eps, kPadded);
        spread_values(spread, value, kPadded);
    }
};

// x = x / sqrt(mean(x^2) + eps) * gamma for every row. `square` is a tile like x.
template <uint32_t kCols, uint32_t kPitch, uint32_t kRows>
__aicore__ inline void rms_rows(const LocalTensor<float>& x, const LocalTensor<float>& square, const LocalTensor<float>& gamma,
                                const LocalTensor<float>& work, RowFactors<kRows>& factors, float eps, uint32_t rows) {
    AscendC::Mul(square, x, x, int32_t(rows * kPitch));
    barrier();
    reduce_rows<SumOf, kCols, kPitch>(factors.value, square, work, rows);
    factors.inverse_root(float(kCols), eps);
    per_row<MulOp>(x, x, factors.spread, rows, kCols, kPitch);
    per_column<MulOp>(x, x, gamma, rows, kCols, kPitch);
}

// Rows of q are kCols rounded up to 32 apart; each digit is a tile, the highest first. Rows of halves are kPitch apart.
template <uint32_t kCols>
struct Bytes {
    static constexpr uint32_t kPitch = (kCols + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
};
template <uint32_t kCols, uint32_t kPitch>
__aicore__ inline void narrow_rows(const LocalTensor<int8_t>& q, const LocalTensor<half>& x, uint32_t rows) {
    if constexpr (Bytes<kCols>::kPitch == kPitch) {
        AscendC::Cast(q, x, RoundMode::CAST_RINT, rows * kPitch);
    } else {
        for (uint32_t row = 0; row < rows; ++row)
            AscendC::Cast(q[row * Bytes<kCols>::kPitch], x[row * kPitch], RoundMode::CAST_RINT, kCols);
    }
}

// Symmetric integers with one scale per row: scale = max|x| / peak, q = rint(x / scale) = the sum of its kDigits int8 digits times
// powers of 256, the highest digit within +-127, the others from -128 to 127. x becomes something else; `work` is for reduce_rows.
// A row of zeros has scale 0 and zeros.
template <uint32_t kDigits, uint32_t kCols, uint32_t kPitch, uint32_t kRows>
__aicore__ inline void quantise_rows(const LocalTensor<int8_t>& q, const LocalTensor<float>& scale, const LocalTensor<float>& x,
                                     const LocalTensor<float>& magnitude, const LocalTensor<float>& work,
                                     RowFactors<kRows>& factors, uint32_t rows) {
    static_assert(1 <= kDigits && kDigits <= 3, "one to three digits");
    // 127 in every digit: roundings of x * inverse (3 * 2^-24 of it) do not reach the next integer. With three digits they reach two
    // further, hence 0 in the lowest: the highest stays within +-127, and q, below 2^23, and its halves are exact in float32.
    constexpr float peak = kDigits == 1 ? 127.0f : kDigits == 2 ? 127.0f * 257.0f : 127.0f * 257.0f * 256.0f;
    const uint32_t count = rows * kPitch;
    AscendC::Abs(magnitude, x, int32_t(count));
    barrier();
    reduce_rows<MaxOf, kCols, kPitch>(factors.value, magnitude, work, rows);
    AscendC::Muls(scale, factors.value, 1.0f / peak, int32_t(factors.kPadded));
    AscendC::Maxs(factors.value, factors.value, 1e-30f, int32_t(factors.kPadded));
    barrier();
    AscendC::Div(factors.value, factors.ones, factors.value, int32_t(factors.kPadded));
    barrier();
    AscendC::Muls(factors.value, factors.value, peak, int32_t(factors.kPadded));
    barrier();
    spread_values(factors.spread, factors.value, factors.kPadded);
    per_row<MulOp>(x, x, factors.spread, rows, kCols, kPitch);
    // Whole numbers first: float32 to half to int8 would round twice.
    AscendC::Cast(x, x, RoundMode::CAST_RINT, count);
    barrier();
    // Digits from the lowest on: value = 256 * above + digit. Halves are rounded up in every case (nearest even would leave a digit
    // of +128), and a digit is exact in half, which waits where q will be, so that no cast is in place.
    LocalTensor<float> value = x, above = magnitude;
    for (uint32_t digit = kDigits - 1; digit > 0; --digit) {
        AscendC::Muls(above, value, 1.0f / 256.0f, int32_t(count));
        barrier();
        AscendC::Adds(above, above, 0.5f, int32_t(count));
        barrier();
        AscendC::Cast(above, above, RoundMode::CAST_FLOOR, count);
        barrier();
        AscendC::Axpy(value, above, -256.0f, int32_t(count));
        barrier();
        const LocalTensor<half> waiting = q.template ReinterpretCast<half>(), narrow = value.template ReinterpretCast<half>();
        AscendC::Cast(waiting, value, RoundMode::CAST_RINT, count);
        barrier();
        AscendC::Muls(narrow, waiting, half(1.0f), int32_t(count));
        barrier();
        narrow_rows<kCols, kPitch>(q[digit * rows * Bytes<kCols>::kPitch], narrow, rows);
        barrier();
        const LocalTensor<float> freed = value;
        value = above;
        above = freed;
    }
    const LocalTensor<half> narrow = above.template ReinterpretCast<half>();
    AscendC::Cast(narrow, value, RoundMode::CAST_RINT, count);
    barrier();
    narrow_rows<kCols, kPitch>(q, narrow, rows);
    barrier();
}

// Rows that quantise_rows made to global memory, where a row's digits lie one behind the other.
template <uint32_t kDigits, uint32_t kCols>
__aicore__ inline void store_digits(const GlobalTensor<int8_t>& dst, const LocalTensor<int8_t>& q, uint32_t rows) {
    for (uint32_t digit = 0; digit < kDigits; ++digit)
        store_rows(dst[digit * kCols], q[digit * rows * Bytes<kCols>::kPitch], rows, kCols, kDigits * kCols, Bytes<kCols>::kPitch);
}

}  // namespace pangu
