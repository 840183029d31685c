// One planted fault each; every kernel compiles against the vendor's headers and would go wrong on the chip.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

constexpr uint32_t kCount = 64;

__aicore__ inline GlobalTensor<float> Global(GM_ADDR address, uint32_t count) {
    GlobalTensor<float> tensor;
    tensor.SetGlobalBuffer((__gm__ float*)address, count);
    return tensor;
}

template <HardEvent event>
__aicore__ inline void Order() {
    SetFlag<event>(EVENT_ID0);
    WaitFlag<event>(EVENT_ID0);
}

}  // namespace

// 2 x 96 KB and then 32 bytes more than the unified buffer has.
extern "C" __global__ __aicore__ void ub_overflow(GM_ADDR x) {
    TPipe pipe;
    TQue<TPosition::VECIN, 2> queue;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(queue, 2, 96 * 1024);
    pipe.InitBuffer(buffer, 32);
}

template <TPosition position>
__aicore__ inline void TakeTooMuch(uint32_t bytes) {
    TPipe pipe;
    TBuf<position> first, second;
    pipe.InitBuffer(first, bytes);
    pipe.InitBuffer(second, 512);
}

extern "C" __global__ __aicore__ void l1_overflow(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TakeTooMuch<TPosition::A1>(512 * 1024);
}
extern "C" __global__ __aicore__ void l0a_overflow(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TakeTooMuch<TPosition::A2>(64 * 1024);
}
extern "C" __global__ __aicore__ void l0b_overflow(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TakeTooMuch<TPosition::B2>(64 * 1024);
}
extern "C" __global__ __aicore__ void l0c_overflow(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TakeTooMuch<TPosition::CO1>(128 * 1024);
}

// The local side of a copy starts 4 bytes into a block.
extern "C" __global__ __aicore__ void misaligned_copy(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    DataCopy(local[1], Global(x, kCount), 32);
}

// 63 floats are not whole blocks: the chip would drop the last seven.
extern "C" __global__ __aicore__ void misaligned_length(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    DataCopy(local, Global(x, kCount), 63);
}

// Vector operands start at blocks too.
extern "C" __global__ __aicore__ void misaligned_vector(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, 128);
    PipeBarrier<PIPE_V>();
    Adds(local, local[2], 1.0f, 64);
}

// Reads past the end of the allocation.
extern "C" __global__ __aicore__ void global_out_of_bounds(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    GlobalTensor<float> global;
    global.SetGlobalBuffer((__gm__ float*)x);
    DataCopy(local, global[kCount - 8], 16);
}

// Stays in the allocation but leaves the tensor that SetGlobalBuffer described.
extern "C" __global__ __aicore__ void tensor_out_of_bounds(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    DataCopy(local, Global(x, 16), 32);
}

// More elements than the buffer has.
extern "C" __global__ __aicore__ void local_out_of_bounds(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 256);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 0.0f, 65);
}

// Nothing enqueued what is dequeued.
extern "C" __global__ __aicore__ void empty_queue(GM_ADDR x) {
    TPipe pipe;
    TQue<TPosition::VECIN, 1> queue;
    pipe.InitBuffer(queue, 1, 1024);
    LocalTensor<float> local = queue.AllocTensor<float>();
    DataCopy(local, Global(x, kCount), kCount);
    LocalTensor<float> taken = queue.DeQue<float>();
}

// The vector unit reads what the copy may still be writing.
extern "C" __global__ __aicore__ void missing_flag(GM_ADDR x, GM_ADDR out) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    DataCopy(local, Global(x, kCount), kCount);
    Adds(local, local, 1.0f, kCount);
    Order<HardEvent::V_MTE3>();
    DataCopy(Global(out, kCount), local, kCount);
}

// The next copy overwrites what the vector unit may still be reading.
extern "C" __global__ __aicore__ void missing_flag_back(GM_ADDR x, GM_ADDR out) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer, result;
    pipe.InitBuffer(buffer, 1024);
    pipe.InitBuffer(result, 1024);
    LocalTensor<float> local = buffer.Get<float>(), sum = result.Get<float>();
    DataCopy(local, Global(x, kCount), kCount);
    Order<HardEvent::MTE2_V>();
    Adds(sum, local, 1.0f, kCount);
    DataCopy(local, Global(x, kCount), kCount);
}

// Two vector instructions, the second reads the first's result.
extern "C" __global__ __aicore__ void missing_barrier(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, kCount);
    Adds(local, local, 1.0f, kCount);
}

