#include "backend/object.h"

#include <llvm/ADT/SmallVector.h>
#include <llvm/ExecutionEngine/JITLink/JITLinkMemoryManager.h>
#include <llvm/ExecutionEngine/JITLink/x86_64.h>
#include <llvm/ExecutionEngine/Orc/Core.h>
#include <llvm/ExecutionEngine/Orc/ExecutorProcessControl.h>
#include <llvm/ExecutionEngine/Orc/ObjectLinkingLayer.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/CommandLine.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked.h"
#include "base/status.h"
#include "runtime/features.h"

namespace sinter {
namespace {

constexpr char kTriple[] = "x86_64-unknown-linux-gnu";

// LLVM has these as command-line options only.
void SetOption(llvm::StringRef name) {
  auto& options = llvm::cl::getRegisteredOptions();
  if (const auto option = options.find(name); option != options.end()) option->second->addOccurrence(0, name, "true");
}

// A machine serves one thread; making one costs about as much as a small kernel, so each thread keeps those it made.
absl::StatusOr<llvm::TargetMachine*> MachineFor(const Target& target, Effort effort) {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    // LSR takes a third of the time of code generation, for loops whose addresses the emitters already write as base +
    // index * scale + number. Registers are allocated well at every level.
    SetOption("disable-lsr");
    SetOption("optimize-regalloc");
  });
  thread_local std::map<std::pair<const Target*, Effort>, std::unique_ptr<llvm::TargetMachine>> machines;
  std::unique_ptr<llvm::TargetMachine>& machine = machines[{&target, effort}];
  if (machine != nullptr) return machine.get();
  std::string error;
  const llvm::Target* llvm_target = llvm::TargetRegistry::lookupTarget(kTriple, error);
  if (llvm_target == nullptr) return absl::InternalError(absl::StrCat("LLVM: ", error));
  llvm::TargetOptions options;
  machine.reset(llvm_target->createTargetMachine(
      kTriple, {target.llvm_cpu.data(), target.llvm_cpu.size()}, LlvmFeatures(target.features), options,
      llvm::Reloc::PIC_, llvm::CodeModel::Small,
      effort == Effort::kFull ? llvm::CodeGenOptLevel::Less : llvm::CodeGenOptLevel::None));
  if (machine == nullptr) return absl::InternalError("LLVM: no target machine for x86-64");
  machine->setFastISel(false);
  machine->setO0WantsFastISel(false);
  return machine.get();
}

absl::Status Verify(const llvm::Module& module) {
  std::string problem;
  llvm::raw_string_ostream problems(problem);
  if (!llvm::verifyModule(module, &problems)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("LLVM IR is not well formed: ", problem));
}

namespace jitlink = llvm::jitlink;
namespace orc = llvm::orc;

// Gives each segment of each object the next place of one slab, in the order of linking.
class SlabMemory : public jitlink::JITLinkMemoryManager {
 public:
  explicit SlabMemory(size_t capacity) : slab_(capacity + kAlign) {
    const size_t past = reinterpret_cast<uintptr_t>(slab_.data()) % kAlign;
    base_ = slab_.data() + (past == 0 ? 0 : kAlign - past);
    capacity_ = capacity;
  }

  void allocate(const jitlink::JITLinkDylib*, jitlink::LinkGraph& graph, OnAllocatedFunction done) override {
    for (const jitlink::Symbol* symbol : graph.external_symbols()) {
      return done(llvm::createStringError("undefined symbol " + symbol->getName()));
    }
    for (jitlink::Block* block : graph.blocks()) {
      for (const jitlink::Edge& edge : block->edges()) {
        const jitlink::Edge::Kind kind = edge.getKind();
        if (kind == jitlink::x86_64::Pointer64 || kind == jitlink::x86_64::Pointer32 ||
            kind == jitlink::x86_64::Pointer32Signed) {
          return done(llvm::createStringError("an absolute relocation"));
        }
      }
    }
    jitlink::BasicLayout layout(graph);
    for (auto& [group, segment] : layout.segments()) {
      used_ = static_cast<size_t>(AlignUp(static_cast<int64_t>(used_),
                                          std::max<int64_t>(kAlign, static_cast<int64_t>(segment.Alignment.value()))));
      const size_t size = segment.ContentSize + segment.ZeroFillSize;
      if (size > capacity_ - used_) return done(llvm::createStringError("the image outgrew its slab"));
      segment.WorkingMem = reinterpret_cast<char*>(base_ + used_);
      segment.Addr = orc::ExecutorAddr::fromPtr(base_ + used_);
      used_ += size;
    }
    if (llvm::Error error = layout.apply()) return done(std::move(error));
    done(std::make_unique<Linked>());
  }
  using JITLinkMemoryManager::allocate;

