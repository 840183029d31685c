// Work that cores share: atomic sums, meetings of all vector cores, and a cube core that feeds its vector cores.
#include "kernel_operator.h"

using namespace AscendC;

// out += row of this core, for every core at once.
extern "C" __global__ __aicore__ void atomic_rows(GM_ADDR rows, GM_ADDR out, uint32_t width) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TPipe pipe;
    TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> through;
    pipe.InitBuffer(through, 1, width * sizeof(float));
    GlobalTensor<float> from, to;
    from.SetGlobalBuffer((__gm__ float*)rows + GetBlockIdx() * width, width);
    to.SetGlobalBuffer((__gm__ float*)out, width);
    LocalTensor<float> row = through.AllocTensor<float>();
    DataCopy(row, from, width);
    through.EnQue(row);
    row = through.DeQue<float>();
    SetAtomicAdd<float>();
    DataCopy(to, row, width);
    SetAtomicNone();
    through.FreeTensor(row);
}

// Every core writes its row of `exchange`, all meet, and every core reads its neighbour's row.
extern "C" __global__ __aicore__ void rotate_rows(GM_ADDR rows, GM_ADDR exchange, GM_ADDR out, uint32_t width) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIV_1_0);
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, width * sizeof(float));
    LocalTensor<float> row = buffer.Get<float>();
    const uint32_t core = GetBlockIdx(), neighbour = (core + 1) % GetBlockNum();
    GlobalTensor<float> from, middle, to;
    from.SetGlobalBuffer((__gm__ float*)rows);
    middle.SetGlobalBuffer((__gm__ float*)exchange);
    to.SetGlobalBuffer((__gm__ float*)out);
    DataCopy(row, from[core * width], width);
    SetFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
    DataCopy(middle[core * width], row, width);
    SyncAll();
    DataCopy(row, middle[neighbour * width], width);
    SetFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_MTE3>(EVENT_ID0);
    DataCopy(to[core * width], row, width);
}

// product = a x b (16 x 16 halves) on the cube core; out = 2 * product, a half of the rows on each of its vector cores.
extern "C" __global__ __aicore__ void cube_then_vector(GM_ADDR a, GM_ADDR b, GM_ADDR product, GM_ADDR out) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
    constexpr uint16_t kReady = 3;
    TPipe pipe;
    GlobalTensor<float> between;
    between.SetGlobalBuffer((__gm__ float*)product, 256);
    if ASCEND_IS_AIC {
        TBuf<TPosition::A1> a1;
        TBuf<TPosition::B1> b1;
        TBuf<TPosition::A2> a2;
        TBuf<TPosition::B2> b2;
        TBuf<TPosition::CO1> c1;
        pipe.InitBuffer(a1, 512);
        pipe.InitBuffer(b1, 512);
        pipe.InitBuffer(a2, 512);
        pipe.InitBuffer(b2, 512);
        pipe.InitBuffer(c1, 1024);
        GlobalTensor<half> left, right;
        left.SetGlobalBuffer((__gm__ half*)a, 256);
        right.SetGlobalBuffer((__gm__ half*)b, 256);
        LocalTensor<half> left1 = a1.Get<half>(), right1 = b1.Get<half>(), left2 = a2.Get<half>(), right2 = b2.Get<half>();
        LocalTensor<float> sum = c1.Get<float>();
        Nd2NzParams layout{1, 16, 16, 0, 16, 16, 1, 0};
        DataCopy(left1, left, layout);
        DataCopy(right1, right, layout);
        SetFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
        WaitFlag<HardEvent::MTE2_MTE1>(EVENT_ID0);
        LoadData2DParams load{0, 1, 1, 0, 0, false, 0};
        LoadData(left2, left1, load);
        load.ifTranspose = true;
        LoadData(right2, right1, load);
        SetFlag<HardEvent::MTE1_M>(EVENT_ID0);
        WaitFlag<HardEvent::MTE1_M>(EVENT_ID0);
        MmadParams mmad;
        mmad.m = 16;
        mmad.n = 16;
        mmad.k = 16;
        Mmad(sum, left2, right2, mmad);
        SetFlag<HardEvent::M_FIX>(EVENT_ID0);
        WaitFlag<HardEvent::M_FIX>(EVENT_ID0);
        FixpipeParamsV220 fixpipe{16, 16, 16, 16, false};
        Fixpipe(between, sum, fixpipe);
        CrossCoreSetFlag<2, PIPE_FIX>(kReady);
    }
    if ASCEND_IS_AIV {
        TBuf<TPosition::VECCALC> buffer;
        pipe.InitBuffer(buffer, 512);
        LocalTensor<float> rows = buffer.Get<float>();
        GlobalTensor<float> result;
        result.SetGlobalBuffer((__gm__ float*)out, 256);
        const uint32_t begin = GetSubBlockIdx() * 128;
        CrossCoreWaitFlag(kReady);
        DataCopy(rows, between[begin], 128);
        SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
        WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
        Muls(rows, rows, 2.0f, 128);
        SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
        WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
        DataCopy(result[begin], rows, 128);
    }
}
