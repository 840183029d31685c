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

// Shadow state of one memory: initialised bytes, and the accesses that a later one must be ordered after. Accesses are kept
// per cell, or, while all of them cover it whole, once for a chunk of cells.
class Shadow {
public:
    static constexpr uint32_t kChunkCells = 16;
    static constexpr uint32_t kChunk = kChunkCells * kCell;

    explicit Shadow(uint64_t bytes = 0) { resize(bytes); }
    void resize(uint64_t bytes);
    // Nothing written, nothing touched.
    void clear();

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
    // The same for [begin, end), whatever access.mask is; `where` is set to the address of the cell with the conflict.
    template <typename Ordered>
    const Access* record(uint64_t begin, uint64_t end, Access access, uint32_t barrier_generation, uint64_t& where, Ordered ordered);

private:
    template <typename Ordered>
    const Access* record_in(int32_t& head, const Access& access, uint32_t barrier_generation, Ordered ordered);
    template <typename Ordered>
    const Access* record_chunk(uint64_t chunk, const Access& access, uint32_t barrier_generation, uint64_t& where, Ordered ordered);
    int32_t allocate(const Access& access);
    void release(int32_t index);
    void fold_readers(int32_t& head, uint32_t barrier_generation);
    void touch(uint64_t chunk) {
        if (chunk_heads_[chunk] < 0 && !split_[chunk]) touched_.push_back(chunk);
    }
    // Gives every cell of a chunk the chunk's accesses as its own.
    void split(uint64_t chunk);
    // Undoes that when a write left the same single access in every cell.
    void join(uint64_t chunk);

    std::vector<uint32_t> initialised_;  // by cell
    std::vector<int32_t> heads_;         // by cell, while its chunk is split
    std::vector<int32_t> chunk_heads_;
    std::vector<uint8_t> split_;
    std::vector<Access> pool_;
    std::vector<uint64_t> touched_;
    int32_t free_ = -1;
};

template <typename Ordered>
const Access* Shadow::record_in(int32_t& head, const Access& access, uint32_t barrier_generation, Ordered ordered) {
    int32_t* link = &head;
    int other_readers = 0;
    bool recorded = false;
    while (*link >= 0) {
        Access& old = pool_[*link];
        const bool same_pipe = old.core == access.core && old.pipe == access.pipe;
        const uint32_t common = old.mask & access.mask;
        if (same_pipe && old.epoch == access.epoch) {
            // One instruction. What is ordered after its write is ordered after its read.
            if (old.kind == access.kind) {
                old.mask |= access.mask;
                recorded = true;
            } else if (access.kind == AccessKind::Write) {
                old.mask &= ~access.mask;
            }
        } else if (common != 0) {
            const bool both_read = old.kind == AccessKind::Read && access.kind == AccessKind::Read;
            const bool both_atomic = old.kind == AccessKind::Atomic && access.kind == AccessKind::Atomic;
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
        pool_[index].next = head;
        head = index;
        if (access.kind == AccessKind::Read && other_readers > kReadersKept) fold_readers(head, barrier_generation);
    }
    return nullptr;
}

template <typename Ordered>
const Access* Shadow::record(uint64_t cell, const Access& access, uint32_t barrier_generation, Ordered ordered) {
    const uint64_t chunk = cell / kChunkCells;
    touch(chunk);
    if (!split_[chunk]) split(chunk);
    return record_in(heads_[cell], access, barrier_generation, ordered);
}

template <typename Ordered>
const Access* Shadow::record_chunk(uint64_t chunk, const Access& access, uint32_t barrier_generation, uint64_t& where,
                                   Ordered ordered) {
    touch(chunk);
    where = chunk * kChunk;
    if (!split_[chunk]) return record_in(chunk_heads_[chunk], access, barrier_generation, ordered);
    for (uint64_t cell = chunk * kChunkCells; cell < (chunk + 1) * kChunkCells; ++cell) {
        where = cell * kCell;
        if (const Access* conflict = record_in(heads_[cell], access, barrier_generation, ordered)) return conflict;
    }
    if (access.kind == AccessKind::Write) join(chunk);
    return nullptr;
}

template <typename Ordered>
const Access* Shadow::record(uint64_t begin, uint64_t end, Access access, uint32_t barrier_generation, uint64_t& where,
                             Ordered ordered) {
    while (begin < end) {
        const Access* conflict;
        if (begin % kChunk == 0 && begin + kChunk <= end) {
            access.mask = ~0u;
            conflict = record_chunk(begin / kChunk, access, barrier_generation, where, ordered);
            begin += kChunk;
        } else {
            const uint64_t cell = begin / kCell;
            where = cell * kCell;
            access.mask = cell_mask(cell, begin, end);
            conflict = record(cell, access, barrier_generation, ordered);
            begin = (cell + 1) * kCell;
        }
        if (conflict) return conflict;
    }
    return nullptr;
}

}  // namespace sim