  void deallocate(std::vector<FinalizedAlloc> allocations, OnDeallocatedFunction done) override {
    for (FinalizedAlloc& allocation : allocations) allocation.release();
    done(llvm::Error::success());
  }
  using JITLinkMemoryManager::deallocate;

  const uint8_t* base() const { return base_; }
  size_t used() const { return used_; }

 private:
  static constexpr int64_t kAlign = 64;
  struct Linked : InFlightAlloc {
    void finalize(OnFinalizedFunction done) override { done(FinalizedAlloc(orc::ExecutorAddr(1))); }
    void abandon(OnAbandonedFunction done) override { done(llvm::Error::success()); }
  };
  std::vector<uint8_t> slab_;
  uint8_t* base_ = nullptr;
  size_t capacity_ = 0, used_ = 0;
};

// Links one object behind those before it. The first lookup of a symbol links its whole object.
absl::Status Link(const CompiledObject& object, orc::ExecutionSession& session, orc::ObjectLinkingLayer& layer,
                  orc::JITDylib& dylib, const uint8_t* base, LinkedImage& image) {
  const auto failed = [&object](llvm::Error error) {
    return absl::InternalError(absl::StrCat("cannot link kernels ", absl::StrJoin(object.symbols, " "), ": ",
                                            llvm::toString(std::move(error))));
  };
  if (llvm::Error error = layer.add(dylib, llvm::MemoryBuffer::getMemBufferCopy(object.bytes, object.symbols[0]))) {
    return failed(std::move(error));
  }
  for (const std::string& symbol : object.symbols) {
    llvm::Expected<orc::ExecutorSymbolDef> found = session.lookup({&dylib}, session.intern(symbol));
    if (!found) return failed(found.takeError());
    image.entry_points[symbol] = static_cast<uint64_t>(found->getAddress().toPtr<const uint8_t*>() - base);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> GenerateCode(const Emitted& kernels, const Target& target, Effort effort, CodeForm form) {
  llvm::Module& module = *kernels.module;
  if (form == CodeForm::kLlvmIr) {
    SINTER_RETURN_IF_ERROR(Verify(module));
    std::string text;
    llvm::raw_string_ostream out(text);
    module.print(out, nullptr);
    return text;
  }
  SINTER_ASSIGN_OR_RETURN(llvm::TargetMachine * machine, MachineFor(target, effort));
  module.setTargetTriple(kTriple);
  module.setDataLayout(machine->createDataLayout());
  SINTER_RETURN_IF_ERROR(Verify(module));
  llvm::SmallVector<char, 0> buffer;
  llvm::raw_svector_ostream out(buffer);
  llvm::legacy::PassManager passes;
  const auto kind =
      form == CodeForm::kAssembly ? llvm::CodeGenFileType::AssemblyFile : llvm::CodeGenFileType::ObjectFile;
  if (machine->addPassesToEmitFile(passes, out, nullptr, kind))
    return absl::InternalError("LLVM cannot emit this kind of file");
  // Those that are there work as at the level above, whatever the effort: else no multiply-add changes its form to
  // spare a copy of a register, and products take a third longer.
  const llvm::CodeGenOptLevel level = machine->getOptLevel();
  machine->setOptLevel(llvm::CodeGenOptLevel::Less);
  passes.run(module);
  machine->setOptLevel(level);
  return std::string(buffer.data(), buffer.size());
}

absl::StatusOr<LinkedImage> LinkImage(absl::Span<const CompiledObject> objects) {
  size_t capacity = 4096;
  for (const CompiledObject& object : objects) capacity += object.bytes.size() + 4096;
  SlabMemory memory(capacity);
  LinkedImage image;
  orc::ExecutionSession session(
      std::make_unique<orc::UnsupportedExecutorProcessControl>(nullptr, nullptr, kTriple, 4096));
  // The lookup says which kernel failed; why, a missing symbol's name for one, the session alone says.
  std::string why;
  session.setErrorReporter(
      [&why](llvm::Error error) { absl::StrAppend(&why, "; ", llvm::toString(std::move(error))); });
  absl::Status status;
  {
    orc::ObjectLinkingLayer layer(session, memory);
    orc::JITDylib& dylib = session.createBareJITDylib("image");
    for (size_t i = 0; i < objects.size() && status.ok(); ++i) {
      status = Link(objects[i], session, layer, dylib, memory.base(), image);
    }
    if (llvm::Error ended = session.endSession()) llvm::consumeError(std::move(ended));
  }
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(status.message(), why));
  image.bytes.assign(memory.base(), memory.base() + memory.used());
  return image;
}

}  // namespace sinter
