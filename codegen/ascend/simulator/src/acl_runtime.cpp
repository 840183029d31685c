// acl: devices, memory, streams and events over the simulator's memory and clock.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "acl/acl.h"
#include "ascendc/numbers.h"
#include "sim/aclrtlaunch.h"

namespace {

struct Runtime {
    bool initialised = false;
    int32_t device = -1;
    double seconds = 0;
    std::string message;
    bool has_message = false;
    bool failed = false;  // since the last synchronisation
};

Runtime runtime;

struct Event {
    double seconds = 0;
    bool recorded = false;
};

constexpr int32_t kDevices = 1;

aclError refuse(const std::string& why) {
    runtime.message = why;
    runtime.has_message = true;
    return ACL_ERROR_INVALID_PARAM;
}

aclError synchronise() {
    if (!runtime.failed) return ACL_SUCCESS;
    runtime.failed = false;
    return ACL_ERROR_RT_VECTOR_CORE_EXCEPTION;
}

aclError allocate(void** pointer, size_t size) {
    if (!pointer || size == 0) return refuse("aclrtMalloc: no pointer, or 0 bytes");
    try {
        *pointer = sim::gm_allocate(size);
        return ACL_SUCCESS;
    } catch (const std::bad_alloc&) {
        runtime.message = "aclrtMalloc: out of memory";
        runtime.has_message = true;
        return ACL_ERROR_BAD_ALLOC;
    }
}

// The part of `address` that lies in device memory, checked.
bool device_range(const void* address, size_t bytes) {
    const sim::Allocation* allocation = sim::gm_find(address);
    return allocation && static_cast<const uint8_t*>(address) + bytes <= allocation->base + allocation->bytes;
}

aclError copy(void* dst, size_t limit, const void* src, size_t count, aclrtMemcpyKind kind) {
    if (count > limit) return refuse("aclrtMemcpy: more bytes than the target has");
    const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    if (to_device && !device_range(dst, count)) return refuse("aclrtMemcpy: the target is not within one device allocation");
    if (from_device && !device_range(src, count)) return refuse("aclrtMemcpy: the source is not within one device allocation");
    std::memmove(dst, src, count);
    sim::gm_written(dst, count);
    return ACL_SUCCESS;
}

}  // namespace

namespace sim {

uint32_t record_failure(const char* what) {
    runtime.message = what;
    runtime.has_message = true;
    runtime.failed = true;
    return uint32_t(ACL_ERROR_RT_VECTOR_CORE_EXCEPTION);
}

double device_seconds() { return runtime.seconds; }
void spend(double seconds) { runtime.seconds += seconds; }

}  // namespace sim

extern "C" {

aclError aclInit(const char*) {
    if (runtime.initialised) return ACL_ERROR_REPEAT_INITIALIZE;
    runtime.initialised = true;
    return ACL_SUCCESS;
}
aclError aclFinalize() {
    if (!runtime.initialised) return ACL_ERROR_UNINITIALIZE;
    runtime.initialised = false;
    return ACL_SUCCESS;
}
aclError aclrtGetVersion(int32_t* major, int32_t* minor, int32_t* patch) {
    *major = 1;
    *minor = *patch = 0;
    return ACL_SUCCESS;
}
const char* aclGetRecentErrMsg() {
    if (!runtime.has_message) return nullptr;
    runtime.has_message = false;
    return runtime.message.c_str();
}

float aclFloat16ToFloat(aclFloat16 value) { return sim::half_value(value); }
aclFloat16 aclFloatToFloat16(float value) { return sim::half_bits(value); }
size_t aclDataTypeSize(aclDataType type) {
    switch (type) {
        case ACL_FLOAT: case ACL_INT32: case ACL_UINT32: return 4;
        case ACL_FLOAT16: case ACL_BF16: case ACL_INT16: case ACL_UINT16: return 2;
        case ACL_INT8: case ACL_UINT8: case ACL_BOOL: return 1;
        case ACL_INT64: case ACL_UINT64: case ACL_DOUBLE: return 8;
        default: return 0;
    }
}
const char* aclrtGetSocName() { return sim::platform().name.c_str(); }
aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo info, int64_t* value) {
    if (device >= uint32_t(kDevices) || !value) return refuse("aclGetDeviceCapability: no such device");
    if (info == ACL_DEVICE_INFO_AI_CORE_NUM) *value = sim::platform().cube_core_cnt;
    else if (info == ACL_DEVICE_INFO_VECTOR_CORE_NUM) *value = sim::platform().vector_core_cnt;
    else return refuse("aclGetDeviceCapability: unknown property");
    return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
    if (device < 0 || device >= kDevices) {
        refuse("aclrtSetDevice: the simulator has device 0 only");
        return ACL_ERROR_INVALID_DEVICE;
    }
    runtime.device = device;
    return ACL_SUCCESS;
}
aclError aclrtResetDevice(int32_t) {
    runtime.device = -1;
    return ACL_SUCCESS;
}
aclError aclrtGetDevice(int32_t* device) {
    *device = runtime.device;
    return runtime.device < 0 ? ACL_ERROR_INVALID_DEVICE : ACL_SUCCESS;
}
aclError aclrtGetDeviceCount(uint32_t* count) {
    *count = uint32_t(kDevices);
    return ACL_SUCCESS;
}
aclError aclrtGetRunMode(aclrtRunMode* mode) {
    *mode = ACL_HOST;
    return ACL_SUCCESS;
}
aclError aclrtSynchronizeDevice(void) { return synchronise(); }
aclError aclrtCreateContext(aclrtContext* context, int32_t device) {
    *context = &runtime;
    return aclrtSetDevice(device);
}
aclError aclrtDestroyContext(aclrtContext) { return ACL_SUCCESS; }
aclError aclrtSetCurrentContext(aclrtContext) { return ACL_SUCCESS; }
aclError aclrtGetCurrentContext(aclrtContext* context) {
    *context = &runtime;
    return ACL_SUCCESS;
}