// The scalar unit reads a vector result without waiting.
extern "C" __global__ __aicore__ void missing_scalar_wait(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, kCount);
    const float value = local.GetValue(3);
    Duplicate(local, value, kCount);
}

// Every core writes the same elements.
extern "C" __global__ __aicore__ void core_race(GM_ADDR out) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, kCount);
    Order<HardEvent::V_MTE3>();
    DataCopy(Global(out, kCount), local, kCount);
}

// Core 1 reads what core 0 writes, and nothing orders them.
extern "C" __global__ __aicore__ void core_read_race(GM_ADDR shared) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    if (GetBlockIdx() == 0) {
        Duplicate(local, 1.0f, kCount);
        Order<HardEvent::V_MTE3>();
        DataCopy(Global(shared, kCount), local, kCount);
    } else {
        DataCopy(local, Global(shared, kCount), kCount);
    }
}

extern "C" __global__ __aicore__ void uninitialised_local(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, 60);
    PipeBarrier<PIPE_V>();
    Adds(local, local, 1.0f, kCount);
}

// What DataCopyPad leaves after the last element, up to the end of the block, is nobody's value.
extern "C" __global__ __aicore__ void uninitialised_padding(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    DataCopyExtParams copy{1, 60 * sizeof(float), 0, 0, 0};
    DataCopyPadExtParams<float> pad{false, 0, 0, 0};
    DataCopyPad(local, Global(x, kCount), copy, pad);
    Order<HardEvent::MTE2_V>();
    Adds(local, local, 1.0f, kCount);
}

// Reads an output before anything wrote it.
extern "C" __global__ __aicore__ void uninitialised_output(GM_ADDR out) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    DataCopy(local, Global(out, kCount), kCount);
}

// The depth of the product reaches into fractals that nothing filled.
extern "C" __global__ __aicore__ void uninitialised_cube(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TPipe pipe;
    TBuf<TPosition::A1> a1;
    TBuf<TPosition::A2> a2;
    TBuf<TPosition::B2> b2;
    TBuf<TPosition::CO1> c1;
    pipe.InitBuffer(a1, 512);
    pipe.InitBuffer(a2, 1024);
    pipe.InitBuffer(b2, 1024);
    pipe.InitBuffer(c1, 1024);
    LocalTensor<half> from = a1.Get<half>(), left = a2.Get<half>(), right = b2.Get<half>();
    LocalTensor<float> sum = c1.Get<float>();
    GlobalTensor<half> global;
    global.SetGlobalBuffer((__gm__ half*)x, 256);
    DataCopy(from, global, 256);
    Order<HardEvent::MTE2_MTE1>();
    LoadData2DParams load{0, 1, 1, 0, 0, false, 0};
    LoadData(left, from, load);
    LoadData(right, from, load);
    Order<HardEvent::MTE1_M>();
    MmadParams mmad;
    mmad.m = 16;
    mmad.n = 16;
    mmad.k = 32;
    Mmad(sum, left, right, mmad);
}

extern "C" __global__ __aicore__ void used_after_free(GM_ADDR x) {
    TPipe pipe;
    TQue<TPosition::VECIN, 1> queue;
    pipe.InitBuffer(queue, 1, 1024);
    LocalTensor<float> local = queue.AllocTensor<float>();
    DataCopy(local, Global(x, kCount), kCount);
    queue.EnQue(local);
    local = queue.DeQue<float>();
    LocalTensor<float> kept = local;
    queue.FreeTensor(local);
    Adds(kept, kept, 1.0f, kCount);
}

extern "C" __global__ __aicore__ void queue_exhausted(GM_ADDR x) {
    TPipe pipe;
    TQue<TPosition::VECIN, 2> queue;
    pipe.InitBuffer(queue, 2, 1024);
    for (int i = 0; i < 3; ++i) {
        LocalTensor<float> local = queue.AllocTensor<float>();
    }
}

extern "C" __global__ __aicore__ void flag_never_set(GM_ADDR x) {
    TPipe pipe;
    WaitFlag<HardEvent::MTE2_V>(EVENT_ID1);
}

extern "C" __global__ __aicore__ void flag_never_waited(GM_ADDR x) {
    TPipe pipe;
    SetFlag<HardEvent::MTE2_V>(EVENT_ID1);
}

// Core 0 never comes to the meeting.
extern "C" __global__ __aicore__ void deadlock(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIV_1_0);
    TPipe pipe;
    if (GetBlockIdx() != 0) {
        SyncAll();
    }
}

