// What LayerNorm and RMSNorm share: the ways to write d / sqrt(ve) * gamma, as lines of rules that make %y of %d, %ve
// and %gamma. %d is x - mean in the one and x in the other, %ve its mean square plus epsilon.
#pragma once

namespace sinter {

inline constexpr const char* kNormForms[] = {
    R"(
      %inv = rsqrt %ve
      %n   = mul %d, %inv
      %y   = mul %n, %gamma
    )",
    R"(
      %inv = rsqrt %ve
      %s   = mul %inv, %gamma
      %y   = mul %d, %s
    )",
    R"(
      %dev = sqrt %ve
      %n   = div %d, %dev
      %y   = mul %n, %gamma
    )",
};

}  // namespace sinter
