// c = a x b on one cube core: a is m x k, b is k x n, row by row; float accumulation over pieces of k.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

constexpr uint32_t kTileK = 64;

__aicore__ inline uint32_t Round16(uint32_t value) { return (value + 15) / 16 * 16; }

template <typename T, typename Out>
class Matmul {
public:
    __aicore__ inline void Init(GM_ADDR a, GM_ADDR b, GM_ADDR c, uint32_t m, uint32_t n, uint32_t k, TPipe* pipe) {
        m_ = m;
        n_ = n;
        k_ = k;
        a_.SetGlobalBuffer((__gm__ T*)a, m * k);
        b_.SetGlobalBuffer((__gm__ T*)b, k * n);
        c_.SetGlobalBuffer((__gm__ Out*)c, m * n);
        pipe->InitBuffer(a1_, 2, Round16(m) * kTileK * sizeof(T));
        pipe->InitBuffer(b1_, 2, Round16(n) * kTileK * sizeof(T));
        pipe->InitBuffer(a2_, 1, Round16(m) * kTileK * sizeof(T));
        pipe->InitBuffer(b2_, 1, Round16(n) * kTileK * sizeof(T));
        pipe->InitBuffer(c1_, 1, Round16(m) * Round16(n) * sizeof(float));
    }

    __aicore__ inline void Process(QuantMode_t quant) {
        LocalTensor<float> sum = c1_.AllocTensor<float>();
        for (uint32_t at = 0; at < k_; at += kTileK) {
            const uint32_t depth = k_ - at < kTileK ? k_ - at : kTileK;
            CopyIn(at, depth);
            Split(depth);
            Multiply(sum, depth, at == 0);
        }
        c1_.EnQue(sum);
        CopyOut(quant);
    }

private:
    __aicore__ inline void CopyIn(uint32_t at, uint32_t depth) {
        LocalTensor<T> a = a1_.template AllocTensor<T>();
        DataCopy(a, a_[at], Layout(m_, depth, k_));
        a1_.EnQue(a);
        LocalTensor<T> b = b1_.template AllocTensor<T>();
        DataCopy(b, b_[at * n_], Layout(depth, n_, n_));
        b1_.EnQue(b);
    }

    // rows x columns of a matrix whose rows are `stride` elements apart, to fractals column by column.
    __aicore__ inline Nd2NzParams Layout(uint32_t rows, uint32_t columns, uint32_t stride) {
        Nd2NzParams params;
        params.ndNum = 1;
        params.nValue = rows;
        params.dValue = columns;
        params.srcNdMatrixStride = 0;
        params.srcDValue = stride;
        params.dstNzC0Stride = Round16(rows);
        params.dstNzNStride = 1;
        params.dstNzMatrixStride = 0;
        return params;
    }

    __aicore__ inline void Split(uint32_t depth) {
        const uint32_t rows = Round16(m_) / 16, columns = Round16(n_) / 16, steps = Round16(depth) / 16;
        LocalTensor<T> a1 = a1_.template DeQue<T>();
        LocalTensor<T> a2 = a2_.template AllocTensor<T>();
        // L1 has a's fractals column by column, L0A wants them row by row.
        for (uint32_t row = 0; row < rows; ++row) {
            LoadData2DParams load;
            load.repeatTimes = steps;
            load.srcStride = rows;
            LoadData(a2[row * steps * 256], a1[row * 256], load);
        }
        a2_.EnQue(a2);
        a1_.FreeTensor(a1);
        LocalTensor<T> b1 = b1_.template DeQue<T>();
        LocalTensor<T> b2 = b2_.template AllocTensor<T>();
        // L0B wants b's fractals row by row, each transposed.
        for (uint32_t step = 0; step < steps; ++step) {
            LoadData2DParams load;
            load.repeatTimes = columns;
            load.srcStride = steps;
            load.ifTranspose = true;
            LoadData(b2[step * columns * 256], b1[step * 256], load);
        }
        b2_.EnQue(b2);
        b1_.FreeTensor(b1);
    }

    __aicore__ inline void Multiply(const LocalTensor<float>& sum, uint32_t depth, bool first) {
        LocalTensor<T> a = a2_.template DeQue<T>();
        LocalTensor<T> b = b2_.template DeQue<T>();
        MmadParams params;
        params.m = m_;
        params.n = n_;
        params.k = depth;
        params.cmatrixInitVal = first;
        if ((m_ / 16) * (n_ / 16) < 10) {
            PipeBarrier<PIPE_M>();
        }
        Mmad(sum, a, b, params);
        a2_.FreeTensor(a);
        b2_.FreeTensor(b);
    }

