// A host program as it is on a device: own kernel z = x + y, then the vendor's c = z x w, timed with events.
#include <cstdio>
#include <vector>

#include "acl/acl.h"
#include "aclnnop/aclnn_matmul.h"
#include "aclrtlaunch_vector_add.h"

#define CHECK(call)                                                                                        \
    do {                                                                                                   \
        const auto status = (call);                                                                        \
        if (status != 0) {                                                                                 \
            const char* message = aclGetRecentErrMsg();                                                    \
            std::fprintf(stderr, "%s: %d: %s\n", #call, int(status), message ? message : "no message");    \
            return 1;                                                                                      \
        }                                                                                                  \
    } while (0)

namespace {

constexpr int64_t kRows = 8, kDepth = 24, kColumns = 16;

aclTensor* Matrix(void* data, int64_t rows, int64_t columns) {
    const int64_t dims[] = {rows, columns}, strides[] = {columns, 1};
    return aclCreateTensor(dims, 2, ACL_FLOAT, strides, 0, ACL_FORMAT_ND, dims, 2, data);
}

}  // namespace

// With an argument, the kernel gets an address that is no device memory.
int main(int argc, char**) {
    CHECK(aclInit(nullptr));
    CHECK(aclrtSetDevice(0));
    aclrtStream stream = nullptr;
    CHECK(aclrtCreateStream(&stream));
    int64_t cores = 0;
    CHECK(aclGetDeviceCapability(0, ACL_DEVICE_INFO_VECTOR_CORE_NUM, &cores));

    std::vector<float> x(kRows * kDepth, 1.0f), y(kRows * kDepth, 2.0f), w(kDepth * kColumns, 0.5f), c(kRows * kColumns);
    void *dx = nullptr, *dy = nullptr, *dz = nullptr, *dw = nullptr, *dc = nullptr;
    const size_t bytes = x.size() * sizeof(float), weight_bytes = w.size() * sizeof(float), out_bytes = c.size() * sizeof(float);
    CHECK(aclrtMalloc(&dx, bytes, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclrtMalloc(&dy, bytes, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclrtMalloc(&dz, bytes, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclrtMalloc(&dw, weight_bytes, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclrtMalloc(&dc, out_bytes, ACL_MEM_MALLOC_HUGE_FIRST));
    CHECK(aclrtMemcpy(dx, bytes, x.data(), bytes, ACL_MEMCPY_HOST_TO_DEVICE));
    CHECK(aclrtMemcpy(dy, bytes, y.data(), bytes, ACL_MEMCPY_HOST_TO_DEVICE));
    CHECK(aclrtMemcpyAsync(dw, weight_bytes, w.data(), weight_bytes, ACL_MEMCPY_HOST_TO_DEVICE, stream));

    aclrtEvent begin = nullptr, end = nullptr;
    CHECK(aclrtCreateEvent(&begin));
    CHECK(aclrtCreateEvent(&end));
    CHECK(aclrtRecordEvent(begin, stream));
    void* source = argc > 1 ? static_cast<void*>(x.data()) : dx;
    CHECK(ACLRT_LAUNCH_KERNEL(vector_add)(uint32_t(cores), stream, source, dy, dz, uint32_t(x.size()), 64u));
    aclTensor *left = Matrix(dz, kRows, kDepth), *right = Matrix(dw, kDepth, kColumns), *out = Matrix(dc, kRows, kColumns);
    uint64_t workspace_bytes = 0;
    aclOpExecutor* executor = nullptr;
    CHECK(aclnnMatmulGetWorkspaceSize(left, right, out, 0, &workspace_bytes, &executor));
    void* workspace = nullptr;
    if (workspace_bytes > 0) {
        CHECK(aclrtMalloc(&workspace, workspace_bytes, ACL_MEM_MALLOC_HUGE_FIRST));
    }
    CHECK(aclnnMatmul(workspace, workspace_bytes, executor, stream));
    CHECK(aclrtRecordEvent(end, stream));
    CHECK(aclrtSynchronizeStream(stream));
    float milliseconds = 0;
    CHECK(aclrtEventElapsedTime(&milliseconds, begin, end));
    CHECK(aclrtMemcpy(c.data(), out_bytes, dc, out_bytes, ACL_MEMCPY_DEVICE_TO_HOST));
    std::printf("%g %g %d\n", c.front(), c.back(), milliseconds > 0.0f);

    for (aclTensor* tensor : {left, right, out}) {
        CHECK(aclDestroyTensor(tensor));
    }
    for (void* memory : {dx, dy, dz, dw, dc}) {
        CHECK(aclrtFree(memory));
    }
    CHECK(aclrtDestroyEvent(begin));
    CHECK(aclrtDestroyEvent(end));
    CHECK(aclrtDestroyStream(stream));
    CHECK(aclrtResetDevice(0));
    CHECK(aclFinalize());
    return 0;
}
