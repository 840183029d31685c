#include "sim/memory.h"

#include <algorithm>

namespace sim {

const char* space_name(Space space) {
    static const char* const names[] = {"GM", "UB", "L1", "L0A", "L0B", "L0C", "BT", "FB"};
    return names[int(space)];
}

const char* pipe_name(Pipe pipe) {
    static const char* const names[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};
    return names[int(pipe)];
}

void Shadow::resize(uint64_t bytes) {
    const uint64_t cells = (bytes + kCell - 1) / kCell;
    initialised_.assign(cells, 0);
    const uint64_t chunks = (cells + kChunkCells - 1) / kChunkCells;
    heads_.assign(chunks * kChunkCells, -1);
    chunk_heads_.assign(chunks, -1);
    split_.assign(chunks, 0);
    pool_.clear();
    touched_.clear();
    free_ = -1;
}

void Shadow::clear() {
    forget_accesses();
    std::fill(initialised_.begin(), initialised_.end(), 0);
}

void Shadow::set_initialised(uint64_t begin, uint64_t end, bool value) {
    for (uint64_t cell = begin / kCell; cell * kCell < end; ++cell) {
        const uint32_t mask = cell_mask(cell, begin, end);
        if (value) initialised_[cell] |= mask;
        else initialised_[cell] &= ~mask;
    }
}

uint64_t Shadow::first_uninitialised(uint64_t begin, uint64_t end) const {
    for (uint64_t cell = begin / kCell; cell * kCell < end; ++cell) {
        const uint32_t missing = cell_mask(cell, begin, end) & ~initialised_[cell];
        if (missing != 0) return cell * kCell + __builtin_ctz(missing);
    }
    return end;
}

void Shadow::forget_accesses() {
    for (uint64_t chunk : touched_) {
        chunk_heads_[chunk] = -1;
        if (!split_[chunk]) continue;
        split_[chunk] = 0;
        for (uint64_t cell = chunk * kChunkCells; cell < (chunk + 1) * kChunkCells; ++cell) heads_[cell] = -1;
    }
    touched_.clear();
    pool_.clear();
    free_ = -1;
}

void Shadow::split(uint64_t chunk) {
    split_[chunk] = 1;
    while (chunk_heads_[chunk] >= 0) {
        const int32_t index = chunk_heads_[chunk];
        for (uint64_t cell = chunk * kChunkCells; cell < (chunk + 1) * kChunkCells; ++cell) {
            const int32_t copy = allocate(pool_[index]);
            pool_[copy].next = heads_[cell];
            heads_[cell] = copy;
        }
        chunk_heads_[chunk] = pool_[index].next;
        release(index);
    }
}

void Shadow::join(uint64_t chunk) {
    const uint64_t first = chunk * kChunkCells;
    for (uint64_t cell = first; cell < first + kChunkCells; ++cell)
        if (heads_[cell] < 0 || pool_[heads_[cell]].next >= 0) return;
    chunk_heads_[chunk] = heads_[first];
    heads_[first] = -1;
    for (uint64_t cell = first + 1; cell < first + kChunkCells; ++cell) {
        release(heads_[cell]);
        heads_[cell] = -1;
    }
    split_[chunk] = 0;
}

int32_t Shadow::allocate(const Access& access) {
    if (free_ >= 0) {
        const int32_t index = free_;
        free_ = pool_[index].next;
        pool_[index] = access;
        return index;
    }
    pool_.push_back(Access(access));  // the argument may lie in the pool
    return int32_t(pool_.size()) - 1;
}

void Shadow::release(int32_t index) {
    pool_[index].next = free_;
    free_ = index;
}

void Shadow::fold_readers(int32_t& head, uint32_t barrier_generation) {
    Access folded;
    folded.core = kSeveralCores;
    folded.epoch = barrier_generation;
    int32_t* link = &head;
    while (*link >= 0) {
        Access& old = pool_[*link];
        if (old.kind != AccessKind::Read) {
            link = &old.next;
            continue;
        }
        folded.mask |= old.mask;
        folded.site = old.site;
        folded.pipe = old.pipe;
        const int32_t dead = *link;
        *link = old.next;
        release(dead);
    }
    const int32_t index = allocate(folded);
    pool_[index].next = head;
    head = index;
}

}  // namespace sim
