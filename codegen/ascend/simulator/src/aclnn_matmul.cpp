// Matrix products of vendor operators: float32 accumulation (int32 for int8, and int32 results are these sums), one rounding at the end. Matmul and BatchMatMul round
// to the type of their operands and cast that to the type of the result, as documented: a float32 result of bf16 operands is no finer.
#include <cmath>

#include "acl_objects.h"
#include "aclnnop/aclnn_batch_matmul.h"
#include "aclnnop/aclnn_grouped_matmul_v4.h"
#include "aclnnop/aclnn_matmul.h"
#include "aclnnop/aclnn_quant_matmul_v4.h"

namespace sim {
namespace {

template <typename T, typename Acc>
void multiply_add(const T* a, const T* b, Acc* c, int64_t m, int64_t k, int64_t n) {
    for (int64_t row = 0; row < m; ++row)
        for (int64_t depth = 0; depth < k; ++depth) {
            const Acc factor = Acc(a[row * k + depth]);
            const T* from = b + depth * n;
            Acc* to = c + row * n;
            for (int64_t column = 0; column < n; ++column) to[column] += factor * Acc(from[column]);
        }
}

std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b, int64_t m, int64_t k, int64_t n) {
    std::vector<float> c(size_t(m * n), 0.0f);
    multiply_add(a.data(), b.data(), c.data(), m, k, n);
    return c;
}

std::vector<int8_t> bytes(const aclTensor& tensor) {
    const std::vector<float> wide = values(tensor);
    return {wide.begin(), wide.end()};
}

void demand_product(const aclTensor& a, const aclTensor& b, const aclTensor& out) {
    demand(a.rank() >= 2 && b.rank() >= 2 && out.rank() >= 2, "operands of fewer than two dimensions");
    demand(a.dim(-1) == b.dim(-2) && out.dim(-2) == a.dim(-2) && out.dim(-1) == b.dim(-1),
           "shapes " + shape_text(a) + " x " + shape_text(b) + " -> " + shape_text(out));
    demand(!is_integer(a.type) && a.type == b.type, "operands of two types, or of integers");
}

float rounded(float value, aclDataType type) {
    if (type == ACL_BF16) return float_of(uint32_t(bfloat16_bits(value)) << 16);
    if (type == ACL_FLOAT16) return half_value(half_bits(value));
    return value;
}

// Leading dimensions are broadcast; `out` has them all.
void batched(const aclTensor& a, const aclTensor& b, const aclTensor& out) {
    const int64_t m = a.dim(-2), k = a.dim(-1), n = b.dim(-1);
    const std::vector<float> left = values(a), right = values(b);
    const int64_t batches = out.elements() / (m * n);
    std::vector<float> result;
    for (int64_t batch = 0; batch < batches; ++batch) {
        const auto piece = [&](const aclTensor& tensor, const std::vector<float>& all, int64_t size) {
            // The batch's index along each leading dimension, with dimensions of 1 staying at 0.
            int64_t rest = batch, at = 0, step = size;
            for (size_t axis = out.rank() - 2; axis-- > 0;) {
                const int64_t index = rest % out.dims[axis];
                rest /= out.dims[axis];
                const int64_t mine = int64_t(tensor.rank()) - int64_t(out.rank()) + int64_t(axis);
                if (mine < 0) continue;
                if (tensor.dims[size_t(mine)] != 1) at += index * step;
                step *= tensor.dims[size_t(mine)];
            }
            return std::vector<float>(all.begin() + at, all.begin() + at + size);
        };
        const std::vector<float> c = product(piece(a, left, m * k), piece(b, right, k * n), m, k, n);
        for (const float value : c) result.push_back(rounded(value, a.type));
    }
    assign(out, result);
}

double flops(const aclTensor& a, int64_t n) { return 2.0 * double(a.elements()) * double(n); }

float activation(float value, int64_t type) {
    switch (type) {
        case GMM_ACT_TYPE_RELU: return value > 0 ? value : 0;
        case GMM_ACT_TYPE_GELU_TANH: return 0.5f * value * (1 + std::tanh(0.7978845608f * (value + 0.044715f * value * value * value)));
        case GMM_ACT_TYPE_GELU_ERR_FUNC: return 0.5f * value * (1 + std::erf(value * 0.7071067812f));
        case GMM_ACT_TYPE_FAST_GELU: return value / (1 + std::exp(-1.702f * value));
        case GMM_ACT_TYPE_SILU: return value / (1 + std::exp(-value));
        default: return value;
    }
}

// A matrix without padding and in row-major order.
struct Matrix {
    int64_t rows = 0, columns = 0;
    std::vector<float> floats;
    std::vector<int8_t> bytes;
    bool quantised = false;

