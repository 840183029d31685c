// TPipe, TQue, TQueBind and TBuf: local memory, and the order that queues give its users.
#pragma once

#include <deque>

#include "ascendc/tensor.h"

namespace AscendC {

class TPipe;

// Where TQue<position> takes tensors from and gives them to.
constexpr TPosition GetBufferLogicPos(TPosition position, bool source) {
    switch (position) {
        case TPosition::A1: case TPosition::B1: case TPosition::C1: case TPosition::VECIN:
            return source ? TPosition::GM : position;
        case TPosition::A2: return source ? TPosition::A1 : TPosition::A2;
        case TPosition::B2: return source ? TPosition::B1 : TPosition::B2;
        case TPosition::C2: return source ? TPosition::C1 : TPosition::C2;
        case TPosition::CO1: return source ? TPosition::CO1 : TPosition::CO2;
        case TPosition::VECOUT: return source ? TPosition::VECOUT : TPosition::GM;
        case TPosition::C2PIPE2GM: return source ? TPosition::B1 : TPosition::C2PIPE2GM;
        default: return TPosition::MAX;
    }
}

// The event between the producer and the consumer of a queue, or back from the consumer to the producer.
constexpr HardEvent GetQueEvt(Hardware source, Hardware target, bool forward) {
    const auto event = [forward](HardEvent there, HardEvent back) { return forward ? there : back; };
    if (source == Hardware::GM && target == Hardware::UB) return event(HardEvent::MTE2_V, HardEvent::V_MTE2);
    if (source == Hardware::GM && target == Hardware::L1) return event(HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2);
    if (source == Hardware::GM) return event(HardEvent::MTE2_M, HardEvent::M_MTE2);
    if (source == Hardware::UB && target == Hardware::GM) return event(HardEvent::V_MTE3, HardEvent::MTE3_V);
    if (source == Hardware::UB && target == Hardware::UB) return event(HardEvent::MTE2_MTE3, HardEvent::MTE3_MTE2);
    if (source == Hardware::UB) return event(HardEvent::MTE3_MTE1, HardEvent::MTE1_MTE3);
    if (source == Hardware::L1 && target == Hardware::FIXBUF) return event(HardEvent::MTE1_FIX, HardEvent::FIX_MTE1);
    if (source == Hardware::L1) return event(HardEvent::MTE1_M, HardEvent::M_MTE1);
    if (source == Hardware::L0C) return event(HardEvent::M_FIX, HardEvent::FIX_M);
    return HardEvent::MAX;
}

template <TPosition src, TPosition dst, int32_t depth, auto mask = 0>
class TQueBind {
public:
    template <typename T>
    LocalTensor<T> AllocTensor(sim::Site site = sim::Site::here()) {
        using sim::BufferState;
        if (buffers_.empty()) sim::fail(sim::Fault::Protocol, site, "AllocTensor", "the queue has no buffer: InitBuffer is missing");
        for (size_t tried = 0; tried < buffers_.size(); ++tried) {
            sim::Buffer& buffer = *buffers_[cursor_];
            cursor_ = (cursor_ + 1) % buffers_.size();
            if (buffer.state != BufferState::Free) continue;
            if (buffer.free_event >= 0) wait_and_release(kFreeEvent, buffer.free_event, site);
            buffer.state = BufferState::Occupied;
            ++buffer.generation;
            // A queue's tensor starts with whatever the buffer held; nothing in the kernel may rely on that.
            sim::Core& core = sim::core();
            const uint32_t end = buffer.address + buffer.bytes;
            if (end <= core.size(buffer.space)) core.shadow[int(buffer.space)].set_initialised(buffer.address, end, false);
            return tensor<T>(buffer);
        }
        sim::fail(sim::Fault::Protocol, site, "AllocTensor",
                  "all " + std::to_string(buffers_.size()) + " buffers of the " + buffers_[0]->position +
                      " queue (InitBuffer at " + buffers_[0]->site.text() + ") are in use: FreeTensor is missing");
    }

    template <typename T>
    void FreeTensor(LocalTensor<T>& freed, sim::Site site = sim::Site::here()) {
        sim::Buffer& buffer = owned(freed, "FreeTensor", site);
        if (buffer.state == sim::BufferState::Free)
            sim::fail(sim::Fault::Protocol, site, "FreeTensor", "freed twice; tensor: " + sim::describe(freed.view()));
        if (buffer.state == sim::BufferState::Enqueued)
            sim::fail(sim::Fault::Protocol, site, "FreeTensor", "freed while in the queue; tensor: " + sim::describe(freed.view()));
        buffer.free_event = set_fresh(kFreeEvent, site);
        buffer.state = sim::BufferState::Free;
    }

    template <typename T>
    bool EnQue(const LocalTensor<T>& enqueued, sim::Site site = sim::Site::here()) {
        return enqueue(kEnqueueEvent, enqueued, site);
    }
    template <TPosition srcUserPos, TPosition dstUserPos, typename T>
    bool EnQue(const LocalTensor<T>& enqueued, sim::Site site = sim::Site::here()) {
        return enqueue(user_event<srcUserPos, dstUserPos>(), enqueued, site);
    }

