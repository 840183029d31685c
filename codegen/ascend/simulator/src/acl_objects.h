// What stands behind acl's opaque types, and how operators read and write the tensors; private to the simulator's sources.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "aclnn/aclnn_base.h"
#include "sim/aclrtlaunch.h"

struct aclTensor {
    std::vector<int64_t> dims, strides;  // of the view, in elements
    int64_t offset = 0;
    aclDataType type = ACL_DT_UNDEFINED;
    aclFormat format = ACL_FORMAT_ND;
    std::vector<int64_t> storage;
    uint8_t* data = nullptr;

    int64_t elements() const {
        int64_t count = 1;
        for (int64_t dim : dims) count *= dim;
        return count;
    }
    size_t rank() const { return dims.size(); }
    // Counts from the end when negative.
    int64_t dim(int64_t axis) const { return dims.at(size_t(axis < 0 ? axis + int64_t(rank()) : axis)); }
};

struct aclScalar {
    double value;
};
struct aclIntArray {
    std::vector<int64_t> values;
};
struct aclTensorList {
    std::vector<const aclTensor*> tensors;
};
struct aclOpExecutor {
    std::string name;
    std::function<void()> run;
    double seconds = 0;  // estimate
    bool repeatable = false;
};

namespace sim {

// An operator refused its arguments; the message becomes aclGetRecentErrMsg.
struct OperatorError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

inline void demand(bool ok, const std::string& message) {
    if (!ok) throw OperatorError(message);
}

// All elements in row-major order of the view. Faults on memory that is no device memory or that nothing wrote.
std::vector<float> values(const aclTensor& tensor);
std::vector<int64_t> integers(const aclTensor& tensor);
void assign(const aclTensor& tensor, const std::vector<float>& values);
void assign(const aclTensor& tensor, const std::vector<int64_t>& values);
bool is_integer(aclDataType type);

std::string shape_text(const aclTensor& tensor);

// Phase one: makes the executor. `flops` and `bytes` give its time: the slower of the cube's peak and HBM's.
aclnnStatus prepare(const char* name, double flops, double bytes, uint64_t* workspace, aclOpExecutor** executor,
                    const std::function<std::function<void()>()>& checked);
// Phase two.
aclnnStatus execute(aclOpExecutor* executor);

double bytes_of(const aclTensor* tensor);

}  // namespace sim

// The second phase of every operator only differs in its name.
#define SIM_SECOND_PHASE(name, stream_type)                                                              \
    aclnnStatus name(void*, uint64_t, aclOpExecutor* executor, stream_type) { return ::sim::execute(executor); }
