// One simulated AI core: its memories, its pipes' clocks, its event flags; and the instruction that touches them.
//
// Instructions run in program order, at once. That is one of the orders the chip may choose; the clocks prove that the
// kernel's own synchronisation admits no other order that gives another result, and report the place where it does.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "sim/fault.h"
#include "sim/memory.h"
#include "sim/platform.h"

namespace AscendC {
class TPipe;
}

namespace sim {

struct Launch;
struct Allocation;

enum class CoreKind : uint8_t { AIC, AIV };
enum class BufferState : uint8_t { Free, Occupied, Enqueued, Dequeued, Plain };

// A piece of local memory handed out by InitBuffer. `position` and `site` are its name in messages.
struct Buffer {
    Space space = Space::UB;
    uint32_t address = 0;
    uint32_t bytes = 0;
    const char* position = "?";
    bool in_queue = false;
    Site site;
    BufferState state = BufferState::Plain;
    uint32_t generation = 0;  // counts AllocTensor, so that a tensor kept after FreeTensor is recognised
    int8_t enqueue_event = -1;
    int8_t free_event = -1;
};

// A view of local memory: what a LocalTensor<T> is without its element type.
struct LocalView {
    Buffer* buffer = nullptr;
    uint32_t generation = 0;
    uint32_t address = 0;  // bytes from the start of the memory
    uint32_t bytes = 0;
};

// A view of global memory.
struct GlobalView {
    uint8_t* address = nullptr;
    uint64_t bytes = 0;  // 0: only the allocation bounds it
    Allocation* allocation = nullptr;
    Site site;
};

using PipeCounts = std::array<uint32_t, kPipes>;
// How far each pipe of each core is known to have come. Immutable and shared, since it only changes between cores.
using World = std::vector<PipeCounts>;

// What a pipe knows to be finished, and when (cycles) it learned that.
struct Clock {
    PipeCounts own{};
    std::shared_ptr<const World> world;
    double time = 0;

    void join(const Clock& other);
};

struct PipeStatistics {
    uint64_t instructions = 0;
    uint64_t bytes = 0;
    double busy_cycles = 0;
};

struct Flag {
    bool set = false;
    Clock clock;
    Site site;
};

class Core {
public:
    Core(CoreKind kind, int index, int block, int sub_block);
    void reset(Launch* launch, int index, int block, int sub_block);

    CoreKind kind;
    int index;      // among all cores of the launch
    int block;      // AI core, 0..blockDim-1 of the cube side
    int sub_block;  // AIV within its AI core
    Launch* launch = nullptr;
    AscendC::TPipe* pipe = nullptr;

    std::array<std::vector<uint8_t>, kSpaces> memory;
    std::array<Shadow, kSpaces> shadow;
    std::deque<Buffer> buffers;

    // Order.
    PipeCounts issued{};
    std::array<Clock, kPipes> clock;
    std::array<double, kPipes> completed{};  // when the last result of a pipe is there; the pipe itself goes on before
    std::array<std::array<Flag, 8>, 64> flags;  // [event][id]
    std::array<uint8_t, 64> set_events{};       // of `flags`, one bit per id
    std::array<uint8_t, 64> occupied_events{};  // taken by AllocEventID
    std::array<std::deque<Clock>, 16> cross_flags;
    std::array<uint32_t, 16> cross_sets{};
    std::array<std::deque<Clock>, 16> cross_pending;  // contributions not yet answered by the rest of the group
    uint32_t barrier_generation = 0;
    Clock unit_flag_m, unit_flag_fix;
    std::array<PipeStatistics, kPipes> statistics;

    // Registers of the vector unit and of the copies.
    uint64_t mask[2] = {~0ull, ~0ull};
    bool counter_mode = false;
    uint64_t compare_mask[2] = {0, 0};
    AccessKind store_kind = AccessKind::Write;  // Atomic between SetAtomicAdd and SetAtomicNone
    int atomic_op = 0;                          // 0 none, 1 add, 2 max, 3 min
    int atomic_type = -1;
    uint64_t pad_value = 0;
    bool pad_value_set = false;
    double deq_scale = 1.0;
    uint64_t gather_mask_remaining = 0;
    std::array<uint16_t, 4> merge_sorted{};
    uint64_t reduce_result[2] = {0, 0};
    std::array<uint16_t, 3> fixpipe_matrices{1, 0, 0};  // number, source stride, target stride
    uint64_t fixpipe_scale = 0;