    template <typename T>
    LocalTensor<T> DeQue(sim::Site site = sim::Site::here()) {
        return tensor<T>(dequeue(kEnqueueEvent, site));
    }
    template <TPosition srcUserPos, TPosition dstUserPos, typename T>
    LocalTensor<T> DeQue(sim::Site site = sim::Site::here()) {
        return tensor<T>(dequeue(user_event<srcUserPos, dstUserPos>(), site));
    }

    bool VacantInQue() { return int32_t(queue_.size()) < depth; }
    bool HasTensorInQue() { return !queue_.empty(); }
    int32_t GetTensorCountInQue() { return int32_t(queue_.size()); }
    bool HasIdleBuffer() {
        for (sim::Buffer* buffer : buffers_)
            if (buffer->state == sim::BufferState::Free) return true;
        return false;
    }
    void FreeAllEvent(sim::Site site = sim::Site::here()) {
        for (sim::Buffer* buffer : buffers_) {
            if (buffer->free_event >= 0) wait_and_release(kFreeEvent, buffer->free_event, site);
            if (buffer->enqueue_event >= 0) wait_and_release(kEnqueueEvent, buffer->enqueue_event, site);
        }
    }

protected:
    friend class TPipe;
    static constexpr bool isTQue = true;
    static constexpr TPosition srcPosition = src;
    static constexpr TPosition dstPosition = dst;
    // The memory that holds the tensors: the target's, or the source's if the target is global.
    static constexpr TPosition kPosition = GetPhyType(dst) == Hardware::GM ? src : dst;
    static constexpr HardEvent kEnqueueEvent = GetQueEvt(GetPhyType(src), GetPhyType(dst), true);
    static constexpr HardEvent kFreeEvent = GetQueEvt(GetPhyType(src), GetPhyType(dst), false);

    template <typename T>
    static LocalTensor<T> tensor(sim::Buffer& buffer) {
        LocalTensor<T> result(sim::LocalView{&buffer, buffer.generation, buffer.address, buffer.bytes});
        result.SetPosition(kPosition);
        return result;
    }

private:
    template <TPosition srcUserPos, TPosition dstUserPos>
    static constexpr HardEvent user_event() {
        constexpr Hardware from = GetPhyType(srcUserPos), to = GetPhyType(dstUserPos);
        return from == Hardware::UB && to == Hardware::UB ? HardEvent::V_V : GetQueEvt(from, to, true);
    }

    static int8_t set_fresh(HardEvent event, sim::Site site) {
        const sim::PipePair pipes = sim::pipes_of(event);
        sim::Core& core = sim::core();
        if (event == HardEvent::V_V) {
            core.barrier(sim::Pipe::V);
            return -1;
        }
        const int id = core.allocate_event(int(event), site);
        core.set_flag(int(event), pipes.from, pipes.to, id, site);
        return int8_t(id);
    }

    static void wait_and_release(HardEvent event, int8_t& id, sim::Site site) {
        const sim::PipePair pipes = sim::pipes_of(event);
        sim::Core& core = sim::core();
        core.wait_flag(int(event), pipes.from, pipes.to, id, site);
        core.occupied_events[int(event)] &= uint8_t(~(1 << id));
        id = -1;
    }

    template <typename T>
    sim::Buffer& owned(const LocalTensor<T>& tensor, const char* call, sim::Site site) const {
        sim::Buffer* buffer = tensor.view().buffer;
        for (sim::Buffer* mine : buffers_)
            if (mine == buffer) return *buffer;
        sim::fail(sim::Fault::Protocol, site, call, "the tensor is not of this queue; tensor: " + sim::describe(tensor.view()));
    }

    template <typename T>
    bool enqueue(HardEvent event, const LocalTensor<T>& enqueued, sim::Site site) {
        sim::Buffer& buffer = owned(enqueued, "EnQue", site);
        if (buffer.state != sim::BufferState::Occupied && buffer.state != sim::BufferState::Dequeued)
            sim::fail(sim::Fault::Protocol, site, "EnQue",
                      "the tensor is neither allocated nor dequeued; tensor: " + sim::describe(enqueued.view()));
        if (int32_t(queue_.size()) >= depth)
            sim::fail(sim::Fault::Protocol, site, "EnQue",
                      "the queue holds " + std::to_string(depth) + " tensors, its depth, already; tensor: " +
                          sim::describe(enqueued.view()));
        buffer.enqueue_event = set_fresh(event, site);
        buffer.state = sim::BufferState::Enqueued;
        queue_.push_back(&buffer);
        return true;
    }

