#include "tests/module_builder.h"

#include <cstring>
#include <memory>
#include <utility>

// Every kernel: rdi = args (operands, dims, scratch), rsi = begin, rdx = end. Position-independent, no calls.
__asm__(R"(
  .pushsection .rodata
  .balign 16
sinter_test_code_begin:

sinter_test_copy:
  mov (%rdi), %rax
  mov (%rax), %rcx
  mov 8(%rax), %r8
1: cmp %rdx, %rsi
  jge 2f
  mov (%rcx,%rsi,4), %r9d
  mov %r9d, (%r8,%rsi,4)
  inc %rsi
  jmp 1b
2: ret

sinter_test_add:
  mov (%rdi), %rax
  mov (%rax), %rcx
  mov 8(%rax), %r8
  mov 16(%rax), %r9
1: cmp %rdx, %rsi
  jge 2f
  movss (%rcx,%rsi,4), %xmm0
  addss (%r8,%rsi,4), %xmm0
  movss %xmm0, (%r9,%rsi,4)
  inc %rsi
  jmp 1b
2: ret

sinter_test_total:
  mov (%rdi), %rax
  mov (%rax), %rcx
  mov 8(%rax), %r8
  xorps %xmm0, %xmm0
1: cmp %rdx, %rsi
  jge 2f
  addss (%rcx,%rsi,4), %xmm0
  inc %rsi
  jmp 1b
2: movss %xmm0, (%r8)
  ret

sinter_test_scale:
  mov (%rdi), %rax
  mov (%rax), %rcx
  mov 8(%rax), %r8
  mov 16(%rax), %r9
  movss (%r8), %xmm1
1: cmp %rdx, %rsi
  jge 2f
  movss (%rcx,%rsi,4), %xmm0
  mulss %xmm1, %xmm0
  movss %xmm0, (%r9,%rsi,4)
  inc %rsi
  jmp 1b
2: ret

sinter_test_append:
  mov (%rdi), %rax
  mov (%rax), %rcx
  mov 8(%rax), %r8
  mov 16(%rax), %r9
  mov (%r9), %r9            # pages
  mov (%r9), %r9            # page 0
1: cmp %rdx, %rsi
  jge 2f
  mov (%rcx,%rsi,4), %r10d
  movslq (%r8,%rsi,4), %r11
  mov %r10d, (%r9,%r11,4)
  inc %rsi
  jmp 1b
2: ret

sinter_test_logits:
  push %rbx
  push %rbp
  mov %rdx, %rbp            # end
  mov 8(%rdi), %rax
  mov 24(%rax), %r10        # V
  mov (%rdi), %rax
  mov (%rax), %rcx          # pos
  mov 8(%rax), %r8          # rows
  mov 16(%rax), %r9
  mov (%r9), %r9
  mov (%r9), %r9            # page 0
  mov 24(%rax), %rdi        # out
1: cmp %rbp, %rsi
  jge 6f
  movslq (%r8,%rsi,4), %rax
  movslq (%rcx,%rax,4), %rax  # last position
  xor %r11d, %r11d          # sum
2: test %rax, %rax
  js 3f
  add (%r9,%rax,4), %r11d
  dec %rax
  jmp 2b
3: mov %rsi, %rbx
  imul %r10, %rbx
  lea (%rdi,%rbx,4), %rbx   # out + row * V * 4
  mov %r10, %rdx
  push %rdx
4: cmpq $0, (%rsp)
  je 5f
  mov %r11d, %eax
  xor %edx, %edx
  div %r10d
  cvtsi2ss %edx, %xmm0
  movss %xmm0, (%rbx)
  add $4, %rbx
  add $3, %r11d
  decq (%rsp)
  jmp 4b
5: add $8, %rsp
  inc %rsi
  jmp 1b
6: pop %rbp
  pop %rbx
  ret

sinter_test_code_end:
  .popsection
)");

extern "C" {
extern const uint8_t sinter_test_code_begin[], sinter_test_code_end[];
extern const uint8_t sinter_test_copy[], sinter_test_add[], sinter_test_total[], sinter_test_scale[],
    sinter_test_append[], sinter_test_logits[];
}

