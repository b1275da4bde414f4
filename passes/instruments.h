// What RunPipeline does around each pass beside running it: print, dump, check, and leave a reproducer on a failure.
//
// Called by RunPipeline alone. An instrument never changes the module.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "ir/graph.h"
#include "passes/pipeline.h"

namespace sinter {

class Instruments {
 public:
  explicit Instruments(const PipelineOptions& options) : options_(options) {}

  // Makes the dump folder, clears its numbered files of earlier runs and writes 000.import.sir.
  absl::Status Start(const Module& module);

  // After pass number `number` (from 1) made `after` of `before`: is what it says of itself true, is the module well
  // formed, does it mean the same? kInternal, or kAborted when --check-each found a difference. `before` is asked by
  // check_changed and check_each alone.
  absl::Status Check(const PassInfo& pass, bool changed, const Module* before, const Module& after);

  // Prints and dumps.
  absl::Status Show(const PassInfo& pass, int number, bool changed, const Module& module);

  // Writes repro.sir with the module before the failing pass; returns `status` with what replays it added.
  absl::Status Fail(const PassInfo& pass, absl::Status status, const Module& before);

 private:
  const PipelineOptions& options_;
};

}  // namespace sinter
