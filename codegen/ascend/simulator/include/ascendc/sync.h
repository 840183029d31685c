// Order within a core (flags, barriers), between cores, and what a core asks about itself.
#pragma once

#include "ascendc/queue.h"

namespace sim {

// A core without one of the pipes skips the event, as the vendor's library does.
inline bool has_pipe(Pipe pipe) {
    const bool cube_pipe = pipe == Pipe::M || pipe == Pipe::MTE1 || pipe == Pipe::FIX;
    const bool cube = core().kind == CoreKind::AIC;
    return cube ? pipe != Pipe::V : !cube_pipe;
}

void cross_core_set(int mode, Pipe pipe, int flag, Site site);
void cross_core_wait(int flag, Site site);
void sync_all(bool vector_only, Site site);
void sync_some(const void* workspace, uint32_t cores, Site site);
void block_set(const void* workspace, int block, int event, Site site);
void block_wait(const void* workspace, int block, int event, Site site);

}  // namespace sim

namespace AscendC {

template <HardEvent event>
void SetFlag(int32_t eventID, sim::Site site = sim::Site::here()) {
    constexpr sim::PipePair pipes = sim::pipes_of(event);
    if (!sim::has_pipe(pipes.from) || !sim::has_pipe(pipes.to)) return;
    if (pipes.from == pipes.to) return sim::core().barrier(pipes.from);
    sim::core().set_flag(int(event), pipes.from, pipes.to, eventID, site);
}

template <HardEvent event>
void WaitFlag(int32_t eventID, sim::Site site = sim::Site::here()) {
    constexpr sim::PipePair pipes = sim::pipes_of(event);
    if (!sim::has_pipe(pipes.from) || !sim::has_pipe(pipes.to) || pipes.from == pipes.to) return;
    sim::core().wait_flag(int(event), pipes.from, pipes.to, eventID, site);
}

template <pipe_t src, pipe_t dst>
class TQueSync {
public:
    void SetFlag(TEventID id, sim::Site site = sim::Site::here()) {
        sim::core().set_flag(kEvent, sim::pipe_of(src), sim::pipe_of(dst), id, site);
    }
    void WaitFlag(TEventID id, sim::Site site = sim::Site::here()) {
        sim::core().wait_flag(kEvent, sim::pipe_of(src), sim::pipe_of(dst), id, site);
    }

private:
    static constexpr int find() {
        for (int event = 0; event < int(HardEvent::MAX); ++event) {
            const sim::PipePair pipes = sim::pipes_of(HardEvent(event));
            if (pipes.from == sim::pipe_of(src) && pipes.to == sim::pipe_of(dst)) return event;
        }
        return -1;
    }
    static constexpr int kEvent = find();
    static_assert(kEvent >= 0, "no event between these pipes");
};

template <pipe_t pipe>
void PipeBarrier() {
    static_assert(pipe != PIPE_S, "the scalar unit needs no barrier");
    if constexpr (pipe == PIPE_ALL) sim::core().barrier_all();
    else sim::core().barrier(sim::pipe_of(pipe));
}

template <MemDsbT>
void DataSyncBarrier() {
    sim::core().barrier_all();
}

template <typename T, CacheLine entireType, DcciDst dcciDst>
void DataCacheCleanAndInvalid(const GlobalTensor<T>&) {}
template <typename T, CacheLine entireType>
void DataCacheCleanAndInvalid(const GlobalTensor<T>&) {}
template <typename T, CacheLine entireType, DcciDst dcciDst>
void DataCacheCleanAndInvalid(const LocalTensor<T>&) {}

template <uint8_t modeId, pipe_t pipe>
void CrossCoreSetFlag(uint16_t flagId, sim::Site site = sim::Site::here()) {
    static_assert(modeId <= 2, "modes 0, 1 and 2");
    static_assert(pipe != PIPE_S && pipe != PIPE_ALL, "a single pipe other than the scalar one");
    if (sim::has_pipe(sim::pipe_of(pipe))) sim::cross_core_set(modeId, sim::pipe_of(pipe), flagId & 15, site);
}
template <uint8_t modeId = 0, pipe_t pipe = PIPE_S>
void CrossCoreWaitFlag(uint16_t flagId, sim::Site site = sim::Site::here()) {
    sim::cross_core_wait(flagId & 15, site);
}

int64_t GetBlockIdx();
int64_t GetBlockNum();
int64_t GetSubBlockIdx();
int64_t GetSubBlockNum();
int64_t GetTaskRation();

template <bool isAIVOnly = true>
void SyncAll(sim::Site site = sim::Site::here()) {
    sim::sync_all(isAIVOnly, site);
}
template <bool isAIVOnly = true>
void SyncAll(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>&, const int32_t usedCores = 0,
             sim::Site site = sim::Site::here()) {
    const uint32_t all = uint32_t(GetBlockNum() * (isAIVOnly ? 1 : GetTaskRation()));
    sim::sync_some(gmWorkspace.GetPhyAddr(), usedCores == 0 ? all : uint32_t(usedCores), site);
}
template <bool isAIVOnly = true>
void IBSet(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>&, int32_t blockIdx, int32_t eventID,
           sim::Site site = sim::Site::here()) {
    sim::block_set(gmWorkspace.GetPhyAddr(), blockIdx, eventID, site);
}
template <bool isAIVOnly = true>
void IBWait(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>&, int32_t blockIdx, int32_t eventID,
            sim::Site site = sim::Site::here()) {
    sim::block_wait(gmWorkspace.GetPhyAddr(), blockIdx, eventID, site);
}

inline int64_t GetTaskRatio() { return GetTaskRation(); }
int64_t GetSystemCycle();
inline int64_t GetProgramCounter() { return 0; }
inline void Trap() { sim::fail(sim::Fault::Protocol, {}, "Trap", "the kernel stopped itself"); }

template <typename T>
constexpr int atomic_dtype() {
    using U = PrimT<T>;
    if (std::is_same_v<U, float>) return int(AtomicDtype::ATOMIC_F32);
    if (std::is_same_v<U, half>) return int(AtomicDtype::ATOMIC_F16);
    if (std::is_same_v<U, int16_t>) return int(AtomicDtype::ATOMIC_S16);
    if (std::is_same_v<U, int32_t>) return int(AtomicDtype::ATOMIC_S32);
    if (std::is_same_v<U, int8_t>) return int(AtomicDtype::ATOMIC_S8);
    if (std::is_same_v<U, bfloat16_t>) return int(AtomicDtype::ATOMIC_BF16);
    return 0;
}

namespace detail {
template <typename T>
void set_atomic(int op) {
    static_assert(atomic_dtype<T>() != 0, "no atomic stores of this type");
    sim::core().store_kind = sim::AccessKind::Atomic;
    sim::core().atomic_op = op;
    sim::core().atomic_type = atomic_dtype<T>();
}
}  // namespace detail

template <typename T>
void SetAtomicAdd() { detail::set_atomic<T>(1); }
template <typename T>
void SetAtomicMax() { detail::set_atomic<T>(2); }
template <typename T>
void SetAtomicMin() { detail::set_atomic<T>(3); }
inline void SetAtomicNone() {
    sim::core().store_kind = sim::AccessKind::Write;
    sim::core().atomic_op = 0;
    sim::core().atomic_type = -1;
}
inline void DisableDmaAtomic() { SetAtomicNone(); }

// Debugging output of the device has no counterpart here.
template <typename Tensor>
void DumpTensor(const Tensor&, uint32_t, uint32_t) {}
template <typename... Args>
void PRINTF(const char*, Args&&...) {}
template <typename... Args>
void printf(const char*, Args&&...) {}

}  // namespace AscendC

