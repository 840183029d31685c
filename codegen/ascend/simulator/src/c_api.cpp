#include "sim/c_api.h"

#include <exception>
#include <stdexcept>
#include <utility>

#include "sim/launch.h"

namespace {

std::string last_error;
std::string last_reports;

constexpr uint32_t kMaxArguments = 16;

template <typename Body>
int guarded(Body body) {
    try {
        body();
        return 0;
    } catch (const sim::SimError& error) {
        last_error = error.what();
        return 1 + int(error.fault);
    } catch (const std::exception& error) {
        last_error = error.what();
        return 100;
    }
}

template <size_t>
using Argument = uint64_t;

template <size_t... I>
void call(void* kernel, const uint64_t* args, std::index_sequence<I...>) {
    // Integers and pointers travel alike in the calling conventions of the hosts we run on.
    reinterpret_cast<void (*)(Argument<I>...)>(kernel)(args[I]...);
}

template <size_t... N>
void dispatch(void* kernel, const uint64_t* args, uint32_t count, std::index_sequence<N...>) {
    ((count == N ? call(kernel, args, std::make_index_sequence<N>()) : void()), ...);
}

}  // namespace

int pangu_sim_configure(const char* text, int auto_sync, int check_uninitialised) {
    return guarded([&] {
        sim::Options options;
        options.auto_sync = auto_sync != 0;
        options.check_uninitialised = check_uninitialised != 0;
        sim::configure(sim::Platform::parse(text), options);
    });
}

int pangu_sim_gm_register(void* base, uint64_t bytes, const char* name, int initialised) {
    return guarded([&] { sim::gm_register(base, bytes, name, initialised != 0); });
}

int pangu_sim_gm_unregister(void* base) {
    return guarded([&] { sim::gm_unregister(base); });
}

int pangu_sim_launch(const char* name, void* kernel, uint32_t blocks, const uint64_t* args, uint32_t count) {
    return guarded([&] {
        if (count > kMaxArguments) throw std::invalid_argument("a kernel with more than 16 arguments");
        sim::declare_kinds(__start_pangu_sim_kinds, __stop_pangu_sim_kinds);
        sim::launch_body(name, blocks, sim::kernel_kind(sim::declared_kind(name)), [&] {
            dispatch(kernel, args, count, std::make_index_sequence<kMaxArguments + 1>());
        });
    });
}

const char* pangu_sim_error(void) { return last_error.c_str(); }

const char* pangu_sim_reports(void) {
    last_reports = sim::reports_json();
    return last_reports.c_str();
}

void pangu_sim_clear_reports(void) { sim::clear_reports(); }