    __aicore__ inline void CopyOut(QuantMode_t quant) {
        LocalTensor<float> sum = c1_.DeQue<float>();
        FixpipeParamsV220 params;
        params.nSize = n_;
        params.mSize = m_;
        params.srcStride = Round16(m_);
        params.dstStride = n_;
        params.quantPre = quant;
        Fixpipe(c_, sum, params);
        c1_.FreeTensor(sum);
    }

    GlobalTensor<T> a_, b_;
    GlobalTensor<Out> c_;
    TQue<TPosition::A1, 2> a1_;
    TQue<TPosition::B1, 2> b1_;
    TQue<TPosition::A2, 1> a2_;
    TQue<TPosition::B2, 1> b2_;
    TQue<TPosition::CO1, 1> c1_;
    uint32_t m_, n_, k_;
};

}  // namespace

extern "C" __global__ __aicore__ void matmul_half(GM_ADDR a, GM_ADDR b, GM_ADDR c, uint32_t m, uint32_t n, uint32_t k) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TPipe pipe;
    Matmul<half, float> matmul;
    matmul.Init(a, b, c, m, n, k, &pipe);
    matmul.Process(QuantMode_t::NoQuant);
}

extern "C" __global__ __aicore__ void matmul_bf16(GM_ADDR a, GM_ADDR b, GM_ADDR c, uint32_t m, uint32_t n, uint32_t k) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TPipe pipe;
    Matmul<bfloat16_t, bfloat16_t> matmul;
    matmul.Init(a, b, c, m, n, k, &pipe);
    matmul.Process(QuantMode_t::F322BF16);
}

// c = a x b in int8 with int32 sums; m is a multiple of 16, n and k of 32. b turns in squares of 32 x 32 on its way to L0B.
extern "C" __global__ __aicore__ void matmul_int8(GM_ADDR a, GM_ADDR b, GM_ADDR c, uint32_t m, uint32_t n, uint32_t k) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TPipe pipe;
    TBuf<TPosition::A1> a1_buffer;
    TBuf<TPosition::B1> b1_buffer;
    TBuf<TPosition::A2> a2_buffer;
    TBuf<TPosition::B2> b2_buffer;
    TBuf<TPosition::CO1> c1_buffer;
    pipe.InitBuffer(a1_buffer, m * k);
    pipe.InitBuffer(b1_buffer, k * n);
    pipe.InitBuffer(a2_buffer, m * k);
    pipe.InitBuffer(b2_buffer, k * n);
    pipe.InitBuffer(c1_buffer, m * n * sizeof(int32_t));
    LocalTensor<int8_t> a1 = a1_buffer.Get<int8_t>(), b1 = b1_buffer.Get<int8_t>();
    LocalTensor<int8_t> a2 = a2_buffer.Get<int8_t>(), b2 = b2_buffer.Get<int8_t>();
    LocalTensor<int32_t> sum = c1_buffer.Get<int32_t>();
    GlobalTensor<int8_t> left, right;
    GlobalTensor<int32_t> out;
    left.SetGlobalBuffer((__gm__ int8_t*)a, m * k);
    right.SetGlobalBuffer((__gm__ int8_t*)b, k * n);
    out.SetGlobalBuffer((__gm__ int32_t*)c, m * n);
    Nd2NzParams layout;
    layout.ndNum = 1;
    layout.nValue = m;
    layout.dValue = k;
    layout.srcDValue = k;
    layout.dstNzC0Stride = m;
    layout.dstNzNStride = 1;
    DataCopy(a1, left, layout);
    layout.nValue = k;
    layout.dValue = n;
    layout.srcDValue = n;
    layout.dstNzC0Stride = k;
    DataCopy(b1, right, layout);
    SetFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
    for (uint32_t row = 0; row < m / 16; ++row) {
        LoadData2DParams load;
        load.repeatTimes = k / 32;
        load.srcStride = m / 16;
        LoadData(a2[row * (k / 32) * 512], a1[row * 512], load);
    }
    for (uint32_t step = 0; step < k / 32; ++step) {
        LoadData2dTransposeParams load;
        load.startIndex = step;
        load.repeatTimes = n / 32;
        load.srcStride = k / 32;
        load.dstGap = 1;
        load.dstFracGap = 0;
        LoadDataWithTranspose(b2[step * (n / 16) * 512], b1, load);
    }
    SetFlag<HardEvent::MTE1_M>(EVENT_ID0);
    WaitFlag<HardEvent::MTE1_M>(EVENT_ID0);
    MmadParams params;
    params.m = m;
    params.n = n;
    params.k = k;
    Mmad(sum, a2, b2, params);
    SetFlag<HardEvent::M_FIX>(EVENT_ID0);
    WaitFlag<HardEvent::M_FIX>(EVENT_ID0);
    FixpipeParamsV220 fixpipe;
    fixpipe.nSize = n;
    fixpipe.mSize = m;
    fixpipe.srcStride = m;
    fixpipe.dstStride = n;
    Fixpipe(out, sum, fixpipe);
}
