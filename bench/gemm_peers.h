// The products of gemm_bench by the libraries that people would otherwise use. Each is there if it was found when the
// build was configured (libopenblas-dev, libdnnl-dev).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "backend/target.h"

namespace sinter {

// y [m,n] = x [m,k] * the transpose of w [n,k]; all row-major f32 that outlive the peer.
struct GemmOperands {
  int64_t m, n, k;
  const float *x, *w;
  float* y;
};

class GemmPeer {
 public:
  virtual ~GemmPeer() = default;
  virtual absl::string_view name() const = 0;
  virtual std::string kernel() const = 0;  // which of its kernels runs
  virtual int threads() const = 0;
  virtual void Run() = 0;
};

// Those that there are, set to so many threads, weights packed beforehand where the library can.
std::vector<std::unique_ptr<GemmPeer>> GemmPeers(const GemmOperands& operands, int threads);
// NAME=VALUE settings with which a process must start so that the peers use a target's vectors, no more and no less.
std::vector<std::string> GemmPeerEnvironment(const Target& target);
// One line on the peers that were not found, or "".
std::string MissingGemmPeers();

}  // namespace sinter
