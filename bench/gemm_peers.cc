#include "bench/gemm_peers.h"

#include "absl/strings/str_cat.h"

#if SINTER_OPENBLAS
#include <cblas.h>
#endif
#if SINTER_ONEDNN
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#endif

namespace sinter {
namespace {

#if SINTER_OPENBLAS
class OpenBlas : public GemmPeer {
 public:
  OpenBlas(const GemmOperands& operands, int threads) : o_(operands), threads_(threads) {
    openblas_set_num_threads(threads);
  }
  absl::string_view name() const override { return "openblas"; }
  std::string kernel() const override { return openblas_get_corename(); }
  int threads() const override { return openblas_get_num_threads(); }
  void Run() override {
    if (openblas_get_num_threads() != threads_) openblas_set_num_threads(threads_);
    const int m = static_cast<int>(o_.m), n = static_cast<int>(o_.n), k = static_cast<int>(o_.k);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, o_.x, k, o_.w, k, 0, o_.y, n);
  }

 private:
  GemmOperands o_;
  int threads_;
};
#endif

#if SINTER_ONEDNN
// A matmul whose weights lie as the library likes them best.
class OneDnn : public GemmPeer {
 public:
  OneDnn(const GemmOperands& o, int threads) : threads_(threads) {
    using dnnl::memory;
    omp_set_num_threads(threads);
    constexpr auto kF32 = memory::data_type::f32;
    const memory::desc x({o.m, o.k}, kF32, memory::format_tag::ab), y({o.m, o.n}, kF32, memory::format_tag::ab);
    const memory::desc w({o.k, o.n}, kF32, memory::format_tag::ba), any({o.k, o.n}, kF32, memory::format_tag::any);
    product_ = dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, any, y), engine_);
    memory packed(product_.weights_desc(), engine_), plain(w, engine_, const_cast<float*>(o.w));
    dnnl::reorder(plain, packed).execute(stream_, plain, packed);
    stream_.wait();
    matmul_ = dnnl::matmul(product_);
    arguments_ = {{DNNL_ARG_SRC, memory(x, engine_, const_cast<float*>(o.x))},
                  {DNNL_ARG_WEIGHTS, packed},
                  {DNNL_ARG_DST, memory(y, engine_, o.y)}};
  }
  absl::string_view name() const override { return "onednn"; }
  std::string kernel() const override { return product_.impl_info_str(); }
  int threads() const override { return omp_get_max_threads(); }
  void Run() override {
    omp_set_num_threads(threads_);
    matmul_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  int threads_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul::primitive_desc product_;
  dnnl::matmul matmul_;
  std::unordered_map<int, dnnl::memory> arguments_;
};
#endif

}  // namespace

std::vector<std::unique_ptr<GemmPeer>> GemmPeers(const GemmOperands& operands, int threads) {
  std::vector<std::unique_ptr<GemmPeer>> peers;
#if SINTER_OPENBLAS
  peers.push_back(std::make_unique<OpenBlas>(operands, threads));
#endif
#if SINTER_ONEDNN
  peers.push_back(std::make_unique<OneDnn>(operands, threads));
#endif
  static_cast<void>(operands);
  static_cast<void>(threads);
  return peers;
}

std::vector<std::string> GemmPeerEnvironment(const Target& target) {
  const bool wide = target.vector_bytes == 64;
  // Left to itself, OpenBLAS of this age takes new CPUs for old ones without AVX-512.
  return {wide ? "OPENBLAS_CORETYPE=SkylakeX" : "OPENBLAS_CORETYPE=Haswell",
          wide ? "ONEDNN_MAX_CPU_ISA=ALL" : "ONEDNN_MAX_CPU_ISA=AVX2"};
}

std::string MissingGemmPeers() {
  std::string missing;
#if !SINTER_OPENBLAS
  absl::StrAppend(&missing, " OpenBLAS (libopenblas-dev)");
#endif
#if !SINTER_ONEDNN
  absl::StrAppend(&missing, " oneDNN (libdnnl-dev)");
#endif
  return missing.empty() ? "" : absl::StrCat("not found when this was built:", missing);
}

}  // namespace sinter
