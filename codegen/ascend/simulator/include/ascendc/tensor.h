// GlobalTensor and LocalTensor: typed views of memory whose every access goes through sim::Instruction.
#pragma once

#include "ascendc/parameters.h"
#include "sim/core.h"
#include "sim/cost.h"

namespace AscendC {

using TBufHandle = uint8_t*;
using TEventID = int8_t;
using TTagType = int32_t;

// What operator() gives: reads and writes one element through the scalar unit.
template <typename Tensor, typename T>
class ScalarReference {
public:
    ScalarReference(const Tensor& tensor, uint64_t index, sim::Site site) : tensor_(tensor), index_(index), site_(site) {}
    operator T() const { return tensor_.GetValue(index_, site_); }
    const ScalarReference& operator=(T value) const {
        tensor_.SetValue(index_, value, site_);
        return *this;
    }

private:
    Tensor tensor_;
    uint64_t index_;
    sim::Site site_;
};

template <typename T>
class LocalTensor {
public:
    using PrimType = PrimT<T>;

    LocalTensor() {}
    explicit LocalTensor(const sim::LocalView& view) : view_(view) {}

    PrimType GetValue(const uint32_t index, sim::Site site = sim::Site::here()) const {
        sim::Instruction instruction("LocalTensor::GetValue", sim::Pipe::S, site);
        instruction.cost(sim::kScalarCycles, sizeof(PrimType));
        PrimType value;
        std::memcpy(&value, instruction.read(view_, uint64_t(index) * sizeof(PrimType), sizeof(PrimType), sizeof(PrimType)),
                    sizeof(PrimType));
        return value;
    }
    template <typename U>
    void SetValue(const uint32_t index, const U value, sim::Site site = sim::Site::here()) const {
        sim::Instruction instruction("LocalTensor::SetValue", sim::Pipe::S, site);
        instruction.cost(sim::kScalarCycles, sizeof(PrimType));
        const PrimType converted = static_cast<PrimType>(value);
        std::memcpy(instruction.write(view_, uint64_t(index) * sizeof(PrimType), sizeof(PrimType), sizeof(PrimType)), &converted,
                    sizeof(PrimType));
    }
    ScalarReference<LocalTensor, PrimType> operator()(const uint32_t index, sim::Site site = sim::Site::here()) const {
        return {*this, index, site};
    }

    LocalTensor operator[](const uint32_t offset) const {
        LocalTensor result = *this;
        const uint64_t bytes = uint64_t(offset) * sizeof(PrimType);
        result.view_.address += uint32_t(bytes);
        result.view_.bytes = bytes < view_.bytes ? uint32_t(view_.bytes - bytes) : 0;
        return result;
    }
    template <typename U>
    LocalTensor<U> ReinterpretCast() const {
        return LocalTensor<U>(view_);
    }

    PrimType* GetPhyAddr() const { return GetPhyAddr(0); }
    PrimType* GetPhyAddr(const uint32_t offset) const {
        return reinterpret_cast<PrimType*>(sim::core().bytes(view_.buffer->space) + view_.address) + offset;
    }
    TBufHandle GetBufferHandle() const { return reinterpret_cast<TBufHandle>(view_.buffer); }
    int32_t GetPosition() const { return int32_t(position_); }
    void SetPosition(TPosition position) { position_ = position; }
    uint32_t GetSize() const { return view_.bytes / sizeof(PrimType); }
    uint32_t GetLength() const { return view_.bytes; }
    void SetSize(const uint32_t size) { view_.bytes = size * uint32_t(sizeof(PrimType)); }
    void SetBufferLen(uint32_t length) { view_.bytes = length; }
    void SetUserTag(const TTagType tag) { tag_ = tag; }
    TTagType GetUserTag() const { return tag_; }
    void Print() {}
    void Print(uint32_t) {}

    const sim::LocalView& view() const { return view_; }

private:
    sim::LocalView view_;
    TPosition position_ = TPosition::MAX;
    TTagType tag_ = 0;
};

template <typename T>
class GlobalTensor {
public:
    using PrimType = PrimT<T>;

    GlobalTensor() {}

    void SetGlobalBuffer(__gm__ PrimType* buffer, uint64_t bufferSize, sim::Site site = sim::Site::here()) {
        view_ = {reinterpret_cast<uint8_t*>(buffer), bufferSize * sizeof(PrimType), sim::gm_find(buffer), site};
    }
    void SetGlobalBuffer(__gm__ PrimType* buffer, sim::Site site = sim::Site::here()) { SetGlobalBuffer(buffer, 0, site); }

    PrimType GetValue(const uint64_t index, sim::Site site = sim::Site::here()) const {
        sim::Instruction instruction("GlobalTensor::GetValue", sim::Pipe::S, site);
        instruction.cost(sim::kScalarGmCycles, sizeof(PrimType));
        PrimType value;
        std::memcpy(&value, instruction.read(view_, index * sizeof(PrimType), sizeof(PrimType)), sizeof(PrimType));
        return value;
    }
    void SetValue(const uint64_t index, PrimType value, sim::Site site = sim::Site::here()) const {
        sim::Instruction instruction("GlobalTensor::SetValue", sim::Pipe::S, site);
        instruction.cost(sim::kScalarGmCycles, sizeof(PrimType));
        std::memcpy(instruction.write(view_, index * sizeof(PrimType), sizeof(PrimType)), &value, sizeof(PrimType));
    }
    ScalarReference<GlobalTensor, PrimType> operator()(const uint64_t index, sim::Site site = sim::Site::here()) const {
        return {*this, index, site};
    }

    GlobalTensor operator[](const uint64_t offset) const {
        GlobalTensor result = *this;
        const uint64_t bytes = offset * sizeof(PrimType);
        result.view_.address += bytes;
        // A size of 0 means unbounded, so what is left of an exhausted tensor keeps an impossible bound of one byte.
        if (view_.bytes != 0) result.view_.bytes = bytes < view_.bytes ? view_.bytes - bytes : 1;
        return result;
    }

    const __gm__ PrimType* GetPhyAddr() const { return reinterpret_cast<PrimType*>(view_.address); }
    __gm__ PrimType* GetPhyAddr(const uint64_t offset) const { return reinterpret_cast<PrimType*>(view_.address) + offset; }
    uint64_t GetSize() const { return view_.bytes / sizeof(PrimType); }
    template <CacheRwMode mode = CacheRwMode::RW>
    void SetL2CacheHint(CacheMode) {}

    const sim::GlobalView& view() const { return view_; }

private:
    sim::GlobalView view_;
};

}  // namespace AscendC
