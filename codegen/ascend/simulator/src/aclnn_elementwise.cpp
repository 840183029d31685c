// Operators of one pass over their data: casts, look-ups, joins, quantisation, gates and norms.
#include <algorithm>
#include <cmath>

#include "acl_objects.h"
#include "aclnnop/aclnn_add.h"
#include "aclnnop/aclnn_argmax.h"
#include "aclnnop/aclnn_cast.h"
#include "aclnnop/aclnn_cat.h"
#include "aclnnop/aclnn_copy.h"
#include "aclnnop/aclnn_dynamic_quant.h"
#include "aclnnop/aclnn_embedding.h"
#include "aclnnop/aclnn_index_select.h"
#include "aclnnop/aclnn_mul.h"
#include "aclnnop/aclnn_rms_norm.h"
#include "aclnnop/aclnn_swi_glu.h"

namespace sim {
namespace {

// `tensor` seen with the shape of `like`: dimensions of 1, and missing ones, repeat.
aclTensor broadcast(aclTensor tensor, const aclTensor& like) {
    demand(tensor.rank() <= like.rank(), shape_text(tensor) + " does not broadcast to " + shape_text(like));
    while (tensor.rank() < like.rank()) {
        tensor.dims.insert(tensor.dims.begin(), 1);
        tensor.strides.insert(tensor.strides.begin(), 0);
    }
    for (size_t axis = 0; axis < like.rank(); ++axis) {
        if (tensor.dims[axis] == like.dims[axis]) continue;
        demand(tensor.dims[axis] == 1, shape_text(tensor) + " does not broadcast to " + shape_text(like));
        tensor.dims[axis] = like.dims[axis];
        tensor.strides[axis] = 0;
    }
    return tensor;
}

// Elements before, along and after an axis.
struct Split {
    int64_t outer = 1, along = 1, inner = 1;
    Split(const aclTensor& tensor, int64_t axis) {
        const size_t at = size_t(axis < 0 ? axis + int64_t(tensor.rank()) : axis);
        demand(at < tensor.rank(), "an axis that " + shape_text(tensor) + " does not have");
        for (size_t i = 0; i < tensor.rank(); ++i) (i < at ? outer : i == at ? along : inner) *= tensor.dims[i];
    }
};

void copy_values(const aclTensor& to, const aclTensor& from) {
    if (is_integer(from.type) && is_integer(to.type)) {
        assign(to, integers(from));
        return;
    }
    std::vector<float> data = values(from);
    if (is_integer(to.type) && to.type != ACL_BOOL)
        for (float& value : data) value = std::trunc(value);
    assign(to, data);
}

void take(const aclTensor& from, int64_t axis, const aclTensor& index, const aclTensor& out) {
    const Split split(from, axis);
    const std::vector<float> data = values(from);
    const std::vector<int64_t> where = integers(index);
    std::vector<float> result;
    result.reserve(size_t(out.elements()));
    for (int64_t outer = 0; outer < split.outer; ++outer)
        for (int64_t at : where) {
            demand(at >= 0 && at < split.along, "index " + std::to_string(at) + " of " + std::to_string(split.along));
            const auto begin = data.begin() + (outer * split.along + at) * split.inner;
            result.insert(result.end(), begin, begin + split.inner);
        }
    assign(out, result);
}

void join(const std::vector<aclTensor>& parts, int64_t axis, const aclTensor& out) {
    const Split whole(out, axis);
    std::vector<float> result(size_t(out.elements()));
    int64_t at = 0;
    for (const aclTensor& part : parts) {
        const Split split(part, axis);
        const std::vector<float> data = values(part);
        for (int64_t outer = 0; outer < split.outer; ++outer)
            std::copy_n(data.begin() + outer * split.along * split.inner, split.along * split.inner,
                        result.begin() + (outer * whole.along + at) * whole.inner);
        at += split.along;
    }
    assign(out, result);
}

void quantise_rows(const aclTensor& x, bool has_smooth, const aclTensor& smooth, const aclTensor& y, const aclTensor& scale) {
    const int64_t width = x.dim(-1), rows = x.elements() / width;
    std::vector<float> data = values(x), factors = has_smooth ? values(smooth) : std::vector<float>(), scales;
    for (int64_t row = 0; row < rows; ++row) {
        float* at = &data[size_t(row * width)];
        float largest = 0;
        for (int64_t i = 0; i < width; ++i) {
            if (has_smooth) at[i] *= factors[size_t(i)];
            largest = std::max(largest, std::fabs(at[i]));
        }
        scales.push_back(largest / 127.0f);
        for (int64_t i = 0; i < width; ++i) at[i] = largest == 0 ? 0 : std::nearbyint(at[i] / scales.back());
    }
    assign(y, data);
    assign(scale, scales);
}

void swiglu(const aclTensor& x, int64_t axis, const aclTensor& out) {
    const Split split(x, axis);
    const std::vector<float> data = values(x);
    const int64_t half = split.along / 2 * split.inner;
    std::vector<float> result;
    for (int64_t outer = 0; outer < split.outer; ++outer)
        for (int64_t i = 0; i < half; ++i) {
            const float a = data[size_t(outer * 2 * half + i)], b = data[size_t(outer * 2 * half + half + i)];
            result.push_back(a / (1 + std::exp(-a)) * b);
        }
    assign(out, result);
}

void rms_norm(const aclTensor& x, const aclTensor& gamma, double epsilon, const aclTensor& y, const aclTensor& rstd) {
    const std::vector<float> weights = values(gamma);
    std::vector<float> data = values(x), roots;
    const size_t width = weights.size();
    for (size_t row = 0; row < data.size() / width; ++row) {
        float sum = 0;
        for (size_t i = 0; i < width; ++i) sum += data[row * width + i] * data[row * width + i];
        roots.push_back(1.0f / std::sqrt(sum / float(width) + float(epsilon)));
        for (size_t i = 0; i < width; ++i) data[row * width + i] *= roots.back() * weights[i];
    }
    assign(y, data);
    assign(rstd, roots);
}

void largest_index(const aclTensor& x, int64_t axis, const aclTensor& out) {
    const Split split(x, axis);
    const std::vector<float> data = values(x);
    std::vector<int64_t> result;
    for (int64_t outer = 0; outer < split.outer; ++outer)
        for (int64_t inner = 0; inner < split.inner; ++inner) {
            int64_t best = 0;
            const auto at = [&](int64_t i) { return data[size_t((outer * split.along + i) * split.inner + inner)]; };
            for (int64_t i = 1; i < split.along; ++i)
                if (at(i) > at(best)) best = i;
            result.push_back(best);
        }
    assign(out, result);
}

template <typename Combine>
void combine(const aclTensor& a, const aclTensor& b, const aclTensor& out, Combine function) {
    std::vector<float> left = values(broadcast(a, out));
    const std::vector<float> right = values(broadcast(b, out));
    for (size_t i = 0; i < left.size(); ++i) left[i] = function(left[i], right[i]);
    assign(out, left);
}

// Integers wrap around, as they do in their own type.
void scale(const aclTensor& from, double factor, const aclTensor& out) {
    if (is_integer(from.type)) {
        demand(factor == std::trunc(factor), "integers by a factor that is none");
        std::vector<int64_t> data = integers(from);
        for (int64_t& value : data) value = int64_t(uint64_t(value) * uint64_t(int64_t(factor)));
        assign(out, data);
        return;
    }
    std::vector<float> data = values(from);
    for (float& value : data) value *= float(factor);
    assign(out, data);
}

}  // namespace
}  // namespace sim

