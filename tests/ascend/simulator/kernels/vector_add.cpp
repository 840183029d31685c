// z = x + y over all vector cores, double buffered, with a tail that is no multiple of 32 bytes.
#include "kernel_operator.h"

using namespace AscendC;

class VectorAdd {
public:
    __aicore__ inline void Init(GM_ADDR x, GM_ADDR y, GM_ADDR z, uint32_t total, uint32_t tile, TPipe* pipe) {
        const uint32_t cores = GetBlockNum(), core = GetBlockIdx();
        const uint32_t share = (total + cores - 1) / cores;
        begin_ = core * share < total ? core * share : total;
        end_ = begin_ + share < total ? begin_ + share : total;
        tile_ = tile;
        x_.SetGlobalBuffer((__gm__ float*)x, total);
        y_.SetGlobalBuffer((__gm__ float*)y, total);
        z_.SetGlobalBuffer((__gm__ float*)z, total);
        pipe->InitBuffer(in_x_, 2, tile * sizeof(float));
        pipe->InitBuffer(in_y_, 2, tile * sizeof(float));
        pipe->InitBuffer(out_, 2, tile * sizeof(float));
    }

    __aicore__ inline void Process() {
        for (uint32_t at = begin_; at < end_; at += tile_) {
            const uint32_t count = end_ - at < tile_ ? end_ - at : tile_;
            CopyIn(at, count);
            Compute(count);
            CopyOut(at, count);
        }
    }

private:
    __aicore__ inline void CopyIn(uint32_t at, uint32_t count) {
        DataCopyExtParams copy{1, static_cast<uint32_t>(count * sizeof(float)), 0, 0, 0};
        DataCopyPadExtParams<float> pad{false, 0, 0, 0};
        LocalTensor<float> x = in_x_.AllocTensor<float>();
        DataCopyPad(x, x_[at], copy, pad);
        in_x_.EnQue(x);
        LocalTensor<float> y = in_y_.AllocTensor<float>();
        DataCopyPad(y, y_[at], copy, pad);
        in_y_.EnQue(y);
    }

    __aicore__ inline void Compute(uint32_t count) {
        LocalTensor<float> x = in_x_.DeQue<float>();
        LocalTensor<float> y = in_y_.DeQue<float>();
        LocalTensor<float> z = out_.AllocTensor<float>();
        Add(z, x, y, static_cast<int32_t>(count));
        in_x_.FreeTensor(x);
        in_y_.FreeTensor(y);
        out_.EnQue(z);
    }

    __aicore__ inline void CopyOut(uint32_t at, uint32_t count) {
        LocalTensor<float> z = out_.DeQue<float>();
        DataCopyExtParams copy{1, static_cast<uint32_t>(count * sizeof(float)), 0, 0, 0};
        DataCopyPad(z_[at], z, copy);
        out_.FreeTensor(z);
    }

    GlobalTensor<float> x_, y_, z_;
    TQue<TPosition::VECIN, 2> in_x_, in_y_;
    TQue<TPosition::VECOUT, 2> out_;
    uint32_t begin_, end_, tile_;
};

extern "C" __global__ __aicore__ void vector_add(GM_ADDR x, GM_ADDR y, GM_ADDR z, uint32_t total, uint32_t tile) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TPipe pipe;
    VectorAdd add;
    add.Init(x, y, z, total, tile, &pipe);
    add.Process();
}