// All streams are one: whatever is asked for runs at once.
aclError aclrtCreateStream(aclrtStream* stream) {
    *stream = new char(0);
    return ACL_SUCCESS;
}
aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) { return aclrtCreateStream(stream); }
aclError aclrtDestroyStream(aclrtStream stream) {
    delete static_cast<char*>(stream);
    return ACL_SUCCESS;
}
aclError aclrtSynchronizeStream(aclrtStream) { return synchronise(); }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream, int32_t) { return synchronise(); }
aclError aclrtStreamWaitEvent(aclrtStream, aclrtEvent event) {
    return static_cast<Event*>(event)->recorded ? ACL_SUCCESS : refuse("aclrtStreamWaitEvent: the event was never recorded");
}

aclError aclrtCreateEvent(aclrtEvent* event) {
    *event = new Event();
    return ACL_SUCCESS;
}
aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t) { return aclrtCreateEvent(event); }
aclError aclrtDestroyEvent(aclrtEvent event) {
    delete static_cast<Event*>(event);
    return ACL_SUCCESS;
}
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream) {
    *static_cast<Event*>(event) = {runtime.seconds, true};
    return ACL_SUCCESS;
}
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
    *status = static_cast<Event*>(event)->recorded ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
    return ACL_SUCCESS;
}
aclError aclrtSynchronizeEvent(aclrtEvent) { return synchronise(); }
aclError aclrtEventElapsedTime(float* ms, aclrtEvent start, aclrtEvent end) {
    const Event &first = *static_cast<Event*>(start), &last = *static_cast<Event*>(end);
    if (!first.recorded || !last.recorded) return refuse("aclrtEventElapsedTime: an event was never recorded");
    *ms = float((last.seconds - first.seconds) * 1e3);
    return ACL_SUCCESS;
}

aclError aclrtMalloc(void** pointer, size_t size, aclrtMemMallocPolicy) { return allocate(pointer, size); }
aclError aclrtMallocAlign32(void** pointer, size_t size, aclrtMemMallocPolicy) { return allocate(pointer, size); }
aclError aclrtFree(void* pointer) {
    try {
        sim::gm_free(pointer);
        return ACL_SUCCESS;
    } catch (const std::exception& error) {
        return refuse(error.what());
    }
}
aclError aclrtMallocHost(void** pointer, size_t size) {
    *pointer = std::malloc(size);
    return *pointer ? ACL_SUCCESS : ACL_ERROR_BAD_ALLOC;
}
aclError aclrtFreeHost(void* pointer) {
    std::free(pointer);
    return ACL_SUCCESS;
}
aclError aclrtMemcpy(void* dst, size_t limit, const void* src, size_t count, aclrtMemcpyKind kind) {
    return copy(dst, limit, src, count, kind);
}
aclError aclrtMemcpyAsync(void* dst, size_t limit, const void* src, size_t count, aclrtMemcpyKind kind, aclrtStream) {
    return copy(dst, limit, src, count, kind);
}
aclError aclrtMemcpy2d(void* dst, size_t dpitch, const void* src, size_t spitch, size_t width, size_t height,
                       aclrtMemcpyKind kind) {
    for (size_t row = 0; row < height; ++row) {
        const aclError status = copy(static_cast<uint8_t*>(dst) + row * dpitch, width,
                                     static_cast<const uint8_t*>(src) + row * spitch, width, kind);
        if (status != ACL_SUCCESS) return status;
    }
    return ACL_SUCCESS;
}
aclError aclrtMemcpy2dAsync(void* dst, size_t dpitch, const void* src, size_t spitch, size_t width, size_t height,
                            aclrtMemcpyKind kind, aclrtStream) {
    return aclrtMemcpy2d(dst, dpitch, src, spitch, width, height, kind);
}
aclError aclrtMemset(void* pointer, size_t limit, int32_t value, size_t count) {
    if (count > limit || !device_range(pointer, count)) return refuse("aclrtMemset: not within one device allocation");
    std::memset(pointer, value, count);
    sim::gm_written(pointer, count);
    return ACL_SUCCESS;
}
aclError aclrtMemsetAsync(void* pointer, size_t limit, int32_t value, size_t count, aclrtStream) {
    return aclrtMemset(pointer, limit, value, count);
}
aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free, size_t* total) {
    *free = *total = size_t(64) << 30;
    return ACL_SUCCESS;
}

}  // extern "C"
