// Reductions, conversions, selection, sorting: one kernel each, one vector core, one tensor of up to a few thousand elements.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

template <typename T>
__aicore__ inline void Load(const LocalTensor<T>& to, GM_ADDR from, uint32_t count) {
    GlobalTensor<T> global;
    global.SetGlobalBuffer((__gm__ T*)from, count);
    DataCopyExtParams copy{1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0};
    DataCopyPadExtParams<T> pad{false, 0, 0, 0};
    DataCopyPad(to, global, copy, pad);
}

template <typename T>
__aicore__ inline void Store(GM_ADDR to, const LocalTensor<T>& from, uint32_t count) {
    GlobalTensor<T> global;
    global.SetGlobalBuffer((__gm__ T*)to, count);
    DataCopyExtParams copy{1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0};
    DataCopyPad(global, from, copy);
}

__aicore__ inline void AfterLoad() {
    SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
}

__aicore__ inline void BeforeStore() {
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
}

}  // namespace

// out = {sum, max, bits of the index of the max, min}; sums of the leading whole repeats follow, one per 64 elements.
extern "C" __global__ __aicore__ void reduce(GM_ADDR x, GM_ADDR out, GM_ADDR repeats, uint32_t count) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> data, work, result;
    pipe.InitBuffer(data, 4096 * 4);
    pipe.InitBuffer(work, 4096);
    pipe.InitBuffer(result, 1024);
    LocalTensor<float> values = data.Get<float>();
    LocalTensor<float> scratch = work.Get<float>();
    LocalTensor<float> results = result.Get<float>();
    Load(values, x, count);
    AfterLoad();
    ReduceSum(results, values, scratch, static_cast<int32_t>(count));
    ReduceMax(results[8], values, scratch, static_cast<int32_t>(count), true);
    PipeBarrier<PIPE_V>();
    ReduceMin(results[16], values, scratch, static_cast<int32_t>(count), false);
    const int32_t whole = static_cast<int32_t>(count / 64);
    WholeReduceSum(results[32], values, 64, whole, 1, 1, 8);
    SetFlag<HardEvent::V_S>(EVENT_ID0);
    WaitFlag<HardEvent::V_S>(EVENT_ID0);
    results.SetValue(1, results.GetValue(8));
    results.SetValue(2, results.GetValue(9));
    results.SetValue(3, results.GetValue(16));
    SetFlag<HardEvent::S_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::S_MTE3>(EVENT_ID0);
    BeforeStore();
    Store(out, results, 4);
    Store(repeats, results[32], static_cast<uint32_t>(whole));
}

// out = bfloat16(float(x) * scale), rounded to nearest even.
extern "C" __global__ __aicore__ void scale_bf16(GM_ADDR x, GM_ADDR scale, GM_ADDR out, uint32_t count) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> narrow, wide, factor;
    pipe.InitBuffer(narrow, 4096 * 2);
    pipe.InitBuffer(wide, 4096 * 4);
    pipe.InitBuffer(factor, 32);
    LocalTensor<bfloat16_t> input = narrow.Get<bfloat16_t>();
    LocalTensor<float> values = wide.Get<float>();
    LocalTensor<float> factors = factor.Get<float>();
    Load(input, x, count);
    Load(factors, scale, 1);
    AfterLoad();
    SetFlag<HardEvent::MTE2_S>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_S>(EVENT_ID0);
    const float by = factors.GetValue(0);
    Cast(values, input, RoundMode::CAST_NONE, count);
    PipeBarrier<PIPE_V>();
    Muls(values, values, by, static_cast<int32_t>(count));
    PipeBarrier<PIPE_V>();
    Cast(input, values, RoundMode::CAST_RINT, count);
    BeforeStore();
    Store(out, input, count);
}

// The 128 scores in descending order with their indices: Sort32 and one merge of four queues.
extern "C" __global__ __aicore__ void sort_128(GM_ADDR x, GM_ADDR values, GM_ADDR indices) {
    constexpr uint32_t kCount = 128;
    TPipe pipe;
    TBuf<TPosition::VECCALC> scores_buffer, index_buffer, runs_buffer, sorted_buffer;
    pipe.InitBuffer(scores_buffer, kCount * 4);
    pipe.InitBuffer(index_buffer, kCount * 4);
    pipe.InitBuffer(runs_buffer, kCount * 8);
    pipe.InitBuffer(sorted_buffer, kCount * 8);
    LocalTensor<float> scores = scores_buffer.Get<float>();
    LocalTensor<int32_t> index = index_buffer.Get<int32_t>();
    LocalTensor<float> runs = runs_buffer.Get<float>();
    LocalTensor<float> sorted = sorted_buffer.Get<float>();
    Load(scores, x, kCount);
    CreateVecIndex(index, static_cast<int32_t>(0), kCount);
    AfterLoad();
    PipeBarrier<PIPE_V>();
    Sort32(runs, scores, index.ReinterpretCast<uint32_t>(), kCount / 32);
    PipeBarrier<PIPE_V>();
    MrgSort4Info info;
    for (int i = 0; i < 4; ++i) {
        info.elementLengths[i] = 32;
    }
    info.ifExhaustedSuspension = false;
    info.validBit = 15;
    info.repeatTimes = 1;
    MrgSortSrcList<float> queues(runs, runs[64], runs[128], runs[192]);
    MrgSort(sorted, queues, info);
    PipeBarrier<PIPE_V>();
    Extract(scores, index.ReinterpretCast<uint32_t>(), sorted, kCount / 32);
    BeforeStore();
    Store(values, scores, kCount);
    Store(indices, index, kCount);
}