    uint8_t* bytes(Space space) { return memory[int(space)].data(); }
    uint32_t size(Space space) const { return uint32_t(memory[int(space)].size()); }
    std::string label() const;  // "AIV 3"
    std::string name() const;   // "kernel 'k', AIV 3"
    bool ordered(const Access& earlier, Pipe pipe, bool in_order) const;

    void set_flag(int event, Pipe from, Pipe to, int id, Site site);
    void wait_flag(int event, Pipe from, Pipe to, int id, Site site);
    void barrier(Pipe pipe);
    void barrier_all();
    // The clock that something waiting for `pipe` now would take over; for all pipes of the core with `all`.
    Clock finished(Pipe pipe) const;
    Clock finished_all() const;
    // As a clock that other cores understand.
    Clock exported(const Clock& clock) const;
    int allocate_event(int event, Site site);
    void end_of_kernel();
};

// The core whose code runs now. Throws outside of a launch.
Core& core();

// One instruction: checks its operands, records what it touches, and at the end takes its time on its pipe.
class Instruction {
public:
    Instruction(const char* name, Pipe pipe, Site site);
    ~Instruction();
    Instruction(const Instruction&) = delete;
    Instruction& operator=(const Instruction&) = delete;

    // Host addresses of `bytes` bytes from `offset`; `align` is what the address must be a multiple of.
    const uint8_t* read(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align = 1);
    uint8_t* write(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align = 1);
    const uint8_t* read(const GlobalView& view, uint64_t offset, uint64_t bytes);
    // `atomic` stores are checked as such; the caller does the arithmetic.
    uint8_t* write(const GlobalView& view, uint64_t offset, uint64_t bytes);

    // The bytes of `mask` in the 32-byte block at `offset`, which must start a block.
    const uint8_t* read_block(const LocalView& view, uint64_t offset, uint32_t mask);
    uint8_t* write_block(const LocalView& view, uint64_t offset, uint32_t mask);
    // Like read and write, for copies that carry uninitialised bytes along: `initialised` gets, or gives, one flag per byte.
    const uint8_t* read_any(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align, uint8_t* initialised);
    uint8_t* write_any(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align, const uint8_t* initialised);
    // The bytes were written with something that must not be read.
    void leave_uninitialised(const LocalView& view, uint64_t offset, uint64_t bytes);

    void on(CoreKind kind) const;  // faults on the other kind of core
    void in_space(const LocalView& view, std::initializer_list<Space> spaces, const char* operand) const;
    void require(bool ok, Fault fault, const std::string& message, const LocalView* view = nullptr) const {
        if (__builtin_expect(!ok, 0)) fail(fault, message, view);
    }
    [[noreturn]] void fail(Fault fault, const std::string& message, const LocalView* view = nullptr) const;

    // Cycles that keep the pipe from its next instruction, besides the pipe's own (cost.h); bytes moved or computed on.
    void cost(double cycles, uint64_t bytes);
    // The pipe itself keeps the order with its earlier instructions (large Mmads into one accumulator).
    void keep_pipe_order() { in_order_ = true; }

    Core& on_core() { return core_; }

private:
    void check_live(const LocalView& view) const;
    void check_bounds(const LocalView& view, uint64_t offset, uint64_t bytes, uint32_t align) const;
    Access access(uint32_t mask, AccessKind kind) const;
    void check_initialised(const LocalView& view, uint64_t begin, uint64_t end) const;
    void touch(const LocalView& view, uint64_t begin, uint64_t end, AccessKind kind);
    void touch_cell(const LocalView& view, uint64_t cell, uint32_t mask, AccessKind kind);
    void touch(const GlobalView& view, Allocation& allocation, uint64_t begin, uint64_t end, AccessKind kind);
    Allocation& resolve(const GlobalView& view, uint64_t offset, uint64_t bytes, bool write) const;
    [[noreturn]] void race(const Access& earlier, AccessKind kind, const std::string& tensor, uint64_t address) const;

    const char* name_;
    Core& core_;
    Pipe pipe_;
    Site site_;
    uint32_t site_id_;
    bool in_order_ = false;
    double start_ = 0;
    double cycles_ = 0;
    uint64_t bytes_ = 0;
};

std::string describe(const LocalView& view);
std::string describe(const GlobalView& view);

[[noreturn]] void fail(Fault fault, Site site, const char* api, const std::string& message);

}  // namespace sim
