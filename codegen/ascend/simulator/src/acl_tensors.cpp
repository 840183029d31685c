// Tensors of vendor operators, their two phases, and access to their elements.
#include <algorithm>
#include <cstring>

#include "acl_objects.h"
#include "ascendc/numbers.h"

namespace sim {
namespace {

constexpr double kCubeFlopsPerCycle = 2.0 * 16 * 16 * 16;
constexpr double kOperatorSeconds = 5e-6;  // launch and tail of a vendor operator, assumed

bool contiguous(const aclTensor& tensor) {
    int64_t stride = 1;
    for (size_t axis = tensor.rank(); axis-- > 0;) {
        if (tensor.dims[axis] != 1 && tensor.strides[axis] != stride) return false;
        stride *= tensor.dims[axis];
    }
    return true;
}

// Visits the byte address of every element in row-major order.
template <typename Visit>
void each_element(const aclTensor& tensor, Visit visit) {
    const size_t size = aclDataTypeSize(tensor.type);
    const int64_t count = tensor.elements();
    if (contiguous(tensor)) {
        for (int64_t i = 0; i < count; ++i) visit(i, tensor.data + (tensor.offset + i) * int64_t(size));
        return;
    }
    std::vector<int64_t> at(tensor.rank(), 0);
    for (int64_t i = 0; i < count; ++i) {
        int64_t position = tensor.offset;
        for (size_t axis = 0; axis < at.size(); ++axis) position += at[axis] * tensor.strides[axis];
        visit(i, tensor.data + position * int64_t(size));
        for (size_t axis = at.size(); axis-- > 0;) {
            if (++at[axis] < tensor.dims[axis]) break;
            at[axis] = 0;
        }
    }
}

// The allocation that holds all of the view's bytes.
Allocation& holder(const aclTensor& tensor, bool read) {
    int64_t last = tensor.offset;
    for (size_t axis = 0; axis < tensor.rank(); ++axis) last += (tensor.dims[axis] - 1) * tensor.strides[axis];
    const int64_t size = int64_t(aclDataTypeSize(tensor.type));
    Allocation* allocation = gm_find(tensor.data + tensor.offset * size);
    demand(allocation != nullptr, "a tensor " + shape_text(tensor) + " outside of device memory");
    const uint8_t* begin = tensor.data + tensor.offset * size;
    const uint8_t* end = tensor.data + (last + 1) * size;
    demand(end <= allocation->base + allocation->bytes, "a tensor " + shape_text(tensor) + " reaches past its allocation");
    if (read && options().check_uninitialised && contiguous(tensor)) {
        const uint64_t from = uint64_t(begin - allocation->base), to = uint64_t(end - allocation->base);
        demand(allocation->shadow.first_uninitialised(from, to) == to,
               "uninitialised read of a tensor " + shape_text(tensor) + ": nothing wrote its byte " +
                   std::to_string(allocation->shadow.first_uninitialised(from, to) - from));
    }
    return *allocation;
}

float number(const uint8_t* address, aclDataType type) {
    const auto as = [address](auto zero) {
        std::memcpy(&zero, address, sizeof zero);
        return zero;
    };
    switch (type) {
        case ACL_FLOAT: return as(0.0f);
        case ACL_FLOAT16: return half_value(as(uint16_t(0)));
        case ACL_BF16: return float_of(uint32_t(as(uint16_t(0))) << 16);
        case ACL_DOUBLE: return float(as(0.0));
        case ACL_INT8: return as(int8_t(0));
        case ACL_UINT8: case ACL_BOOL: return as(uint8_t(0));
        case ACL_INT16: return as(int16_t(0));
        case ACL_UINT16: return as(uint16_t(0));
        case ACL_INT32: return float(as(int32_t(0)));
        case ACL_UINT32: return float(as(uint32_t(0)));
        case ACL_INT64: return float(as(int64_t(0)));
        case ACL_UINT64: return float(as(uint64_t(0)));
        default: throw OperatorError("a tensor of a type without arithmetic");
    }
}

int64_t integer(const uint8_t* address, aclDataType type) {
    if (type == ACL_INT64 || type == ACL_UINT64) {
        int64_t value;
        std::memcpy(&value, address, 8);
        return value;
    }
    if (type == ACL_INT32) {
        int32_t value;
        std::memcpy(&value, address, 4);
        return value;
    }
    return int64_t(number(address, type));
}

template <typename Value>
void put(uint8_t* address, aclDataType type, Value value) {
    const auto as = [address](auto converted) { std::memcpy(address, &converted, sizeof converted); };
    const auto clamp = [value](auto low, auto high) {
        if constexpr (std::is_floating_point_v<Value>)
            if (std::isnan(value)) return 0.0;
        return std::min(std::max(double(value), double(low)), double(high));
    };
    switch (type) {
        case ACL_FLOAT: return as(float(value));
        case ACL_DOUBLE: return as(double(value));
        case ACL_FLOAT16: return as(half_bits(float(value)));
        case ACL_BF16: return as(bfloat16_bits(float(value)));
        case ACL_INT8: return as(int8_t(clamp(-128, 127)));
        case ACL_UINT8: return as(uint8_t(clamp(0, 255)));
        case ACL_BOOL: return as(uint8_t(value != 0));
        case ACL_INT16: return as(int16_t(clamp(-32768, 32767)));
        case ACL_INT32: return as(int32_t(clamp(-2147483648.0, 2147483647.0)));
        case ACL_UINT32: return as(uint32_t(clamp(0, 4294967295.0)));
        case ACL_INT64: return as(int64_t(value));
        default: throw OperatorError("a result of a type that operators do not write");
    }
}

template <typename Value, typename Get>
std::vector<Value> gather(const aclTensor& tensor, Get get) {
    holder(tensor, true);
    std::vector<Value> result(size_t(tensor.elements()));
    each_element(tensor, [&](int64_t i, const uint8_t* address) { result[size_t(i)] = get(address, tensor.type); });
    return result;
}

template <typename Value>
void scatter(const aclTensor& tensor, const std::vector<Value>& values) {
    demand(int64_t(values.size()) == tensor.elements(), "an output " + shape_text(tensor) + " for " +
                                                            std::to_string(values.size()) + " elements");
    if (values.empty()) return;
    Allocation& allocation = holder(tensor, false);
    const size_t size = aclDataTypeSize(tensor.type);
    each_element(tensor, [&](int64_t i, uint8_t* address) {
        put(address, tensor.type, values[size_t(i)]);
        const uint64_t at = uint64_t(address - allocation.base);
        allocation.shadow.set_initialised(at, at + size, true);
    });
}

}  // namespace

bool is_integer(aclDataType type) {
    return type != ACL_FLOAT && type != ACL_FLOAT16 && type != ACL_BF16 && type != ACL_DOUBLE;
}

std::vector<float> values(const aclTensor& tensor) { return gather<float>(tensor, number); }
std::vector<int64_t> integers(const aclTensor& tensor) { return gather<int64_t>(tensor, integer); }
void assign(const aclTensor& tensor, const std::vector<float>& values) { scatter(tensor, values); }
void assign(const aclTensor& tensor, const std::vector<int64_t>& values) { scatter(tensor, values); }

std::string shape_text(const aclTensor& tensor) {
    std::string text = "[";
    for (size_t axis = 0; axis < tensor.rank(); ++axis) text += (axis ? ", " : "") + std::to_string(tensor.dims[axis]);
    return text + "]";
}

double bytes_of(const aclTensor* tensor) {
    return tensor ? double(tensor->elements()) * double(aclDataTypeSize(tensor->type)) : 0;
}

aclnnStatus prepare(const char* name, double flops, double bytes, uint64_t* workspace, aclOpExecutor** executor,
                    const std::function<std::function<void()>()>& checked) {
    try {
        demand(workspace && executor, "no place for the workspace's size or the executor");
        auto made = std::make_unique<aclOpExecutor>();
        made->name = name;
        made->run = checked();
        const Platform& chip = platform();
        made->seconds = kOperatorSeconds + std::max(flops / (kCubeFlopsPerCycle * chip.cube_core_cnt * chip.cube_freq * 1e6),
                                                    bytes / chip.hbm_bytes_per_second);
        *workspace = 0;
        *executor = made.release();
        return 0;
    } catch (const std::exception& error) {
        record_failure((std::string(name) + "GetWorkspaceSize: " + error.what()).c_str());
        return ACL_ERROR_INVALID_PARAM;
    }
}

aclnnStatus execute(aclOpExecutor* executor) {
    if (!executor) return ACL_ERROR_INVALID_PARAM;
    std::unique_ptr<aclOpExecutor> owned(executor->repeatable ? nullptr : executor);
    try {
        executor->run();
        spend(executor->seconds);
        add_operator_report(executor->name, executor->seconds);
        return 0;
    } catch (const std::exception& error) {
        record_failure((executor->name + ": " + error.what()).c_str());
        return ACL_ERROR_RT_VECTOR_CORE_EXCEPTION;
    }
}

}  // namespace sim

