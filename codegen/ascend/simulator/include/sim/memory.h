// Memories of the chip and, per 32-byte cell, what is known of them: which bytes hold data and who touched them last.
#pragma once

#include <cstdint>
#include <vector>

namespace sim {

enum class Space : uint8_t { GM, UB, L1, L0A, L0B, L0C, BT, FB };
constexpr int kSpaces = 8;
const char* space_name(Space space);

enum class Pipe : uint8_t { S, V, M, MTE1, MTE2, MTE3, FIX };
constexpr int kPipes = 7;
const char* pipe_name(Pipe pipe);

enum class AccessKind : uint8_t { Read, Write, Atomic };

constexpr uint32_t kCell = 32;

// One access to bytes of a cell. `epoch` counts the instructions of that core and pipe.
struct Access {
    uint32_t mask = 0;
    uint32_t epoch = 0;
    uint32_t site = 0;
    uint16_t core = 0;
    Pipe pipe = Pipe::S;
    AccessKind kind = AccessKind::Read;
    int32_t next = -1;
};

// More readers than are kept apart in one cell become one record of "several cores"; its epoch is a barrier generation.
constexpr uint16_t kSeveralCores = 0xFFFF;
constexpr int kReadersKept = 4;

// The bytes of `cell` that lie in [begin, end), one bit each.
inline uint32_t cell_mask(uint64_t cell, uint64_t begin, uint64_t end) {
    const uint64_t base = cell * kCell;
    const uint32_t low = begin > base ? uint32_t(begin - base) : 0;
    const uint32_t high = end < base + kCell ? uint32_t(end - base) : kCell;
    const uint32_t upper = high == kCell ? ~0u : (1u << high) - 1;
    return upper & ~((1u << low) - 1);
}

// Shadow state of one memory: initialised bytes, and the accesses that a later one must be ordered after.
class Shadow {
public:
    explicit Shadow(uint64_t bytes = 0) { resize(bytes); }
    void resize(uint64_t bytes);

    void set_initialised(uint64_t begin, uint64_t end, bool value);
    // The first byte of [begin, end) that nothing wrote, or `end`.
    uint64_t first_uninitialised(uint64_t begin, uint64_t end) const;
    uint32_t initialised_mask(uint64_t cell) const { return initialised_[cell]; }
    void mark_initialised(uint64_t cell, uint32_t mask) { initialised_[cell] |= mask; }

    // Forgets the accesses (a launch ends), keeps what is initialised.
    void forget_accesses();

    // Records `access` to its bytes of `cell`. Returns the earlier access that it conflicts with and that `ordered` does not
    // put before it, or nullptr.
    template <typename Ordered>
    const Access* record(uint64_t cell, const Access& access, uint32_t barrier_generation, Ordered ordered);

private:
    int32_t allocate(const Access& access);
    void release(int32_t index);
    void fold_readers(uint64_t cell, uint32_t barrier_generation);

    std::vector<uint32_t> initialised_;
    std::vector<int32_t> heads_;
    std::vector<Access> pool_;
    std::vector<uint64_t> touched_;
    int32_t free_ = -1;
};

template <typename Ordered>
const Access* Shadow::record(uint64_t cell, const Access& access, uint32_t barrier_generation, Ordered ordered) {
    if (heads_[cell] < 0) touched_.push_back(cell);
    int32_t* link = &heads_[cell];
    int other_readers = 0;
    bool recorded = false;
    while (*link >= 0) {
        Access& old = pool_[*link];
        const bool same_pipe = old.core == access.core && old.pipe == access.pipe;
        const bool same_instruction = same_pipe && old.epoch == access.epoch;
        const uint32_t common = old.mask & access.mask;
        const bool both_read = old.kind == AccessKind::Read && access.kind == AccessKind::Read;
        const bool both_atomic = old.kind == AccessKind::Atomic && access.kind == AccessKind::Atomic;
        if (same_instruction) {
            if (old.kind == access.kind) {
                old.mask |= access.mask;
                recorded = true;
            }
        } else if (common != 0) {
            const bool conflict = !both_read && !both_atomic;
            if (conflict && !ordered(old)) return &old;
            // Whoever is ordered after this access is ordered after what it supersedes.
            if (conflict ? access.kind != AccessKind::Read : same_pipe) old.mask &= ~access.mask;
        }
        if (old.mask == 0) {
            const int32_t dead = *link;
            *link = old.next;
            release(dead);
            continue;
        }
        if (old.kind == AccessKind::Read && !same_pipe) ++other_readers;
        link = &old.next;
    }
    if (!recorded) {
        const int32_t index = allocate(access);  // may move the pool, so `link` is not used again
        pool_[index].next = heads_[cell];
        heads_[cell] = index;
        if (access.kind == AccessKind::Read && other_readers > kReadersKept) fold_readers(cell, barrier_generation);
    }
    return nullptr;
}

}  // namespace sim