using sim::bytes_of;
using sim::demand;

extern "C" {

aclnnStatus aclnnCastGetWorkspaceSize(const aclTensor* self, const aclDataType dtype, aclTensor* out, uint64_t* workspace,
                                      aclOpExecutor** executor) {
    return sim::prepare("aclnnCast", 0, bytes_of(self) + bytes_of(out), workspace, executor, [&] {
        demand(out->type == dtype && out->dims == self->dims, "out has another type or shape");
        return [from = *self, to = *out] { sim::copy_values(to, from); };
    });
}
SIM_SECOND_PHASE(aclnnCast, aclrtStream)

aclnnStatus aclnnInplaceCopyGetWorkspaceSize(aclTensor* selfRef, const aclTensor* src, uint64_t* workspace,
                                             aclOpExecutor** executor) {
    return sim::prepare("aclnnInplaceCopy", 0, bytes_of(src) + bytes_of(selfRef), workspace, executor, [&] {
        return [to = *selfRef, from = sim::broadcast(*src, *selfRef)] { sim::copy_values(to, from); };
    });
}
SIM_SECOND_PHASE(aclnnInplaceCopy, const aclrtStream)

aclnnStatus aclnnEmbeddingGetWorkspaceSize(const aclTensor* weight, const aclTensor* indices, const aclTensor* out,
                                           uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnEmbedding", 0, 2 * bytes_of(out), workspace, executor, [&] {
        demand(weight->rank() == 2 && out->elements() == indices->elements() * weight->dim(1), "shapes do not fit");
        return [table = *weight, at = *indices, to = *out] { sim::take(table, 0, at, to); };
    });
}
SIM_SECOND_PHASE(aclnnEmbedding, const aclrtStream)

aclnnStatus aclnnIndexSelectGetWorkspaceSize(const aclTensor* self, int64_t dim, const aclTensor* index, aclTensor* out,
                                             uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnIndexSelect", 0, 2 * bytes_of(out), workspace, executor, [&] {
        const sim::Split split(*self, dim);
        demand(out->elements() == split.outer * index->elements() * split.inner, "shapes do not fit");
        return [=, from = *self, at = *index, to = *out] { sim::take(from, dim, at, to); };
    });
}
SIM_SECOND_PHASE(aclnnIndexSelect, const aclrtStream)