    Matrix(const aclTensor& tensor, int64_t rows, int64_t columns) : rows(rows), columns(columns), quantised(tensor.type == ACL_INT8) {
        if (quantised) bytes = sim::bytes(tensor);
        else floats = values(tensor);
    }
};

// Rows [first, first + count) of x by the matrix that starts at `weight_at` of w, both int8.
std::vector<int32_t> rows_sums(const Matrix& x, const Matrix& w, int64_t first, int64_t count, int64_t weight_at, int64_t n) {
    std::vector<int32_t> sums(size_t(count * n), 0);
    multiply_add(x.bytes.data() + first * x.columns, w.bytes.data() + weight_at, sums.data(), count, x.columns, n);
    return sums;
}

// The same of int8 or floats, as floats.
std::vector<float> rows_product(const Matrix& x, const Matrix& w, int64_t first, int64_t count, int64_t weight_at, int64_t n) {
    if (x.quantised) {
        const std::vector<int32_t> sums = rows_sums(x, w, first, count, weight_at, n);
        return {sums.begin(), sums.end()};
    }
    std::vector<float> result(size_t(count * n), 0.0f);
    multiply_add(x.floats.data() + first * x.columns, w.floats.data() + weight_at, result.data(), count, x.columns, n);
    return result;
}

using List = const aclTensorList*;

std::vector<aclTensor> copies(List list) {
    std::vector<aclTensor> result;
    if (list)
        for (const aclTensor* tensor : list->tensors) result.push_back(*tensor);
    return result;
}

struct Grouped {
    std::vector<aclTensor> x, weight, bias, scale, token_scale, out;
    bool has_groups = false;
    aclTensor groups;
    int64_t split = 0, group_type = 0, list_type = 0, activation = 0;

    // Vectors per column of a group: [groups, n], or one tensor per group.
    static std::vector<float> columns_of(const std::vector<aclTensor>& list, size_t group, int64_t n) {
        if (list.empty()) return {};
        if (list.size() > 1) return values(list.at(group));
        const std::vector<float> all = values(list[0]);
        const size_t at = int64_t(all.size()) == n ? 0 : group * size_t(n);
        return {all.begin() + int64_t(at), all.begin() + int64_t(at) + n};
    }

    void finish(std::vector<float>& result, size_t group, int64_t n, const std::vector<float>& rows, int64_t first) const {
        const std::vector<float> by_column = columns_of(scale, group, n), offsets = columns_of(bias, group, n);
        for (size_t i = 0; i < result.size(); ++i) {
            const size_t column = i % size_t(n), row = i / size_t(n);
            float value = result[i];
            if (!offsets.empty() && is_integer(bias[0].type)) value += offsets[column];
            if (!by_column.empty()) value *= by_column[column];
            if (!rows.empty()) value *= rows[size_t(first) + row];
            if (!offsets.empty() && !is_integer(bias[0].type)) value += offsets[column];
            result[i] = sim::activation(value, activation);
        }
    }

    void split_rows() const {
        const bool one_weight = weight.size() == 1;
        const int64_t groups_count = one_weight ? weight[0].dim(0) : int64_t(weight.size());
        const int64_t k = x[0].dim(-1), n = weight[0].dim(-1), rows = x[0].elements() / k;
        const std::vector<int64_t> list = integers(groups);
        demand(int64_t(list.size()) == groups_count, "groupList has not one entry per weight");
        const Matrix left(x[0], rows, k);
        const std::vector<float> token_scales = token_scale.empty() ? std::vector<float>() : values(token_scale[0]);
        std::vector<float> result(size_t(out[0].elements()), 0.0f);
        std::vector<int64_t> sums(out[0].type == ACL_INT32 ? result.size() : 0, 0);
        std::vector<Matrix> whole;
        if (one_weight) whole.emplace_back(weight[0], groups_count * k, n);
        int64_t first = 0;
        for (int64_t group = 0; group < groups_count; ++group) {
            const int64_t count = list_type == 1 ? list[size_t(group)] : list[size_t(group)] - first;
            demand(count >= 0 && first + count <= rows, "groupList does not split the rows of x");
            if (count > 0 && !sums.empty()) {
                const std::vector<int32_t> piece = one_weight
                    ? rows_sums(left, whole[0], first, count, group * k * n, n)
                    : rows_sums(left, Matrix(weight[size_t(group)], k, n), first, count, 0, n);
                std::copy(piece.begin(), piece.end(), sums.begin() + first * n);
            } else if (count > 0) {
                std::vector<float> piece = one_weight
                    ? rows_product(left, whole[0], first, count, group * k * n, n)
                    : rows_product(left, Matrix(weight[size_t(group)], k, n), first, count, 0, n);
                finish(piece, size_t(group), n, token_scales, first);
                std::copy(piece.begin(), piece.end(), result.begin() + first * n);
            }
            first += count;
        }
        if (!sums.empty()) assign(out[0], sums);
        else assign(out[0], result);
    }