    sim::Buffer& dequeue(HardEvent event, sim::Site site) {
        if (queue_.empty()) {
            const std::string which = buffers_.empty() ? std::string("the queue") :
                std::string("the ") + buffers_[0]->position + " queue (InitBuffer at " + buffers_[0]->site.text() + ")";
            sim::fail(sim::Fault::EmptyQueue, site, "DeQue", "nothing was enqueued in " + which + ": EnQue is missing");
        }
        sim::Buffer& buffer = *queue_.front();
        queue_.pop_front();
        if (buffer.enqueue_event >= 0) wait_and_release(event, buffer.enqueue_event, site);
        buffer.state = sim::BufferState::Dequeued;
        return buffer;
    }

    std::vector<sim::Buffer*> buffers_;
    std::deque<sim::Buffer*> queue_;
    size_t cursor_ = 0;
};

template <TPosition pos, int32_t depth, auto mask = 0>
class TQue : public TQueBind<GetBufferLogicPos(pos, true), GetBufferLogicPos(pos, false), depth, mask> {
    static_assert(GetBufferLogicPos(pos, true) != TPosition::MAX, "this position has no queue; use TBuf or TQueBind");
};

template <TPosition pos = TPosition::LCM>
class TBuf {
public:
    template <typename T>
    LocalTensor<T> Get(sim::Site site = sim::Site::here()) {
        return GetWithOffset<T>(initialised(site).bytes / sizeof(PrimT<T>), 0, site);
    }
    template <typename T>
    LocalTensor<T> Get(uint32_t len, sim::Site site = sim::Site::here()) {
        return GetWithOffset<T>(len, 0, site);
    }
    template <typename T>
    LocalTensor<T> GetWithOffset(uint32_t size, uint32_t bufOffset, sim::Site site = sim::Site::here()) {
        sim::Buffer& buffer = initialised(site);
        const uint64_t end = bufOffset + uint64_t(size) * sizeof(PrimT<T>);
        if (end > buffer.bytes)
            sim::fail(sim::Fault::OutOfBounds, site, "TBuf::Get",
                      "byte " + std::to_string(end) + " of a buffer of " + std::to_string(buffer.bytes) + " bytes; tensor: " +
                          std::string(buffer.position) + " buffer (InitBuffer at " + buffer.site.text() + ")");
        LocalTensor<T> result(sim::LocalView{&buffer, 0, buffer.address + bufOffset, uint32_t(size * sizeof(PrimT<T>))});
        result.SetPosition(pos);
        return result;
    }

private:
    friend class TPipe;
    static constexpr bool isTQue = false;
    sim::Buffer& initialised(sim::Site site) {
        if (!buffer_) sim::fail(sim::Fault::Protocol, site, "TBuf::Get", "the buffer has no memory: InitBuffer is missing");
        return *buffer_;
    }
    sim::Buffer* buffer_ = nullptr;
};

class TPipe {
public:
    explicit TPipe(sim::Site site = sim::Site::here());
    ~TPipe() noexcept(false);
    TPipe(const TPipe&) = delete;
    TPipe& operator=(const TPipe&) = delete;

    void Init(sim::Site site = sim::Site::here());
    void Reset(sim::Site site = sim::Site::here());
    void Destroy(sim::Site site = sim::Site::here());

    // `num` buffers of `len` bytes, rounded up to 32. Throws SimError (BufferOverflow) when the memory has no room.
    template <class Queue>
    bool InitBuffer(Queue& queue, uint8_t num, uint32_t len, sim::Site site = sim::Site::here()) {
        for (int i = 0; i < num; ++i) {
            sim::Buffer& buffer = take(Queue::kPosition, len, num, site);
            buffer.in_queue = true;
            buffer.state = sim::BufferState::Free;
            queue.buffers_.push_back(&buffer);
            queues_.push_back({&buffer, Queue::kFreeEvent});
        }
        return true;
    }
    template <TPosition pos>
    bool InitBuffer(TBuf<pos>& buf, uint32_t len, sim::Site site = sim::Site::here()) {
        buf.buffer_ = &take(pos, len, 1, site);
        return true;
    }

    template <HardEvent event>
    TEventID AllocEventID(sim::Site site = sim::Site::here()) {
        return TEventID(sim::core().allocate_event(int(event), site));
    }
    template <HardEvent event>
    void ReleaseEventID(TEventID id) {
        sim::core().occupied_events[int(event)] &= uint8_t(~(1 << id));
    }
    template <HardEvent event>
    TEventID FetchEventID(sim::Site site = sim::Site::here()) {
        return FetchEventID(event, site);
    }
    TEventID FetchEventID(HardEvent event, sim::Site site = sim::Site::here());

private:
    struct Queued {
        sim::Buffer* buffer;
        HardEvent free_event;
    };
    sim::Buffer& take(TPosition position, uint32_t len, uint32_t num, sim::Site site);

    uint32_t used_[sim::kSpaces] = {};
    std::vector<Queued> queues_;
    bool alive_ = false;
};

}  // namespace AscendC

inline AscendC::TPipe* GetTPipePtr() { return sim::core().pipe; }