namespace sinter::testing {
namespace {

template <typename T>
std::vector<std::unique_ptr<T>> Owned(std::vector<T> values) {
  std::vector<std::unique_ptr<T>> owned;
  for (T& value : values) owned.push_back(std::make_unique<T>(std::move(value)));
  return owned;
}

}  // namespace

std::vector<uint8_t> TestCode() { return {sinter_test_code_begin, sinter_test_code_end}; }

fbs::ExprT Number(int64_t n) {
  fbs::ExprT expr;
  fbs::TermT term;
  term.coefficient = n;
  if (n != 0) expr.terms.push_back(std::make_unique<fbs::TermT>(term));
  return expr;
}

fbs::ExprT Symbol(uint16_t symbol) {
  fbs::ExprT expr = Number(1);
  expr.terms[0]->symbols.push_back(symbol);
  return expr;
}

fbs::FactorT Factor(fbs::ExprT expr, int64_t block) {
  fbs::FactorT factor;
  factor.expr = std::make_unique<fbs::ExprT>(std::move(expr));
  factor.block = block;
  return factor;
}

fbs::ParamT Param(const std::string& name, const std::string& dtype, std::vector<fbs::ExprT> dims) {
  fbs::ParamT param;
  param.name = name;
  param.type = std::make_unique<fbs::TensorTypeT>();
  param.type->dtype = dtype;
  param.type->dims = Owned(std::move(dims));
  return param;
}

fbs::StateT State(const std::string& name, const std::string& dtype, std::vector<int64_t> dims, int32_t page_axis,
                  int64_t bytes) {
  fbs::StateT state;
  state.name = name;
  state.dtype = dtype;
  state.dims = std::move(dims);
  state.page_axis = page_axis;
  state.bytes = bytes;
  return state;
}

fbs::StepT KernelStep(TestKernel kernel, fbs::StepMode mode, bool barrier, std::vector<fbs::FactorT> extent,
                      std::vector<fbs::Operand> operands) {
  fbs::StepT step;
  step.kind = fbs::StepKind_Kernel;
  step.mode = mode;
  step.barrier = barrier;
  step.kernel = kernel;
  step.extent = Owned(std::move(extent));
  step.operands = std::move(operands);
  return step;
}

fbs::EntryT MakeEntry(const std::string& name, std::vector<fbs::ParamT> inputs, std::vector<fbs::ParamT> outputs,
                      std::vector<fbs::StateT> states, std::vector<fbs::StepT> steps) {
  fbs::EntryT entry;
  entry.name = name;
  entry.inputs = Owned(std::move(inputs));
  entry.outputs = Owned(std::move(outputs));
  entry.states = Owned(std::move(states));
  entry.steps = Owned(std::move(steps));
  return entry;
}

fbs::MetadataT BaseMetadata() {
  fbs::MetadataT m;
  m.producer = "test";
  m.command = "sinter compile model.gguf -o m.sinter";
  const auto add_dim = [&m](const std::string& name, int64_t min, int64_t max) {
    fbs::DimT dim;
    dim.name = name;
    dim.min = min;
    dim.max = max;
    m.dims.push_back(std::make_unique<fbs::DimT>(dim));
  };
  add_dim("T", 1, kMostTokens);
  add_dim("P", 0, kContext - 1);
  add_dim("L", 0, kMostTokens);
  add_dim("V", kVocabulary, kVocabulary);
  fbs::BoundT bound;
  bound.expr = std::make_unique<fbs::ExprT>(Symbol(kT));
  bound.expr->terms.push_back(std::move(Symbol(kP).terms[0]));
  bound.max = kContext;
  m.bounds.push_back(std::make_unique<fbs::BoundT>(std::move(bound)));

  fbs::ImageT image;
  image.target = "any";
  image.size = TestCode().size();
  for (const uint8_t* entry_point : {sinter_test_copy, sinter_test_add, sinter_test_total, sinter_test_scale,
                                     sinter_test_append, sinter_test_logits}) {
    image.entry_points.push_back(static_cast<uint64_t>(entry_point - sinter_test_code_begin));
    fbs::KernelT kernel;
    kernel.name = "kernel" + std::to_string(m.kernels.size());
    kernel.family = "test";
    m.kernels.push_back(std::make_unique<fbs::KernelT>(kernel));
  }
  m.images.push_back(std::make_unique<fbs::ImageT>(std::move(image)));
  fbs::WeightT weight;
  weight.name = "w";
  weight.dtype = "f32";
  weight.dims = {64};
  weight.pack = "rows";
  weight.bytes = 256;
  m.weights.push_back(std::make_unique<fbs::WeightT>(weight));
  m.arena_bytes = 4096;
  m.thread_bytes = 4096;
  return m;
}

fbs::EntryT LanguageModelEntry() {
  return MakeEntry(
      "main",
      List(Param("ids", "i32", List(Symbol(kT))), Param("pos", "i32", List(Symbol(kT))),
           Param("rows", "i32", List(Symbol(kL)))),
      List(Param("logits", "f32", List(Symbol(kL), Number(kVocabulary)))),
      List(State("ids", "i32", {kContext}, 0, 4 * kContext)),
      List(KernelStep(kAppend, fbs::StepMode_Split, false, List(Factor(Symbol(kT))),
                      {{fbs::Space_Input, 0}, {fbs::Space_Input, 1}, {fbs::Space_State, 0}}),
           KernelStep(kLogits, fbs::StepMode_Split, true, List(Factor(Symbol(kL))),
                      {{fbs::Space_Input, 1}, {fbs::Space_Input, 2}, {fbs::Space_State, 0}, {fbs::Space_Output, 0}})));
}

fbs::MetadataT LanguageModel() {
  fbs::MetadataT m = BaseMetadata();
  m.entries.push_back(std::make_unique<fbs::EntryT>(LanguageModelEntry()));
  return m;
}

namespace {

std::vector<uint8_t> ReadBack(const OutputFile& file) {
  const MappedFile mapped = *MappedFile::FromDescriptor(file.descriptor(), "module");
  return {mapped.bytes().begin(), mapped.bytes().end()};
}

}  // namespace

std::vector<uint8_t> ModuleBytes(const fbs::MetadataT& metadata) {
  flatbuffers::FlatBufferBuilder builder;
  fbs::FinishMetadataBuffer(builder, fbs::Metadata::Pack(builder, &metadata));
  std::vector<float> weights(64);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i);
  const absl::Span<const uint8_t> weight_bytes(reinterpret_cast<const uint8_t*>(weights.data()), 256);
  std::vector<uint8_t> code = TestCode();
  code.resize(kModulePage);
  const std::vector<uint8_t> second = TestCode();
  code.insert(code.end(), second.begin(), second.end());
  ModuleWriter writer =
      *ModuleWriter::Create(*OutputFile::Create(""), builder.GetSize() + 100, code, weight_bytes.size());
  // In any order, in pieces.
  writer.WriteWeights(128, weight_bytes.subspan(128)).IgnoreError();
  writer.WriteWeights(0, weight_bytes.first(128)).IgnoreError();
  return ReadBack(*writer.Finish({builder.GetBufferPointer(), builder.GetSize()}));
}

void Reseal(std::vector<uint8_t>& bytes) {
  FileHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  for (FileSection* section : {&header.metadata, &header.code, &header.weights}) {
    if (section->offset <= bytes.size() && section->size <= bytes.size() - section->offset) {
      section->checksum = ChecksumOf({bytes.data() + section->offset, section->size});
    }
  }
  header.header = HeaderChecksum(header);
  std::memcpy(bytes.data(), &header, sizeof header);
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenBytes(const std::vector<uint8_t>& bytes,
                                                                absl::string_view target) {
  OutputFile file = *OutputFile::Create("");
  file.WriteAt(0, bytes).IgnoreError();
  return CompiledModule::FromFile(*MappedFile::FromDescriptor(file.descriptor(), "m.sinter"), target);
}

}  // namespace sinter::testing
