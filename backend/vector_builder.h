// The emitters' view of code generation: scalars, pointers and vectors of one target's width, loops with carried
// values, masks. Hides LLVM: emitters include no LLVM header. One builder emits one kernel function.
//
// Vec is `lanes()` floats, Mask as many bits. Arithmetic is IEEE without contraction; only reductions reassociate.
// Loads and stores convert between f32 lanes and the element type named, rounding to nearest even. Tails use masks:
// masked-off lanes load 0 and store nothing. A value carried by a loop is any handle whose address stands in `carried`:
// inside the body it is the value at the start of the iteration, what the body leaves in it goes round, and after the
// loop it is the last.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/target.h"
#include "ir/dims.h"
#include "ir/dtype.h"

namespace llvm {
class Value;
class Module;
class LLVMContext;
}  // namespace llvm

namespace sinter {

struct PackedBlocks;

struct Handle {
  llvm::Value* v = nullptr;
};
struct Int : Handle {};   // i64
struct Cond : Handle {};  // i1
struct Ptr : Handle {};
struct Vec : Handle {};     // lanes x f32
struct Mask : Handle {};    // lanes x i1
struct IntVec : Handle {};  // lanes x an integer element type
struct Quads : Handle {};   // lanes x 4 bytes
struct Sums : Handle {};    // lanes x i32

// An LLVM module and its context, owned: kernels are emitted into it, and object.h compiles it.
struct Emitted {
  std::unique_ptr<llvm::LLVMContext> context;
  std::unique_ptr<llvm::Module> module;
  Emitted();
  ~Emitted();
};

class VectorBuilder {
 public:
  // Starts `void symbol(const SinterKernelArgs*, int64_t begin, int64_t end)` in `out`, which outlives the builder.
  VectorBuilder(Emitted& out, const Target& target, const std::string& symbol, const DimTable& dims);
  ~VectorBuilder();
  // Ends the function; the builder is done.
  void Finish();

  const Target& target() const;
  int lanes() const { return target().lanes(); }

  // Scalars
  Int Const(int64_t value);
  Int Begin();  // of the grains to do
  Int End();
  void SetGrains(Int begin, Int end);  // at first the function's own
  Int Dim(const DimExpr& expr);        // from the dims of the call; computed once, at the top
  Int Add(Int a, Int b);
  Int Sub(Int a, Int b);
  Int Mul(Int a, Int b);
  Int Div(Int a, Int b);  // of non-negative numbers
  Int Rem(Int a, Int b);
  Int Min(Int a, Int b);
  Int Max(Int a, Int b);
  Int Within(Int a, Int end);  // a, or end - 1 where a is not in [0, end); end is at least 1
  Cond Less(Int a, Int b);
  bool IsConst(Int a, int64_t* value) const;

  // Control
  void For(Int begin, Int end, int64_t step, std::vector<Handle*> carried, const std::function<void(Int)>& body);
  void If(Cond condition, const std::function<void()>& body);