// out = x > 0 ? exp(x) : -1, then the kept (x > 0) elements compacted; count fills repeats of 64.
extern "C" __global__ __aicore__ void select_positive(GM_ADDR x, GM_ADDR out, GM_ADDR kept, GM_ADDR kept_count, uint32_t count) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> in_buffer, exp_buffer, bit_buffer, out_buffer;
    pipe.InitBuffer(in_buffer, 4096 * 4);
    pipe.InitBuffer(exp_buffer, 4096 * 4);
    pipe.InitBuffer(out_buffer, 4096 * 4);
    pipe.InitBuffer(bit_buffer, 1024);
    LocalTensor<float> input = in_buffer.Get<float>();
    LocalTensor<float> powers = exp_buffer.Get<float>();
    LocalTensor<float> output = out_buffer.Get<float>();
    LocalTensor<uint8_t> bits = bit_buffer.Get<uint8_t>();
    Load(input, x, count);
    AfterLoad();
    CompareScalar(bits, input, 0.0f, CMPMODE::GT, count);
    Exp(powers, input, static_cast<int32_t>(count));
    PipeBarrier<PIPE_V>();
    Select(output, bits, powers, -1.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, count);
    BeforeStore();
    Store(out, output, count);
    SetFlag<HardEvent::MTE3_V>(EVENT_ID1);
    WaitFlag<HardEvent::MTE3_V>(EVENT_ID1);
    uint64_t remaining = 0;
    GatherMaskParams gather{1, 1, 0, 0};
    GatherMask(output, input, bits.ReinterpretCast<uint32_t>(), true, count, gather, remaining);
    BeforeStore();
    if (remaining > 0) {
        Store(kept, output, static_cast<uint32_t>(remaining));
    }
    SetFlag<HardEvent::MTE3_S>(EVENT_ID2);
    WaitFlag<HardEvent::MTE3_S>(EVENT_ID2);
    LocalTensor<int32_t> counter = bit_buffer.Get<int32_t>();
    SetFlag<HardEvent::V_S>(EVENT_ID0);
    WaitFlag<HardEvent::V_S>(EVENT_ID0);
    counter.SetValue(0, static_cast<int32_t>(remaining));
    SetFlag<HardEvent::S_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::S_MTE3>(EVENT_ID0);
    Store(kept_count, counter, 1);
}

// Rows of 64 floats: every row divided by its own first element, by repeats with strides; and the block-wise broadcast.
extern "C" __global__ __aicore__ void normalise_rows(GM_ADDR x, GM_ADDR out, GM_ADDR broadcast, uint32_t rows) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> data_buffer, first_buffer, block_buffer;
    pipe.InitBuffer(data_buffer, 32 * 256);
    pipe.InitBuffer(first_buffer, 256);
    pipe.InitBuffer(block_buffer, 32 * 32);
    LocalTensor<float> data = data_buffer.Get<float>();
    LocalTensor<float> first = first_buffer.Get<float>();
    LocalTensor<float> blocks = block_buffer.Get<float>();
    Load(data, x, rows * 64);
    AfterLoad();
    Duplicate(first, 1.0f, 64);
    PipeBarrier<PIPE_V>();
    // The first lane of every repeat is the row's first element.
    WholeReduceSum(first, data, 1, static_cast<int32_t>(rows), 1, 1, 8);
    PipeBarrier<PIPE_V>();
    Brcb(blocks, first, static_cast<uint8_t>((rows + 7) / 8), {1, 8});
    PipeBarrier<PIPE_V>();
    Div(data, data, blocks, 64, static_cast<uint8_t>(rows), {1, 1, 0, 8, 8, 1});
    BeforeStore();
    Store(out, data, rows * 64);
    Store(broadcast, blocks, rows * 8);
}

// 16 x 16 halves transposed twice over: once by Transpose, once by TransDataTo5HD row by row.
extern "C" __global__ __aicore__ void transpose_16(GM_ADDR x, GM_ADDR once, GM_ADDR again) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> from_buffer, to_buffer, back_buffer;
    pipe.InitBuffer(from_buffer, 512);
    pipe.InitBuffer(to_buffer, 512);
    pipe.InitBuffer(back_buffer, 512);
    LocalTensor<half> from = from_buffer.Get<half>();
    LocalTensor<half> to = to_buffer.Get<half>();
    LocalTensor<half> back = back_buffer.Get<half>();
    Load(from, x, 256);
    AfterLoad();
    Transpose(to, from);
    PipeBarrier<PIPE_V>();
    LocalTensor<half> rows[16], columns[16];
    for (int i = 0; i < 16; ++i) {
        rows[i] = to[i * 16];
        columns[i] = back[i * 16];
    }
    TransDataTo5HDParams params;
    TransDataTo5HD<half>(columns, rows, params);
    BeforeStore();
    Store(once, to, 256);
    Store(again, back, 256);
}

// out[i] = x[index[i]]; the instruction takes byte offsets.
extern "C" __global__ __aicore__ void gather_elements(GM_ADDR x, GM_ADDR index, GM_ADDR out, uint32_t count) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> data_buffer, offset_buffer, out_buffer;
    pipe.InitBuffer(data_buffer, 4096 * 4);
    pipe.InitBuffer(offset_buffer, 4096 * 4);
    pipe.InitBuffer(out_buffer, 4096 * 4);
    LocalTensor<float> data = data_buffer.Get<float>();
    LocalTensor<int32_t> offsets = offset_buffer.Get<int32_t>();
    LocalTensor<float> result = out_buffer.Get<float>();
    Load(data, x, 4096);
    Load(offsets, index, count);
    AfterLoad();
    Muls(offsets, offsets, static_cast<int32_t>(sizeof(float)), static_cast<int32_t>(count));
    PipeBarrier<PIPE_V>();
    Gather(result, data, offsets.ReinterpretCast<uint32_t>(), 0u, count);
    BeforeStore();
    Store(out, result, count);
}