extern "C" {

aclnnStatus aclnnInit(const char*) { return 0; }
aclnnStatus aclnnFinalize() { return 0; }

aclTensor* aclCreateTensor(const int64_t* dims, uint64_t rank, aclDataType type, const int64_t* stride, int64_t offset,
                           aclFormat format, const int64_t* storage, uint64_t storage_rank, void* data) {
    auto* tensor = new aclTensor;
    tensor->dims.assign(dims, dims + rank);
    tensor->strides.resize(rank);
    int64_t step = 1;
    for (uint64_t axis = rank; axis-- > 0;) {
        tensor->strides[axis] = stride ? stride[axis] : step;
        step *= dims[axis];
    }
    tensor->offset = offset;
    tensor->type = type;
    tensor->format = format;
    if (storage) tensor->storage.assign(storage, storage + storage_rank);
    tensor->data = static_cast<uint8_t*>(data);
    return tensor;
}
aclScalar* aclCreateScalar(void* value, aclDataType type) {
    double number = 0;
    switch (type) {
        case ACL_FLOAT: number = *static_cast<float*>(value); break;
        case ACL_DOUBLE: number = *static_cast<double*>(value); break;
        case ACL_INT32: number = *static_cast<int32_t*>(value); break;
        case ACL_INT64: number = double(*static_cast<int64_t*>(value)); break;
        case ACL_FLOAT16: number = sim::half_value(*static_cast<uint16_t*>(value)); break;
        case ACL_BF16: number = sim::float_of(uint32_t(*static_cast<uint16_t*>(value)) << 16); break;
        default: return nullptr;
    }
    return new aclScalar{number};
}
aclIntArray* aclCreateIntArray(const int64_t* value, uint64_t size) { return new aclIntArray{{value, value + size}}; }
aclTensorList* aclCreateTensorList(const aclTensor* const* value, uint64_t size) { return new aclTensorList{{value, value + size}}; }

aclnnStatus aclDestroyTensor(const aclTensor* tensor) {
    delete tensor;
    return 0;
}
aclnnStatus aclDestroyScalar(const aclScalar* scalar) {
    delete scalar;
    return 0;
}
aclnnStatus aclDestroyIntArray(const aclIntArray* array) {
    delete array;
    return 0;
}
aclnnStatus aclDestroyTensorList(const aclTensorList* list) {
    if (list)
        for (const aclTensor* tensor : list->tensors) delete tensor;
    delete list;
    return 0;
}

aclnnStatus aclGetViewShape(const aclTensor* tensor, int64_t** dims, uint64_t* rank) {
    *rank = tensor->rank();
    *dims = new int64_t[tensor->rank()];
    std::copy(tensor->dims.begin(), tensor->dims.end(), *dims);
    return 0;
}
aclnnStatus aclGetViewOffset(const aclTensor* tensor, int64_t* offset) {
    *offset = tensor->offset;
    return 0;
}
aclnnStatus aclGetFormat(const aclTensor* tensor, aclFormat* format) {
    *format = tensor->format;
    return 0;
}
aclnnStatus aclGetDataType(const aclTensor* tensor, aclDataType* type) {
    *type = tensor->type;
    return 0;
}
aclnnStatus aclGetIntArraySize(const aclIntArray* array, uint64_t* size) {
    *size = array->values.size();
    return 0;
}
aclnnStatus aclGetTensorListSize(const aclTensorList* list, uint64_t* size) {
    *size = list->tensors.size();
    return 0;
}
aclnnStatus aclSetAclOpExecutorRepeatable(aclOpExecutor* executor) {
    executor->repeatable = true;
    return 0;
}
aclnnStatus aclDestroyAclOpExecutor(aclOpExecutor* executor) {
    delete executor;
    return 0;
}
aclnnStatus aclSetRawTensorAddr(aclTensor* tensor, void* address) {
    tensor->data = static_cast<uint8_t*>(address);
    return 0;
}
aclnnStatus aclGetRawTensorAddr(const aclTensor* tensor, void** address) {
    *address = tensor->data;
    return 0;
}

}  // extern "C"