  // Memory. Offsets count elements of `dtype`, one byte each for bool.
  Ptr Operand(uint32_t index, bool state);  // a state's is its first page
  Ptr Scratch();
  Ptr Offset(Ptr base, DType dtype, Int elems);  // of a quantized type whole blocks
  Int LoadIndex(DType dtype, Ptr at);            // i32 or i64, widened; within +-2^62
  Vec Load(DType dtype, Ptr at, const Mask* mask = nullptr);
  Vec LoadSplat(DType dtype, Ptr at);
  Vec LoadTwice(DType dtype, Ptr at);  // as many elements as half the lanes, and the same again
  // Of q8_0: elements from `first` on of a block that they do not leave; all lanes of a block, rounded as Encode does.
  Vec LoadOfBlock(Ptr block, Int first);
  void StoreBlock(DType dtype, Ptr block, const std::vector<Vec>& values);  // q8_0 or q8_r
  // Of a weight in blocks: elements from `first` on, a multiple of the lanes, of the block that is this column of a
  // unit.
  Vec LoadOfUnit(const PackedBlocks& layout, Ptr unit, Int column, Int first);
  Vec LoadStrided(DType dtype, Ptr at, Int stride, Int count);  // lane i: element i*stride for i < count, else 0
  // Its cache line, into the second level, or past that into the first, for what is read once. Any address is legal.
  void Prefetch(Ptr at, bool once = false);
  void Store(DType dtype, Ptr at, Vec value, const Mask* mask = nullptr);
  void StoreFirst(DType dtype, Ptr at, Vec value);  // lane 0 alone
  void StoreStrided(DType dtype, Ptr at, Int stride, Int count, Vec value);
  Mask LoadMask(Ptr at, const Mask* mask = nullptr);
  Mask LoadMaskSplat(Ptr at);
  void StoreMask(Ptr at, Mask value, const Mask* mask = nullptr);
  // Neighbouring bf16 elements, two a lane, as bits. DotPairs: c + the products of the first ones + those of the second
  // ones, subnormal numbers taken for zero; for targets that MultipliesPairs names. FromPairs: the first (0) or second
  // ones as floats. `anew`: not held in registers from an earlier load.
  Vec LoadPairs(Ptr at, bool anew = false);
  Vec LoadPairSplat(Ptr at);
  Vec DotPairs(Vec a, Vec b, Vec c);
  Vec FromPairs(Vec pairs, int which);
  // Four bytes a lane. BitsOf: bits first .. first+count of every byte, as bits from `to` on of it; the others are 0.
  // DotQuads: the sum and the products of the bytes of a, unsigned and of `bits` bits, less BiasOf(bits), with those
  // of b, from -127 to 127; two quads at a time, eight between StartSums and FinishSums at most, which both are given
  // what the sum starts from. FirstOfQuads: the lowest byte of every lane, unsigned.
  Quads LoadQuads(Ptr at);
  Quads LoadQuadSplat(Ptr at);
  Quads BitsOf(Quads a, int first, int count, int to);
  Quads Or(Quads a, Quads b);
  Quads ShiftRight(Quads a, int bits);  // lanes as one number
  int BiasOf(int bits) const { return bits == 8 && !MultipliesBytes(target()) ? 128 : 0; }
  Sums StartSums(Int first, int bits);
  Sums DotQuads(const std::vector<Quads>& a, const std::vector<Quads>& b, Sums sum, int bits);
  Sums FinishSums(Sums sums, Int first, int bits);
  Vec ToFloat(Sums sums);
  Vec FirstOfQuads(Quads a);
  IntVec LoadInts(DType dtype, Ptr at, const Mask* mask = nullptr);
  IntVec LoadIntsSplat(DType dtype, Ptr at);
  void StoreInts(DType dtype, Ptr at, IntVec value, const Mask* mask = nullptr);
  Vec ToFloat(DType dtype, IntVec value);

  // Vectors
  Vec Splat(double value);
  Mask FirstLanes(Int count);             // lane i is set when i < count
  Mask LanesAtMost(Int base, Int limit);  // lane i is set when base + i <= limit
  Vec Add(Vec a, Vec b);
  Vec Sub(Vec a, Vec b);
  Vec Mul(Vec a, Vec b);
  Vec Div(Vec a, Vec b);
  Vec Max(Vec a, Vec b);  // NaN when either is
  Vec Min(Vec a, Vec b);
  Vec Neg(Vec a);
  Vec Abs(Vec a);
  Vec Sqrt(Vec a);
  Vec Fma(Vec a, Vec b, Vec c);  // a * b + c
  Vec CopySign(Vec magnitude, Vec sign);
  Vec RoundTo(DType dtype, Vec a);  // f16 or bf16 and back
  Mask LessThan(Vec a, Vec b);      // false when either is NaN
  Mask IsNan(Vec a);
  Vec Select(Mask mask, Vec a, Vec b);
  Mask And(Mask a, Mask b);
  Mask AndNot(Mask a, Mask b);  // a and not b
  Vec FromInt(Int value);       // in every lane
  // Bits of `a` + (low bits of `n`) * 2^23 as a float: scales by a power of two. n is a float that holds an integer
  // plus 1.5 * 2^23.
  Vec AddExponent(Vec a, Vec n);
  // Splits x > 0, normal: exponent as a float, and the mantissa in [0.5, 1).
  void SplitExponent(Vec x, Vec* mantissa, Vec* exponent);
  Vec SwapPairs(Vec a);  // lanes 2i and 2i+1 exchanged
  Vec ReduceAdd(Vec a);  // in every lane
  // Over the lanes that lie a multiple of `apart`, a power of two, from each lane; with 1 over all of them.
  Vec ReduceAdd(Vec a, int64_t apart);
  Vec ReduceMax(Vec a, int64_t apart = 1);
  // The sums of the parts of rows: n rows have lanes / n parts each, of n lanes, n a power of two from 4. They stand in
  // this order: of `set` rows, a power of two, their first parts, then their second ones; then those of the next rows.
  Vec ReduceAddRows(std::vector<Vec> rows, int64_t set = 1);

 private:
  // Whether sums of products of bytes are kept as two 16-bit halves: four bits by eight, eight times, fit.
  bool KeepsHalves(int bits) const { return bits == 4 && !MultipliesBytes(target()); }
  struct State;
  std::unique_ptr<State> s_;
};

}  // namespace sinter
