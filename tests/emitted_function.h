// A kernel made by hand from a VectorBuilder, in memory that can be executed: for tests below the level of graphs.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/object.h"
#include "backend/vector_builder.h"
#include "base/status.h"
#include "gtest/gtest.h"
#include "runtime/abi.h"

namespace sinter {

class EmittedFunction {
 public:
  // `emit` writes the body of the kernel.
  static absl::StatusOr<EmittedFunction> Make(const Target& target, const DimTable& dims,
                                              const std::function<void(VectorBuilder&)>& emit) {
    Emitted emitted;
    VectorBuilder builder(emitted, target, "kernel", dims);
    emit(builder);
    builder.Finish();
    SINTER_ASSIGN_OR_RETURN(std::string object, GenerateCode(emitted, target, Effort::kLight, CodeForm::kObject));
    SINTER_ASSIGN_OR_RETURN(const LinkedImage image, LinkImage({CompiledObject{std::move(object), {"kernel"}}}));
    EmittedFunction function;
    function.size_ = image.bytes.size();
    function.code_ = static_cast<uint8_t*>(
        mmap(nullptr, function.size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(function.code_, MAP_FAILED);
    std::memcpy(function.code_, image.bytes.data(), function.size_);
    EXPECT_EQ(mprotect(function.code_, function.size_, PROT_READ | PROT_EXEC), 0);
    function.entry_ = image.entry_points.at("kernel");
    return function;
  }
  EmittedFunction(EmittedFunction&& other) noexcept
      : code_(std::exchange(other.code_, nullptr)), size_(other.size_), entry_(other.entry_) {}
  EmittedFunction& operator=(EmittedFunction&&) = delete;
  ~EmittedFunction() {
    if (code_ != nullptr) munmap(code_, size_);
  }

  void Call(std::vector<void*> operands, const std::vector<int64_t>& dims, uint8_t* scratch, int64_t begin,
            int64_t end) const {
    const SinterKernelArgs args{operands.data(), dims.data(), scratch};
    reinterpret_cast<SinterKernelFn>(code_ + entry_)(&args, begin, end);
  }

 private:
  EmittedFunction() = default;
  uint8_t* code_ = nullptr;
  size_t size_ = 0;
  uint64_t entry_ = 0;
};

}  // namespace sinter
