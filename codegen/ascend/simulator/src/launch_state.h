// What a launch holds while it runs; private to the simulator's own sources.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "sim/launch.h"

namespace sim {

struct SiteRecord {
    const char* instruction;
    Site site;
};

struct SiteKey {
    const void* name;
    const void* file;
    int line;
    bool operator==(const SiteKey& other) const { return name == other.name && file == other.file && line == other.line; }
};

struct SiteHash {
    size_t operator()(const SiteKey& key) const {
        return (size_t(key.name) * 31 + size_t(key.file)) * 1000003 + size_t(key.line);
    }
};

struct Launch {
    std::string kernel;
    KernelKind kind;
    uint32_t blocks = 0;
    std::vector<Core*> cores;
    std::vector<Allocation*> touched;
    uint64_t gm_read = 0, gm_written = 0;
    uint32_t barrier_generation = 1;

    // Flags of IBSet, by workspace address, block and event.
    std::map<std::tuple<const void*, int, int>, Clock> block_flags;
    // Cores waiting in SyncAll: key 0 the AIVs, 1 all cores, 2 a workspace with its own count.
    struct Meeting {
        uint32_t arrived = 0;
        uint64_t round = 0;
        Clock clock;
        std::shared_ptr<const World> agreed;
        double time = 0;
    };
    std::map<std::pair<int, const void*>, Meeting> meetings;

    uint32_t intern(const char* instruction, Site site) {
        const auto [it, added] = site_ids.try_emplace({instruction, site.file, site.line}, uint32_t(sites.size()));
        if (added) sites.push_back({instruction, site});
        return it->second;
    }

    std::vector<SiteRecord> sites;
    std::unordered_map<SiteKey, uint32_t, SiteHash> site_ids;
};

// Serialises launches and the table of device memory between host threads.
std::recursive_mutex& device_lock();

// Gives the processor to the other cores until `ready` holds. Faults with Deadlock when it never can.
void wait_until(const std::function<bool()>& ready, Site site, const std::string& what);

}  // namespace sim