    void separate() const {
        for (size_t group = 0; group < x.size(); ++group) {
            const int64_t k = x[group].dim(-1), n = weight.at(group).dim(-1), rows = x[group].elements() / k;
            std::vector<float> piece = rows_product(Matrix(x[group], rows, k), Matrix(weight[group], k, n), 0, rows, 0, n);
            finish(piece, group, n, token_scale.empty() ? std::vector<float>() : values(token_scale[0]), 0);
            assign(out.at(group), piece);
        }
    }
};

}  // namespace
}  // namespace sim

using sim::demand;

extern "C" {

aclnnStatus aclnnMatmulGetWorkspaceSize(const aclTensor* self, const aclTensor* mat2, aclTensor* out, int8_t,
                                        uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnMatmul", sim::flops(*self, mat2->dim(-1)),
                        sim::bytes_of(self) + sim::bytes_of(mat2) + sim::bytes_of(out), workspace, executor, [&] {
        sim::demand_product(*self, *mat2, *out);
        return [a = *self, b = *mat2, c = *out] { sim::batched(a, b, c); };
    });
}
SIM_SECOND_PHASE(aclnnMatmul, aclrtStream)

aclnnStatus aclnnBatchMatMulGetWorkspaceSize(const aclTensor* self, const aclTensor* mat2, aclTensor* out, int8_t,
                                             uint64_t* workspace, aclOpExecutor** executor) {
    return sim::prepare("aclnnBatchMatMul", sim::flops(*self, mat2->dim(-1)),
                        sim::bytes_of(self) + sim::bytes_of(mat2) + sim::bytes_of(out), workspace, executor, [&] {
        demand(self->rank() == 3 && mat2->rank() == 3, "operands that do not have three dimensions");
        sim::demand_product(*self, *mat2, *out);
        return [a = *self, b = *mat2, c = *out] { sim::batched(a, b, c); };
    });
}
SIM_SECOND_PHASE(aclnnBatchMatMul, aclrtStream)

aclnnStatus aclnnQuantMatmulV4GetWorkspaceSize(const aclTensor* x1, const aclTensor* x2, const aclTensor* scale,
                                               const aclTensor* offset, const aclTensor* pertoken, const aclTensor* bias,
                                               bool transposeX1, bool transposeX2, const aclTensor* out, uint64_t* workspace,
                                               aclOpExecutor** executor) {
    return sim::prepare("aclnnQuantMatmulV4", sim::flops(*x1, transposeX2 ? x2->dim(-2) : x2->dim(-1)) / 2,
                        sim::bytes_of(x1) + sim::bytes_of(x2) + sim::bytes_of(out), workspace, executor, [&] {
        demand(x1->rank() == 2 && x2->rank() == 2, "operands that do not have two dimensions");
        demand(x1->type == ACL_INT8 && x2->type == ACL_INT8, "operands that are not int8");
        demand(scale && (scale->type == ACL_FLOAT || scale->type == ACL_BF16), "a scale that is neither float nor bfloat16");
        demand(!offset, "offset, which is for int8 results");
        demand(out->type == ACL_BF16 || out->type == ACL_FLOAT16 || out->type == ACL_INT32, "a result that is neither bfloat16, float16 nor int32");
        demand(out->type != ACL_INT32 || (!pertoken && (!bias || bias->type == ACL_INT32)), "an int32 result with a scale per token or a bias of floats");
        const auto turned = [](aclTensor tensor, bool turn) {
            if (turn) {
                std::swap(tensor.dims[0], tensor.dims[1]);
                std::swap(tensor.strides[0], tensor.strides[1]);
            }
            return tensor;
        };
        const aclTensor a = turned(*x1, transposeX1), b = turned(*x2, transposeX2);
        demand(a.dim(1) == b.dim(0) && out->dim(0) == a.dim(0) && out->dim(1) == b.dim(1),
               "shapes " + sim::shape_text(a) + " x " + sim::shape_text(b) + " -> " + sim::shape_text(*out));
        const bool has_rows = pertoken != nullptr, has_bias = bias != nullptr;
        return [=, columns = *scale, rows = has_rows ? *pertoken : aclTensor(), added = has_bias ? *bias : aclTensor(), c = *out] {
            const int64_t m = a.dim(0), k = a.dim(1), n = b.dim(1);
            if (c.type == ACL_INT32) {
                const std::vector<int32_t> sums = sim::rows_sums(sim::Matrix(a, m, k), sim::Matrix(b, k, n), 0, m, 0, n);
                std::vector<int64_t> whole(sums.begin(), sums.end());
                const std::vector<int64_t> offset = has_bias ? sim::integers(added) : std::vector<int64_t>(size_t(n), 0);
                for (size_t i = 0; i < whole.size(); ++i) whole[i] += offset[i % size_t(n)];
                sim::assign(c, whole);
                return;
            }
            std::vector<float> result = sim::rows_product(sim::Matrix(a, m, k), sim::Matrix(b, k, n), 0, m, 0, n);
            const std::vector<float> by_column = sim::values(columns);
            const std::vector<float> by_row = has_rows ? sim::values(rows) : std::vector<float>();
            const std::vector<float> offsets = has_bias ? sim::values(added) : std::vector<float>();
            for (size_t i = 0; i < result.size(); ++i) {
                const size_t column = i % size_t(n);
                float value = result[i];
                if (has_bias && sim::is_integer(added.type)) value += offsets[column];
                value *= by_column[by_column.size() == 1 ? 0 : column];
                if (has_rows) value *= by_row[i / size_t(n)];
                if (has_bias && !sim::is_integer(added.type)) value += offsets[column];
                result[i] = value;
            }
            sim::assign(c, result);
        };
    });
}
SIM_SECOND_PHASE(aclnnQuantMatmulV4, aclrtStream)