aclnnStatus aclnnCatGetWorkspaceSize(const aclTensorList* tensors, int64_t dim, aclTensor* out, uint64_t* workspace,
                                     aclOpExecutor** executor) {
    return sim::prepare("aclnnCat", 0, 2 * bytes_of(out), workspace, executor, [&] {
        std::vector<aclTensor> parts;
        int64_t elements = 0;
        for (const aclTensor* tensor : tensors->tensors) {
            parts.push_back(*tensor);
            elements += tensor->elements();
        }
        demand(elements == out->elements(), "shapes do not fit");
        return [=, to = *out] { sim::join(parts, dim, to); };
    });
}
SIM_SECOND_PHASE(aclnnCat, const aclrtStream)

aclnnStatus aclnnAddGetWorkspaceSize(const aclTensor* self, const aclTensor* other, const aclScalar* alpha, aclTensor* out,
                                     uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnAdd", 0, bytes_of(self) + bytes_of(other) + bytes_of(out), workspace, executor, [&] {
        return [a = *self, b = *other, c = *out, factor = float(alpha->value)] {
            sim::combine(a, b, c, [factor](float x, float y) { return x + factor * y; });
        };
    });
}
SIM_SECOND_PHASE(aclnnAdd, aclrtStream)

aclnnStatus aclnnMulGetWorkspaceSize(const aclTensor* self, const aclTensor* other, aclTensor* out, uint64_t* workspace,
                                     aclOpExecutor** executor) {
    return sim::prepare("aclnnMul", 0, bytes_of(self) + bytes_of(other) + bytes_of(out), workspace, executor, [&] {
        return [a = *self, b = *other, c = *out] { sim::combine(a, b, c, [](float x, float y) { return x * y; }); };
    });
}
SIM_SECOND_PHASE(aclnnMul, aclrtStream)

aclnnStatus aclnnMulsGetWorkspaceSize(const aclTensor* self, const aclScalar* other, aclTensor* out, uint64_t* workspace,
                                      aclOpExecutor** executor) {
    return sim::prepare("aclnnMuls", 0, bytes_of(self) + bytes_of(out), workspace, executor, [&] {
        demand(self->dims == out->dims && self->type == out->type, "out has another type or shape");
        return [from = *self, to = *out, factor = other->value] { sim::scale(from, factor, to); };
    });
}
SIM_SECOND_PHASE(aclnnMuls, aclrtStream)

aclnnStatus aclnnArgMaxGetWorkspaceSize(const aclTensor* self, int64_t dim, bool, aclTensor* out, uint64_t* workspace,
                                        aclOpExecutor** executor) {
    return sim::prepare("aclnnArgMax", 0, bytes_of(self), workspace, executor, [&] {
        demand(sim::is_integer(out->type), "a result that is no integer");
        return [=, from = *self, to = *out] { sim::largest_index(from, dim, to); };
    });
}
SIM_SECOND_PHASE(aclnnArgMax, aclrtStream)

aclnnStatus aclnnRmsNormGetWorkspaceSize(const aclTensor* x, const aclTensor* gamma, double epsilon, const aclTensor* y,
                                         const aclTensor* rstd, uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnRmsNorm", 0, bytes_of(x) + bytes_of(y), workspace, executor, [&] {
        demand(x->dims == y->dims && x->elements() % gamma->elements() == 0, "shapes do not fit");
        demand(rstd->type == ACL_FLOAT, "rstd is not float");
        return [=, from = *x, weights = *gamma, to = *y, roots = *rstd] { sim::rms_norm(from, weights, epsilon, to, roots); };
    });
}
SIM_SECOND_PHASE(aclnnRmsNorm, aclrtStream)

aclnnStatus aclnnDynamicQuantGetWorkspaceSize(const aclTensor* x, const aclTensor* smooth, const aclTensor* y,
                                              const aclTensor* scale, uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnDynamicQuant", 0, bytes_of(x) + bytes_of(y), workspace, executor, [&] {
        demand(x->type == ACL_FLOAT16 || x->type == ACL_BF16, "x is neither float16 nor bfloat16");
        demand(y->type == ACL_INT8 && scale->type == ACL_FLOAT, "y is not int8, or scale not float");
        demand(y->dims == x->dims && scale->elements() * x->dim(-1) == x->elements(), "shapes do not fit");
        const bool has_smooth = smooth != nullptr;
        return [=, from = *x, factors = has_smooth ? *smooth : aclTensor(), to = *y, scales = *scale] {
            sim::quantise_rows(from, has_smooth, factors, to, scales);
        };
    });
}
SIM_SECOND_PHASE(aclnnDynamicQuant, aclrtStream)

aclnnStatus aclnnSwiGluGetWorkspaceSize(const aclTensor* x, int64_t dim, const aclTensor* out, uint64_t* workspace,
                                        aclOpExecutor** executor) {
    return sim::prepare("aclnnSwiGlu", 0, bytes_of(x) + bytes_of(out), workspace, executor, [&] {
        demand(sim::Split(*x, dim).along % 2 == 0 && out->elements() * 2 == x->elements(), "shapes do not fit");
        return [=, from = *x, to = *out] { sim::swiglu(from, dim, to); };
    });
}
SIM_SECOND_PHASE(aclnnSwiGlu, aclrtStream)

}  // extern "C"
