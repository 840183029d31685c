// The shadow memory against a model that keeps every access of every byte: random ranges, cores and barriers.
#include <cstdio>
#include <random>
#include <vector>

#include "sim/memory.h"

namespace {

constexpr uint64_t kBytes = 4096;

struct Model {
    std::vector<std::vector<sim::Access>> bytes{kBytes};

    // Whether an unordered conflicting access exists; records the access if not.
    template <typename Ordered>
    bool conflicts(uint64_t begin, uint64_t end, const sim::Access& access, Ordered ordered) {
        for (uint64_t byte = begin; byte < end; ++byte)
            for (const sim::Access& old : bytes[byte]) {
                const bool reads = old.kind == sim::AccessKind::Read && access.kind == sim::AccessKind::Read;
                const bool atomics = old.kind == sim::AccessKind::Atomic && access.kind == sim::AccessKind::Atomic;
                const bool same = old.core == access.core && old.pipe == access.pipe && old.epoch == access.epoch;
                if (!reads && !atomics && !same && !ordered(old)) return true;
            }
        for (uint64_t byte = begin; byte < end; ++byte) bytes[byte].push_back(access);
        return false;
    }
};

}  // namespace

int main() {
    std::mt19937 random(7);
    const auto below = [&](uint32_t limit) { return uint32_t(random() % limit); };
    sim::Shadow shadow(kBytes);
    Model model;
    uint32_t epoch = 0, synced = 0, generation = 1;
    int found = 0;
    for (int step = 0; step < 40000; ++step) {
        // Mostly reads, and most stores follow a barrier of all cores: long histories without a conflict.
        const uint32_t kind = below(16);
        if (kind >= 14 && below(8) != 0) {
            synced = epoch;
            ++generation;
        }
        sim::Access access;
        access.epoch = ++epoch;
        access.core = uint16_t(below(8));
        access.pipe = sim::Pipe(below(3) + 1);
        access.kind = kind < 14 ? sim::AccessKind::Read : kind == 14 ? sim::AccessKind::Write : sim::AccessKind::Atomic;
        // Whole chunks, whole cells, and odd bytes all occur.
        const uint32_t unit = below(3) == 0 ? 512 : below(2) == 0 ? 32 : 1;
        const uint64_t begin = below(kBytes / unit) * uint64_t(unit);
        const uint64_t end = std::min<uint64_t>(kBytes, begin + (1 + below(unit == 512 ? 3 : 40)) * uint64_t(unit));
        const auto ordered = [&](const sim::Access& old) {
            return old.core == sim::kSeveralCores ? generation > old.epoch : old.epoch <= synced;
        };
        uint64_t where = 0;
        const bool expected = model.conflicts(begin, end, access, ordered);
        const bool got = shadow.record(begin, end, access, generation, where, ordered) != nullptr;
        if (expected != got) {
            std::printf("step %d: [%llu, %llu) has %s conflict\n", step, static_cast<unsigned long long>(begin),
                        static_cast<unsigned long long>(end), expected ? "a missed" : "no");
            return 1;
        }
        if (got) {
            ++found;
            shadow.forget_accesses();
            model = Model();
            synced = epoch;
        } else if (step % 300 == 0) {
            shadow.forget_accesses();
            model = Model();
        }
    }
    std::printf("%d conflicts, none missed\n", found);
    return found > 300 ? 0 : 1;
}