// A vector core has no matrix unit.
extern "C" __global__ __aicore__ void wrong_core(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::CO1> c1;
    TBuf<TPosition::A2> a2;
    TBuf<TPosition::B2> b2;
    pipe.InitBuffer(c1, 1024);
    pipe.InitBuffer(a2, 512);
    pipe.InitBuffer(b2, 512);
    MmadParams mmad;
    mmad.m = mmad.n = mmad.k = 16;
    Mmad(c1.Get<float>(), a2.Get<half>(), b2.Get<half>(), mmad);
}

// The cube core announces a result that its vector cores never wait for.
extern "C" __global__ __aicore__ void cross_flag_never_waited(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
    TPipe pipe;
    if ASCEND_IS_AIC {
        CrossCoreSetFlag<2, PIPE_FIX>(1);
    }
}

// The cube core's result is read by its vector core without waiting for the flag.
extern "C" __global__ __aicore__ void missing_cross_wait(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_1);
    TPipe pipe;
    if ASCEND_IS_AIC {
        TBuf<TPosition::CO1> c1;
        TBuf<TPosition::A2> a2;
        TBuf<TPosition::B2> b2;
        pipe.InitBuffer(c1, 1024);
        pipe.InitBuffer(a2, 512);
        pipe.InitBuffer(b2, 512);
        LocalTensor<half> left = a2.Get<half>(), right = b2.Get<half>();
        LocalTensor<float> sum = c1.Get<float>();
        GlobalTensor<half> from;
        from.SetGlobalBuffer((__gm__ half*)x, 256);
        LoadData2DParams load{0, 1, 1, 0, 0, false, 0};
        LoadData(left, from, load);
        LoadData(right, from, load);
        Order<HardEvent::MTE2_M>();
        MmadParams mmad;
        mmad.m = 1;
        mmad.n = 16;
        mmad.k = 16;
        Mmad(sum, left, right, mmad);
        Order<HardEvent::M_FIX>();
        FixpipeParamsV220 fixpipe{16, 1, 16, 16, false};
        Fixpipe(Global(x, kCount), sum, fixpipe);
    }
    if ASCEND_IS_AIV {
        TBuf<TPosition::VECCALC> buffer;
        pipe.InitBuffer(buffer, 1024);
        DataCopy(buffer.Get<float>(), Global(x, 16), 16);
    }
}

// A repeat has 64 floats.
extern "C" __global__ __aicore__ void mask_too_wide(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, 128);
    PipeBarrier<PIPE_V>();
    UnaryRepeatParams strides;
    Adds(local, local, 1.0f, static_cast<uint64_t>(128), 1, strides);
}

// The destination runs over what the source still has to give.
extern "C" __global__ __aicore__ void partial_overlap(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(buffer, 2048);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, 256);
    PipeBarrier<PIPE_V>();
    Adds(local[8], local, 1.0f, 128);
}

// float to int32_t needs a rounding mode.
extern "C" __global__ __aicore__ void cast_without_rounding(GM_ADDR x) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer, result;
    pipe.InitBuffer(buffer, 1024);
    pipe.InitBuffer(result, 1024);
    LocalTensor<float> local = buffer.Get<float>();
    Duplicate(local, 1.0f, kCount);
    PipeBarrier<PIPE_V>();
    Cast(result.Get<int32_t>(), local, RoundMode::CAST_NONE, kCount);
}

// A product depth-first into a small accumulator: without a barrier the second may read sums that the first has not written.
extern "C" __global__ __aicore__ void missing_cube_barrier(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);
    TPipe pipe;
    TBuf<TPosition::CO1> c1;
    TBuf<TPosition::A2> a2;
    TBuf<TPosition::B2> b2;
    pipe.InitBuffer(c1, 1024);
    pipe.InitBuffer(a2, 512);
    pipe.InitBuffer(b2, 512);
    LocalTensor<half> left = a2.Get<half>(), right = b2.Get<half>();
    LocalTensor<float> sum = c1.Get<float>();
    GlobalTensor<half> from;
    from.SetGlobalBuffer((__gm__ half*)x, 256);
    LoadData2DParams load{0, 1, 1, 0, 0, false, 0};
    LoadData(left, from, load);
    LoadData(right, from, load);
    Order<HardEvent::MTE2_M>();
    MmadParams mmad;
    mmad.m = mmad.n = mmad.k = 16;
    Mmad(sum, left, right, mmad);
    mmad.cmatrixInitVal = false;
    Mmad(sum, left, right, mmad);
}

// Kernels of the plain types have no synchronisation between cores.
extern "C" __global__ __aicore__ void plain_type_meets(GM_ADDR x) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TPipe pipe;
    SyncAll();
}
