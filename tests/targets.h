// Tests that run once for every target: how gtest names and prints them.
#pragma once

#include <ostream>
#include <string>

#include "backend/target.h"
#include "gtest/gtest.h"

namespace sinter {

inline void PrintTo(const Target& target, std::ostream* out) { *out << target.name; }
inline std::string TargetName(const testing::TestParamInfo<Target>& test) { return std::string(test.param.name); }

}  // namespace sinter

// A target that this CPU cannot run is skipped by name; whether the others did something is for the fixture to check.
#define SINTER_TARGET_TESTS(fixture) \
  INSTANTIATE_TEST_SUITE_P(Targets, fixture, testing::ValuesIn(AllTargets().begin(), AllTargets().end()), TargetName)