aclnnStatus aclnnGroupedMatmulV4GetWorkspaceSize(
    const aclTensorList* x, const aclTensorList* weight, const aclTensorList* biasOptional, const aclTensorList* scaleOptional,
    const aclTensorList* offsetOptional, const aclTensorList* antiquantScaleOptional, const aclTensorList* antiquantOffsetOptional,
    const aclTensorList* perTokenScaleOptional, const aclTensor* groupListOptional, const aclTensorList* activationInputOptional,
    const aclTensorList*, const aclTensorList*, int64_t splitItem, int64_t groupType, int64_t groupListType, int64_t actType,
    aclTensorList* out, aclTensorList*, aclTensorList*, uint64_t* workspace, aclOpExecutor** executor) {
    double work = 0, traffic = 0;
    for (const aclTensor* tensor : x->tensors) work += sim::flops(*tensor, weight->tensors[0]->dim(-1));
    for (const aclTensorList* list : {x, weight, static_cast<const aclTensorList*>(out)})
        for (const aclTensor* tensor : list->tensors) traffic += sim::bytes_of(tensor);
    return sim::prepare("aclnnGroupedMatmulV4", work, traffic, workspace, executor, [&] {
        demand(!offsetOptional && !antiquantScaleOptional && !antiquantOffsetOptional && !activationInputOptional,
               "offset, antiquant or activation inputs, which the simulator does not have");
        sim::Grouped grouped;
        grouped.x = sim::copies(x);
        grouped.weight = sim::copies(weight);
        grouped.bias = sim::copies(biasOptional);
        grouped.scale = sim::copies(scaleOptional);
        grouped.token_scale = sim::copies(perTokenScaleOptional);
        grouped.out = sim::copies(out);
        grouped.split = splitItem;
        grouped.group_type = groupType;
        grouped.list_type = groupListType;
        grouped.activation = actType;
        demand(groupType == 0 || groupType == -1, "a group type other than 0 (rows) and -1 (lists)");
        if (groupType == 0) {
            demand(groupListOptional && groupListOptional->type == ACL_INT64, "groupList is missing or not int64");
            demand(grouped.out[0].type != ACL_INT32 || (grouped.x[0].type == ACL_INT8 && !scaleOptional && !perTokenScaleOptional && !biasOptional),
                   "an int32 result of operands that are not int8, or with scales or a bias");
            demand(grouped.x.size() == 1 && grouped.out.size() == 1 && (splitItem == 2 || splitItem == 3),
                   "rows are split with one x, one out and splitItem 2 or 3");
            grouped.groups = *groupListOptional;
            return std::function<void()>([grouped] { grouped.split_rows(); });
        }
        demand(grouped.x.size() == grouped.weight.size() && grouped.x.size() == grouped.out.size(), "lists of different lengths");
        return std::function<void()>([grouped] { grouped.separate(); });
    });
}
SIM_SECOND_PHASE(aclnnGroupedMatmulV4, aclrtStream)

}  // extern "C"
